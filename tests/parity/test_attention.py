"""Attention of packed rows: our function on a CPU against PyTorch's kernels, and layers compiled against as written."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from transformer_mt.model import attention_on_cpu
from transformer_mt.model.attention import MultiHeadAttention
from transformer_mt.model.layout import Layout

D, H = 24, 3
CASES = {
    "padded": ([3, 1, 5], [4, 6, 2]),
    "full": ([4, 4], [7, 7]),
    "one": ([1], [1]),
    "mixed": ([2, 2, 2], [1, 5, 3]),
    "longer than a vector": ([17, 20], [33, 8]),  # of the processor; PyTorch's softmax takes those
}
cases = pytest.mark.parametrize(("tgt_lengths", "src_lengths"), CASES.values(), ids=CASES.keys())


def attention(d_k: int = 8, d_v: int = 8, dropout: float = 0.0) -> MultiHeadAttention:
    torch.manual_seed(2)
    return MultiHeadAttention(D, H, d_k, d_v, dropout, bias=True).double()


def gradients(out_PC: Tensor, inputs: Sequence[Tensor], layout: Layout) -> tuple[Tensor, ...]:
    """Of a function of the real rows."""
    weights_NC = torch.linspace(-1, 1, out_PC.shape[1], dtype=out_PC.dtype)
    return torch.autograd.grad((out_PC[: layout.num_real].sin() * weights_NC).sum(), inputs)


def assert_distributions(weights_BHLM: Tensor, keys: Layout, causal: bool) -> None:
    """Each query's weights sum to 1, and are 0 where it may not look."""
    torch.testing.assert_close(weights_BHLM.sum(-1), torch.ones(weights_BHLM.shape[:-1], dtype=torch.float64))
    if causal:
        assert not weights_BHLM.triu(1).any()
    if keys.bias_BL is not None:
        assert not weights_BHLM.masked_select((keys.bias_BL != 0)[:, None, None, :]).any()


@cases
@pytest.mark.parametrize("multiple", [1, 16])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_is_equation_1(
    tgt_lengths: list[int], src_lengths: list[int], multiple: int, causal: bool
) -> None:
    layer, layout = attention(d_k=8, d_v=5), Layout.packed(tgt_lengths, multiple)
    qkv_PC = torch.randn(layout.num_rows, H * (8 + 8 + 5), dtype=torch.float64, requires_grad=True)
    expected, weights_BHLM = layer.plainly(qkv_PC, layout, None, layout, causal)
    assert expected[: layout.num_real].abs().min() > 0
    assert_distributions(weights_BHLM, layout, causal)
    [expected_grad] = gradients(expected, [qkv_PC], layout)
    for attend in (layer._attend_on_cpu, layer._attend_by_kernel):
        found = attend(qkv_PC, layout, None, layout, causal)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        [grad] = gradients(found, [qkv_PC], layout)
        torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-12)


@cases
def test_attention_over_memory_is_equation_1(tgt_lengths: list[int], src_lengths: list[int]) -> None:
    layer, layout, memory = attention(d_k=8, d_v=5), Layout.packed(tgt_lengths, 8), Layout.packed(src_lengths)
    q_PC = torch.randn(layout.num_rows, H * 8, dtype=torch.float64, requires_grad=True)
    kv_RC = torch.randn(memory.num_rows, H * (8 + 5), dtype=torch.float64, requires_grad=True)
    expected, weights_BHLM = layer.plainly(q_PC, layout, kv_RC, memory, False)
    assert_distributions(weights_BHLM, memory, causal=False)
    expected_grads = gradients(expected, [q_PC, kv_RC], layout)
    for attend in (layer._attend_on_cpu, layer._attend_by_kernel):
        found = attend(q_PC, layout, kv_RC, memory, False)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        for ours, theirs in zip(gradients(found, [q_PC, kv_RC], layout), expected_grads, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [3, 17])
def test_the_gradient_knows_the_dropped_weights(length: int) -> None:
    """By finite differences, with the same random numbers in each call."""
    layer, layout = attention(dropout=0.4), Layout.packed([length, 2])
    qkv_PC = torch.randn(layout.num_rows, H * 24, dtype=torch.float64, requires_grad=True)

    def attend(qkv_PC: Tensor) -> Tensor:
        torch.manual_seed(5)
        return layer._attend_on_cpu(qkv_PC, layout, None, layout, True)[: layout.num_real]

    without = attention(dropout=0.0)._attend_on_cpu(qkv_PC, layout, None, layout, True)[: layout.num_real]
    assert not torch.allclose(attend(qkv_PC), without)
    assert torch.autograd.gradcheck(attend, (qkv_PC,))


def test_a_softmax_of_short_rows_is_finite_whatever_the_scores() -> None:
    """As PyTorch's is: the largest of a row is taken off before."""
    scores = torch.tensor([[800.0, -800.0, float("-inf")], [1e30, -1e30, 0.0], [-900.0, -901.0, -902.0]])
    expected = torch.softmax(scores, dim=-1)
    torch.testing.assert_close(attention_on_cpu._softmax(scores.clone()), expected)


def test_narrow_rows_stay_narrow_and_are_computed_wide() -> None:
    """Rounded once at the end: as close to float64 as bfloat16 gets, 2^-8 of the value."""
    layer, layout = attention(), Layout.packed([5, 9, 2], 8)
    qkv_PC = torch.randn(layout.num_rows, H * 24).bfloat16()
    found = layer._attend_on_cpu(qkv_PC, layout, None, layout, True)
    expected = layer._attend_on_cpu(qkv_PC.double(), layout, None, layout, True)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-5)
