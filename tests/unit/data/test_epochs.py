"""The stores of sampled epochs: their content, the processes that write them, and what crashes leave behind."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transformer_mt.config.loading import validate
from transformer_mt.config.sections import Config
from transformer_mt.data import preparing, sampled_epochs
from transformer_mt.data.batching import Cursor, plan_windows
from transformer_mt.data.epochs import Epochs
from transformer_mt.data.preparing import prepare
from transformer_mt.data.store import IdStore
from transformer_mt.errors import InputError, RunError
from transformer_mt.system.directories import unfinished
from transformer_mt.system.ranks import Ranks
from transformer_mt.text.subword_sampling import samplers
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.toy_corpus import grammar

Ids = list[tuple[list[int], list[int]]]
NUM_PAIRS = 150
SEED = 7


def config_of(directory: Path, **sections: dict[str, Any]) -> Config:
    tree: dict[str, Any] = {
        "data": {
            "src_lang": "en",
            "tgt_lang": "de",
            "train": [{"builtin": "grammar", "split": "train", "num_pairs": NUM_PAIRS}],
            "cache_dir": str(directory / "cache"),
        },
        "tokenizer": {"bpe_dropout": 0.3},
        "batch": {"max_tokens": 300},
        "train": {"seed": SEED},
    }
    for name, section in sections.items():
        tree.setdefault(name, {}).update(section)
    return validate(tree, "test")


Made = Callable[..., Epochs]


@pytest.fixture
def made(tmp_path: Path, tokenizers: Tokenizers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Epochs of a corpus of several shards; all processes are ended."""
    monkeypatch.setattr(preparing, "SHARD_PAIRS", 64)
    everything: list[Epochs] = []

    def made(place: str = "epochs", **sections: dict[str, Any]) -> Epochs:
        config = config_of(tmp_path, **sections)
        store = prepare(config.data, config.batch, tokenizers)
        both = samplers(tokenizers, config.tokenizer)
        everything.append(Epochs(store, both, config, tmp_path / place, Ranks()))
        return everything[-1]

    yield made
    for one in everything:
        one.close()


def quiet(line: str) -> None:
    pass


def ids_of(store: IdStore) -> Ids:
    pairs = np.arange(len(store))
    sides = [[ids.tolist() for ids in store.get(side, pairs)] for side in ("src", "tgt")]
    return list(zip(*sides, strict=True))


def workers_of(one: Epochs) -> list[tuple[SpawnProcess, Connection]]:
    return [] if one._sampled is None else one._sampled._workers


def sampled_by_hand(one: Epochs, tokenizers: Tokenizers, epoch: int, dropout: float = 0.3) -> Ids:
    """The slow twin: pair by pair, each with a generator of (seed, epoch, pair)."""
    both = samplers(tokenizers, config_of(Path(), tokenizer={"bpe_dropout": dropout}).tokenizer)
    assert both is not None
    expected = []
    for pair, sides in enumerate(ids_of(one._store)):
        generator = random.Random(SEED * 2**96 + epoch * 2**64 + pair)
        src, tgt = ([*sampler.sample(ids[:-1], generator.random), 3] for sampler, ids in zip(both, sides, strict=True))
        expected.append((src, tgt))
    return expected


# ---------------------------------------------------------------- content


