"""Multi-head scaled dot-product attention (paper, section 3.2) in its three uses, for training: all rows of a batch are
there at once, packed (see `Layout`). Search, where one position a step is new, has its own in `engine.py`.

Shapes: B sequences, L positions of queries, M positions of keys, P rows of queries, R rows of keys, C columns,
D d_model, H heads, K head size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transformer_mt.model.dropout import Dropout
from transformer_mt.model.layout import Layout


class MultiHeadAttention(nn.Module):
    """Concat(head_1, …, head_h) W^O with head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V).

    ``d_k`` and ``d_v`` are free of ``d_model`` (Table 3, rows A and B). The projections have no bias unless asked for:
    the paper's are plain matrices.
    """

    def __init__(self, d_model: int, num_heads: int, d_k: int, d_v: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.num_heads, self.d_k, self.d_v = num_heads, d_k, d_v
        self.scale = d_k**-0.5
        self.q_proj = nn.Linear(d_model, num_heads * d_k, bias)
        self.k_proj = nn.Linear(d_model, num_heads * d_k, bias)
        self.v_proj = nn.Linear(d_model, num_heads * d_v, bias)
        self.out_proj = nn.Linear(num_heads * d_v, d_model, bias)
        self.dropout = Dropout(dropout)

    def forward(self, x_PD: Tensor, layout: Layout, causal: bool = False) -> Tensor:
        """Self-attention: (P, D) -> (P, D). ``causal``: position t sees positions 0 … t only."""
        qkv_PC = _project(x_PD, self.q_proj, self.k_proj, self.v_proj)
        return self._attend(qkv_PC, layout, None, layout, causal)

    def project_memory(self, memory_RD: Tensor) -> Tensor:
        """Keys and values (R, C) of the encoder's output, side by side."""
        return _project(memory_RD, self.k_proj, self.v_proj)

    def attend_memory(self, x_PD: Tensor, layout: Layout, kv_RC: Tensor, memory_layout: Layout) -> Tensor:
        """Attention from the decoder over the encoder's output: (P, D) -> (P, D)."""
        return self._attend(self.q_proj(x_PD), layout, kv_RC, memory_layout, False)

    def _attend(self, q_PC: Tensor, layout: Layout, kv_RC: Tensor | None, kv_layout: Layout, causal: bool) -> Tensor:
        """Equation 1 for all heads, joined and projected. Without ``kv_RC``, ``q_PC`` holds keys and values too."""
        attend = self._attend_on_cpu if q_PC.device.type == "cpu" else self._attend_by_kernel
        out_PD: Tensor = self.out_proj(attend(q_PC, layout, kv_RC, kv_layout, causal))
        return out_PD

    def _attend_on_cpu(
        self, q_PC: Tensor, layout: Layout, kv_RC: Tensor | None, kv_layout: Layout, causal: bool
    ) -> Tensor:
        joined_PC: Tensor = _AttentionOnCpu.apply(q_PC, layout, kv_RC, kv_layout, causal, self)  # type: ignore[no-untyped-call]
        return joined_PC

    def _attend_by_kernel(
        self, q_PC: Tensor, layout: Layout, kv_RC: Tensor | None, kv_layout: Layout, causal: bool
    ) -> Tensor:
        """The same through PyTorch's kernels: flash attention over packed rows where it can, else padded tables."""
        sizes = [self.d_k, self.d_v] if kv_RC is not None else [self.d_k, self.d_k, self.d_v]
        drop = self.dropout.p if self.dropout.is_active else 0.0
        if _has_packed_kernel(q_PC, self.d_k, self.d_v):
            own = _split_heads(q_PC, self.num_heads, [self.d_k] if kv_RC is not None else sizes)
            q, k, v = own if kv_RC is None else own + _split_heads(kv_RC, self.num_heads, sizes)
            longest, kv_longest = (max(x.max_length, x.num_rows - x.num_real) for x in (layout, kv_layout))
            out = torch.ops.aten._flash_attention_forward(
                q, k, v, layout.offsets, kv_layout.offsets, longest, kv_longest, drop, causal, False, scale=self.scale
            )[0]
            packed_PC: Tensor = out.flatten(1)
            return packed_PC
        own = _heads(layout.unpack(q_PC), self.num_heads, [self.d_k] if kv_RC is not None else sizes)
        q, k, v = own if kv_RC is None else own + _heads(kv_layout.unpack(kv_RC), self.num_heads, sizes)
        bias = None if causal or kv_layout.bias_BL is None else kv_layout.bias_BL[:, None, None, :].to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, bias, drop, causal, scale=self.scale)
        return layout.pack(out.transpose(1, 2).flatten(2))


