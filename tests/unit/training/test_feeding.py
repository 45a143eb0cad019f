"""What the loop is fed with: the same batches with the thread as without it, and no thread that stays."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from transformer_mt.config.loading import validate
from transformer_mt.data import preparing
from transformer_mt.data.batching import Cursor
from transformer_mt.data.epochs import plan
from transformer_mt.data.store import IdStore
from transformer_mt.errors import InputError
from transformer_mt.model.layout import Batch
from transformer_mt.system.ranks import Ranks
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.training import feeding
from transformer_mt.training.feeding import one_ahead

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert feeding_threads() == []


def feeding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("feeding")]


# ---------------------------------------------------------------- updates


@pytest.fixture
def planned(tmp_path: Path, tokenizers: Tokenizers) -> list[feeding.Planned]:
    config = validate(
        {
            "data": {
                "src_lang": "en",
                "tgt_lang": "de",
                "train": [{"builtin": "grammar", "split": "train", "num_pairs": 100}],
                "cache_dir": str(tmp_path),
            },
            "batch": {"max_tokens": 300},
        },
        "test",
    )
    store = preparing.prepare(config.data, config.batch, tokenizers)
    windows = plan(store.lengths("src"), store.lengths("tgt"), store.parts(), [1.0], config, 0)
    updates = itertools.chain.from_iterable(windows)
    return [(Cursor(0, number), pairs, store) for number, pairs in enumerate(updates, 1)]


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let batches stay on the host, where there is no GPU, and return the names of the threads that moved them."""
    threads: list[str] = []

    def to(batch: Batch, device: torch.device) -> Batch:
        threads.append(threading.current_thread().name)
        return batch.copied(torch.clone)

    monkeypatch.setattr(Batch, "to", to)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    return threads


def test_a_gpu_is_fed_what_a_cpu_is(planned: list[feeding.Planned], moved: list[str]) -> None:
    for rank in (0, 1):
        sides = [feeding.updates(iter(planned), Ranks(rank, 2), 120, device) for device in (CPU, CUDA)]
        num_batches = 0
        for (cursor, pairs, store), one, other in zip(planned, *sides, strict=True):
            assert one.cursor == other.cursor == cursor
            assert one.pairs is pairs and other.pairs is pairs
            assert one.num_labels == other.num_labels == sum(len(ids) for ids in store.get("tgt", pairs))
            for a, b in zip(one.batches, other.batches, strict=True):
                num_batches += 1
                for x, y in ((a.src_ids_P, b.src_ids_P), (a.tgt_in_P, b.tgt_in_P), (a.labels_N, b.labels_N)):
                    assert torch.equal(x, y)
                for s, t in ((a.src, b.src), (a.tgt, b.tgt)):
                    assert torch.equal(s.positions_P, t.positions_P) and torch.equal(s.offsets, t.offsets)
        assert num_batches > len(planned) > 3
        assert len(moved) == num_batches and {name.split("_")[0] for name in moved} == {"feeding"}
        moved.clear()


def test_a_cpu_makes_a_batch_when_it_is_its_turn(
    planned: list[feeding.Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[Any] = []
    gather = IdStore.gather

    def remember(*args: Any) -> Any:
        gathered.append(args)
        return gather(*args)

    monkeypatch.setattr(IdStore, "gather", remember)
    for update in feeding.updates(iter(planned), Ranks(), 120, CPU):
        for number, _ in enumerate(update.batches, 1):
            assert len(gathered) == 2 * number
        gathered.clear()


def test_damage_is_told_when_its_update_is_due(
    planned: list[feeding.Planned], moved: list[str], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(planned[0][2].directory, tmp_path / "copy"))
    (copy / "00000.tgt.ids").write_bytes(b"12")
    store = IdStore(copy)
    damaged = [planned[0], *((cursor, pairs, store) for cursor, pairs, _ in planned[1:])]
    fed = feeding.updates(iter(damaged), Ranks(), 120, CUDA)
    assert next(fed).cursor == planned[0][0]
    with pytest.raises(InputError, match="the prepared corpus is damaged"):
        next(fed)


# ---------------------------------------------------------------- the thread


class Taken:
    """Items, and a look at what the thread does when one is taken."""

    def __init__(self, number: int) -> None:
        self.at_work = False
        self.made: list[int] = []
        self.items = self._items(number)

    def _items(self, number: int) -> Iterator[int]:
        for item in range(number):
            assert not self.at_work
            assert threading.current_thread() is threading.main_thread()
            yield item

    def prepare(self, item: int) -> int:
        self.at_work = True
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(0.002)
        self.made.append(item)
        self.at_work = False
        return -item


def begin() -> None:
    pass


@pytest.mark.parametrize("number", [0, 1, 2, 20])
def test_items_are_taken_in_order_by_the_caller_while_the_thread_rests(number: int) -> None:
    taken = Taken(number)
    found = list(one_ahead(taken.items, taken.prepare, begin))
    assert found == [-item for item in range(number)]


def test_the_next_item_is_made_while_one_is_worked_on() -> None:
    done = [threading.Event() for _ in range(3)]

    def prepare(item: int) -> int:
        done[item].set()
        return item

    for item in one_ahead(iter(range(3)), prepare, begin):
        if item < 2:
            assert done[item + 1].wait(10)  # nobody asked for it yet
        assert not any(event.is_set() for event in done[item + 2 :])  # but for no more


def test_an_error_of_the_thread_stands_where_its_result_would() -> None:
    def prepare(item: int) -> int:
        if item == 2:
            raise InputError("damaged")
        return item

    found = []
    with pytest.raises(InputError, match="damaged"):
        for item in one_ahead(iter(range(9)), prepare, begin):
            found.append(item)
    assert found == [0, 1]


@pytest.mark.parametrize("error", [RuntimeError("the loop"), KeyboardInterrupt(), SystemExit(1)])
def test_the_thread_ends_with_the_loop(error: BaseException) -> None:
    taken = Taken(9)
    with pytest.raises(type(error)), contextlib.closing(one_ahead(taken.items, taken.prepare, begin)) as stream:
        next(stream)
        assert len(feeding_threads()) == 1
        raise error
    assert taken.made in ([0], [0, 1])  # what had begun is ended, nothing begins


def test_an_error_where_items_come_from_ends_the_thread() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise InputError("no next epoch")

    with pytest.raises(InputError):
        list(one_ahead(items(), lambda item: item, begin))


def test_a_thread_that_cannot_begin_is_no_silence() -> None:
    def fail() -> None:
        raise RuntimeError("no such device")

    with pytest.raises(RuntimeError):
        next(one_ahead(iter([1]), lambda item: item, fail))
