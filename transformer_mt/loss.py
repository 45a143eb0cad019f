"""Label-smoothed cross-entropy as a sum, without ever holding the logits of a whole batch.

Shapes: P positions (real ones only), C positions of one chunk, D d_model, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits of one chunk, in elements. On a CPU a chunk should stay in the cache between its passes; a GPU wants
# enough rows to fill its multiprocessors.
_CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 27}


def label_smoothed_cross_entropy(
    hidden_PD: Tensor, weight_VD: Tensor, labels_P: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Sum over positions of the cross-entropy between the smoothed target and softmax(hidden · weight^T).

    The smoothed target (Szegedy et al. 2016, section 7; paper, section 5.4) puts 1 - ε on the gold piece and spreads
    ε evenly over all V rows, the gold one included: loss = (1 - ε) · nll + ε/V · Σ_v -log p(v).

    Returns:
        (loss, nll): two float32 scalars, sums over positions, in nats. Only the loss carries a gradient; nll is the
        unsmoothed negative log-likelihood of the labels, whose mean's exponential is the perplexity.
    """
    needs_grad = torch.is_grad_enabled() and (hidden_PD.requires_grad or weight_VD.requires_grad)
    loss, nll = _ChunkedCrossEntropy.apply(hidden_PD, weight_VD, labels_P, smoothing, needs_grad)  # type: ignore[no-untyped-call]
    return loss, nll


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Forward computes the gradients too, chunk by chunk, so that each chunk's logits live once and for a moment."""

    @staticmethod
    def forward(
        ctx: Any, hidden_PD: Tensor, weight_VD: Tensor, labels_P: Tensor, smoothing: float, needs_grad: bool
    ) -> tuple[Tensor, Tensor]:
        num_pieces = weight_VD.shape[0]
        compute_weight_VD = weight_VD.to(hidden_PD.dtype)
        rows = max(1, _CHUNK_ELEMENTS.get(hidden_PD.device.type, 1 << 24) // num_pieces)
        wide = torch.promote_types(hidden_PD.dtype, torch.float32)  # float64 stays: the tests compare in it
        loss = hidden_PD.new_zeros((), dtype=wide)
        nll = hidden_PD.new_zeros((), dtype=wide)
        grad_hidden_PD = torch.empty_like(hidden_PD) if needs_grad else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=wide) if needs_grad else None
        for start in range(0, hidden_PD.shape[0], rows):
            chunk = slice(start, start + rows)
            hidden_CD, labels_C1 = hidden_PD[chunk], labels_P[chunk, None]
            log_probs_CV = torch.log_softmax(F.linear(hidden_CD, compute_weight_VD), dim=-1, dtype=wide)
            chunk_nll = -log_probs_CV.gather(1, labels_C1).sum()
            nll += chunk_nll
            loss += (1 - smoothing) * chunk_nll - smoothing / num_pieces * log_probs_CV.sum()
            if grad_hidden_PD is not None and grad_weight_VD is not None:
                # d loss / d logits = softmax - smoothed target
                grad_CV = log_probs_CV.exp_().sub_(smoothing / num_pieces)
                grad_CV.scatter_add_(1, labels_C1, grad_CV.new_full((1, 1), smoothing - 1).expand_as(labels_C1))
                narrow_CV = grad_CV.to(hidden_PD.dtype)
                grad_hidden_PD[chunk] = narrow_CV @ compute_weight_VD
                grad_weight_VD += narrow_CV.T @ hidden_CD
        ctx.save_for_backward(grad_hidden_PD, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _grad_nll: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden_PD, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_PD * grad_loss, (grad_weight_VD * grad_loss).to(ctx.weight_dtype), None, None, None
