"""The chunked loss against torch.nn.functional.cross_entropy, and against the formula by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from transformer_mt.model import loss as loss_module
from transformer_mt.model.loss import label_log_probs, label_smoothed_cross_entropy

Inputs = tuple[Tensor, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def inputs(num_pieces: int, num_positions: int = 17, d_model: int = 6) -> Inputs:
    torch.manual_seed(num_pieces)
    hidden_ND = torch.randn(num_positions, d_model, dtype=torch.float64, requires_grad=True)
    weight_VD = torch.randn(num_pieces, d_model, dtype=torch.float64, requires_grad=True)
    return hidden_ND, weight_VD, torch.randint(num_pieces, (num_positions,))


def torchs(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(F.linear(hidden_ND, weight_VD), labels_N, reduction="sum", label_smoothing=smoothing)


def ours(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, smoothing: float) -> Tensor:
    return label_smoothed_cross_entropy(hidden_ND, weight_VD, labels_N, smoothing)[0]


def value_and_gradients(loss: Loss, given: Inputs, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of 0.37 · loss, so that the gradient from above counts too."""
    hidden_ND, weight_VD, labels_N = given
    value = loss(hidden_ND, weight_VD, labels_N, smoothing)
    grad_hidden_ND, grad_weight_VD = torch.autograd.grad(0.37 * value, (hidden_ND, weight_VD))
    return value.detach(), grad_hidden_ND, grad_weight_VD


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("num_pieces", [1, 2, 7, 501])
def test_value_and_gradients_are_those_of_torch(num_pieces: int, smoothing: float) -> None:
    given = inputs(num_pieces)
    for found, expected in zip(
        value_and_gradients(ours, given, smoothing), value_and_gradients(torchs, given, smoothing), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("rows", "block"), [(1, 1), (3, 2), (16, 5), (16, 16), (17, 4), (18, 100)])
def test_the_sizes_of_chunks_and_blocks_change_nothing(rows: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one position a chunk over a short last chunk, and short last blocks, to all positions in one."""
    given = inputs(7)
    expected = value_and_gradients(torchs, given, 0.1)
    monkeypatch.setattr(loss_module, "chunk_rows", lambda *_: rows)
    monkeypatch.setattr(loss_module, "_block_rows", lambda *_: block)
    for found, value in zip(value_and_gradients(ours, given, 0.1), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 3, 17, 18])
def test_each_label_has_its_own_log_probability(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind the first chunk, and with a tail of rows that have no label."""
    monkeypatch.setattr(loss_module, "chunk_rows", lambda *_: rows)
    hidden_ND, weight_VD, labels_N = (tensor.detach() for tensor in inputs(7))
    expected = -F.cross_entropy(F.linear(hidden_ND, weight_VD), labels_N, reduction="none")
    tail = torch.full((4, 6), 3.0, dtype=torch.float64)
    found = label_log_probs(torch.cat([hidden_ND, tail]), weight_VD, labels_N)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_no_more_logits_than_a_block_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    softmax = torch.softmax

    def watched(logits_CV: Tensor, **options: Any) -> Tensor:
        shapes.append(tuple(logits_CV.shape))
        return softmax(logits_CV, **options)

    monkeypatch.setattr(torch, "softmax", watched)
    monkeypatch.setattr(loss_module, "chunk_rows", lambda *_: 6)
    monkeypatch.setattr(loss_module, "_block_rows", lambda *_: 4)
    label_smoothed_cross_entropy(*inputs(7), 0.1)
    assert shapes == [(4, 7), (2, 7), (4, 7), (2, 7), (4, 7), (1, 7)]


def test_a_thread_has_a_mebibyte_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert loss_module._block_rows(32_000) == 4 * 2**20 // (4 * 32_000)
    assert loss_module._block_rows(10**9) == 1


def test_gradcheck() -> None:
    hidden_ND, weight_VD, labels_N = inputs(5, num_positions=4, d_model=3)
    assert torch.autograd.gradcheck(lambda h, w: ours(h, w, labels_N, 0.2), (hidden_ND, weight_VD))


def test_three_words_by_hand() -> None:
    """With the identity as weights and log p as hidden vector, softmax gives p = (0.5, 0.3, 0.2) back.

    Label 0 and ε = 0.3: the smoothed target is (0.8, 0.1, 0.1).
    """
    p = [0.5, 0.3, 0.2]
    hidden_ND = torch.tensor([p], dtype=torch.float64).log().requires_grad_()
    weight_VD = torch.eye(3, dtype=torch.float64)
    loss, nll = label_smoothed_cross_entropy(hidden_ND, weight_VD, torch.tensor([0]), 0.3)
    assert float(loss.detach()) == pytest.approx(
        -(0.8 * math.log(0.5) + 0.1 * math.log(0.3) + 0.1 * math.log(0.2)), rel=1e-12
    )
    assert float(nll) == pytest.approx(math.log(2), rel=1e-12)
    loss.backward()
    assert hidden_ND.grad is not None
    assert hidden_ND.grad.tolist() == [pytest.approx([0.5 - 0.8, 0.3 - 0.1, 0.2 - 0.1], rel=1e-12)]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_the_likelihood_is_not_smoothed_and_carries_no_gradient(smoothing: float) -> None:
    hidden_ND, weight_VD, labels_N = inputs(9)
    loss, nll = label_smoothed_cross_entropy(hidden_ND, weight_VD, labels_N, smoothing)
    torch.testing.assert_close(nll, torchs(hidden_ND, weight_VD, labels_N, 0.0).detach(), rtol=1e-12, atol=0)
    assert loss.requires_grad and not nll.requires_grad


def test_without_gradients_and_with_fixed_weights() -> None:
    hidden_ND, weight_VD, labels_N = inputs(9)
    expected = torchs(hidden_ND, weight_VD, labels_N, 0.1)
    with torch.no_grad():
        loss, _ = label_smoothed_cross_entropy(hidden_ND, weight_VD, labels_N, 0.1)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    fixed_VD = weight_VD.detach()
    [grad] = torch.autograd.grad(ours(hidden_ND, fixed_VD, labels_N, 0.1), hidden_ND)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, hidden_ND)[0], rtol=1e-10, atol=1e-12)


