"""Muon (Jordan et al. 2024): momentum whose steps are orthogonalised, for the matrices of the hidden layers.

The step of a matrix is the nearest (semi-)orthogonal matrix to its momentum: all directions in which the gradient
moves the output get the same length, also those that few examples show. A few matrix products find it, without a
singular value decomposition (Newton-Schulz iteration).

Shapes: M matrices, R rows, C columns, R <= C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
# Of the iteration x ← a x + b (x xᵀ) x + c (x xᵀ)² x: Jordan's, which bring singular values to 0.7 to 1.2 fast.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
# Adam's steps have a root mean square of about 0.2; with the same one, its rates and decay serve (Liu et al. 2025).
_ROOT_MEAN_SQUARE = 0.2
_MOST_NUMBERS = 1 << 24  # orthogonalised at once, which bounds the memory that it takes


class Muon(torch.optim.Optimizer):
    """Muon for matrices, with Nesterov's momentum and decoupled weight decay, and another optimizer for the rest.

    As in PyTorch's fused Adam, where the attribute ``found_inf`` is 1 a step leaves weights and momentum as they are;
    the host does not wait for the device to know it.
    """

    def __init__(
        self, matrices: Sequence[nn.Parameter], rest: torch.optim.Optimizer, weight_decay: float, precision: torch.dtype
    ) -> None:
        """``precision``: that of the matrix products which orthogonalise; momentum and weights are float32."""
        super().__init__(matrices, {"lr": 0.0, "weight_decay": weight_decay})
        self._rest, self._precision = rest, precision
        by_shape: dict[tuple[int, int], list[Tensor]] = {}
        for parameter in matrices:
            by_shape.setdefault((min(parameter.shape), max(parameter.shape)), []).append(parameter)
        # Those of a shape, or of the shape turned round, lie in one tensor and are computed together.
        self._stacks: list[tuple[list[Tensor], Tensor]] = []
        for shape, alike in by_shape.items():
            momentum_MRC = torch.zeros(len(alike), *shape, device=alike[0].device)
            self._stacks.append((alike, momentum_MRC))
            for matrix, momentum_RC in zip(alike, momentum_MRC, strict=True):
                self.state[matrix]["momentum"] = _wide(momentum_RC, like=matrix)
        self._group = self.param_groups[0]
        self.param_groups += rest.param_groups
        self.state.update(rest.state)
        self.found_inf = torch.zeros((), device=matrices[0].device)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        self._rest.found_inf = self.found_inf  # type: ignore[attr-defined]
        self._rest.step()
        rate, is_good = self._group["lr"], 1 - self.found_inf
        for matrices, momentum_MRC in self._stacks:
            gradients = [_wide(matrix.grad, like=matrix) for matrix in matrices if matrix.grad is not None]
            assert len(gradients) == len(matrices)  # a batch meets all weights
            gradient_MRC = torch.where(self.found_inf > 0, 0.0, torch.stack(gradients))  # 0 times infinity is not 0
            momentum_MRC.lerp_(gradient_MRC, (1 - MOMENTUM) * is_good)
            direction_MRC = gradient_MRC.lerp_(momentum_MRC, MOMENTUM)
            num_rows, num_columns = momentum_MRC.shape[1:]
            length = -rate * _ROOT_MEAN_SQUARE * math.sqrt(num_columns) * is_good
            at_once = max(1, _MOST_NUMBERS // (num_rows * num_columns))
            for start in range(0, len(matrices), at_once):
                part = matrices[start : start + at_once]
                step_MRC = orthogonalize(direction_MRC[start : start + at_once].to(self._precision)).float() * length
                if self._group["weight_decay"] > 0:
                    torch._foreach_mul_(part, 1 - rate * self._group["weight_decay"] * is_good)
                torch._foreach_add_(part, [_wide(step, like=to) for step, to in zip(step_MRC, part, strict=True)])


def orthogonalize(x_MRC: Tensor) -> Tensor:
    """Return matrices with the singular vectors of ``x_MRC`` and singular values of about 1."""
    x_MRC = x_MRC / (torch.linalg.matrix_norm(x_MRC, keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        square_MRR = x_MRC @ x_MRC.mT
        polynomial_MRR = torch.baddbmm(square_MRR, square_MRR, square_MRR, beta=_B, alpha=_C)
        x_MRC = torch.baddbmm(x_MRC, polynomial_MRR, x_MRC, beta=_A)
    return x_MRC


def _wide(matrix: Tensor, like: Tensor) -> Tensor:
    """Turn round what belongs to a matrix that is taller than wide, from its shape or back to it."""
    return matrix.mT if like.shape[0] > like.shape[1] else matrix
