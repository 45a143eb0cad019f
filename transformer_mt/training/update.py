"""One update of the weights: gradients of its micro-batches, clipping, Adam, the average. The host only launches."""

from __future__ import annotations

import torch
from torch import Tensor

from transformer_mt.config.sections import Config
from transformer_mt.model.layout import Batch
from transformer_mt.model.transformer import Transformer
from transformer_mt.system import device
from transformer_mt.system.ranks import Ranks
from transformer_mt.training.optim import FlatGradients, WeightAverage, adam, learning_rate


class Updater:
    """A model and what its updates need: `begin`, `add` each micro-batch, `finish`."""

    def __init__(self, model: Transformer, config: Config, where: torch.device, ranks: Ranks) -> None:
        self.model, self.device = model, where
        self._config, self._ranks = config, ranks
        self.optimizer = adam(model, config.optim)
        decay = config.train.ema_decay
        self.average = WeightAverage(model, decay) if decay > 0 else None
        self.gradients = FlatGradients(model)
        self.rate = 0.0  # of the last update
        self._totals = torch.zeros(2, device=where)  # loss, negative log-likelihood

    def begin(self) -> None:
        """Begin an update, or forget what was added to the one before."""
        self.gradients.zero()
        self._totals = torch.zeros_like(self._totals)

    def add(self, batch: Batch, num_labels: int) -> None:
        """Add the gradients of a micro-batch of this rank.

        Args:
            num_labels: of the whole update on all ranks, by which its loss is divided once.
        """
        with device.autocast(self.device, self._config.train.precision):
            loss, nll = self.model(batch.to(self.device), self._config.train.label_smoothing)
        (loss / num_labels).backward()
        self._totals += torch.stack([loss.detach(), nll])

    def finish(self, step: int) -> Tensor:
        """Update the weights for the ``step``-th time, from the gradients of all ranks.

        Where anything is not finite, weights, moments and average stay as they are.

        Returns:
            Four float32 numbers on the device: loss and negative log-likelihood, summed over all labels, the norm of
            the gradient, and 1 where one of them is not finite, else 0.
        """
        config, totals = self._config, self._totals
        self._ranks.sum(self.gradients.buffer, totals)
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
