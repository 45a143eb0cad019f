"""Adam as the paper sets it (section 5.3), or Muon; learning-rate schedules; a running average of the weights."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from transformer_mt.config.sections import OptimConfig
from transformer_mt.model.transformer import EncoderDecoder
from transformer_mt.system.signals import interrupts_later
from transformer_mt.training.muon import Muon

_SWAPPED_AT_ONCE = 1 << 20  # numbers


def learning_rate(step: int, config: OptimConfig, d_model: int, max_steps: int) -> float:
    """Return the learning rate of update number ``step`` (from 1).

    - paper: d_model^-0.5 · min(step^-0.5, step · warmup^-1.5) (equation 3);
    - inverse_sqrt: a linear rise to ``lr`` over the warm-up, then lr · sqrt(warmup / step), equation 3 with a free
      peak;
    - cosine: the same rise, then half a cosine down to 0 at ``max_steps`` (Loshchilov & Hutter 2017), for runs whose
      length is known;
    - linear: the same rise, then a straight line down to 0 at ``max_steps``;
    - stable: the same rise, then ``lr`` until the last ``decay_steps``, in which a straight line leads to 0 (Hägele et
      al. 2024). Up to there the length of the run is of no account.
    """
    warmup = config.warmup_steps
    if config.schedule == "paper":
        return float(d_model**-0.5 * min(step**-0.5, step * warmup**-1.5))
    assert config.lr is not None  # the configuration refuses other schedules without it
    if step < warmup:
        return config.lr * step / warmup
    if config.schedule == "inverse_sqrt":
        return config.lr * math.sqrt(warmup / step)
    if config.schedule == "stable":
        assert config.decay_steps is not None
        warmup = max(warmup, max_steps - config.decay_steps)
    progress = min(1.0, max(0, step - warmup) / max(1, max_steps - warmup))
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (1 - progress)


def new_optimizer(model: EncoderDecoder, config: OptimConfig, precision: torch.dtype) -> torch.optim.Optimizer:
    """Return the optimizer of a model, with the state that it starts with.

    Where the configuration says Muon it is for the matrices of the layers; embeddings, norms and biases have Adam.

    Args:
        precision: of matrix products.
    """
    matrices = [p for layer in model.layers for p in layer.parameters() if p.dim() == 2 and p.requires_grad]
    if config.optimizer == "adam" or not matrices:
        return adam(model.parameters(), config)
    is_matrix = {*matrices}.__contains__
    rest = adam(itertools.filterfalse(is_matrix, model.parameters()), config)
    return Muon(matrices, rest, config.weight_decay, precision)


def adam(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.AdamW:
    """Return Adam with decoupled weight decay (Loshchilov & Hutter 2019); biases and norms do not decay."""
    parameters = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
    for p in parameters:  # as its first step would, so that there is room for it before
        moments = {key: torch.zeros_like(p) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p] = {"step": torch.zeros((), device=p.device), **moments}
    return optimizer


class FlatGradients:
    """All gradients as one buffer: zeroed, summed over ranks, measured and scaled by one operation each.

    Weights that are not trained have their place in it, and 0 there.
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = list(model.parameters())
        self.buffer = torch.zeros(
            sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device
        )
        offset = 0
        for p in parameters:
            p.grad = self.buffer[offset : offset + p.numel()].view_as(p)
            offset += p.numel()

    def zero(self) -> None:
        self.buffer.zero_()

    def norm(self) -> torch.Tensor:
        norm: torch.Tensor = torch.linalg.vector_norm(self.buffer)
        return norm

    def clip(self, norm: torch.Tensor, max_norm: float) -> None:
        """Scale the gradients so that their norm is at most ``max_norm``; the host does not wait for the device."""
        self.buffer.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))


class WeightAverage:
    """An exponential moving average of the weights, in place of the checkpoint averaging of the paper's section 6.1.

    After update t (from 1): average ← d · average + (1 − d) · weights with d = min(decay, (1 + t) / (10 + t)). The
    decay rises because the average starts at the weights of step 0, which are noise: with a constant 0.999 they would
    still make up 0.999^1000 = 37 % of it after 1,000 updates. The formula is that of TensorFlow's
    ``ExponentialMovingAverage`` (its ``num_updates``).
    """

    def __init__(self, model: nn.Module, decay: float, flat_weights: Tensor | None = None) -> None:
        """``flat_weights``: the model's, where they are one tensor. Then the average is one too, and moves at once."""
        self._decay = decay
        named = dict(model.named_parameters())
        if flat_weights is None:
            self.weights = {name: p.detach().clone() for name, p in named.items()}
            self._pairs = [(average, named[name].detach()) for name, average in self.weights.items()]
        else:
            flat_average = flat_weights.clone()
            parts = flat_average.split([p.numel() for p in named.values()])
            self.weights = {name: part.view_as(named[name]) for name, part in zip(named, parts, strict=True)}
            self._pairs = [(flat_average, flat_weights)]

    @torch.no_grad()
    def update(self, step: int, is_bad: Tensor) -> None:
        """Move towards the weights, unless ``is_bad``: then the update was not applied.

        The host does not wait for the device.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        share = (1 - decay) * (~is_bad).float()
        for average, weights in self._pairs:
            average.lerp_(weights, share)

    @contextlib.contextmanager
    def in_the_model(self) -> Iterator[None]:
        """Give the model the average as its weights, inside the block.

        No interrupt comes amid a swap, and the way back needs no memory, of which there may be none left.
        """
        spare = self._pairs[0][0].new_empty(_SWAPPED_AT_ONCE)
        is_swapped = False
        try:
            with interrupts_later():
                self._swap(spare)
                is_swapped = True
            yield
        finally:
            with interrupts_later():
                if is_swapped:
                    self._swap(spare)

    @torch.no_grad()
    def _swap(self, spare: Tensor) -> None:
        for pair in self._pairs:
            for average, weights in zip(*(one.view(-1).split(len(spare)) for one in pair), strict=True):
                kept = spare[: len(weights)].copy_(weights)
                weights.copy_(average)
                average.copy_(kept)
