"""Prepared matrix products against `F.linear` in float64, within bounds that are derived here, and int8 against its own
arithmetic in whole numbers.

Legend: N rows, D columns in, C columns out.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from transformer_mt.decoding import prepared_linear
from transformer_mt.decoding.prepared_linear import prepare

PRECISIONS = ["float32", "bfloat16", "int8"]
SHAPES = [(512, 256), (256, 512), (131, 1031)]  # (D, C), none of them small
FEW_AND_MANY = [1, 2, 7, 16, 17, 65]
U16, U32 = 2.0**-8, 2.0**-24  # a rounding to bfloat16 and one to float32 change a number by this share of it at most

precisions = pytest.mark.parametrize("precision", PRECISIONS)


def weight_and_bias(D: int, C: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Columns of very different magnitudes, one of them 0, as padding of a vocabulary is."""
    random = torch.Generator().manual_seed(D + C)
    weight_CD = torch.randn(C, D, generator=random) * torch.logspace(-2, 1, C).unsqueeze(1)
    weight_CD[C // 2] = 0
    return weight_CD * scale, torch.randn(C, generator=random) * scale


def rows(N: int, D: int, scale: float = 1.0) -> Tensor:
    """Rows of very different magnitudes, with a few values that stand out, as activations have them."""
    x_ND = torch.randn(N, D, generator=torch.Generator().manual_seed(N)) * torch.logspace(-1, 1, N).unsqueeze(1)
    x_ND[:, 3] *= 20
    return x_ND * scale


def weight_limit() -> int:
    """The greatest magnitude of an int8 weight; see `_Int8`."""
    return 127 if torch.cpu._is_vnni_supported() else 63


def bound(precision: str, x_ND: Tensor, weight_CD: Tensor, addends_NC: list[Tensor]) -> Tensor:
    """How far from the exact result a product may be, each number by itself (float64).

    float32: a sum of m products in any order is off by (m + 1)u of the sum of magnitudes at most (Higham, section 3.1).
    bfloat16: both factors are rounded, which changes a product by 2u + u² of it, and then the sum is.
    int8: a row is off by half of its scale at most, a column too; see `exact_int8` for what is exact.
    """
    x_ND, weight_CD = x_ND.double().abs(), weight_CD.double().abs()
    magnitude_NC = F.linear(x_ND, weight_CD)
    all_NC = magnitude_NC + sum(addend.double().abs() for addend in addends_NC)
    rounding_NC = (x_ND.shape[1] + 4) * U32 * all_NC
    if precision == "bfloat16":
        return rounding_NC * 1.02 + (2 * U16 + U16**2) * magnitude_NC + 1.02 * U16 * magnitude_NC
    if precision == "int8":
        x_scale_N1 = x_ND.amax(1, keepdim=True).clamp(min=1e-30) / 127
        scale_C = weight_CD.amax(1).clamp(min=1e-30) / weight_limit()
        # Σ xw - (x + e)(w + f) = -Σ xf - Σ ew - Σ ef with |e| <= x_scale / 2 and |f| <= scale / 2.
        x_sum_N1, sum_C = x_ND.sum(1, keepdim=True), weight_CD.sum(1)
        error_NC = (x_sum_N1 * scale_C + x_scale_N1 * sum_C + x_scale_N1 * scale_C * x_ND.shape[1] / 2) / 2
        return rounding_NC + error_NC * (1 + 1e-4)  # a quotient that is rounded may round to the other neighbour
    return rounding_NC


def assert_within(found_NC: Tensor, expected_NC: Tensor, bound_NC: Tensor) -> None:
    assert found_NC.dtype == torch.float32 and found_NC.shape == expected_NC.shape
    assert torch.isfinite(found_NC).all()
    assert ((found_NC.double() - expected_NC).abs() <= bound_NC).all()


@precisions
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("D", "C"), SHAPES)
@pytest.mark.parametrize("N", FEW_AND_MANY)
def test_against_pytorch_in_float64(precision: str, has_bias: bool, D: int, C: int, N: int) -> None:
    weight_CD, bias_C = weight_and_bias(D, C)
    x_ND, residual_NC = rows(N, D), torch.randn(N, C)
    biases = [bias_C] if has_bias else []
    product = prepare(weight_CD, bias_C if has_bias else None, precision)
    expected_NC = F.linear(x_ND.double(), weight_CD.double(), bias_C.double() if has_bias else None)

    assert_within(product(x_ND), expected_NC, bound(precision, x_ND, weight_CD, biases))
    found_NC = product.add(residual_NC, x_ND)
    assert_within(found_NC, expected_NC + residual_NC, bound(precision, x_ND, weight_CD, [*biases, residual_NC]))


