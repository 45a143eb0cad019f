"""One update, however it is cut over ranks and micro-batches, has one gradient. Driven as the training loop does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from transformer_mt.config.sections import ModelConfig
from transformer_mt.data.batching import Pairs, cut_update
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import Transformer
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.training.optim import FlatGradients

V, SMOOTHING = 40, 0.1
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}

rng = np.random.default_rng(11)
SRC = [[*rng.integers(4, V, length), EOS_ID] for length in rng.integers(1, 12, 24)]
TGT = [[*rng.integers(4, V, length), EOS_ID] for length in rng.integers(1, 12, 24)]
SRC_LENGTHS = np.array([len(ids) for ids in SRC], dtype=np.int32)
TGT_LENGTHS = np.array([len(ids) for ids in TGT], dtype=np.int32)
UPDATE = np.arange(24)
NUM_LABELS = int(TGT_LENGTHS.sum())


def build_model(dtype: torch.dtype) -> Transformer:
    torch.manual_seed(3)
    config = ModelConfig(d_model=16, d_ff=32, num_heads=4, num_encoder_layers=2, num_decoder_layers=2, dropout=0.0)
    return Transformer(config, V, V).to(dtype).train()


def cut(num_ranks: int, num_micro: int) -> list[list[Pairs]]:
    """The update over so many ranks with so many micro-batches each."""
    for micro_tokens in range(2 * NUM_LABELS * 12, 0, -1):
        parts = cut_update(UPDATE, SRC_LENGTHS, TGT_LENGTHS, num_ranks=num_ranks, micro_tokens=micro_tokens)
        if all(len(rank) == num_micro for rank in parts):
            return parts
    raise AssertionError(f"this update has no cut into {num_ranks} × {num_micro}")


def loss_and_gradient(model: Transformer, ranks: list[list[Pairs]]) -> tuple[Tensor, Tensor]:
    """The update's loss and gradient, summed over ranks."""
    gradients = FlatGradients(model)
    loss_sum, gradient_sum = torch.zeros((), dtype=torch.float64), torch.zeros_like(gradients.buffer)
    for micro_batches in ranks:
        gradients.zero()
        for micro in micro_batches:
            loss, _ = model(collate([SRC[i] for i in micro], [TGT[i] for i in micro]), SMOOTHING)
            (loss / NUM_LABELS).backward()
            loss_sum += loss.detach()
        gradient_sum += gradients.buffer
    return loss_sum, gradient_sum


def assert_equal_in_norm(found: Tensor, expected: Tensor) -> None:
    assert expected.norm() > 1e-3
    assert (found - expected).norm() <= TOLERANCES[found.dtype] * expected.norm()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("num_ranks", "num_micro"), [(1, 4), (2, 2), (4, 1)])
def test_any_cut_has_the_gradient_of_the_whole(num_ranks: int, num_micro: int, dtype: torch.dtype) -> None:
    model = build_model(dtype)
    whole_loss, whole = loss_and_gradient(model, cut(1, 1))
    loss, gradient = loss_and_gradient(model, cut(num_ranks, num_micro))
    assert_equal_in_norm(gradient, whole)
    assert float(loss) == pytest.approx(float(whole_loss), rel=TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_whole_is_torchs_mean_over_all_labels(dtype: torch.dtype) -> None:
    model = build_model(dtype)
    loss, gradient = loss_and_gradient(model, cut(1, 4))
    batch = collate(SRC, TGT)
    mean = F.cross_entropy(model.logits(batch), batch.labels_N, label_smoothing=SMOOTHING)
    assert float(loss) / NUM_LABELS == pytest.approx(float(mean.detach()), rel=TOLERANCES[dtype])
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(mean, list(model.parameters()))])
    assert_equal_in_norm(gradient, expected)


def test_the_mean_of_means_would_be_another_gradient() -> None:
    """The micro-batches above differ in labels, so dividing each by its own would be seen."""
    model = build_model(torch.float64)
    _, gradient = loss_and_gradient(model, cut(1, 4))
    [micro_batches] = cut(1, 4)
    labels = [int(TGT_LENGTHS[micro].sum()) for micro in micro_batches]
    assert len(set(labels)) > 1
    wrong = torch.zeros_like(gradient)
    for micro, num_labels in zip(micro_batches, labels, strict=True):
        wrong += loss_and_gradient(model, [[micro]])[1] * NUM_LABELS / num_labels / 4
    assert (wrong - gradient).norm() > 1e-3 * gradient.norm()
