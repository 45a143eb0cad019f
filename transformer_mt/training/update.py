"""One update of the weights: gradients of micro-batches, clipping, the step, the average. The host only launches."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from transformer_mt.config.sections import Config
from transformer_mt.model.layout import Batch
from transformer_mt.model.transformer import EncoderDecoder
from transformer_mt.system import device
from transformer_mt.system.console import Tell, tell_nobody
from transformer_mt.system.ranks import Ranks
from transformer_mt.training.optim import FlatGradients, WeightAverage, learning_rate, new_optimizer
from transformer_mt.training.working_weights import WorkingWeights, flatten_weights


def can_compile(where: torch.device, precision: str) -> bool:
    """Return whether layers are compiled when that is asked for: where rows are packed, which needs no tables."""
    return where.type == "cuda" and precision == "bfloat16"


class Updater:
    """A model and what its updates need: `begin`, `add` each micro-batch, `finish`.

    Attributes:
        model: with the weights that updates change and runs save, in float32.
        network: what runs forwards and backwards: on a CPU the model, under autocast; on a GPU a twin of it, see
            `WorkingWeights`.
    """

    def __init__(
        self, model: EncoderDecoder, config: Config, where: torch.device, ranks: Ranks, tell: Tell = tell_nobody
    ) -> None:
        self.model, self.device = model, where
        self._config, self._ranks, self._tell = config, ranks, tell
        self._working, flat = None, None
        precision = torch.bfloat16 if config.train.precision == "bfloat16" else torch.float32
        if where.type == "cuda":
            flat = flatten_weights(model)
            self._working = WorkingWeights(model, flat, precision)
        self.network = model if self._working is None else self._working.twin
        self.network.recompute_activations = config.train.recompute_activations
        self._is_compiled = config.train.compile and can_compile(where, config.train.precision)
        if self._is_compiled:
            device.compile_layers(self.network.layers)
        self.optimizer = new_optimizer(model, config.optim, precision)
        decay = config.train.ema_decay
        self.average = WeightAverage(model, decay, flat) if decay > 0 else None
        self.gradients = FlatGradients(model)
        self.rate = 0.0  # of the last update
        self._totals = torch.zeros(2, device=where)  # loss, negative log-likelihood

    def begin(self) -> None:
        """Begin an update, or forget what was added to the one before."""
        self.gradients.zero()
        if self._working is not None:
            self._working.drop_gradients()
            self._working.refresh()
        self._totals = torch.zeros_like(self._totals)

    def add(self, batch: Batch, num_labels: int) -> None:
        """Add the gradients of a micro-batch of this rank.

        Args:
            num_labels: of the whole update on all ranks, by which its loss is divided once.
        """
        batch = batch.to(self.device)
        try:
            loss, nll = self._differentiate(batch, num_labels)
        except RuntimeError as error:
            reason = device.reason_not_compiled(error)
            if reason is None:
                raise
            self._tell(f"warning: train.compile: {reason}; the layers run as they are")
            device.run_uncompiled(self.network.layers)
            self._is_compiled = False
            if self._working is not None:
                self._working.drop_gradients()
            loss, nll = self._differentiate(batch, num_labels)
        if self._working is not None:
            self._working.move_gradients(self.gradients.buffer)
        self._totals += torch.stack([loss, nll])

    def _differentiate(self, batch: Batch, num_labels: int) -> tuple[Tensor, Tensor]:
        """Leave the gradients of a batch with the weights that autograd sees; return summed loss and nll."""
        train, nothing = self._config.train, contextlib.nullcontext()
        same_order = device.same_order_of_sums(self.device, train.deterministic)
        # What is compiled runs backwards only in the mode in which it ran forwards.
        with device.matrix_products(self.device, train.precision), same_order if self._is_compiled else nothing:
            with device.autocast(self.device, train.precision) if self._working is None else nothing:
                loss, nll = self.network(batch, train.label_smoothing)
            with nothing if self._is_compiled else same_order:
                (loss / num_labels).backward()
        return loss.detach(), nll

    def finish(self, step: int) -> Tensor:
        """Update the weights for the ``step``-th time, from the gradients of all ranks.

        Where anything is not finite, weights, moments and average stay as they are.

        Returns:
            Four float32 numbers on the device: loss and negative log-likelihood, summed over all labels, the norm of
            the gradient, and 1 where one of them is not finite, else 0.
        """
        config, totals = self._config, self._totals
        self._ranks.all_reduce_sum(self.gradients.buffer, totals)
        norm = self.gradients.norm()
        is_bad = ~(torch.isfinite(norm) & torch.isfinite(totals).all())
        if config.optim.clip_norm > 0:
            self.gradients.clip(norm, config.optim.clip_norm)
        self.rate = learning_rate(step, config.optim, config.model.d_model, config.train.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.found_inf = is_bad.float()  # type: ignore[attr-defined]  # the fused kernel then does nothing
        self.optimizer.step()
        if self.average is not None:
            self.average.update(step, is_bad)
        return torch.stack([*totals, norm, is_bad.float()])