@precisions
def test_the_inputs_are_left_as_they_are(precision: str) -> None:
    weight_CD, bias_C = weight_and_bias(256, 512)
    for N in (4, 40):
        x_ND, residual_NC = rows(N, 256), torch.randn(N, 512)
        before = [tensor.clone() for tensor in (x_ND, residual_NC, bias_C)]
        product = prepare(weight_CD, bias_C, precision)
        first_NC, sum_NC = product(x_ND), product.add(residual_NC, x_ND)
        assert all(torch.equal(a, b) for a, b in zip((x_ND, residual_NC, bias_C), before, strict=True))
        kept = first_NC.clone(), sum_NC.clone()
        product(rows(N, 256, 2.0)), product.add(residual_NC, rows(N, 256, 2.0))
        assert torch.equal(first_NC, kept[0]) and torch.equal(sum_NC, kept[1])  # no buffer is used again


@precisions
@pytest.mark.parametrize(("D", "C"), [(256, 512), (64, 300)])
def test_a_weight_is_copied(precision: str, D: int, C: int) -> None:
    weight_CD, bias_C = weight_and_bias(D, C)
    product = prepare(weight_CD, bias_C, precision)
    before = [product(rows(N, D)) for N in (3, 20)]
    weight_CD.fill_(7)
    assert all(torch.equal(product(rows(N, D)), found) for N, found in zip((3, 20), before, strict=True))


@precisions
def test_a_weight_that_is_transposed(precision: str) -> None:
    """As the engine passes the one of an output projection."""
    weight_CD, bias_C = weight_and_bias(256, 512)
    x_ND = rows(20, 256)
    turned = prepare(weight_CD.T.contiguous().T, bias_C, precision)
    assert torch.equal(turned(x_ND), prepare(weight_CD, bias_C, precision)(x_ND))


@precisions
def test_small_weights_stay_float32(precision: str) -> None:
    """Converting costs more than it saves, on a CPU; with few rows and with many."""
    D, C = 64, 300
    assert D * C < prepared_linear._SMALL_WEIGHT
    weight_CD, bias_C = weight_and_bias(D, C)
    for N in FEW_AND_MANY:
        x_ND, residual_NC = rows(N, D), torch.randn(N, C)
        expected_NC = F.linear(x_ND.double(), weight_CD.double(), bias_C.double())
        product = prepare(weight_CD, bias_C, precision)
        assert_within(product(x_ND), expected_NC, bound("float32", x_ND, weight_CD, [bias_C]))
        found_NC = product.add(residual_NC, x_ND)
        assert_within(found_NC, expected_NC + residual_NC, bound("float32", x_ND, weight_CD, [bias_C, residual_NC]))


@pytest.mark.parametrize(("D", "C"), [(8, 24), (512, 256)])
def test_float64_weights_are_multiplied_in_float64(D: int, C: int) -> None:
    weight_CD, bias_C = (tensor.double() for tensor in weight_and_bias(D, C))
    product = prepare(weight_CD, bias_C, "float32")
    for N in (1, 40):
        x_ND, residual_NC = rows(N, D).double(), torch.randn(N, C, dtype=torch.float64)
        expected_NC = F.linear(x_ND, weight_CD, bias_C)
        torch.testing.assert_close(product(x_ND), expected_NC, rtol=1e-12, atol=1e-10)
        torch.testing.assert_close(product.add(residual_NC, x_ND), expected_NC + residual_NC, rtol=1e-12, atol=1e-10)


@precisions
@pytest.mark.parametrize("x_scale", [1e-30, 1e-18, 1e18])
@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e12])
def test_huge_and_tiny_values(precision: str, x_scale: float, scale: float) -> None:
    """No scale overflows, and none becomes 0."""
    weight_CD, _ = weight_and_bias(256, 512, scale)
    for N in (3, 33):
        x_ND = rows(N, 256, x_scale)
        expected_NC = F.linear(x_ND.double(), weight_CD.double())
        bound_NC = bound(precision, x_ND, weight_CD, []) + 256 * 2.0**-126  # what is smaller may count as 0
        assert_within(prepare(weight_CD, None, precision)(x_ND), expected_NC, bound_NC)


@precisions
@pytest.mark.parametrize("N", [1, 40])
def test_zero_rows_give_the_bias_and_zero_columns_too(precision: str, N: int) -> None:
    weight_CD, bias_C = weight_and_bias(256, 512)
    product, residual_NC = prepare(weight_CD, bias_C, precision), torch.randn(N, 512)
    zeros_ND = torch.zeros(N, 256)
    assert torch.equal(product(zeros_ND), bias_C.expand(N, 512))
    assert torch.equal(product.add(residual_NC, zeros_ND), residual_NC + bias_C)
    assert torch.equal(product(rows(N, 256))[:, 256], bias_C[256].expand(N))  # the column that is 0
    bare = prepare(weight_CD, None, precision)
    assert torch.equal(bare(zeros_ND), torch.zeros(N, 512))
    assert torch.equal(bare.add(residual_NC, zeros_ND), residual_NC)
    assert torch.equal(prepare(torch.zeros(512, 256), None, precision)(rows(N, 256)), torch.zeros(N, 512))


