"""Attention over packed rows in bfloat16 against equation 1 in float64: values, gradients, and what dropout drops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from transformer_mt.model.attention import MultiHeadAttention
from transformer_mt.model.layout import ROWS_MULTIPLE, Layout

NUM_HEADS, SIZE = 4, 32
C = NUM_HEADS * SIZE
# Lengths of queries and, where they attend to others, of keys.
LENGTHS = {
    "tails": ([5, 1, 17, 33, 40], [7, 64, 3, 2, 9]),
    "no tail": ([32, 32], [16, 112]),
    "long": ([300, 2, 129], [1, 257, 500]),
}


def attention(dropout: float = 0.0) -> MultiHeadAttention:
    return MultiHeadAttention(C, NUM_HEADS, SIZE, SIZE, dropout, bias=False)


def moved(layout: Layout, device: torch.device) -> Layout:
    return replace(layout, positions_P=layout.positions_P.to(device), offsets=layout.offsets.to(device))


def by_equation_1(q: Tensor, layout: Layout, kv: Tensor | None, kv_layout: Layout, causal: bool) -> Tensor:
    return attention().plainly(q, layout, kv, kv_layout, causal)[0]


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double().cpu(), expected.detach()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", ["self", "causal", "cross"])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_packed_attention_is_equation_1(kind: str, lengths: str, device: torch.device) -> None:
    torch.manual_seed(1)
    queries, keys = LENGTHS[lengths]
    layout = Layout.packed(queries, ROWS_MULTIPLE)
    kv_layout = Layout.packed(keys, ROWS_MULTIPLE) if kind == "cross" else layout
    q = torch.randn(layout.num_rows, C if kind == "cross" else 3 * C).bfloat16()
    kv = torch.randn(kv_layout.num_rows, 2 * C).bfloat16() if kind == "cross" else None
    inputs = [x for x in (q, kv) if x is not None]
    grad = torch.randn(layout.num_rows, C).bfloat16()
    grad[layout.num_real :] = 0  # nothing depends on the tail

    wide = [x.double().requires_grad_() for x in inputs]
    expected = by_equation_1(wide[0], layout, wide[1] if kv is not None else None, kv_layout, kind == "causal")
    expected.backward(grad.double())

    narrow = [x.to(device).requires_grad_() for x in inputs]
    there, kv_there = (moved(one, device) for one in (layout, kv_layout))
    other = narrow[1] if kv is not None else None
    found = attention()._attend_by_kernel(narrow[0], there, other, kv_there, kind == "causal")
    assert found.dtype == torch.bfloat16
    found.backward(grad.to(device))

    real, kv_real = layout.num_real, kv_layout.num_real
    assert relative_error(found[:real], expected[:real]) < 0.01
    for one, reference, count in zip(narrow, wide, (real, kv_real), strict=False):
        assert one.grad is not None and reference.grad is not None
        assert relative_error(one.grad[:count], reference.grad[:count]) < 0.02
        assert bool(torch.isfinite(one.grad).all()), "the tail's gradients are added to weights'"


def test_dropout_drops_weights_and_scales_the_rest(device: torch.device) -> None:
    """With the identity as values, what comes out are the weights of attention as dropout leaves them."""
    torch.manual_seed(1)
    p, length, module = 0.25, SIZE, attention(0.25).to(device).train()
    layout = moved(Layout.packed([length]), device)
    q, k = torch.randn(2, length, C, device=device).bfloat16() / 2
    v = torch.eye(length, device=device).bfloat16().repeat(1, NUM_HEADS)
    own = Layout.packed([length])
    weights = by_equation_1(torch.cat([q, k, v], 1).double().cpu(), own, None, own, False)
    assert float(weights.min()) > 0.001  # so that zeros are dropout's

    qkv = torch.cat([q, k, v], 1)
    drawn = [module._attend_by_kernel(qkv, layout, None, layout, False) for _ in range(200)]
    draws = torch.stack(drawn).double().cpu()
    is_kept = draws != 0
    assert float(is_kept.double().mean()) == pytest.approx(1 - p, abs=0.005)
    assert float((is_kept.double().mean(0) - (1 - p)).abs().max()) < 0.2, "each weight is dropped at times"
    scaled = (weights / (1 - p)).expand_as(draws)
    assert relative_error(draws[is_kept], scaled[is_kept]) < 0.01
    assert float(draws.mean()) == pytest.approx(float(weights.mean()), rel=0.01)


def test_the_backward_pass_drops_what_the_forward_pass_dropped(device: torch.device) -> None:
    torch.manual_seed(1)
    module, layout = attention(0.25).to(device).train(), moved(Layout.packed([SIZE]), device)
    v = torch.eye(SIZE, device=device).bfloat16().repeat(1, NUM_HEADS)
    qkv = torch.cat([torch.randn(SIZE, 2 * C, device=device).bfloat16() / 2, v], 1).requires_grad_()
    out = module._attend_by_kernel(qkv, layout, None, layout, False)
    grad = torch.randn(SIZE, C, device=device).bfloat16()
    out.backward(grad)
    assert qkv.grad is not None
    kept_HLM = out.detach().double().cpu().view(SIZE, NUM_HEADS, SIZE).transpose(0, 1)
    grad_HLV = grad.double().cpu().view(SIZE, NUM_HEADS, SIZE).transpose(0, 1)
    expected = (kept_HLM.mT @ grad_HLV).transpose(0, 1).flatten(1)  # d out / d values are the weights that were kept
    assert relative_error(qkv.grad[:, 2 * C :], expected) < 0.01
