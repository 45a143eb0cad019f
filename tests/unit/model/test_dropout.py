"""Dropout against the binomial distribution, and the same mask forwards and backwards."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from transformer_mt.model.dropout import Dropout

COUNT = 1_000_003  # not a multiple of four: the last draw is used in part


def dropped(p: float, x: torch.Tensor, seed: int = 1) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.as_tensor(Dropout(p)(x))


@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.5, 0.9])
def test_share_of_zeros_scale_and_expectation(p: float) -> None:
    out = dropped(p, torch.ones(COUNT))
    deviation = math.sqrt(p * (1 - p) / COUNT)
    rounding = 1 / 2**17  # the probability is a multiple of 1/65536
    assert float((out == 0).double().mean()) == pytest.approx(p, abs=5 * deviation + rounding)
    torch.testing.assert_close(out[out != 0], torch.full([int((out != 0).sum())], 1 / (1 - p)))
    assert float(out.double().mean()) == pytest.approx(1, abs=(5 * deviation + rounding) / (1 - p))


@pytest.mark.parametrize("distance", [1, 2, 3, 4])
def test_neighbours_are_independent(distance: int) -> None:
    """Four elements share one draw of the generator: both of a pair must be zero in p² of all pairs."""
    zero = dropped(0.3, torch.ones(COUNT)) == 0
    both = float((zero[distance:] & zero[:-distance]).double().mean())
    # Pairs overlap, so the variance is at most three times that of independent ones.
    assert both == pytest.approx(0.09, abs=5 * math.sqrt(3 * 0.09 * 0.91 / COUNT) + 2 * 0.3 / 2**17)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 0), (2, 3, 7)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    out = dropped(0.5, torch.full(shape, 3.0))
    assert out.shape == shape
    assert set(out.flatten().tolist()) <= {0.0, 6.0}


def test_a_view_keeps_its_own_order_and_the_input_is_left_alone() -> None:
    x = torch.randn(6, 5)
    before = x.clone()
    torch.testing.assert_close(dropped(0.4, x.T), dropped(0.4, x.T.contiguous()), rtol=0, atol=0)
    assert torch.equal(x, before)


def test_backward_uses_the_mask_of_forward() -> None:
    x = torch.randn(1000, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(1000, dtype=torch.float64)
    out = dropped(0.25, x)
    out.backward(upstream)
    kept = (out != 0).double()
    assert 0 < kept.sum() < 1000
    torch.testing.assert_close(out, x * kept / 0.75, rtol=1e-15, atol=0)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, upstream * kept / 0.75, rtol=1e-15, atol=0)


def test_identity_in_evaluation_and_without_probability() -> None:
    x = torch.randn(50)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    state = torch.get_rng_state()
    Dropout(0.5).eval()(x)
    assert torch.equal(torch.get_rng_state(), state)


def test_torchs_seed_alone_decides() -> None:
    x = torch.ones(200)
    first = dropped(0.5, x, seed=3)
    np.random.seed(17)
    assert torch.equal(dropped(0.5, x, seed=3), first)
    assert not torch.equal(dropped(0.5, x, seed=4), first)


def test_calls_and_layers_differ() -> None:
    torch.manual_seed(3)
    layers, x = [Dropout(0.5), Dropout(0.5)], torch.ones(200)
    masks = [tuple(layer(x).tolist()) for layer in layers * 2]
    assert len(set(masks)) == 4


def test_bfloat16() -> None:
    """The same mask as in float32, and one rounding: 2^-8 is the relative spacing of bfloat16."""
    x = torch.randn(1000).bfloat16().requires_grad_()
    out = dropped(0.3, x)
    assert out.dtype == torch.bfloat16
    wide = dropped(0.3, x.detach().float())
    assert torch.equal(out == 0, wide == 0)
    torch.testing.assert_close(out.float(), wide, rtol=2**-8, atol=0)
    out.backward(torch.ones_like(out))
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad.float(), (wide != 0) / 0.7, rtol=2**-8, atol=0)


def test_repr_names_the_probability() -> None:
    assert repr(Dropout(0.25)) == "Dropout(p=0.25)"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_added_in_one_pass_is_dropped_and_then_added(dtype: torch.dtype) -> None:
    residual, x = torch.randn(500).to(dtype).requires_grad_(), torch.randn(500).to(dtype).requires_grad_()
    torch.manual_seed(1)
    found = Dropout(0.3).add(residual, x)
    expected = residual.double() + dropped(0.3, x.detach().double())
    spacing = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=spacing, atol=4 * spacing)
    found.sum().backward()
    assert residual.grad is not None and x.grad is not None
    assert residual.grad.eq(1).all()
    torch.testing.assert_close(x.grad.double(), dropped(0.3, torch.ones(500).double()), rtol=2 * spacing, atol=0)
    assert torch.equal(Dropout(0.0).add(residual, x), residual + x)
