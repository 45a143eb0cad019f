"""An update as an object: what is forgotten, what is left alone, and layers that cannot be compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from transformer_mt.config.sections import Config
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import Transformer
from transformer_mt.system import device
from transformer_mt.system.ranks import Ranks
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.training.update import Updater

CPU = torch.device("cpu")
BATCH = collate([[4, 5, 6, EOS_ID], [7, EOS_ID]], [[8, EOS_ID], [9, 10, 11, EOS_ID]], 8)
OTHER = collate([[12, EOS_ID]], [[13, 4, 5, EOS_ID]], 8)


def new_updater(tell: Callable[[str], None] = print, clip_norm: float = 0.0, **train: Any) -> Updater:
    sizes = {"d_model": 16, "d_ff": 24, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "dropout": 0}
    tree = {
        "data": {"src_lang": "en", "tgt_lang": "de", "train": [{"src": "a", "tgt": "b"}]},
        "model": sizes,
        "optim": {"clip_norm": clip_norm},
        "train": {"precision": "float32", **train},
    }
    config = Config.model_validate(tree)
    torch.manual_seed(1)
    return Updater(Transformer(config.model, 20, 20).train(), config, CPU, Ranks(), tell)


def weights(updater: Updater) -> list[torch.Tensor]:
    return [p.detach().clone() for p in updater.model.parameters()]


def test_what_was_added_before_an_update_begins_is_forgotten() -> None:
    ends = []
    for with_trial in (True, False):
        updater = new_updater()
        if with_trial:
            updater.begin()
            updater.add(OTHER, 1)
        updater.begin()
        updater.add(BATCH, BATCH.num_labels)
        numbers = updater.finish(10)
        ends.append([numbers, *weights(updater)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_numbers_are_those_of_all_micro_batches() -> None:
    updater = new_updater()
    with torch.no_grad():
        expected = [sum(float(updater.model(batch, 0.1)[i]) for batch in (BATCH, OTHER)) for i in (0, 1)]
    num_labels = BATCH.num_labels + OTHER.num_labels
    updater.begin()
    for batch in (BATCH, OTHER):
        updater.add(batch, num_labels)
    loss, nll, norm, is_bad = updater.finish(1).tolist()
    assert [loss, nll] == pytest.approx(expected, rel=1e-5)
    assert norm == pytest.approx(float(updater.gradients.buffer.norm()))
    assert is_bad == 0


def test_the_gradient_is_clipped_and_its_norm_told_before() -> None:
    """By the norm over all weights (Pascanu et al. 2013, algorithm 1)."""
    updaters = [new_updater(), new_updater(clip_norm=0.01)]
    norms = []
    for updater in updaters:
        updater.begin()
        updater.add(BATCH, BATCH.num_labels)
        norms.append(float(updater.finish(1)[2]))
    whole, clipped = (updater.gradients.buffer for updater in updaters)
    assert norms[0] == norms[1] == pytest.approx(float(whole.norm())) and norms[0] > 0.1
    torch.testing.assert_close(clipped, whole * (0.01 / norms[0]))


def test_an_update_that_is_not_finite_changes_nothing() -> None:
    updater = new_updater(ema_decay=0.9)
    assert updater.average is not None
    updater.begin()
    updater.add(BATCH, BATCH.num_labels)
    updater.finish(1)
    before = [*weights(updater), *(x.clone() for x in updater.average.weights.values())]
    updater.begin()
    updater.add(BATCH, BATCH.num_labels)
    updater.gradients.buffer[3] = torch.nan
    assert updater.finish(2)[3] == 1
    after = [*weights(updater), *updater.average.weights.values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_layers_that_cannot_be_compiled_run_as_they_are() -> None:
    """One line says so, with the reason; the gradients are those of layers that were never compiled."""
    plain = new_updater()
    plain.begin()
    plain.add(BATCH, 5)

    def backend(*_: Any) -> Any:
        raise NotImplementedError("no such machine\nwith details")

    said: list[str] = []
    updater = new_updater(said.append)
    for layer in updater.network.layers:
        layer.compile(backend=backend)
    updater.begin()
    updater.add(BATCH, 5)
    updater.add(OTHER, 5)
    plain.add(OTHER, 5)
    [line] = said
    assert line.startswith("warning: train.compile: ") and "no such machine" in line and "\n" not in line
    assert torch.equal(updater.gradients.buffer, plain.gradients.buffer)


@pytest.mark.parametrize("recompute", [True, False])
def test_what_is_compiled_gives_the_gradients_of_what_is_not(recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By PyTorch's compiler but for its last part, in the modes of a GPU: a backward pass refuses to run in another
    mode than its forward pass was compiled in. (Of a CPU's layers only this part compiles in seconds.)"""
    expected = new_updater()
    expected.begin()
    expected.add(BATCH, 5)
    expected.add(OTHER, 5)

    gpu = torch.device("cuda")
    order = device.same_order_of_sums
    monkeypatch.setattr(device, "same_order_of_sums", lambda _, deterministic: order(gpu, deterministic))
    monkeypatch.setattr("transformer_mt.training.update.can_compile", lambda *_: True)
    monkeypatch.setattr(
        device, "compile_layers", lambda layers: [one.ff.compile(backend="aot_eager", dynamic=True) for one in layers]
    )
    updater = new_updater(pytest.fail, compile=True, deterministic=True, recompute_activations=recompute)
    updater.begin()
    updater.add(BATCH, 5)
    updater.add(OTHER, 5)
    torch.testing.assert_close(updater.gradients.buffer, expected.gradients.buffer)


def test_other_errors_are_not_taken_for_the_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    updater = new_updater()

    def forward(*_: Any) -> Any:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(updater.model, "forward", forward)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        updater.add(BATCH, 5)


def test_float32_products_take_tf32_inside_of_a_gpus_update_only() -> None:
    gpu = torch.device("cuda")
    for where, precision, inside in (gpu, "float32", "high"), (gpu, "bfloat16", "highest"), (CPU, "float32", "highest"):
        with device.matrix_products(where, precision):
            assert torch.get_float32_matmul_precision() == inside
        assert torch.get_float32_matmul_precision() == "highest"


def test_deterministic_kernels_are_asked_for_inside_of_a_gpus_backward_pass_only() -> None:
    for where, wanted in (torch.device("cuda"), True), (torch.device("cuda"), False), (CPU, True):
        with device.same_order_of_sums(where, wanted):
            assert torch.are_deterministic_algorithms_enabled() == (wanted and where.type == "cuda")
        assert not torch.are_deterministic_algorithms_enabled()
