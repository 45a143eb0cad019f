"""The trial of the largest batches: that they are the largest, that nothing is changed, and what running out says."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformer_mt.config.loading import validate
from transformer_mt.config.sections import Config
from transformer_mt.data import batching, preparing
from transformer_mt.data.store import IdStore
from transformer_mt.errors import RunError
from transformer_mt.model.layout import Batch, collate
from transformer_mt.model.transformer import Transformer
from transformer_mt.system.console import tell_nobody
from transformer_mt.system.device import seed_stream
from transformer_mt.system.ranks import Ranks
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.training import memory, resuming
from transformer_mt.training.update import Updater

CPU = torch.device("cpu")
Weights = Sequence[Sequence[float]]  # of the sources, by stage

# ---------------------------------------------------------------- the largest


@dataclass(frozen=True)
class Corpus:
    """The lengths of one epoch; another one, of sampled pieces, has others."""

    src_lengths: batching.Lengths
    tgt_lengths: batching.Lengths
    shard_sizes: list[int]

    @property
    def parts(self) -> list[batching.Part]:
        ends = list(itertools.accumulate(self.shard_sizes))
        return [batching.Part(0, end - size, end) for size, end in zip(self.shard_sizes, ends, strict=True)]

    def largest(
        self, config: Config, num_ranks: int, is_sampled: bool = False, weights: Weights = ((1.0,),)
    ) -> memory.Largest:
        return memory.largest_batches(
            self.src_lengths,
            self.tgt_lengths,
            self.parts,
            weights,
            config,
            num_ranks=num_ranks,
            is_sampled=is_sampled,
        )

    def shapes(
        self,
        config: Config,
        seed: int,
        epoch: int,
        num_ranks: int,
        micro_tokens: int,
        weights: Sequence[float] = (1.0,),
    ) -> list[memory.Shape]:
        """Of all micro-batches of an epoch, on every rank."""
        return [
            (len(micro), int(self.src_lengths[micro].max()), int(self.tgt_lengths[micro].max()))
            for window in batching.plan_windows(
                self.src_lengths,
                self.tgt_lengths,
                self.parts,
                weights,
                seed=seed,
                epoch=epoch,
                max_tokens=config.batch.max_tokens,
                max_source_tokens=config.batch.max_source_tokens or config.batch.max_tokens,
            )
            for pairs in window
            for rank in batching.cut_update(
                pairs, self.src_lengths, self.tgt_lengths, num_ranks=num_ranks, micro_tokens=micro_tokens
            )
            for micro in rank
        ]


def positions(shape: memory.Shape) -> int:
    rows, src, tgt = shape
    return rows * src + rows * tgt


def scores(shape: memory.Shape) -> int:
    """Of the encoder, between both, and of the decoder; of one head and one layer."""
    rows, src, tgt = shape
    return rows * src * src + rows * tgt * src + rows * tgt * tgt


def config_of(longest_src: int, longest_tgt: int, **batch: int) -> Config:
    """Lengths with </s>, as a store has them."""
    clean = {"max_src_tokens": longest_src - 1, "max_tgt_tokens": longest_tgt - 1}
    train = [{"src": "a", "tgt": "b"}]
    data: dict[str, Any] = {"src_lang": "en", "tgt_lang": "de", "train": train, "clean": clean}
    return validate({"data": data, "batch": batch}, "test")


@st.composite
def corpora(draw: st.DrawFn) -> tuple[Config, list[Corpus]]:
    """What two epochs may look like under one configuration."""
    shard_sizes = draw(st.lists(st.integers(1, 25), min_size=1, max_size=6))
    longest = draw(st.integers(2, 40)), draw(st.integers(2, 40))
    budget = st.integers(max(*longest, 8), 300)
    config = config_of(
        *longest, max_tokens=draw(budget), max_source_tokens=draw(budget), micro_tokens=draw(st.integers(8, 400))
    )

    def lengths(limit: int) -> batching.Lengths:
        size = sum(shard_sizes)
        return np.array(draw(st.lists(st.integers(2, limit), min_size=size, max_size=size)), dtype=np.int32)

    return config, [Corpus(lengths(longest[0]), lengths(longest[1]), shard_sizes) for _ in range(2)]


@given(drawn=corpora(), num_ranks=st.integers(1, 3))
def test_nothing_is_larger_in_any_epoch_on_any_rank(drawn: tuple[Config, list[Corpus]], num_ranks: int) -> None:
    """By looking at the plans themselves, of several epochs and seeds, with one window and with many."""
    config, (data, other) = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "WINDOW_PAIRS", 30)
        found = data.largest(config, num_ranks)
        is_exact = sum(data.shard_sizes) < 45
        for seed, epoch in ((1, 0), (1, 1), (1, 2), (7, 3)):
            shapes = data.shapes(config, seed, epoch, num_ranks, found.micro_tokens)
            assert max(map(positions, shapes)) <= positions(found.shapes[0])
            assert max(map(scores, shapes)) <= max(map(scores, found.shapes))
            if is_exact:  # not more than there is, and nothing is cut otherwise than the configuration says
                assert set(found.shapes) <= set(shapes)
                assert max(shapes)[0] <= max(found.shapes)[0]
                assert shapes == data.shapes(config, seed, epoch, num_ranks, config.batch.micro_tokens or 0)
        sampled = data.largest(config, num_ranks, is_sampled=True)
        for epoch, lengths in enumerate((data, other)):
            shapes = lengths.shapes(config, 1, epoch, num_ranks, sampled.micro_tokens)
            assert max(map(positions, shapes)) <= positions(sampled.shapes[0])
            assert max(map(scores, shapes)) <= max(map(scores, sampled.shapes))


@given(drawn=corpora(), weights=st.lists(st.sampled_from([0.3, 1.0, 1.4, 2.0]), min_size=1, max_size=2))
def test_nothing_is_larger_in_any_stage_or_sample(drawn: tuple[Config, list[Corpus]], weights: list[float]) -> None:
    config, (data, _) = drawn
    found = data.largest(config, 1, weights=[[weight] for weight in weights])
    for weight in weights:
        for epoch in range(4):
            shapes = data.shapes(config, 1, epoch, 1, found.micro_tokens, [weight])
            assert max(map(positions, shapes), default=0) <= positions(found.shapes[0])
            assert max(map(scores, shapes), default=0) <= max(map(scores, found.shapes))


def test_what_is_tried_in_numbers() -> None:
    """Sorted by target: (2, 2), (2, 3), (9, 3), (4, 8). Twelve labels at most: the first three, then the last.

    Three rows of 9 + 3 are 36 positions, of 81 + 27 + 9 scores 351; one row of 4 + 8 has less of both.
    """
    src, tgt = np.array([9, 2, 2, 4], dtype=np.int32), np.array([3, 3, 2, 8], dtype=np.int32)
    config = config_of(20, 10, max_tokens=12, max_source_tokens=100, micro_tokens=1000)
    assert Corpus(src, tgt, [4]).largest(config, 1) == memory.Largest([(3, 9, 3)], 36)
    # Pieces that are drawn: rows of 20 + 10 that have 36 positions at least, and the most rows that were seen.
    assert Corpus(src, tgt, [4]).largest(config, 1, is_sampled=True) == memory.Largest([(2, 20, 10), (3, 9, 3)], 36)
    # On two ranks (2, 2) and (9, 3) go to one, (2, 3) to the other: 24 positions.
    assert Corpus(src, tgt, [4]).largest(config, 2) == memory.Largest([(2, 9, 3)], 24)
    # (9, 3) by itself has 12 positions, though no micro-batch should have more than 10; the limit stays what it is.
    config = config_of(20, 10, max_tokens=12, max_source_tokens=100, micro_tokens=10)
    assert Corpus(src, tgt, [4]).largest(config, 1).micro_tokens == 10
    # Not given: nothing is cut.
    config = config_of(20, 10, max_tokens=12, max_source_tokens=100)
    assert Corpus(src, tgt, [4]).largest(config, 1) == memory.Largest([(3, 9, 3)], 36)


# ---------------------------------------------------------------- no trace


@dataclass(frozen=True)
class Run:
    config: Config
    store: IdStore
    updater: Updater

    def largest(self, config: Config) -> memory.Largest:
        lengths = self.store.lengths("src"), self.store.lengths("tgt")
        return Corpus(*lengths, self.store.shard_sizes).largest(config, 1)

    def try_largest(self, ranks: Ranks | None = None) -> str:
        return memory.try_batches(self.largest, self.config, self.updater, ranks or Ranks(), tell_nobody)[1]

    def update(self) -> None:
        """One update, with whatever random numbers come next."""
        pairs = np.arange(5)
        batch = collate(self.store.get("src", pairs), self.store.get("tgt", pairs))
        self.updater.begin()
        self.updater.add(batch, batch.num_labels)
        self.updater.finish(4000)  # the end of the warm-up, where the rate is highest

    def weights(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.updater.model.parameters()]


@pytest.fixture
def new_run(tmp_path: Path, tokenizers: Tokenizers) -> Callable[[], Run]:
    tree: dict[str, Any] = {
        "data": {
            "src_lang": "en",
            "tgt_lang": "de",
            "train": [{"builtin": "grammar", "split": "train", "num_pairs": 60}],
            "cache_dir": str(tmp_path),
        },
        "model": dict(d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, dropout=0.3),
        "batch": {"max_tokens": 600, "micro_tokens": 400},
        "train": {"precision": "float32"},
    }

    def new_run() -> Run:
        config = validate(tree, "test")
        store = preparing.prepare(config.data, config.batch, tokenizers)
        seed_stream(1)
        model = Transformer(config.model, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size).train()
        return Run(config, store, Updater(model, config, CPU, Ranks()))

    return new_run


@pytest.mark.parametrize("updates_before", [0, 2], ids=["new", "resumed"])
def test_the_run_is_the_same_with_and_without_it(new_run: Callable[[], Run], updates_before: int) -> None:
    ends = []
    for with_trial in (True, False):
        run = new_run()
        for _ in range(updates_before):
            run.update()
        state, before = run.updater.optimizer.state_dict(), run.weights()
        if with_trial:
            assert "source" in run.try_largest()
            assert all(torch.equal(a, b) for a, b in zip(before, run.weights(), strict=True))
            assert not run.updater.gradients.buffer.any()
            assert run.updater.optimizer.state_dict()["state"].keys() == state["state"].keys()
            assert run.updater.model.training
        run.update()  # would show other weights, gradients, moments or random numbers
        run.update()
        ends.append([*run.weights(), *(t for s in run.updater.optimizer.state.values() for t in s.values())])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_batch_and_the_memory_are_told(new_run: Callable[[], Run]) -> None:
    """400 positions: rows times the longest source and target; the process has more than PyTorch's code in memory."""
    words = new_run().try_largest().replace(";", "").split()
    assert words[:2] == ["largest", "batch"]
    rows, src, tgt = int(words[2]), int(words[4]), int(words[9])
    assert 0 < rows * (src + tgt) <= 400
    assert words[-1] == "GiB"
    assert 0.1 < float(words[-2]) < 50