@precisions
def test_what_is_no_number_stays_none_and_in_its_row(precision: str) -> None:
    """Search tells a model that yields NaN; a product that made numbers of it would hide it."""
    weight_CD, bias_C = weight_and_bias(256, 512)
    product = prepare(weight_CD, bias_C, precision)
    x_ND = rows(20, 256)
    clean_NC = product(x_ND)
    x_ND[3, 5], x_ND[11, 0] = math.nan, math.inf
    found_NC = product(x_ND)
    assert found_NC[3].isnan().all()
    assert not found_NC[11].isfinite()[weight_CD[:, 0] != 0].any()
    others = [n for n in range(20) if n not in (3, 11)]
    assert torch.equal(found_NC[others], clean_NC[others])


def exact_int8(x_ND: Tensor, weight_CD: Tensor) -> Tensor:
    """The product of rows and columns in whole numbers, as `_Int8` makes them, and scaled back, in float64."""

    def quantized(matrix: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        greatest = matrix.abs().amax(1, keepdim=True).clamp(min=1e-30)
        scale = greatest * (1 / limit) if limit == 127 and matrix is x_ND else greatest / limit
        whole = (matrix / scale).round()
        assert whole.abs().max() <= limit
        return whole.long(), scale.double()

    (x_long_ND, x_scale_N1), (long_CD, scale_C1) = quantized(x_ND, 127), quantized(weight_CD, weight_limit())
    return (x_long_ND @ long_CD.T).double() * x_scale_N1 * scale_C1.T


@pytest.mark.parametrize("has_vnni", [False, True])
@pytest.mark.parametrize(("D", "C"), [*SHAPES, (1031, 131)])
@pytest.mark.parametrize("N", FEW_AND_MANY)
def test_int8_is_exact_but_for_the_scales(
    monkeypatch: pytest.MonkeyPatch, has_vnni: bool, D: int, C: int, N: int
) -> None:
    """The sum of whole numbers is rounded once to float32, and so are its products with two scales: 2^-22 in all."""
    if has_vnni and not torch.cpu._is_vnni_supported():
        pytest.skip("this processor adds pairs of products in 16 bits")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: has_vnni)
    weight_CD, _ = weight_and_bias(D, C)
    x_ND = rows(N, D)
    found_NC = prepare(weight_CD, None, "int8")(x_ND)
    torch.testing.assert_close(found_NC.double(), exact_int8(x_ND, weight_CD), rtol=2**-22, atol=0)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_int8_sums_do_not_saturate(sign: float) -> None:
    """All numbers as large as they get, of one sign or of both."""
    D, C = 4096, 40
    weight_CD, x_ND = torch.ones(C, D), torch.full((5, D), sign)
    weight_CD[1::2] *= -1
    expected_NC = D * sign * weight_CD[:, 0].expand(5, C)
    torch.testing.assert_close(prepare(weight_CD, None, "int8")(x_ND), expected_NC, rtol=2**-22, atol=0)


@pytest.mark.parametrize(("D", "C"), SHAPES)
def test_an_int8_row_does_not_depend_on_its_neighbours(D: int, C: int) -> None:
    """To the bit, whatever they are and however many."""
    weight_CD, bias_C = weight_and_bias(D, C)
    product = prepare(weight_CD, bias_C, "int8")
    x_ND, residual_NC = rows(65, D), torch.randn(65, C)
    found_NC, sum_NC = product(x_ND), product.add(residual_NC, x_ND)
    for first, end in [(0, 1), (64, 65), (3, 5), (7, 24), (20, 60)]:
        assert torch.equal(product(x_ND[first:end]), found_NC[first:end])
        assert torch.equal(product.add(residual_NC[first:end], x_ND[first:end]), sum_NC[first:end])
    x_ND[1::2] *= 1e20
    assert torch.equal(product(x_ND)[::2], found_NC[::2])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("has_bias", [False, True])
def test_without_onednn(monkeypatch: pytest.MonkeyPatch, precision: str, has_bias: bool) -> None:
    calls = []
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: calls.append(1))  # None: no
    weight_CD, bias_C = weight_and_bias(256, 512)
    product = prepare(weight_CD, bias_C if has_bias else None, precision)
    assert calls
    biases = [bias_C] if has_bias else []
    for N in FEW_AND_MANY:
        x_ND, residual_NC = rows(N, 256), torch.randn(N, 512)
        expected_NC = F.linear(x_ND.double(), weight_CD.double(), bias_C.double() if has_bias else None)
        assert_within(product(x_ND), expected_NC, bound(precision, x_ND, weight_CD, biases))
        found_NC = product.add(residual_NC, x_ND)
        assert_within(found_NC, expected_NC + residual_NC, bound(precision, x_ND, weight_CD, [*biases, residual_NC]))


def test_without_bfloat16_in_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = prepared_linear._packed

    def without(weight_CD: Tensor) -> Tensor | None:
        return None if weight_CD.dtype == torch.bfloat16 else packed(weight_CD)

    monkeypatch.setattr(prepared_linear, "_packed", without)
    weight_CD, bias_C = weight_and_bias(256, 512)
    x_ND = rows(20, 256)
    expected_NC = F.linear(x_ND.double(), weight_CD.double(), bias_C.double())
    found_NC = prepare(weight_CD, bias_C, "bfloat16")(x_ND)
    assert_within(found_NC, expected_NC, bound("bfloat16", x_ND, weight_CD, [bias_C]))
