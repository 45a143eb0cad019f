"""Label-smoothed cross-entropy as a sum, without ever holding the logits of a whole batch.

Shapes: N positions (real ones only), C positions of one chunk, D d_model, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Logits of one chunk, in bytes. On a CPU a chunk should stay in the cache between its passes; a GPU wants
# enough rows to fill its multiprocessors.
_CHUNK_BYTES = {"cpu": 1 << 23, "cuda": 1 << 28}


def label_smoothed_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Sum over positions of the cross-entropy between the smoothed target and softmax(hidden · weight^T).

    The smoothed target (Szegedy et al. 2016, section 7; paper, section 5.4) puts 1 - ε on the gold piece and spreads
    ε evenly over all V rows, the gold one included: loss = (1 - ε) · nll + ε/V · Σ_v -log p(v).

    Returns:
        (loss, nll): two float32 scalars, sums over positions, in nats. Only the loss carries a gradient; nll is the
        unsmoothed negative log-likelihood of the labels, whose mean's exponential is the perplexity.
    """
    needs_grad = torch.is_grad_enabled() and (hidden_ND.requires_grad or weight_VD.requires_grad)
    loss, nll = _ChunkedCrossEntropy.apply(hidden_ND, weight_VD, labels_N, smoothing, needs_grad)  # type: ignore[no-untyped-call]
    return loss, nll


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Forward computes the gradients too, chunk by chunk, so that each chunk's logits live once and for a moment.

    Only the softmax touches all C × V numbers. What smoothing and the gold pieces add is of low rank and needs none:
    with z = h W^T, Σ_v z_v = h · Σ_v W_v, and the uniform part of d loss / d z, -ε/V, reaches the gradients as
    -ε/V Σ_v W_v (of each h) and -ε/V Σ_n h_n (of each row of W).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, smoothing: float, needs_grad: bool
    ) -> tuple[Tensor, Tensor]:
        num_positions, num_pieces = hidden_ND.shape[0], weight_VD.shape[0]
        narrow, wide = hidden_ND.dtype, torch.promote_types(hidden_ND.dtype, torch.float32)
        compute_weight_VD = weight_VD.to(narrow)
        sum_hidden_D, sum_weight_D = hidden_ND.sum(0, dtype=wide), weight_VD.sum(0, dtype=wide)
        uniform = smoothing / num_pieces
        smallest = torch.finfo(wide).tiny  # a label less probable than this, e^-87, counts as this probable
        nll, log_normalizers = hidden_ND.new_zeros(2, dtype=wide)
        grad_hidden_ND = torch.empty_like(hidden_ND) if needs_grad else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=wide) if needs_grad else None
        chunk_bytes = _CHUNK_BYTES.get(hidden_ND.device.type, 1 << 26)
        rows = min(num_positions, max(1, chunk_bytes // (num_pieces * hidden_ND.element_size())))
        # The same memory for every chunk: fresh pages would cost more than the arithmetic.
        narrow_buffer = hidden_ND.new_empty(rows, num_pieces)
        wide_buffer = narrow_buffer if narrow is wide else narrow_buffer.new_empty(rows, num_pieces, dtype=wide)
        for start in range(0, num_positions, rows):
            hidden_CD, labels_C1 = hidden_ND[start : start + rows], labels_N[start : start + rows, None]
            narrow_CV, wide_CV = narrow_buffer[: len(hidden_CD)], wide_buffer[: len(hidden_CD)]
            torch.mm(hidden_CD, compute_weight_VD.T, out=narrow_CV)
            if wide is not narrow:
                wide_CV.copy_(narrow_CV)
            gold_logits_C1 = wide_CV.gather(1, labels_C1)
            torch.softmax(wide_CV, dim=-1, out=wide_CV)
            gold_C1 = wide_CV.gather(1, labels_C1)
            chunk_nll = -gold_C1.clamp_min(smallest).log().sum()
            nll += chunk_nll
            log_normalizers += chunk_nll + gold_logits_C1.sum()
            if grad_hidden_ND is not None and grad_weight_VD is not None:
                # d loss / d logits = softmax - smoothed target
                wide_CV.scatter_(1, labels_C1, gold_C1 - (1 - smoothing))
                if wide is narrow:
                    grad_weight_VD.addmm_(narrow_CV.T, hidden_CD)
                else:
                    narrow_CV.copy_(wide_CV)
                    grad_weight_VD += narrow_CV.T @ hidden_CD
                grad_hidden_CD = torch.mm(narrow_CV, compute_weight_VD, out=grad_hidden_ND[start : start + rows])
                grad_hidden_CD -= uniform * sum_weight_D
        if grad_weight_VD is not None:
            grad_weight_VD -= uniform * sum_hidden_D
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(nll)
        loss = (1 - smoothing) * nll + smoothing * log_normalizers - uniform * (sum_hidden_D @ sum_weight_D)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _grad_nll: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_ND * grad_loss, (grad_weight_VD * grad_loss).to(ctx.weight_dtype), None, None, None