class _AttentionOnCpu(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d_k)) V (equation 1) over packed rows, on padded tables inside.

    In float32 also where the rows are bfloat16: on short rows PyTorch's bfloat16 softmax and its gradient cost more
    than all of the products, which are a small part of a layer's. The tables are made again in the backward pass: that
    costs less than the memory to keep them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_PC: Tensor,
        layout: Layout,
        kv_RC: Tensor | None,
        kv_layout: Layout,
        causal: bool,
        attention: MultiHeadAttention,
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            q, k, v = _tables(q_PC, layout, kv_RC, kv_layout, attention)
            bias = _bias(q, k, kv_layout, causal, attention.num_heads)
            weights = torch.softmax(torch.baddbmm(bias, q, k.mT, alpha=attention.scale), dim=-1)
            mask = None
            dropped = weights
            if attention.dropout.is_active:
                mask = attention.dropout.mask(weights.shape, weights.dtype).mul_(1 / (1 - attention.dropout.p))
                dropped = weights * mask
            out_PC = _rows([dropped @ v], layout, q_PC.dtype)
        ctx.save_for_backward(q_PC, kv_RC, weights, mask)
        ctx.layout, ctx.kv_layout, ctx.attention = layout, kv_layout, attention
        return out_PC

    @staticmethod
    def backward(ctx: Any, grad_PC: Tensor) -> tuple[Tensor | None, ...]:
        q_PC, kv_RC, weights, mask = ctx.saved_tensors
        layout, kv_layout, attention = ctx.layout, ctx.kv_layout, ctx.attention
        with torch.autocast("cpu", enabled=False):
            q, k, v = _tables(q_PC, layout, kv_RC, kv_layout, attention)
            [grad] = _wide_heads(grad_PC, layout, attention.num_heads, [attention.d_v])
            grad_v = (weights if mask is None else weights * mask).mT @ grad
            grad_weights = grad @ v.mT
            if mask is not None:
                grad_weights *= mask
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_q = (grad_scores @ k).mul_(attention.scale)
            grad_k = (grad_scores.mT @ q).mul_(attention.scale)
            if kv_RC is None:
                grad_q_PC, grad_kv_RC = _rows([grad_q, grad_k, grad_v], layout, grad_PC.dtype), None
            else:
                grad_q_PC = _rows([grad_q], layout, grad_PC.dtype)
                grad_kv_RC = _rows([grad_k, grad_v], kv_layout, grad_PC.dtype)
        return grad_q_PC, None, grad_kv_RC, None, None, None


def _tables(
    q_PC: Tensor, layout: Layout, kv_RC: Tensor | None, kv_layout: Layout, attention: MultiHeadAttention
) -> list[Tensor]:
    """Queries (B·H, L, K), keys and values (B·H, M, K), in float32 at least."""
    heads, d_k, d_v = attention.num_heads, attention.d_k, attention.d_v
    if kv_RC is None:
        return _wide_heads(q_PC, layout, heads, [d_k, d_k, d_v])
    return _wide_heads(q_PC, layout, heads, [d_k]) + _wide_heads(kv_RC, kv_layout, heads, [d_k, d_v])


def _wide_heads(x_PC: Tensor, layout: Layout, num_heads: int, sizes: list[int]) -> list[Tensor]:
    wide = torch.promote_types(x_PC.dtype, torch.float32)
    parts = _heads(layout.unpack(x_PC), num_heads, sizes)
    return [part.to(wide, memory_format=torch.contiguous_format).flatten(0, 1) for part in parts]


def _rows(parts: list[Tensor], layout: Layout, dtype: torch.dtype) -> Tensor:
    """Tables (B·H, L, K) side by side as rows (P, C), the inverse of `_wide_heads`; the tail is 0."""
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
    """What is added to the scores (B·H, L, M): -inf where a query must not look."""
    if causal:  # padding stands behind the sequence, where a causal position does not look anyhow
        length = k.shape[1]
        return torch.full((length, length), float("-inf"), dtype=q.dtype).triu_(1)
    if kv_layout.bias_BL is None:
        return q.new_zeros(())
    return kv_layout.bias_BL.to(q.dtype).repeat_interleave(num_heads, 0)[:, None, :]


def _has_packed_kernel(q_PC: Tensor, d_k: int, d_v: int) -> bool:
    """Whether flash attention (Dao 2023) takes these rows: CUDA from Ampere on, half precision, usual head sizes."""
    is_narrow = q_PC.dtype in (torch.bfloat16, torch.float16)
    return q_PC.is_cuda and is_narrow and d_k == d_v <= 256 and d_k % 8 == 0 and _is_ampere(q_PC.device)


def _is_ampere(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _heads(x_BLC: Tensor, num_heads: int, sizes: list[int]) -> list[Tensor]:
    """(B, L, Σ H·K) -> one (B, H, L, K) for each K in ``sizes``."""
    return [part.transpose(1, 2) for part in _split_heads(x_BLC, num_heads, sizes)]


def _split_heads(x: Tensor, num_heads: int, sizes: list[int]) -> list[Tensor]:
    """(…, Σ H·K) -> one (…, H, K) for each K in ``sizes``."""
    parts = x.split([num_heads * size for size in sizes], dim=-1)
    return [part.unflatten(-1, (num_heads, -1)) for part in parts]


def _project(x: Tensor, *layers: nn.Linear) -> Tensor:
    """Several projections of the same input, side by side, in one matrix product."""
    weight = torch.cat([layer.weight for layer in layers])
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return F.linear(x, weight, bias)
