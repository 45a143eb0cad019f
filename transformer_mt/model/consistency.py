"""SimCut (Gao et al. 2022): a second pass over a batch, in which some embeddings are cut out, and what both passes say
of the labels drawn together. The label-smoothed cross-entropy of the first pass is computed in the same chunks.

Shapes: P rows, of which the first N have labels, C rows of one chunk, D d_model, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from transformer_mt.model.loss import chunk_rows

CUT_OUT = 0.05  # the probability with which a token's embedding is zero in the second pass; the paper's p


class Embedding(nn.Embedding):
    """A table of embeddings, of which a pass may find some to be zero."""

    is_cut = False

    def forward(self, ids: Tensor) -> Tensor:
        rows = super().forward(ids)
        if self.is_cut:
            rows = rows * (torch.rand(ids.shape, device=ids.device) >= CUT_OUT).to(rows.dtype).unsqueeze(-1)
        return rows


@contextlib.contextmanager
def cutting_out(*tables: Embedding) -> Iterator[None]:
    """Within the block, tokens are cut out by chance."""
    for table in tables:
        table.is_cut = True
    try:
        yield
    finally:
        for table in tables:
            table.is_cut = False


def consistent_cross_entropy(
    hidden_PD: Tensor, cut_PD: Tensor, weight_VD: Tensor, labels_N: Tensor, smoothing: float, consistency: float
) -> tuple[Tensor, Tensor]:
    """Add α KL(p || q) to the label-smoothed cross-entropy of p, summed over the labels (equations 4 and 5).

    p = softmax(hidden · weight^T) is of the whole batch, q of the one with tokens cut out; both have gradients.

    Args:
        consistency: α; the paper's is 3.

    Returns:
        (loss, nll) as `label_smoothed_cross_entropy`; nll is that of p.
    """
    loss, nll = _ChunkedConsistency.apply(hidden_PD, cut_PD, weight_VD, labels_N, smoothing, consistency)  # type: ignore[no-untyped-call]
    return loss, nll


class _ChunkedConsistency(torch.autograd.Function):
    """Forward computes the gradients too, chunk by chunk, so that each chunk's logits live once and for a moment."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_PD: Tensor,
        cut_PD: Tensor,
        weight_VD: Tensor,
        labels_N: Tensor,
        smoothing: float,
        consistency: float,
    ) -> tuple[Tensor, Tensor]:
        num_labels, num_pieces = len(labels_N), weight_VD.shape[0]
        narrow, wide = hidden_PD.dtype, torch.promote_types(hidden_PD.dtype, torch.float32)
        compute_weight_VD = weight_VD.to(narrow)
        nll, sum_log_p, divergence = hidden_PD.new_zeros(3, dtype=wide)
        grad_hidden_PD, grad_cut_PD = torch.zeros_like(hidden_PD), torch.zeros_like(cut_PD)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=wide)
        rows = min(num_labels, chunk_rows(hidden_PD, num_pieces))
        buffers = [hidden_PD.new_empty(rows, num_pieces, dtype=wide) for _ in range(3)]
        for start in range(0, num_labels, rows):
            labels_C1 = labels_N[start : start + rows, None]
            chunk = slice(start, start + len(labels_C1))
            log_p, log_q, p = (buffer[: len(labels_C1)] for buffer in buffers)
            for hidden, log in ((hidden_PD, log_p), (cut_PD, log_q)):
                torch.log_softmax(hidden[chunk] @ compute_weight_VD.T, dim=-1, dtype=wide, out=log)
            torch.exp(log_p, out=p)
            nll -= log_p.gather(1, labels_C1).sum()
            sum_log_p += log_p.sum()
            ratio = log_p.sub_(log_q)
            divergence_C1 = (p * ratio).sum(-1, keepdim=True)  # no product that autocast would make in bfloat16
            divergence += divergence_C1.sum()
            # d KL / d logits of p = p (log p/q - KL), and q - p of those of q.
            grad_p = ratio.sub_(divergence_C1).mul_(consistency).add_(1).mul_(p).sub_(smoothing / num_pieces)
            grad_p.scatter_add_(1, labels_C1, grad_p.new_full((), smoothing - 1).expand(labels_C1.shape))
            grad_q = log_q.exp_().sub_(p).mul_(consistency)
            for hidden, grad, into in ((hidden_PD, grad_p, grad_hidden_PD), (cut_PD, grad_q, grad_cut_PD)):
                narrow_grad = grad.to(narrow)
                into[chunk] = narrow_grad @ compute_weight_VD
                if narrow is wide:
                    grad_weight_VD.addmm_(narrow_grad.T, hidden[chunk])
                else:
                    grad_weight_VD += narrow_grad.T @ hidden[chunk]
        ctx.save_for_backward(grad_hidden_PD, grad_cut_PD, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(nll)
        loss = (1 - smoothing) * nll - smoothing / num_pieces * sum_log_p + consistency * divergence
        return loss, nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _grad_nll: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        grad_hidden_PD, grad_cut_PD, grad_weight_VD = (grad * grad_loss for grad in ctx.saved_tensors)
        return grad_hidden_PD, grad_cut_PD, grad_weight_VD.to(ctx.weight_dtype), None, None, None
