"""The packed branch of a GPU against that of a CPU: flash attention over offsets, by the book instead of its kernel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from transformer_mt.config.sections import Config, ModelConfig
from transformer_mt.model import attention
from transformer_mt.model.attention import MultiHeadAttention
from transformer_mt.model.layout import Batch, collate
from transformer_mt.model.transformer import Transformer
from transformer_mt.system.ranks import Ranks
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.training.optim import FlatGradients
from transformer_mt.training.update import Updater
from transformer_mt.training.working_weights import WorkingWeights, flatten_weights

V = 40
# Lengths of source and target, and the multiple that rows are rounded up to; a tail has 0 rows and more.
CASES = {
    "ragged": ([3, 5, 2], [4, 1, 6], 64),
    "source full, without a tail": ([32, 32], [3, 9], 64),
    "target full, without a tail": ([3, 7], [32, 32], 64),
    "both full": ([16] * 4, [16] * 4, 64),
    "both full, with tails": ([5] * 3, [4] * 3, 64),
    "unrounded": ([3, 5], [2, 7], 1),
    "unrounded and full": ([4, 4], [4, 4], 1),
    "one pair of one id": ([1], [1], 64),
    "one full pair": ([64], [64], 64),
    "long": ([300, 3], [150, 1], 64),
}
cases = pytest.mark.parametrize(("src_lengths", "tgt_lengths", "multiple"), CASES.values(), ids=CASES.keys())
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
TOLERANCES = {torch.float32: 2e-5, torch.float64: 1e-12}


def attend_by_the_book(
    q_PHK: Tensor,
    k_RHK: Tensor,
    v_RHK: Tensor,
    offsets: Tensor,
    kv_offsets: Tensor,
    longest: int,
    kv_longest: int,
    drop: float,
    causal: bool,
    return_mask: bool,
    *,
    scale: float,
) -> tuple[Tensor, ...]:
    """Do what `aten::_flash_attention_forward` does, one sequence after the other; refuse what its kernel would."""
    assert (drop, return_mask) == (0.0, False)
    for x, own in ((q_PHK, offsets), (k_RHK, kv_offsets), (v_RHK, kv_offsets)):
        assert x.stride(-1) == 1 and own.dtype == torch.int32 and own.is_contiguous()
        assert (int(own[0]), int(own[-1])) == (0, len(x))
    outputs = []
    for q_LHK, k_MHK, v_MHK in zip(*_cut((q_PHK, offsets), (k_RHK, kv_offsets), (v_RHK, kv_offsets)), strict=True):
        L, M = len(q_LHK), len(k_MHK)
        assert max(L - longest, M - kv_longest) <= 0
        scores_HLM = torch.einsum("lhk,mhk->hlm", q_LHK, k_MHK) * scale
        if causal:
            scores_HLM = scores_HLM.masked_fill(torch.ones(L, M, dtype=torch.bool).triu(1 + M - L), -math.inf)
        outputs.append(torch.einsum("hlm,mhk->lhk", scores_HLM.softmax(-1), v_MHK))
    return (torch.cat(outputs),)


def _cut(*packed: tuple[Tensor, Tensor]) -> list[tuple[Tensor, ...]]:
    return [x.tensor_split(offsets[1:-1].tolist()) for x, offsets in packed]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Put attention by the book in the kernel's place, and return a list that grows with each call (causal or not)."""
    calls: list[bool] = []

    def attend(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        calls.append(args[8])
        return attend_by_the_book(*args, **kwargs)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", attend)
    monkeypatch.setattr(attention, "_has_packed_kernel", lambda *_: True)
    return calls


def make_model(dtype: torch.dtype) -> Transformer:
    torch.manual_seed(1)
    shape = ModelConfig(d_model=32, d_ff=48, num_heads=4, num_encoder_layers=2, num_decoder_layers=2, dropout=0.0)
    return Transformer(shape, V, V).to(dtype).train()


def make_batch(src_lengths: list[int], tgt_lengths: list[int], multiple: int) -> Batch:
    rng = np.random.default_rng(2)
    src, tgt = ([[*rng.integers(4, V, n - 1), EOS_ID] for n in side] for side in (src_lengths, tgt_lengths))
    return collate(src, tgt, multiple)


def assert_near(found: Tensor, expected: Tensor) -> None:
    """To the dtype's precision, relative to the greatest element: small ones are sums of what cancels."""
    atol = TOLERANCES[expected.dtype] * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@cases
@dtypes
def test_loss_and_gradients_are_those_of_a_cpu(
    src_lengths: list[int],
    tgt_lengths: list[int],
    multiple: int,
    dtype: torch.dtype,
    calls: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch = make_model(dtype), make_batch(src_lengths, tgt_lengths, multiple)

    def loss_nll_and_gradients() -> list[Tensor]:
        loss, nll = model(batch, 0.1)
        return [loss.detach(), nll, *torch.autograd.grad(loss, list(model.parameters()))]

    expected = loss_nll_and_gradients()
    assert expected[0] > 0 and calls == []
    monkeypatch.setattr(MultiHeadAttention, "_attend_on_cpu", MultiHeadAttention._attend_by_kernel)
    found = loss_nll_and_gradients()
    assert calls == [False, False, True, False, True, False]  # of each layer; the decoder's are causal, then cross
    for ours, theirs in zip(found, expected, strict=True):
        assert_near(ours, theirs)


@dtypes
def test_working_weights_over_packed_rows_have_the_gradients_of_a_cpu(
    dtype: torch.dtype, calls: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a GPU's way: joined copies of the weights, and packed rows, from which the products' gradients come."""
    batch = make_batch([3, 5, 2], [4, 1, 6], 64)
    on_cpu, on_gpu = FlatGradients(model := make_model(dtype)), FlatGradients(other := make_model(dtype))
    model(batch, 0.1)[0].backward()
    working = WorkingWeights(other, flatten_weights(other), dtype)
    monkeypatch.setattr(MultiHeadAttention, "_attend_on_cpu", MultiHeadAttention._attend_by_kernel)
    working.twin(batch, 0.1)[0].backward()
    working.move_gradients(on_gpu.buffer)
    assert len(calls) == 6
    assert_near(on_gpu.buffer, on_cpu.buffer)


@dtypes
def test_an_update_is_that_of_a_cpu(dtype: torch.dtype, calls: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through what the training loop calls: two micro-batches, clipping, Adam, the average."""
    config = Config.model_validate(
        {
            "data": {"src_lang": "en", "tgt_lang": "de", "train": [{"src": "en", "tgt": "de"}]},
            "optim": {"clip_norm": 1.0},
            "train": {"precision": "float32", "ema_decay": 0.9},
        }
    )
    micro_batches = [make_batch([3, 5, 2], [4, 1, 6], 64), make_batch([8, 8], [7, 9], 64)]

    def numbers_and_weights() -> list[Tensor]:
        model = make_model(dtype)
        updater = Updater(model, config, torch.device("cpu"), Ranks())
        numbers = []
        for step in (1, 2):
            updater.begin()
            for micro in micro_batches:
                updater.add(micro, sum(micro.num_labels for micro in micro_batches))
            numbers.append(updater.finish(step))
        assert updater.average is not None
        return [*numbers, *(p.detach() for p in model.parameters()), *updater.average.weights.values()]

    expected = numbers_and_weights()
    monkeypatch.setattr(MultiHeadAttention, "_attend_on_cpu", MultiHeadAttention._attend_by_kernel)
    assert calls == []
    found = numbers_and_weights()
    assert len(calls) == 6 * 2 * 2
    for ours, theirs in zip(found, expected, strict=True):
        assert_near(ours, theirs)