# ---------------------------------------------------------------- running out


def raising(error: BaseException) -> Callable[..., Any]:
    def forward(*args: Any) -> Any:
        raise error

    return forward


BATCH = collate([[5, 6, EOS_ID], [7, EOS_ID]], [[5, 6, 7, EOS_ID], [EOS_ID]])
CPU_WORDS = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "1000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried …"), MemoryError(), RuntimeError(CPU_WORDS)]
)
def test_out_of_memory_is_one_line(error: BaseException) -> None:
    with pytest.raises(RunError) as caught, memory.batch_fits(BATCH, 32768, CPU):
        raise error
    message = str(caught.value)
    assert "\n" not in message
    assert "a batch of 2 × 3 source and 2 × 4 target positions does not fit" in message
    assert "GiB" in message
    # 2 · (3 + 4) = 14 positions: half of the 32768 would change nothing.
    assert "lower batch.micro_tokens (32768; try 8)" in message


def test_the_advice_helps() -> None:
    """63 · (257 + 257) positions are nearly 32768; half of those is the next thing to try."""
    large = collate([[5] * 257] * 63, [[5] * 257] * 63)
    with (
        pytest.raises(RunError, match=rf"\(32768; try {63 * (257 + 257) // 2}\)"),
        memory.batch_fits(large, 32768, CPU),
    ):
        raise MemoryError
    single = collate([[5] * 257], [[5] * 257])  # micro_tokens cannot make it smaller
    with pytest.raises(RunError, match=r"lower data\.clean\.max_src_tokens"), memory.batch_fits(single, 8, CPU):
        raise MemoryError