def test_pieces_depend_on_seed_epoch_and_pair_only(
    made: Made, tokenizers: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither on shards, nor on chunks, nor on processes."""
    one = made()
    assert one._store.shard_sizes == [64, 64, 22]
    expected = [sampled_by_hand(one, tokenizers, epoch) for epoch in (0, 1)]
    assert expected[0] != expected[1]
    monkeypatch.setattr(sampled_epochs, "num_cores", lambda: 1)
    assert [ids_of(one.open(epoch, quiet)) for epoch in (0, 1)] == expected
    monkeypatch.setattr(preparing, "SHARD_PAIRS", 20)
    monkeypatch.setattr(sampled_epochs, "_CHUNK_PAIRS", 7)
    monkeypatch.setattr(sampled_epochs, "num_cores", lambda: 3)
    shutil.rmtree(one._store.directory)
    other = made("others")
    assert len(other._store.shard_sizes) == 8
    assert ids_of(other.open(1, quiet)) == expected[1]


def test_the_text_and_the_order_are_the_corpuss(made: Made, tokenizers: Tokenizers) -> None:
    one = made()
    before, after = ids_of(one._store), ids_of(one.open(4, quiet))
    for sides, sampled in zip(before, after, strict=True):
        for ids, drawn in zip(sides, sampled, strict=True):
            assert drawn[-1] == 3
            assert tokenizers.src.decode(drawn) == tokenizers.src.decode(ids)
    assert sum(a != b for a, b in zip(before, after, strict=True)) > 0.9 * NUM_PAIRS
    sampled_store = one.open(4, quiet)
    assert [sampled_store.describe(pair) for pair in (0, 70, 149)] == [
        one._store.describe(pair) for pair in (0, 70, 149)
    ]
    assert sampled_store.lengths("src").tolist() == [len(src) for src, _ in after]


def test_another_seed_draws_other_pieces(made: Made) -> None:
    assert ids_of(made().open(0, quiet)) != ids_of(made(train={"seed": 8}).open(0, quiet))


@pytest.mark.parametrize("limit", ["data", "batch"])
def test_a_pair_too_long_for_the_limits_keeps_its_own_pieces(limit: str, made: Made, tokenizers: Tokenizers) -> None:
    """So that the same pairs are there in every epoch."""
    src, tgt = (int(made()._store.lengths(side).max()) for side in ("src", "tgt"))
    bounds = {
        "data": {"clean": {"max_src_tokens": src - 1, "max_tgt_tokens": tgt - 1}},  # without </s>
        "batch": {"max_tokens": tgt, "max_source_tokens": src},
    }
    one = made(**{limit: bounds[limit]})
    assert len(one._store) == NUM_PAIRS
    own, free = ids_of(one._store), sampled_by_hand(one, tokenizers, 0)
    expected = [
        drawn if len(drawn[0]) <= src and len(drawn[1]) <= tgt else ids for ids, drawn in zip(own, free, strict=True)
    ]
    assert ids_of(one.open(0, quiet)) == expected
    assert 0 < sum(a is b for a, b in zip(own, expected, strict=True)) < NUM_PAIRS


def test_without_sampling_it_is_the_corpus(made: Made, tmp_path: Path) -> None:
    one = made(tokenizer={"bpe_dropout": 0.0})
    assert one.open(0, quiet) is one._store
    assert one.open(5, quiet) is one.open(0, quiet)
    plans = [
        list(
            itertools.chain.from_iterable(
                plan_windows(
                    one._store.lengths("src"),
                    one._store.lengths("tgt"),
                    one._store.parts(),
                    [1.0],
                    seed=SEED,
                    epoch=epoch,
                    max_tokens=300,
                    max_source_tokens=300,
                )
            )
        )
        for epoch in range(3)
    ]
    expected = [(Cursor(epoch, number), pairs) for epoch in range(3) for number, pairs in enumerate(plans[epoch], 1)]
    ours = one.updates(Cursor(0, 3), 3, quiet)
    for (cursor, pairs, _), (expected_cursor, expected_pairs) in zip(ours, expected[3:], strict=False):
        assert cursor == expected_cursor
        assert np.array_equal(pairs, expected_pairs)
    assert cursor.epoch >= 2
    one.remove()
    assert not (tmp_path / "epochs").exists() and not workers_of(one)


# ---------------------------------------------------------------- the stream of updates


def test_each_pair_once_an_epoch_within_the_budget_from_any_cursor(made: Made) -> None:
    seen: dict[int, list[int]] = {}
    trail = []
    one = made()
    for cursor, pairs, store in one.updates(Cursor(), 0, quiet):
        if cursor.epoch == 3:
            break
        assert store.lengths("tgt")[pairs].sum() <= 300
        assert store.lengths("src")[pairs].sum() <= 300
        assert store.lengths("tgt").tolist() == [len(ids) for ids in store.get("tgt", np.arange(NUM_PAIRS))]
        seen.setdefault(cursor.epoch, []).extend(pairs.tolist())
        rows = [ids.tolist() for ids in store.get("tgt", pairs)]
        trail.append((cursor, pairs.tolist(), rows))
    assert {epoch: sorted(pairs) for epoch, pairs in seen.items()} == {e: list(range(NUM_PAIRS)) for e in range(3)}
    one.close()

    last_of_first = max(cursor.update for cursor, *_ in trail if cursor.epoch == 0)
    for start in (Cursor(0, last_of_first), Cursor(1, 2), Cursor(2, 0)):
        again = made(f"from {start}")
        rest = [entry for entry in trail if (entry[0].epoch, entry[0].update) > (start.epoch, start.update)]
        for expected, (cursor, pairs, store) in zip(rest[:30], again.updates(start, 99, quiet), strict=False):
            assert (cursor, pairs.tolist()) == expected[:2]
            assert [ids.tolist() for ids in store.get("tgt", pairs)] == expected[2]
        again.close()


def test_the_next_epoch_is_written_meanwhile_and_past_ones_are_deleted(
    made: Made, tmp_path: Path, tokenizers: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, said = made(), list[str]()
    stream = one.updates(Cursor(), 0, said.append)
    next(stream)
    assert said == ["epoch 1: drawing the pieces of 150 pairs"]
    place = tmp_path / "epochs"
    deadline = time.monotonic() + 60
    while len(list(place.glob(".00001-*.tmp/*.places.npy"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    monkeypatch.setattr(sampled_epochs, "_write_shard", None)  # of this process
    while (update := next(stream))[0].epoch == 0:
        pass
    assert ids_of(update[2]) == sampled_by_hand(one, tokenizers, 1)
    assert len(said) == 1, "no stall to be told"
    assert [path.name[:6] for path in place.iterdir() if not path.name.startswith(".")] == ["00001-"]
    assert not list(place.glob("00001-*/.*.tmp"))
    one.remove()
    assert not place.exists() and not workers_of(one)


def test_waiting_for_a_slow_epoch_is_told(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    one, said = made(), list[str]()
    stream = one.updates(Cursor(), 0, said.append)
    next(stream)
    processes = [process for process, _ in workers_of(one)]
    for process in processes:
        process.kill()  # so that all is left to this process
        process.join()
    write = sampled_epochs._write_shard

    def slowly(*arguments: Any) -> None:
        time.sleep(0.4)
        write(*arguments)

    monkeypatch.setattr(sampled_epochs, "_write_shard", slowly)
    while next(stream)[0].epoch == 0:
        pass
    assert said[1:] == ["epoch 2: waited 1 s for its pieces: drawing takes longer than training"]


# ---------------------------------------------------------------- weights and stages

SOURCES = [
    {"builtin": "grammar", "split": "train", "num_pairs": 100, "name": "web"},
    {"builtin": "grammar", "split": "train", "num_pairs": 50, "seed": 2, "name": "law"},
]
STAGES = [{"steps": 7, "weights": {"law": 0}}, {"steps": 6, "weights": {"web": 0.5, "law": 2}}, {"weights": {"web": 0}}]


def staged(made: Made, place: str, **data: Any) -> Epochs:
    return made(place, data={"train": SOURCES, **data}, tokenizer={"bpe_dropout": 0.0})


def first_updates(one: Epochs, count: int, cursor: Cursor = Cursor(), step: int = 0) -> list[tuple[Cursor, list[int]]]:  # noqa: B008
    return [(at, pairs.tolist()) for at, pairs, _ in itertools.islice(one.updates(cursor, step, quiet), count)]


def test_a_stage_begins_with_an_epoch_of_its_own_sources(made: Made) -> None:
    trail = first_updates(staged(made, "a", stages=STAGES), 30)
    sources = [{("web", "law")[pair >= 100] for pair in pairs} for _, pairs in trail]
    assert all(found == {"web"} for found in sources[:7])
    assert set().union(*sources[7:13]) == {"web", "law"}
    assert all(found == {"law"} for found in sources[13:])
    epochs_of = [cursor.epoch for cursor, _ in trail]
    assert epochs_of[6] < epochs_of[7] and epochs_of[12] < epochs_of[13]
    assert trail[7][0].update == trail[13][0].update == 1


def test_stages_go_on_from_any_step(made: Made) -> None:
    trail = first_updates(staged(made, "a", stages=STAGES), 30)
    for stop in range(1, 29):  # also where a stage, an epoch, or both end
        again = first_updates(staged(made, f"from {stop}", stages=STAGES), 30 - stop, trail[stop - 1][0], stop)
        assert again == trail[stop:]


def test_a_stage_may_end_with_an_epoch(made: Made) -> None:
    an_epoch = [cursor for cursor, _ in first_updates(staged(made, "a"), 30) if cursor.epoch == 0]
    stages = [{"steps": len(an_epoch), "weights": {}}, {"weights": {"web": 0}}]
    trail = first_updates(staged(made, "b", stages=stages), len(an_epoch) + 2)
    assert trail[len(an_epoch)][0] == Cursor(1, 1)
    stop = len(an_epoch)
    assert first_updates(staged(made, "c", stages=stages), 2, trail[stop - 1][0], stop) == trail[stop:]


def test_temperature_evens_sizes_out_and_keeps_their_sum(made: Made) -> None:
    [weights] = staged(made, "a", temperature=2).weights
    sizes = np.array([100, 50])
    shares = np.array(weights) * sizes / 150
    assert shares == pytest.approx(np.sqrt(sizes) / np.sqrt(sizes).sum())
    assert staged(made, "b", temperature=1).weights == [pytest.approx([1.0, 1.0])]


def test_a_stage_of_which_cleaning_has_left_nothing_is_refused(made: Made) -> None:
    sources = [SOURCES[0], {**SOURCES[1], "num_pairs": 1}]
    longest = max(len(src.split()) for src, _ in [next(grammar.generate("train", 1, 2))])
    clean = {"max_chars": 3 * longest}
    stages = [{"steps": 5, "weights": {"web": 0}}, {"weights": {}}]
    with pytest.raises(
        InputError, match=r"data\.stages\.0: of the sources with a weight, cleaning has left less than a pair"
    ):
        staged(made, "a", train=sources, stages=stages, clean=clean)


# ---------------------------------------------------------------- crashes


def test_a_store_is_found_again(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ids_of(made().open(2, quiet))
    monkeypatch.setattr(sampled_epochs, "_write_shard", None)
    again = made()
    assert ids_of(again.open(2, quiet)) == expected
    assert not workers_of(again)


@pytest.mark.parametrize("name", ["00001.src.ids", "00000.tgt.offsets.npy", "src.lengths", "meta.json"])
def test_a_damaged_store_is_made_anew_and_that_is_told(name: str, made: Made) -> None:
    one = made()
    store = one.open(0, quiet)
    expected = ids_of(store)
    one.close()
    content = bytearray((store.directory / name).read_bytes())
    content[-3] ^= 1
    (store.directory / name).write_bytes(content)
    told: list[str] = []
    assert ids_of(made().open(0, told.append)) == expected
    assert f"epoch 1: {store.directory} is damaged ({name}" in told[0]


def test_nothing_half_written_is_used(made: Made, tmp_path: Path, tokenizers: Tokenizers) -> None:
    """What a killed process leaves: its unfinished store with damaged shards, and a half deleted one."""
    one = made()
    name = one.open(0, quiet).directory.name
    expected = ids_of(one.open(0, quiet))
    one.close()
    place = tmp_path / "epochs"
    half = place / f".{name}.tmp"
    (place / name).rename(half)
    (half / "00000.src.ids").write_bytes(b"")
    (half / "meta.json").unlink()
    (place / f".{name}.77.deleted").mkdir()
    (place / "00000-of-another-run").mkdir()
    assert ids_of(made().open(0, quiet)) == expected
    assert [path.name for path in place.iterdir()] == [name]


@pytest.mark.parametrize("when", ["before it begins", "while it writes"])
def test_a_killed_worker_is_made_up_for(when: str, made: Made, tokenizers: Tokenizers) -> None:
    one = made()
    stream = one.updates(Cursor(), 0, quiet)
    next(stream)
    for process, _ in workers_of(one):
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    if when == "while it writes":
        assert one._sampled is not None
        directory = unfinished(one._sampled._path(1))
        (directory / "00001.claim").touch()
        (directory / "00001.src.ids").write_bytes(b"half")
    while (update := next(stream))[0].epoch == 0:
        pass
    assert ids_of(update[2]) == sampled_by_hand(one, tokenizers, 1)
    while (update := next(stream))[0].epoch == 1:
        pass
    assert ids_of(update[2]) == sampled_by_hand(one, tokenizers, 2)


def test_processes_end_when_the_run_does(made: Made) -> None:
    one = made()
    one.open(0, quiet)
    processes = [process for process, _ in workers_of(one)]
    assert processes and all(process.is_alive() for process in processes)
    one.close()
    assert not any(process.is_alive() for process in processes)


def test_a_place_that_cannot_be_written_is_a_run_error(made: Made, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError) as caught:
        made("file/epochs").open(0, quiet)
    assert str(tmp_path / "file" / "epochs") in str(caught.value)


def test_a_full_disk_is_a_run_error(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    one = made()
    monkeypatch.setattr(sampled_epochs, "write_side", full)
    with pytest.raises(RunError, match=r"epochs.*No space left on device.*free some space"):
        one.open(0, quiet)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "epochs").iterdir() if not path.name.startswith(".")] == []


def test_what_processes_say_does_not_pile_up(made: Made) -> None:
    """A pipe that nobody reads is full after some hundred epochs, and then both sides wait for ever."""
    one = made()
    updates = one.updates(Cursor(), 0, quiet)
    for cursor, _, _ in updates:
        if cursor.epoch == 3 * sampled_epochs._MOST_ASKED:
            break
    for _, connection in workers_of(one):
        unread = 0
        while connection.poll(1):
            connection.recv()
            unread += 1
        assert unread <= sampled_epochs._MOST_ASKED
