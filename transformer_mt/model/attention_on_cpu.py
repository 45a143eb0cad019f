"""Attention on a CPU: over packed rows, in float32 inside, with a backward pass that keeps little."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transformer_mt.model.dropout import Dropout
from transformer_mt.model.heads import Heads, heads_of, tables_of
from transformer_mt.model.layout import Layout


def attend_on_cpu(
    q_PC: Tensor,
    layout: Layout,
    kv_RC: Tensor | None,
    kv_layout: Layout,
    causal: bool,
    heads: Heads,
    dropout: Dropout,
) -> Tensor:
    """Return the attention of all heads, joined: (P, C). Without ``kv_RC``, ``q_PC`` holds keys and values too.

    Shapes are as in `attention`.
    """
    joined_PC: Tensor = _AttentionOnCpu.apply(q_PC, layout, kv_RC, kv_layout, causal, heads, dropout)  # type: ignore[no-untyped-call]
    return joined_PC


# How many numbers the processor takes at once. Shorter rows PyTorch's softmax takes one number at a time, in ten times
# the time; most sentences are as short as that.
_VECTOR = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8


class _AttentionOnCpu(torch.autograd.Function):
    """Compute softmax(Q K^T / sqrt(d_k)) V (equation 1) over packed rows, on padded tables inside.

    It is in float32 also where the rows are bfloat16: on short rows PyTorch's bfloat16 softmax and its gradient cost
    more than all of the products, which are a small part of a layer's. The tables are made again in the backward pass:
    that costs less than the memory to keep them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_PC: Tensor,
        layout: Layout,
        kv_RC: Tensor | None,
        kv_layout: Layout,
        causal: bool,
        heads: Heads,
        dropout: Dropout,
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            q, k, v = map(_wide, tables_of(q_PC, layout, kv_RC, kv_layout, heads))
            bias = _bias(q, k, kv_layout, causal, heads.number)
            weights = _softmax(torch.baddbmm(bias, q, k.mT, alpha=heads.scale))
            mask = None
            dropped = weights
            if dropout.is_active:
                mask = dropout.mask(weights.shape, weights.dtype).mul_(1 / (1 - dropout.p))
                dropped = weights * mask
            out_PC = _rows([dropped @ v], layout, q_PC.dtype)
        ctx.save_for_backward(q_PC, kv_RC, weights, mask)
        ctx.layout, ctx.kv_layout, ctx.heads = layout, kv_layout, heads
        return out_PC

    @staticmethod
    def backward(ctx: Any, grad_PC: Tensor) -> tuple[Tensor | None, ...]:
        q_PC, kv_RC, weights, mask = ctx.saved_tensors
        layout, kv_layout, heads = ctx.layout, ctx.kv_layout, ctx.heads
        with torch.autocast("cpu", enabled=False):
            q, k, v = map(_wide, tables_of(q_PC, layout, kv_RC, kv_layout, heads))
            [grad] = map(_wide, heads_of(layout.unpack(grad_PC), heads.number, [heads.d_v]))
            grad_v = (weights if mask is None else weights * mask).mT @ grad
            grad_weights = grad @ v.mT
            if mask is not None:
                grad_weights *= mask
            grad_scores = _softmax_backward(grad_weights, weights)
            grad_q = (grad_scores @ k).mul_(heads.scale)
            grad_k = (grad_scores.mT @ q).mul_(heads.scale)
            if kv_RC is None:
                grad_q_PC, grad_kv_RC = _rows([grad_q, grad_k, grad_v], layout, grad_PC.dtype), None
            else:
                grad_q_PC = _rows([grad_q], layout, grad_PC.dtype)
                grad_kv_RC = _rows([grad_k, grad_v], kv_layout, grad_PC.dtype)
        return grad_q_PC, None, grad_kv_RC, None, None, None, None


def _softmax(scores: Tensor) -> Tensor:
    """Return the softmax of each row; ``scores`` may be overwritten."""
    if scores.shape[-1] >= _VECTOR:
        return torch.softmax(scores, dim=-1)
    weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    return weights.div_(weights.sum(-1, keepdim=True))


def _softmax_backward(grad_weights: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient of the scores of `_softmax`; ``grad_weights`` may be overwritten."""
    if weights.shape[-1] >= _VECTOR:
        grad_scores: Tensor = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        return grad_scores
    grad_scores = grad_weights.mul_(weights)
    return grad_scores.addcmul_(weights, grad_scores.sum(-1, keepdim=True), value=-1)


def _wide(table_BHLK: Tensor) -> Tensor:
    """Return a table as (B·H, L, K), in float32 at least."""
    wide = torch.promote_types(table_BHLK.dtype, torch.float32)
    return table_BHLK.to(wide, memory_format=torch.contiguous_format).flatten(0, 1)


def _rows(parts: list[Tensor], layout: Layout, dtype: torch.dtype) -> Tensor:
    """Return tables (B·H, L, K) side by side as rows (P, C), the inverse of `tables_of`; the tail is 0."""
    batch, length = layout.num_sequences, layout.max_length
    width = sum(part.shape[0] // batch * part.shape[2] for part in parts)
    rows_PC = torch.empty(layout.num_rows, width, dtype=dtype)
    real_NC = rows_PC[: layout.num_real]
    cells = real_NC if layout.cells_N is None else torch.empty(batch * length, width, dtype=dtype)
    start = 0
    for part in parts:
        heads, size = part.shape[0] // batch, part.shape[2]
        columns = cells[:, start : start + heads * size]
        columns.view(batch, length, heads, size).copy_(part.view(batch, heads, length, size).transpose(1, 2))
        start += heads * size
    if layout.cells_N is not None:
        torch.index_select(cells, 0, layout.cells_N, out=real_NC)
    rows_PC[layout.num_real :] = 0
    return rows_PC


def _bias(q: Tensor, k: Tensor, kv_layout: Layout, causal: bool, num_heads: int) -> Tensor:
    """Return what is added to the scores (B·H, L, M): -inf where a query must not look."""
    if causal:  # padding stands behind the sequence, where a causal position does not look anyhow
        length = k.shape[1]
        return torch.full((length, length), float("-inf"), dtype=q.dtype).triu_(1)
    if kv_layout.bias_BL is None:
        return q.new_zeros(())
    return kv_layout.bias_BL.to(q.dtype).repeat_interleave(num_heads, 0)[:, None, :]