def test_extreme_logits_stay_finite() -> None:
    """A label's likelihood counts as float32's smallest normal number at least, 87 nats; its gradient is exact."""
    most = -math.log(torch.finfo(torch.float32).tiny)
    hidden_ND = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    for label, expected in enumerate([0.0, 2e4, 1e4]):
        loss, nll = label_smoothed_cross_entropy(hidden_ND, torch.eye(3), torch.tensor([label]), 0.0)
        assert float(loss.detach()) == float(nll) == pytest.approx(min(expected, most))
        [grad] = torch.autograd.grad(loss, hidden_ND)
        assert grad.tolist() == [[float(piece == 0) - float(piece == label) for piece in range(3)]]


def test_bfloat16_is_close_to_float32() -> None:
    """Inputs that bfloat16 holds exactly: what differs is the rounding of logits and of their gradient.

    A logit x is off by at most |x| · 2^-9 (half the spacing), so a log-probability by twice the largest of them.
    Gradients are rounded three times (logits, their gradient, the product): 2^-9 each of the norm, with room for the
    logits' error, which is an absolute one in an exponent.
    """
    torch.manual_seed(5)
    hidden_ND = torch.randn(64, 32).bfloat16()
    weight_VD = (torch.randn(300, 32) / 8).bfloat16().float()
    labels_N = torch.randint(300, (64,))
    narrow, exact = hidden_ND.clone().requires_grad_(), hidden_ND.float().requires_grad_()
    weight_narrow, weight_exact = weight_VD.clone().requires_grad_(), weight_VD.clone().requires_grad_()
    loss, nll = label_smoothed_cross_entropy(narrow, weight_narrow, labels_N, 0.1)
    expected = torchs(exact, weight_exact, labels_N, 0.1)
    assert loss.dtype == nll.dtype == torch.float32
    largest = float((exact @ weight_exact.T).abs().max().detach())
    assert abs(float(loss.detach()) - float(expected.detach())) < 64 * 2 * largest * 2**-9
    loss.backward()
    expected.backward()
    for found, true, dtype in [
        (narrow.grad, exact.grad, torch.bfloat16),
        (weight_narrow.grad, weight_exact.grad, torch.float32),
    ]:
        assert found is not None and true is not None
        assert found.dtype == dtype
        assert (found.float() - true).norm() < (3 * 2**-9 + 2 * largest * 2**-9) * true.norm()


@pytest.mark.parametrize(("rows", "tail"), [(1, 4), (3, 1), (16, 7), (100, 2)])
def test_a_tail_without_labels_takes_no_part(rows: int, tail: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it fills up the last chunk or has chunks of its own."""
    monkeypatch.setattr(loss_module, "chunk_rows", lambda *_: rows)
    monkeypatch.setattr(loss_module, "_block_rows", lambda *_: 3)
    hidden_ND, weight_VD, labels_N = inputs(7)
    value, grad_hidden_ND, grad_weight_VD = value_and_gradients(torchs, (hidden_ND, weight_VD, labels_N), 0.1)
    longer = torch.cat([hidden_ND.detach(), torch.full((tail, 6), 3.0, dtype=torch.float64)]).requires_grad_()
    found = value_and_gradients(ours, (longer, weight_VD, labels_N), 0.1)
    torch.testing.assert_close(found[0], value, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1][:-tail], grad_hidden_ND, rtol=1e-12, atol=1e-12)
    assert not found[1][-tail:].any()
    torch.testing.assert_close(found[2], grad_weight_VD, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_are_whole_blocks_of_rows(dtype: torch.dtype) -> None:
    for d_model, num_pieces in [(128, 10000), (512, 37000), (1024, 32)]:
        rows = loss_module.chunk_rows(torch.empty(1, d_model, dtype=dtype), num_pieces)
        assert rows % 64 == 0 and rows >= 2 * d_model


def test_the_reported_loss_is_not_rounded_by_autocast() -> None:
    """To 1e-5 nats a label of the definition on the same bfloat16 logits, where all hidden states lean to one side."""
    torch.manual_seed(3)
    hidden_ND, weight_VD = (torch.randn(512, 64) + 0.5).bfloat16(), torch.randn(4000, 64) / 8 + 0.05
    labels_N = torch.randint(4000, (512,))
    log_probs_NV = (hidden_ND @ weight_VD.bfloat16().T).double().log_softmax(-1)
    expected_nll = -log_probs_NV.gather(1, labels_N[:, None]).sum()
    expected = 0.9 * expected_nll - 0.1 / 4000 * log_probs_NV.sum()
    with torch.autocast("cpu", torch.bfloat16):
        loss, nll = label_smoothed_cross_entropy(hidden_ND, weight_VD, labels_N, 0.1)
    assert abs(float(loss - expected)) / 512 < 1e-5
    assert abs(float(nll - expected_nll)) / 512 < 1e-5
