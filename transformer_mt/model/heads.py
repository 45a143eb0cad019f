"""Columns of projected rows as heads."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from transformer_mt.model.layout import Layout


class Heads(NamedTuple):
    """How many heads a layer has, and their sizes."""

    number: int
    d_k: int
    d_v: int
    scale: float  # of the products of queries and keys: 1 / sqrt(d_k)


def tables_of(q_PC: Tensor, layout: Layout, kv_RC: Tensor | None, kv_layout: Layout, heads: Heads) -> list[Tensor]:
    """Return queries (B, H, L, K), keys (B, H, M, K) and values (B, H, M, V) of packed rows, padded.

    Without ``kv_RC``, ``q_PC`` holds keys and values too.
    """
    kv_BMC = None if kv_RC is None else kv_layout.unpack(kv_RC)
    return [part.transpose(1, 2) for part in split_projections(layout.unpack(q_PC), kv_BMC, heads)]


def split_projections(q: Tensor, kv: Tensor | None, heads: Heads) -> list[Tensor]:
    """Return queries (…, H, K), keys (…, H, K) and values (…, H, V). Without ``kv``, ``q`` holds these too."""
    number, d_k, d_v, _ = heads
    if kv is None:
        return split_heads(q, number, [d_k, d_k, d_v])
    return split_heads(q, number, [d_k]) + split_heads(kv, number, [d_k, d_v])


def heads_of(x_BLC: Tensor, num_heads: int, sizes: list[int]) -> list[Tensor]:
    """Split (B, L, Σ H·K) into one (B, H, L, K) for each K in ``sizes``."""
    return [part.transpose(1, 2) for part in split_heads(x_BLC, num_heads, sizes)]


def split_heads(x: Tensor, num_heads: int, sizes: list[int]) -> list[Tensor]:
    """Split (…, Σ H·K) into one (…, H, K) for each K in ``sizes``."""
    parts = x.split([num_heads * size for size in sizes], dim=-1)
    return [part.unflatten(-1, (num_heads, -1)) for part in parts]
