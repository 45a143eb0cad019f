"""Multi-head scaled dot-product attention (paper, section 3.2) in its three uses, for training: all rows of a batch are
there at once, packed (see `Layout`). Equation 1 stands here as it is written; what computes it fast is beside it: on a
CPU `attention_on_cpu`, elsewhere PyTorch's kernels. Search, where one position a step is new, has its own (`engine`).

Shapes: B sequences, L positions of queries, M positions of keys, P rows of queries, R rows of keys, C columns,
D d_model, H heads, K and V head sizes of keys and values.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transformer_mt.model.attention_on_cpu import attend_on_cpu
from transformer_mt.model.dropout import Dropout
from transformer_mt.model.heads import Heads, split_projections, tables_of
from transformer_mt.model.layout import Layout


def attention(
    q_BHLK: Tensor, k_BHMK: Tensor, v_BHMV: Tensor, may_look: Tensor, dropout: nn.Module
) -> tuple[Tensor, Tensor]:
    """Compute Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V (equation 1) on a table for each sequence and head.

    Args:
        may_look: True where a query may look at a key, broadcast to (B, H, L, M); each query at one of them at least.
        dropout: of the weights (the paper has none here).

    Returns:
        (values (B, H, L, V), weights (B, H, L, M) before dropout).
    """
    scores_BHLM = q_BHLK @ k_BHMK.mT / math.sqrt(q_BHLK.shape[-1])
    scores_BHLM = scores_BHLM.masked_fill(~may_look, float("-inf"))
    weights_BHLM = scores_BHLM.softmax(dim=-1)
    return dropout(weights_BHLM) @ v_BHMV, weights_BHLM


class AttentionWeights(NamedTuple):
    """What looked where in a forced pass: float, (Y, B, H, L, M) for Y layers, None where the model has no such use.

    Row l of a table is one query's distribution over the keys: 0 where it may not look, all 0 where l is padding.
    Queries of ``encoder`` are the source's positions (keys: these), of ``decoder`` and ``cross`` those of ``tgt_in``
    (keys: these up to itself; the source's), from which the decoder predicts the label of the same position.
    """

    encoder: Tensor | None
    decoder: Tensor | None
    cross: Tensor | None


class MultiHeadAttention(nn.Module):
    """Project inputs to heads, attend in each, and join them (section 3.2.2).

    This is Concat(head_1, …, head_h) W^O with head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V). ``d_k`` and ``d_v`` are
    free of ``d_model`` (Table 3, rows A and B). The projections have no bias unless asked for: the paper's are plain
    matrices.
    """

    def __init__(self, d_model: int, num_heads: int, d_k: int, d_v: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.num_heads, self.d_k, self.d_v = num_heads, d_k, d_v
        self.scale = d_k**-0.5
        self.q_proj = nn.Linear(d_model, num_heads * d_k, bias)
        self.k_proj = nn.Linear(d_model, num_heads * d_k, bias)
        self.v_proj = nn.Linear(d_model, num_heads * d_v, bias)
        self.out_proj = nn.Linear(num_heads * d_v, d_model, bias)
        # Of all projections of the same input, where they lie one behind the other (see `WorkingWeights`).
        self.joined_weight: nn.Parameter | None = None
        self.dropout = Dropout(dropout)
        # Where it is a list, equation 1 is computed as it is written, and its weights (B, H, L, M) are put there.
        self.seen_weights: list[Tensor] | None = None

    @property
    def _heads(self) -> Heads:
        return Heads(self.num_heads, self.d_k, self.d_v, self.scale)

    def forward(self, x_PD: Tensor, layout: Layout, causal: bool = False) -> Tensor:
        """Attend from every row to the rows of its own sequence: (P, D) -> (P, D).

        With ``causal``, position t sees positions 0 … t only.
        """
        qkv_PC = _project(x_PD, self.joined_weight, self.q_proj, self.k_proj, self.v_proj)
        return self._attend(qkv_PC, layout, None, layout, causal)

    def project_memory(self, memory_RD: Tensor) -> Tensor:
        """Return keys and values (R, C) of the encoder's output (R, D), side by side."""
        return _project(memory_RD, self.joined_weight, self.k_proj, self.v_proj)

    def attend_memory(self, x_PD: Tensor, layout: Layout, kv_RC: Tensor, memory_layout: Layout) -> Tensor:
        """Attend from the decoder's rows to the encoder's output, projected by `project_memory`: (P, D) -> (P, D)."""
        return self._attend(self.q_proj(x_PD), layout, kv_RC, memory_layout, False)

    def plainly(
        self, q_PC: Tensor, layout: Layout, kv_RC: Tensor | None, kv_layout: Layout, causal: bool
    ) -> tuple[Tensor, Tensor]:
        """Attend as equation 1 is written; return the joined heads (P, C) and the weights (B, H, L, M).

        It is slow, for those who want the weights, and the twin that the fast ways are tested against.
        """
        q, k, v = tables_of(q_PC, layout, kv_RC, kv_layout, self._heads)
        may_look = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
        if causal:
            may_look = may_look.tril()
        if kv_layout.bias_BL is not None:  # nobody looks at padding
            may_look = may_look & (kv_layout.bias_BL == 0)[:, None, None, :]
        out, weights = attention(q, k, v, may_look, self.dropout)
        return layout.pack(out.transpose(1, 2).flatten(2)), weights

    def _attend(self, q_PC: Tensor, layout: Layout, kv_RC: Tensor | None, kv_layout: Layout, causal: bool) -> Tensor:
        """Return the attention of all heads, joined and projected: (P, D).

        Without ``kv_RC``, ``q_PC`` holds keys and values too.
        """
        if self.seen_weights is not None:
            joined_PC, weights_BHLM = self.plainly(q_PC, layout, kv_RC, kv_layout, causal)
            self.seen_weights.append(weights_BHLM)
        elif q_PC.device.type == "cpu":
            joined_PC = self._attend_on_cpu(q_PC, layout, kv_RC, kv_layout, causal)
        else:
            joined_PC = self._attend_by_kernel(q_PC, layout, kv_RC, kv_layout, causal)
        out_PD: Tensor = self.out_proj(joined_PC)
        return out_PD

    def _attend_on_cpu(
        self, q_PC: Tensor, layout: Layout, kv_RC: Tensor | None, kv_layout: Layout, causal: bool
    ) -> Tensor:
        return attend_on_cpu(q_PC, layout, kv_RC, kv_layout, causal, self._heads, self.dropout)

    def _attend_by_kernel(
        self, q_PC: Tensor, layout: Layout, kv_RC: Tensor | None, kv_layout: Layout, causal: bool
    ) -> Tensor:
        """Do the same through PyTorch's kernels: flash attention over packed rows where it can, else padded tables."""
        drop = self.dropout.p if self.dropout.is_active else 0.0
        if _has_packed_kernel(q_PC, self.d_k, self.d_v):
            q, k, v = split_projections(q_PC, kv_RC, self._heads)
            longest, kv_longest = (max(x.max_length, x.num_rows - x.num_real) for x in (layout, kv_layout))
            out = torch.ops.aten._flash_attention_forward(
                q, k, v, layout.offsets, kv_layout.offsets, longest, kv_longest, drop, causal, False, scale=self.scale
            )[0]
            packed_PC: Tensor = out.flatten(1)
            return packed_PC
        q, k, v = tables_of(q_PC, layout, kv_RC, kv_layout, self._heads)
        bias = None if causal or kv_layout.bias_BL is None else kv_layout.bias_BL[:, None, None, :].to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, bias, drop, causal, scale=self.scale)
        return layout.pack(out.transpose(1, 2).flatten(2))


def _has_packed_kernel(q_PC: Tensor, d_k: int, d_v: int) -> bool:
    """Return whether flash attention (Dao 2023) takes these rows.

    It does on CUDA from Ampere on, in half precision, with the usual head sizes. (Larger ones have no gradient on all
    GPUs.)
    """
    is_narrow = q_PC.dtype in (torch.bfloat16, torch.float16)
    return q_PC.is_cuda and is_narrow and d_k == d_v <= 192 and d_k % 8 == 0 and _is_ampere(q_PC.device)


def _is_ampere(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _project(x: Tensor, joined_weight: Tensor | None, *layers: nn.Linear) -> Tensor:
    """Return several projections of the same input, side by side, from one matrix product."""
    weight = torch.cat([layer.weight for layer in layers]) if joined_weight is None else joined_weight
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return F.linear(x, weight, bias)
