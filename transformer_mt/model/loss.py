"""Label-smoothed cross-entropy as a sum, without ever holding the logits of a whole batch.

Shapes: P rows, of which the first N have labels, C rows of one chunk, E of one block, D d_model, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transformer_mt.model.layout import ROWS_MULTIPLE

# Logits of one chunk, in bytes. On a CPU a chunk should stay in the cache between its products; a GPU wants
# enough rows to fill its multiprocessors.
_CHUNK_BYTES = {"cpu": 1 << 23, "cuda": 1 << 29}
# What a thread of a CPU takes the softmax of, in bytes of float32: it is read and written some six times, and should
# stay in the cache that is the core's own.
_BLOCK_BYTES = 1 << 20


def label_smoothed_cross_entropy(
    hidden_PD: Tensor, weight_VD: Tensor, labels_N: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Sum the cross-entropy between the smoothed target and softmax(hidden · weight^T) over the labels.

    Rows behind the labels are the tail of a `Layout`; they take no part and have no gradient.

    The smoothed target (Szegedy et al. 2016, section 7; paper, section 5.4) puts 1 - ε on the gold piece and spreads
    ε evenly over all V rows, the gold one included: loss = (1 - ε) · nll + ε/V · Σ_v -log p(v).

    Returns:
        (loss, nll): two float32 scalars, sums over positions, in nats. Only the loss carries a gradient; nll is the
        unsmoothed negative log-likelihood of the labels, whose mean's exponential is the perplexity. One of 87 nats or
        more counts as 87. A GPU rounds probabilities to bfloat16, where rows are: of a label that is up to 0.004 nats,
        of the mean of some thousand less than 0.0001 (with random logits, rounded likewise on a CPU).
    """
    needs_grad = torch.is_grad_enabled() and (hidden_PD.requires_grad or weight_VD.requires_grad)
    loss, nll = _ChunkedCrossEntropy.apply(hidden_PD, weight_VD, labels_N, smoothing, needs_grad)  # type: ignore[no-untyped-call]
    return loss, nll


