"""Columns of projected rows as heads."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Heads(NamedTuple):
    """How many heads a layer has, and their sizes."""

    number: int
    d_k: int
    d_v: int
    scale: float  # of the products of queries and keys: 1 / sqrt(d_k)


def heads_of(x_BLC: Tensor, num_heads: int, sizes: list[int]) -> list[Tensor]:
    """Split (B, L, Σ H·K) into one (B, H, L, K) for each K in ``sizes``."""
    return [part.transpose(1, 2) for part in split_heads(x_BLC, num_heads, sizes)]


def split_heads(x: Tensor, num_heads: int, sizes: list[int]) -> list[Tensor]:
    """Split (…, Σ H·K) into one (…, H, K) for each K in ``sizes``."""
    parts = x.split([num_heads * size for size in sizes], dim=-1)
    return [part.unflatten(-1, (num_heads, -1)) for part in parts]
