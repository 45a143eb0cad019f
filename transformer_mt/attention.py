"""Multi-head scaled dot-product attention (paper, section 3.2) in its three uses.

Shapes: B batch, S source, T target, L positions of queries, M positions of keys, D d_model, H heads, K head size,
W beam, N = B·W rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transformer_mt.dropout import Dropout
from transformer_mt.layout import Layout


@dataclass
class KeyValues:
    """Keys and values (rows, H, M, K) that attention has computed already: a sentence's memory, or a row's past."""

    keys: Tensor
    values: Tensor

    def select(self, rows: Tensor) -> None:
        self.keys, self.values = self.keys[rows], self.values[rows]

    def double(self) -> None:
        """Make room for as many positions again."""
        room = self.keys.shape[2]
        self.keys, self.values = (F.pad(x, (0, 0, 0, room)) for x in (self.keys, self.values))


class MultiHeadAttention(nn.Module):
    """MultiHead(Q, K, V) = Concat(head_1 … head_h) W^O, head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V).

    ``d_k`` and ``d_v`` are free of ``d_model`` (Table 3, rows A and B). The projections have no bias unless asked for:
    the paper's are plain matrices.
    """

    def __init__(self, d_model: int, num_heads: int, d_k: int, d_v: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = d_k**-0.5
        self.q_proj = nn.Linear(d_model, num_heads * d_k, bias)
        self.k_proj = nn.Linear(d_model, num_heads * d_k, bias)
        self.v_proj = nn.Linear(d_model, num_heads * d_v, bias)
        self.out_proj = nn.Linear(num_heads * d_v, d_model, bias)
        self.dropout = Dropout(dropout)

    def forward(self, x_BLD: Tensor, layout: Layout, causal: bool = False) -> Tensor:
        """Self-attention: (B, L, D) -> (B, L, D). ``causal``: position t sees positions 0 … t only."""
        q, k, v = _project(x_BLD, self.q_proj, self.k_proj, self.v_proj)
        # Padding stands behind the sentence, where a causal position does not look anyhow.
        bias = None if causal else layout.attention_bias_BL(q.dtype)
        return self._attend(self._split(q), self._split(k), self._split(v), bias, causal)

    def project_memory(self, memory_BSD: Tensor) -> KeyValues:
        """Keys and values of the encoder's output, once a sentence."""
        k, v = _project(memory_BSD, self.k_proj, self.v_proj)
        return KeyValues(self._split(k), self._split(v))

    def attend_memory(self, x_BLD: Tensor, memory: KeyValues, layout: Layout) -> Tensor:
        """Attention from the decoder over the encoder's output: (B, L, D) -> (B, L, D). In search L is the beam."""
        q = self.q_proj(x_BLD)
        return self._attend(self._split(q), memory.keys, memory.values, layout.attention_bias_BL(q.dtype), False)

    def attend_past(self, x_ND: Tensor, cache: KeyValues, position: int) -> Tensor:
        """One step of causal self-attention: write this position into the cache, attend to 0 … position.

        (N, D) -> (N, D); the cache has room for more than ``position`` positions and is written in place.
        """
        q, k, v = _project(x_ND[:, None], self.q_proj, self.k_proj, self.v_proj)
        cache.keys[:, :, position] = self._split(k)[:, :, 0]
        cache.values[:, :, position] = self._split(v)[:, :, 0]
        past = slice(0, position + 1)
        return self._attend(self._split(q), cache.keys[:, :, past], cache.values[:, :, past], None, False)[:, 0]

    def _split(self, x: Tensor) -> Tensor:
        """(B, L, H·K) -> (B, H, L, K)."""
        return x.view(x.shape[0], x.shape[1], self.num_heads, -1).transpose(1, 2)

    def _attend(self, q_BHLK: Tensor, k_BHMK: Tensor, v_BHMK: Tensor, bias_BM: Tensor | None, causal: bool) -> Tensor:
        """softmax(Q K^T / sqrt(d_k)) V (equation 1), heads joined and projected: -> (B, L, D)."""
        bias = None if bias_BM is None else bias_BM[:, None, None, :]
        drop = self.dropout.p if self.training else 0.0
        if q_BHLK.device.type == "cuda":
            out = F.scaled_dot_product_attention(q_BHLK, k_BHMK, v_BHMK, bias, drop, causal, scale=self.scale)
        else:
            out = self._attend_eager(q_BHLK, k_BHMK, v_BHMK, bias, causal)
        joined_BLD: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return joined_BLD

    def _attend_eager(
        self, q_BHLK: Tensor, k_BHMK: Tensor, v_BHMK: Tensor, bias: Tensor | None, causal: bool
    ) -> Tensor:
        scores_BHLM = (q_BHLK * self.scale) @ k_BHMK.transpose(-1, -2)
        if bias is not None:
            scores_BHLM = scores_BHLM + bias
        if causal:
            length = scores_BHLM.shape[-1]
            future = torch.full((length, length), float("-inf"), dtype=scores_BHLM.dtype, device=scores_BHLM.device)
            scores_BHLM = scores_BHLM + future.triu(1)
        weights_BHLM: Tensor = self.dropout(torch.softmax(scores_BHLM, dim=-1))
        return weights_BHLM @ v_BHMK


def _project(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """Several projections of the same input in one matrix product."""
    weight = torch.cat([layer.weight for layer in layers])
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return torch.split(F.linear(x, weight, bias), [layer.out_features for layer in layers], dim=-1)