def label_log_probs(hidden_PD: Tensor, weight_VD: Tensor, labels_N: Tensor) -> Tensor:
    """Return log softmax(hidden · weight^T) of each label (N), without a gradient."""
    parts = []
    rows = chunk_rows(hidden_PD, len(weight_VD))
    for start in range(0, len(labels_N), rows):
        labels_C1 = labels_N[start : start + rows, None]
        logits_CV = hidden_PD[start : start + len(labels_C1)] @ weight_VD.T
        parts.append(logits_CV.log_softmax(-1).gather(1, labels_C1).squeeze(1))
    return torch.cat(parts)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Forward computes the gradients too, chunk by chunk, so that each chunk's logits live once and for a moment.

    Only the softmax touches all C × V numbers. What smoothing and the gold pieces add is of low rank and needs none:
    with z = h W^T, Σ_v z_v = h · Σ_v W_v, and the uniform part of d loss / d z, -ε/V, reaches the gradients as
    -ε/V Σ_v W_v (of each h) and -ε/V Σ_n h_n (of each row of W).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_PD: Tensor, weight_VD: Tensor, labels_N: Tensor, smoothing: float, needs_grad: bool
    ) -> tuple[Tensor, Tensor]:
        num_labels, num_pieces = len(labels_N), weight_VD.shape[0]
        narrow, wide = hidden_PD.dtype, torch.promote_types(hidden_PD.dtype, torch.float32)
        compute_weight_VD = weight_VD.to(narrow)
        sum_hidden_D, sum_weight_D = hidden_PD[:num_labels].sum(0, dtype=wide), weight_VD.sum(0, dtype=wide)
        uniform = smoothing / num_pieces
        smallest = torch.finfo(wide).tiny  # a label less probable than this, e^-87, counts as this probable
        nll, log_normalizers = hidden_PD.new_zeros(2, dtype=wide)
        grad_hidden_PD = torch.empty_like(hidden_PD) if needs_grad else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=wide) if needs_grad else None
        rows = min(len(hidden_PD), chunk_rows(hidden_PD, num_pieces))
        # The same memory for every chunk: fresh pages would cost more than the arithmetic. On a GPU memory traffic
        # does: softmax reads narrow logits, computes in float32, and writes narrow ones, as the product wants them.
        buffer = hidden_PD.new_empty(rows, num_pieces)
        block_rows = rows if hidden_PD.is_cuda else _block_rows(num_pieces)
        wide_buffer = None
        if narrow is not wide and not hidden_PD.is_cuda:
            wide_buffer = buffer.new_empty(block_rows, num_pieces, dtype=wide)
        for start in range(0, len(hidden_PD), rows):
            hidden_CD = hidden_PD[start : start + rows]
            logits_CV = buffer[: len(hidden_CD)]
            torch.mm(hidden_CD, compute_weight_VD.T, out=logits_CV)
            for first in range(0, len(hidden_CD), block_rows):
                logits_EV = logits_CV[first : first + block_rows]
                labels_1 = labels_N[start + first :][: len(logits_EV), None]
                softmax_EV = logits_EV if wide_buffer is None else wide_buffer[: len(logits_EV)].copy_(logits_EV)
                labelled_V = softmax_EV[: len(labels_1)]
                gold_logits_1 = labelled_V.gather(1, labels_1).to(wide)
                torch.softmax(softmax_EV, dim=-1, out=softmax_EV)
                gold_1 = labelled_V.gather(1, labels_1).to(wide)
                block_nll = -gold_1.clamp_min(smallest).log().sum()
                nll += block_nll
                log_normalizers += block_nll + gold_logits_1.sum()
                if needs_grad:
                    # d loss / d logits = softmax - smoothed target
                    labelled_V.scatter_(1, labels_1, (gold_1 - (1 - smoothing)).to(softmax_EV.dtype))
                    softmax_EV[len(labels_1) :] = 0
                    if wide_buffer is not None:
                        logits_EV.copy_(softmax_EV)
            if grad_hidden_PD is not None and grad_weight_VD is not None:
                if wide is narrow:
                    grad_weight_VD.addmm_(logits_CV.T, hidden_CD)
                else:
                    grad_weight_VD += logits_CV.T @ hidden_CD
                torch.mm(logits_CV, compute_weight_VD, out=grad_hidden_PD[start : start + rows])
        if grad_hidden_PD is not None and grad_weight_VD is not None:
            grad_hidden_PD[:num_labels] -= uniform * sum_weight_D
            grad_weight_VD -= uniform * sum_hidden_D
        ctx.save_for_backward(grad_hidden_PD, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(nll)
        # Not `@`: autocast would round both sums to bfloat16, which shows in the third digit of the loss.
        sum_logits = torch.dot(sum_hidden_D, sum_weight_D)
        loss = (1 - smoothing) * nll + smoothing * log_normalizers - uniform * sum_logits
        return loss, nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _grad_nll: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden_PD, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_PD * grad_loss, (grad_weight_VD * grad_loss).to(ctx.weight_dtype), None, None, None


def _block_rows(num_pieces: int) -> int:
    """Return of how many rows the softmax is taken at once on a CPU."""
    return max(1, torch.get_num_threads() * _BLOCK_BYTES // (4 * num_pieces))


def chunk_rows(hidden_PD: Tensor, num_pieces: int) -> int:
    """Return how many rows' logits are computed at once: as many as fit into the bytes that a kind of device is given.

    On a CPU they are at least 2 · D, because each chunk adds to all of V × D. Where it is larger, the number is a
    multiple of `ROWS_MULTIPLE`, so that the last chunks of different batches have few shapes.
    """
    fitting = _CHUNK_BYTES.get(hidden_PD.device.type, 1 << 26) // (num_pieces * hidden_PD.element_size())
    rows = max(1, fitting, 2 * hidden_PD.shape[1] if hidden_PD.device.type == "cpu" else 0)
    return rows - rows % ROWS_MULTIPLE if rows > ROWS_MULTIPLE else rows
