"""Updates on a GPU: the CPU's gradients, learning in bfloat16, a host that never waits, the same numbers every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo.utils
from torch import Tensor

from transformer_mt.config.sections import Config
from transformer_mt.model.layout import ROWS_MULTIPLE, Batch, collate
from transformer_mt.model.transformer import Transformer
from transformer_mt.system.device import seed_stream
from transformer_mt.system.ranks import Ranks
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.training.update import Updater

pytestmark = pytest.mark.slow

V = 300
CPU = torch.device("cpu")


def updater_on(device: torch.device, dropout: float = 0.0, **train: Any) -> Updater:
    """A model that is the same on every device, with all that changes its weights."""
    config = Config.model_validate(
        {
            "data": {"src_lang": "en", "tgt_lang": "de", "train": [{"src": "en", "tgt": "de"}]},
            "model": {
                **{"d_model": 64, "d_ff": 128, "num_heads": 4, "num_encoder_layers": 2, "num_decoder_layers": 2},
                **{"dropout": dropout, "attention_dropout": dropout},
            },
            "optim": {"schedule": "inverse_sqrt", "lr": 0.003, "warmup_steps": 1, "clip_norm": 1.0},
            "train": {"precision": "float32", "ema_decay": 0.99, **train},
        }
    )
    seed_stream(1)
    model = Transformer(config.model, V, V).to(device).train()
    return Updater(model, config, device, Ranks(), pytest.fail)  # it only warns of what cannot be compiled


def batches(seed: int, num_pairs: int = 40) -> list[Batch]:
    """Two micro-batches on the host."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 50, (2, num_pairs))
    src, tgt = ([[*rng.integers(4, V, n), EOS_ID] for n in side] for side in lengths)
    half = num_pairs // 2
    return [collate(src[part], tgt[part], ROWS_MULTIPLE) for part in (slice(half), slice(half, None))]


def differentiate(updater: Updater, micro_batches: list[Batch]) -> Tensor:
    """The gradient of an update, in the order of the model's parameters, on the host."""
    updater.begin()
    for micro in micro_batches:
        updater.add(micro, sum(one.num_labels for one in micro_batches))
    return updater.gradients.buffer.detach().clone().double().cpu()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# float32 is TF32 in training, with ten bits of mantissa; bfloat16 has seven.
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0.01), ("bfloat16", 0.08)])
def test_gradients_and_losses_are_the_cpus(precision: str, tolerance: float, device: torch.device) -> None:
    on_cpu, there = updater_on(CPU), updater_on(device, precision=precision)
    for seed in (1, 2):
        micro_batches = batches(seed)
        expected, found = differentiate(on_cpu, micro_batches), differentiate(there, micro_batches)
        assert relative_error(found, expected) < tolerance
    numbers = [updater.finish(1).tolist() for updater in (on_cpu, there)]
    assert numbers[1] == pytest.approx(numbers[0], rel=tolerance)
    # Adam's first step is the rate, up or down: where a gradient is next to nothing, its sign is a matter of rounding.
    for one, other in zip(on_cpu.model.parameters(), there.model.parameters(), strict=True):
        difference = (one - other.cpu()).detach().abs()
        assert float(difference.max()) <= 2.01 * on_cpu.rate
        assert float((difference > 0.01 * on_cpu.rate).double().mean()) < 0.25


def test_bfloat16_learns_its_batch(device: torch.device) -> None:
    updater, micro_batches = updater_on(device, precision="bfloat16", label_smoothing=0.0), batches(1, num_pairs=4)
    num_labels, losses = sum(micro.num_labels for micro in micro_batches), []
    steps, best = (100, 0.5) if device.type == "cuda" else (25, 2.5)
    for step in range(1, steps + 1):
        differentiate(updater, micro_batches)
        losses.append(float(updater.finish(step)[0]) / num_labels)
    assert losses[0] > 4.5  # about ln 300 before anything is learned
    assert losses[-1] < best


def test_a_number_that_is_not_finite_changes_nothing(device: torch.device) -> None:
    updater = updater_on(device, precision="bfloat16")
    differentiate(updater, batches(1))
    updater.finish(1)
    before = [p.detach().clone() for p in updater.model.parameters()]
    differentiate(updater, batches(2))
    updater.gradients.buffer[3] = float("inf")
    numbers = updater.finish(2).tolist()
    assert numbers[3] == 1
    assert all(torch.equal(old, new) for old, new in zip(before, updater.model.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_updates_are_the_same_every_time(precision: str, device: torch.device) -> None:
    """With dropout and the default, `train.deterministic`: two runs differ in no bit of weights and averages."""
    runs = []
    for _ in range(2):
        updater = updater_on(device, dropout=0.2, precision=precision)
        for step in range(1, 4):
            updater.begin()
            micro_batches = batches(step, num_pairs=300 if device.type == "cuda" else 30)
            for number, micro in enumerate(micro_batches):
                seed_stream(1, step, number)
                updater.add(micro, sum(one.num_labels for one in micro_batches))
            updater.finish(step)
        assert updater.average is not None
        runs.append([p.detach().cpu() for p in (*updater.model.parameters(), *updater.average.weights.values())])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_host_never_waits_for_an_update(precision: str, recompute: bool, gpu: torch.device) -> None:
    updater = updater_on(gpu, dropout=0.1, precision=precision, recompute_activations=recompute)
    differentiate(updater, batches(1))
    updater.finish(1)  # makes the moments
    micro_batches = batches(2, num_pairs=400)  # so many rows that all kernels are those of a real run
    torch.cuda.set_sync_debug_mode("error")
    try:
        updater.begin()
        for micro in micro_batches:
            updater.add(micro, 10_000)
        numbers = updater.finish(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(numbers).all() and numbers[3] == 0


def test_a_synchronisation_would_be_seen(gpu: torch.device) -> None:
    """The check of the check."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            float(torch.ones(1, device=gpu))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_compiled_layers_give_what_they_give_as_they_are(gpu: torch.device) -> None:
    plain, compiled = (updater_on(gpu, precision="bfloat16", compile=one) for one in (False, True))
    for seed, num_pairs in ((1, 20), (2, 7), (3, 31)):  # different shapes
        micro_batches = batches(seed, num_pairs)
        expected, found = differentiate(plain, micro_batches), differentiate(compiled, micro_batches)
        assert relative_error(found, expected) < 0.05
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
