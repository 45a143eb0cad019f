"""Dropout (paper, section 5.4) whose random numbers come fast on a CPU.

PyTorch draws its CPU Bernoulli numbers one at a time on one core, a fifth of a small model's training step. Here
a counter-based seed is taken from PyTorch's own generator, so that `torch.manual_seed` still decides everything,
and NumPy's SFC64 expands it, four 16-bit numbers to a draw. On other devices this is `torch.nn.functional.dropout`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 1 << 16  # the probability is rounded to 1/65536


class Dropout(nn.Module):
    """Zero each element with probability ``p`` while training and scale the rest by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        scaled: Tensor = _MaskAndScale.apply(x, _keep_mask(x.shape, self.p), 1 / (1 - self.p))  # type: ignore[no-untyped-call]
        return scaled

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _keep_mask(shape: torch.Size, p: float) -> Tensor:
    seed = int(torch.randint(0, 2**62, ()))
    count = shape.numel()
    bits = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16)[:count]
    threshold = min(round(p * _LEVELS), _LEVELS - 1) - _LEVELS // 2  # as a signed number
    return torch.from_numpy(bits).view(shape).ge(threshold)


class _MaskAndScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return torch.mul(x, keep).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return torch.mul(grad, keep).mul_(ctx.scale), None, None
