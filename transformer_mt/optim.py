"""Adam as the paper sets it (section 5.3), and the learning-rate schedules."""

from __future__ import annotations

import math

import torch
from torch import nn

from transformer_mt.config import OptimConfig


def learning_rate(step: int, config: OptimConfig, d_model: int, max_steps: int) -> float:
    """The rate of update number ``step`` (from 1).

    - paper: d_model^-0.5 · min(step^-0.5, step · warmup^-1.5) (equation 3);
    - inverse_sqrt: a linear rise to ``lr`` over the warm-up, then lr · sqrt(warmup / step), equation 3 with a free
      peak;
    - cosine: the same rise, then half a cosine down to 0 at ``max_steps`` (Loshchilov & Hutter 2017), for runs whose
      length is known.
    """
    warmup = config.warmup_steps
    if config.schedule == "paper":
        return float(d_model**-0.5 * min(step**-0.5, step * warmup**-1.5))
    assert config.lr is not None  # the configuration refuses other schedules without it
    if step < warmup:
        return config.lr * step / warmup
    if config.schedule == "inverse_sqrt":
        return config.lr * math.sqrt(warmup / step)
    progress = min(1.0, (step - warmup) / max(1, max_steps - warmup))
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def adam(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); biases and norms do not decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


class FlatGradients:
    """All gradients as one buffer: zeroed, summed over ranks, measured and scaled by one operation each."""

    def __init__(self, model: nn.Module) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
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
        """Scale so that the norm is at most ``max_norm``; no host synchronisation."""
        self.buffer.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
