"""What `test_fake_cuda` runs in a process of its own: training, scoring and search on a GPU that is not there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from fake_cuda.fake_gpu import Count, fake_gpu
from transformer_mt.config.sections import Config, SearchConfig
from transformer_mt.data.batching import Part, plan_windows
from transformer_mt.decoding.engine import Engine, EngineState
from transformer_mt.model.layout import ROWS_MULTIPLE, Batch, collate
from transformer_mt.model.loss import label_log_probs
from transformer_mt.model.transformer import EncoderDecoder, Transformer
from transformer_mt.search import beam, sampling
from transformer_mt.system.device import autocast
from transformer_mt.system.ranks import Ranks
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID, PAD_ID
from transformer_mt.training.update import Updater

V = 500
rng = np.random.default_rng(1)


def batch(src_lengths: Sequence[int], tgt_lengths: Sequence[int], multiple: int = ROWS_MULTIPLE) -> Batch:
    """Return pairs of random ids."""
    src, tgt = ([[*rng.integers(4, V, n - 1), EOS_ID] for n in lengths] for lengths in (src_lengths, tgt_lengths))
    return collate(src, tgt, multiple)


def ragged(num_pairs: int, multiple: int = ROWS_MULTIPLE) -> Batch:
    """Return pairs of 2 to 40 ids a side."""
    src_lengths, tgt_lengths = rng.integers(2, 41, (2, num_pairs)).tolist()
    return batch(src_lengths, tgt_lengths, multiple)


# Made before tensors become fake: NumPy has to read them.
MICRO_BATCHES, UNROUNDED = [ragged(30), ragged(7)], ragged(20, multiple=1)
# Many and few rows; of either side without padding, without a tail, without both; a single pair.
SHAPES = [
    *[batch([20] * 50, [25] * 50), ragged(100), batch([10] * 7, [9, 3, 4, 5, 6, 7, 8])],
    *[batch([8, 3, 4, 5, 6, 7, 8], [9] * 7), batch([11] * 64, [7] * 64), batch([9], [5])],
]


def epoch(num_pairs: int, max_tokens: int) -> list[Batch]:
    """Return the updates of an epoch, with lengths like those of text: of both sides alike, and some much longer."""
    lengths = np.clip(rng.lognormal(3, 0.5, (num_pairs, 1)) * rng.lognormal(0, 0.2, (num_pairs, 2)), 2, 200)
    src, tgt = lengths.astype(np.int32).T
    budget = {"max_tokens": max_tokens, "max_source_tokens": max_tokens}
    windows = plan_windows(src, tgt, [Part(0, 0, num_pairs)], [1.0], seed=1, epoch=0, **budget)
    return [batch(src[pairs].tolist(), tgt[pairs].tolist()) for window in windows for pairs in window]


EPOCH = epoch(num_pairs=300, max_tokens=1200)
NUM_LABELS = sum(micro.num_labels for micro in MICRO_BATCHES)


@pytest.fixture(scope="module", autouse=True)
def gpu() -> Iterator[torch.device]:
    with fake_gpu() as device:
        yield device


def make(
    gpu: torch.device,
    preset: str,
    precision: str,
    norm: str = "post",
    num_layers: int = 1,
    optimizer: str = "adam",
    **train: Any,
) -> tuple[Config, Transformer]:
    """Return a configuration and its model on the device."""
    config = Config.model_validate(
        {
            "data": {"src_lang": "en", "tgt_lang": "de", "train": [{"src": "en", "tgt": "de"}]},
            # One layer of each kind, as a rule: more of them are the same again.
            "model": {
                "preset": preset,
                "norm": norm,
                "num_encoder_layers": num_layers,
                "num_decoder_layers": num_layers,
            },
            "optim": {"clip_norm": 1.0, "optimizer": optimizer, "weight_decay": 0.1},
            "train": {"precision": precision, "ema_decay": 0.999, **train},
        }
    )
    with gpu:
        model = Transformer(config.model, V, V).train()
    return config, model


def dtypes_between_layers(model: EncoderDecoder) -> set[torch.dtype]:
    """Return a set that fills with the dtypes of the rows that go into layers and come out of them."""
    found: set[torch.dtype] = set()

    def note(_: nn.Module, inputs: Any, out: Tensor) -> None:
        found.update((inputs[0].dtype, out.dtype))

    for layer in model.layers:
        layer.register_forward_hook(note)
    return found


# ---- The check of the checks.


def test_a_mixed_operation_is_caught(gpu: torch.device) -> None:
    with pytest.raises(RuntimeError, match=r"two (different )?devices"):
        torch.ones(2, device=gpu) + torch.ones(2)


@pytest.mark.parametrize("read", [float, bool, int, Tensor.item])
def test_a_read_by_the_host_is_caught(read: Callable[[Tensor], Any], gpu: torch.device) -> None:
    with pytest.raises(DataDependentOutputException):
        read(torch.ones((), device=gpu))


def test_copies_are_counted_each_way(gpu: torch.device) -> None:
    with Count() as count:
        there = torch.ones(3).to(gpu)
        torch.zeros(5, dtype=torch.int64).copy_(torch.ones(5, device=gpu, dtype=torch.int64))
        (there + there).cpu()
    assert (count.host_to_device, count.device_to_host) == ([12], [40, 12])
    assert count.kernels == 2  # the ones of five, the sum


def test_a_product_is_counted_by_the_book(gpu: torch.device) -> None:
    a, b = torch.empty(6, 4, device=gpu), torch.empty(4, 5, device=gpu)
    with Count() as count:
        torch.mm(a, b, out=torch.empty(6, 5, device=gpu))
        (a + a).relu_()
    [product] = count.products
    assert product == (1, 4 * (24 + 20 + 30), 2 * 6 * 4 * 5)
    assert count.other_bytes == 4 * (2 * 24 + 24 + 2 * 24)
    assert count.milliseconds(1.0, 1.0) == pytest.approx(1000 * (296 + 480))


# ---- Training.


@pytest.mark.parametrize(
    ("preset", "precision", "optimizer", "recompute"),
    [
        ("tiny", "float32", "adam", False),
        ("tiny", "bfloat16", "muon", False),
        ("base", "bfloat16", "adam", True),
        ("big", "bfloat16", "muon", False),
    ],
)
def test_an_update_only_launches(
    preset: str, precision: str, optimizer: str, recompute: bool, gpu: torch.device
) -> None:
    """Two micro-batches, clipping and the average: the host reads nothing, and dtypes are as they are meant."""
    config, model = make(gpu, preset, precision, optimizer=optimizer, recompute_activations=recompute)
    updater = Updater(model, config, gpu, Ranks())
    rows = dtypes_between_layers(updater.network)

    def update(step: int) -> Tensor:
        updater.begin()
        for micro in MICRO_BATCHES:
            updater.add(micro, NUM_LABELS)
        return updater.finish(step)

    update(1)
    with Count() as count:
        numbers = update(2)
    assert (numbers.shape, numbers.dtype, numbers.device) == ((4,), torch.float32, gpu)
    assert (count.device_to_host, len(count.host_to_device)) == ([], len(MICRO_BATCHES))
    assert rows == {getattr(torch, precision)}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    assert {x.dtype for state in updater.optimizer.state.values() for x in state.values()} == {torch.float32}
    assert {x.device for state in updater.optimizer.state.values() for x in state.values()} == {gpu}
    statistics = {dtypes[1:] for dtypes in count.dtypes["native_layer_norm"]}
    assert statistics == {(torch.float32, torch.float32)}


@pytest.mark.parametrize(
    ("norm", "recompute", "shapes", "num_graphs"),
    [("post", False, EPOCH, 2), ("pre", False, SHAPES[::-1], 3), ("post", True, SHAPES, 2)],
)
def test_layers_are_compiled_for_all_shapes_at_once(
    norm: str, recompute: bool, shapes: list[Batch], num_graphs: int, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two graphs, of encoder and of decoder layers, serve an epoch. A third comes where the first batch has as many
    source as target rows: PyTorch takes equal sizes for one number, at first. A break in a graph would be an error."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend, fullgraph=True))
    torch._dynamo.reset()
    config, model = make(gpu, "tiny", "bfloat16", norm, 2, compile=True, recompute_activations=recompute)
    updater = Updater(model, config, gpu, Ranks(), pytest.fail)
    for shape in shapes:
        updater.begin()
        updater.add(shape, shape.num_labels)
        updater.finish(1)
    assert len(graphs) == num_graphs


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_validation_only_launches(precision: str, gpu: torch.device) -> None:
    _, model = make(gpu, "tiny", precision)
    model.eval()
    with Count() as count, torch.no_grad(), autocast(gpu, precision):
        _, nll = model(UNROUNDED.to(gpu))
    assert (nll.dtype, nll.device, count.device_to_host) == (torch.float32, gpu, [])


def test_scoring_only_launches(gpu: torch.device) -> None:
    _, model = make(gpu, "tiny", "float32")
    model.eval()
    with Count() as count, torch.no_grad():
        there = UNROUNDED.to(gpu)
        hidden_PD = model.decode(there.tgt_in_P, there.tgt, model.encode(there.src_ids_P, there.src))
        logp_N = label_log_probs(hidden_PD, model.generator.weight, there.labels_N)
    assert (logp_N.shape, logp_N.dtype, count.device_to_host) == ((UNROUNDED.num_labels,), torch.float32, [])


class LookError(Exception):
    pass


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "options",
    [{"beam_size": 9}, {"beam_size": 1}, {"sampling": True, "n_best": 9, "top_k": 9, "top_p": 0.9}],
    ids=["beam", "greedy", "sampling"],
)
def test_search_only_launches_between_two_looks(
    precision: str, options: dict[str, Any], gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = make(gpu, "tiny", precision)
    engine, num_steps = Engine(model.eval(), precision), 0

    def step(state: EngineState, last_BW: Tensor) -> Tensor:
        nonlocal num_steps
        num_steps += 1
        return engine_step(state, last_BW)

    def look(_: Any) -> None:
        raise LookError

    engine_step = engine.step
    monkeypatch.setattr(engine, "step", step)
    for module in (beam, sampling):
        monkeypatch.setattr(module, "on_host", look)
    src = [[5] * 20 + [EOS_ID]] * 9 + [[5, EOS_ID]]
    with Count() as count, pytest.raises(LookError):
        beam.search(engine, src, SearchConfig(**options), bos_id=BOS_ID, eos_id=EOS_ID, forbidden_ids=[PAD_ID, BOS_ID])
    assert num_steps == 4
    assert count.device_to_host == []
