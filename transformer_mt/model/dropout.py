"""Dropout (paper, section 5.4) whose random numbers come fast on a CPU.

PyTorch draws its CPU Bernoulli numbers one at a time on one core, a fifth of a small model's training step. Here
a counter-based seed is taken from PyTorch's own generator, so that `torch.manual_seed` still decides everything,
and NumPy's SFC64 expands it, four 16-bit numbers to a draw. On other devices this is `torch.nn.functional.dropout`.
"""

from __future__ import annotations

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

    @property
    def is_active(self) -> bool:
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_active:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        return x * self.mask(x.shape, x.dtype) * (1 / (1 - self.p))

    def add(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return residual + dropout(x), on a CPU in one pass over both."""
        if self.is_active and x.device.type == "cpu":
            return torch.addcmul(residual, x, self.mask(x.shape, x.dtype), value=1 / (1 - self.p))
        dropped: Tensor = self(x)
        return residual + dropped

    def mask(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return a tensor on the CPU that is 1 where an element is kept and 0 elsewhere."""
        seed = int(torch.randint(0, 2**62, ()))
        count = shape.numel()
        bits = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16)[:count])
        threshold = min(round(self.p * _LEVELS), _LEVELS - 1) - _LEVELS // 2  # as a signed number
        if dtype is torch.bfloat16:  # the same through the bits of 1.0, faster than converting
            return torch.ge(bits, threshold, out=bits).mul_(0x3F80).view(dtype).view(shape)
        return torch.ge(bits, threshold, out=torch.empty(count, dtype=dtype)).view(shape)

    def extra_repr(self) -> str:
        return f"p={self.p}"