def test_validation_that_does_not_fit_names_its_own_key() -> None:
    told = r"validation does not fit; .*lower search\.batch_tokens \(4096; try 2048\)"
    with pytest.raises(RunError, match=told), memory.validation_fits("search.batch_tokens", 4096, CPU):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), KeyError("x"), RunError("disk full")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory.batch_fits(BATCH, 100, CPU):
        raise error
    assert caught.value is error


class OneOfTwo(Ranks):
    """A rank that hears from another one, which has room for what is saved, what the test says."""

    def all_gather(self, value: Any, patiently: bool = False) -> Sequence[Any]:
        other = next(self.others)
        return [value, other] if self.rank == 0 else [other, value]

    others: Iterator[str | None]


def one_of_two(rank: int, other: str | None) -> Ranks:
    ranks = OneOfTwo(rank, 2)
    object.__setattr__(ranks, "others", iter([None, other]))
    return ranks


def test_the_first_rank_that_runs_out_tells_it_and_all_end(
    new_run: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run()
    with pytest.raises(SystemExit) as ended:
        run.try_largest(one_of_two(0, "out of memory: there"))
    assert ended.value.code == 1
    monkeypatch.setattr(run.updater.model, "forward", raising(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(RunError, match="out of memory: a batch"):
        run.try_largest(one_of_two(0, "out of memory: there"))
    with pytest.raises(SystemExit):
        run.try_largest(one_of_two(1, "out of memory: there"))
    with pytest.raises(RunError, match="out of memory: a batch"):
        run.try_largest(one_of_two(1, None))


class Room:
    """Memory for so many positions, on a rank of two whose other has room for others; and what is left behind."""

    def __init__(self, run: Run, own: int, other: int) -> None:
        self.own, self.other, self.tried, self.garbage = own, other, 0, 0
        self._left: list[weakref.ref[torch.Tensor]] = []
        self._forward = run.updater.model.forward
        run.updater.model.forward = self.forward  # type: ignore[assignment, method-assign]

    def forward(self, batch: Batch, *args: Any) -> Any:
        self.garbage += sum(tensor() is not None for tensor in self._left)
        activations = torch.ones(3)
        self._left = [weakref.ref(activations)]
        self.tried = max(self.tried, batch.tgt.num_sequences * (batch.src.max_length + batch.tgt.max_length))
        if self.tried > self.own:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._forward(batch, *args)

    def all_gather(self, value: Any, patiently: bool = False) -> Sequence[Any]:
        tried, self.tried = self.tried, 0
        return [value, "out of memory: there" if tried > self.other else None]


@pytest.mark.parametrize("rooms", [(10**9, 10**9), (300, 10**9), (10**9, 300), (300, 150)])
def test_what_is_not_given_is_an_update_or_half_of_it_until_all_ranks_have_room(
    rooms: tuple[int, int], new_run: Callable[[], Run]
) -> None:
    run = new_run()
    config = run.config.with_micro_tokens(None)
    whole = run.largest(config).micro_tokens
    assert whole > 600
    room, told = Room(run, *rooms), list[str]()
    ranks = one_of_two(0, None)
    object.__setattr__(ranks, "all_gather", room.all_gather)
    found, words = memory.try_batches(run.largest, config, run.updater, ranks, told.append)
    expected = memory.Largest([], whole)
    while not expected.shapes or room_of(expected) > min(rooms):
        expected = run.largest(config.with_micro_tokens(expected.micro_tokens // (2 if expected.shapes else 1)))
    assert found == expected
    assert f"largest batch {found.shapes[0][0]} × " in words
    how = "an update in one pass" if min(rooms) > whole else f"an update's {whole:,} do not fit"
    assert told == [f"batch.micro_tokens: {found.micro_tokens:,}, {how}"]
    assert room.garbage == 0  # what did not fit is gone before the next is tried
    assert not run.updater.gradients.buffer.any()


def room_of(largest: memory.Largest) -> int:
    return max(map(positions, largest.shapes))


def test_what_never_fits_ends(new_run: Callable[[], Run]) -> None:
    run = new_run()
    room = Room(run, 1, 1)
    ranks = one_of_two(0, None)
    object.__setattr__(ranks, "all_gather", room.all_gather)
    with pytest.raises(RunError, match=r"out of memory: a batch of 1 × .* lower data\.clean\.max_src_tokens"):
        memory.try_batches(run.largest, run.config.with_micro_tokens(None), run.updater, ranks, tell_nobody)
    with pytest.raises(RunError, match=r"lower batch\.micro_tokens \(400; try "):  # what is given is tried once
        memory.try_batches(run.largest, run.config, run.updater, ranks, tell_nobody)


@pytest.mark.parametrize("micro_tokens", [400, None])
def test_what_is_saved_does_not_fit(
    micro_tokens: int | None, new_run: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No batch is made smaller, nor is that advised: it would not help."""
    run = new_run()
    monkeypatch.setattr(torch, "ones_like", raising(RuntimeError(CPU_WORDS)))
    monkeypatch.setattr(memory, "_run", pytest.fail)
    told = r"^out of memory: the copy of weights and moments that saving keeps, .* does not fit; .*a smaller model$"
    with pytest.raises(RunError, match=told):
        config = run.config.with_micro_tokens(micro_tokens)
        memory.try_batches(run.largest, config, run.updater, Ranks(), tell_nobody)


def test_what_a_run_began_with_stays() -> None:
    none, given, before = (config_of(9, 9, **batch) for batch in ({}, {"micro_tokens": 50}, {"micro_tokens": 70}))
    sizes = [
        resuming.micro_tokens_of(config, earlier, torch.device(kind))
        for config in (none, given)
        for earlier in (None, before)
        for kind in ("cpu", "cuda")
    ]
    assert sizes == [32768, None, 70, 70, 50, 50, 50, 50]


def test_a_batch_of_the_loop_is_the_one_that_was_tried(new_run: Callable[[], Run]) -> None:
    """The trial runs what the loop runs: the forward pass of training, with its loss, and backwards."""
    run = new_run()
    seen: list[tuple[Batch, tuple[float, ...]]] = []
    forward = run.updater.model.forward

    def remember(batch: Batch, *settings: float) -> Any:
        assert run.updater.model.training
        assert torch.is_grad_enabled()
        seen.append((batch, settings))
        return forward(batch, *settings)

    run.updater.model.forward = remember  # type: ignore[assignment, method-assign]
    run.try_largest()
    shapes = [(batch.tgt.num_sequences, batch.src.max_length, batch.tgt.max_length) for batch, _ in seen]
    assert shapes == run.largest(run.config).shapes
    # With padding, so that masks are made, wherever there is more than one row.
    assert max(rows for rows, _, _ in shapes) > 1
    assert all(
        (batch.src.rows_BL is None) == (batch.tgt.rows_BL is None) == (batch.tgt.num_sequences == 1)
        for batch, _ in seen
    )
    assert {settings for _, settings in seen} == {(run.config.train.label_smoothing,)}
