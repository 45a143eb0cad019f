"""Texts that wait are translated together, each answer is its own text's, and the queue is bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_mt.decoding.translations import Alternative, Translation
from transformer_mt.server.batcher import MOST_CHARACTERS, MOST_TEXTS, Batcher
from transformer_mt.server.errors import RequestError


def translation(source: str, text: str) -> Translation:
    return Translation(source, text, 0.0, [], [Alternative(text, 0.0, [])], 0, False)


class Fake:
    """Translates into capitals behind the tags; it fails on some texts, and waits until it is let go."""

    can_align, tells_attention = True, False
    num_at_once = 1
    is_pytorch = True

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun, self.may_go = threading.Semaphore(0), threading.Event()

    def attention_maps(self, *args: object, **options: object) -> NoReturn:
        raise NotImplementedError

    def found_at_most(self, n_best: int | None) -> int | None:
        return n_best and min(n_best, 4)

    def translate(
        self, lines: Sequence[str], *, tags: Sequence[int], align: bool, n_best: int | None
    ) -> list[Translation]:
        self.batches.append(list(lines))
        self.begun.release()
        assert self.may_go.wait(30)
        if "bad" in lines:
            raise RuntimeError("a bad text")
        return [translation(line, f"{list(tags)} {line.upper()}") for line in lines]

    def count(self, lines: Sequence[str], *, letter: str) -> list[int]:
        self.batches.append(list(lines))
        return [line.count(letter) for line in lines]


@pytest.fixture
def translator() -> Fake:
    return Fake()


@pytest.fixture
def batcher(translator: Fake) -> Iterator[Batcher]:
    """Its thread works on one text, "first", until the translator is let go."""
    batcher = Batcher(translator, max_waiting=20_000)
    batcher.submit(["first"], [])
    assert translator.begun.acquire(timeout=30)
    yield batcher
    translator.may_go.set()
    batcher.close()


def texts(futures: Sequence[Future[Translation]]) -> list[str]:
    return [future.result(timeout=30).text for future in futures]


def test_what_waits_is_translated_together_by_language(translator: Fake, batcher: Batcher) -> None:
    asked = [batcher.submit(["a", "b"], [7]), batcher.submit(["c"], [8]), batcher.submit(["d"], [7])]
    translator.may_go.set()
    assert [texts(one) for one in asked] == [["[7] A", "[7] B"], ["[8] C"], ["[7] D"]]
    assert translator.batches == [["first"], ["a", "b", "d"], ["c"]]


def test_more_alternatives_than_there_are_make_no_other_batch(translator: Fake, batcher: Batcher) -> None:
    for i, n_best in enumerate((4, 2, 1000)):
        batcher.submit([str(i)], [], n_best=n_best)
    translator.may_go.set()
    batcher.submit(["last"], [])[0].result(timeout=30)
    assert translator.batches == [["first"], ["0", "2"], ["1"], ["last"]]


def test_a_translator_that_searches_several_batches_at_once(translator: Fake) -> None:
    """What waits is shared among the threads that are free."""
    translator.num_at_once = 3
    batcher = Batcher(translator, max_waiting=20_000)
    while batcher._num_idle < 3:
        time.sleep(0.001)
    asked = batcher.submit([*"abcdefg"], [])
    assert all(translator.begun.acquire(timeout=30) for _ in range(3))
    assert sorted(translator.batches) == [["a", "b", "c"], ["d", "e"], ["f", "g"]]
    translator.may_go.set()
    assert texts(asked) == [f"[] {letter}" for letter in "ABCDEFG"]
    batcher.close()


def test_batches_are_bounded(translator: Fake, batcher: Batcher) -> None:
    many = [str(i) for i in range(MOST_TEXTS + 1)]
    long = "x" * (MOST_CHARACTERS // 2)
    asked = [*batcher.submit(many, []), *batcher.submit([long, long, "y"], [1])]
    translator.may_go.set()
    assert texts(asked) == [*(f"[] {text}" for text in many), *(f"[1] {text.upper()}" for text in (long, long, "y"))]
    assert translator.batches[1:] == [many[:-1], many[-1:], [long], [long, "y"]]


def test_a_bad_text_spoils_no_other(translator: Fake, batcher: Batcher) -> None:
    good, bad, other = batcher.submit(["good", "bad", "other"], [])
    translator.may_go.set()
    assert texts([good, other]) == ["[] GOOD", "[] OTHER"]
    with pytest.raises(RuntimeError, match="a bad text"):
        bad.result(timeout=30)
    assert texts(batcher.submit(["more"], [])) == ["[] MORE"]  # the thread lives


def test_a_full_queue_says_when_to_come_back(translator: Fake, batcher: Batcher) -> None:
    kept = batcher.submit(["x" * 19_000], [])
    with pytest.raises(RequestError, match="Slowdown") as refused:
        batcher.submit(["y" * 1000], [])
    assert refused.value.status == 429 and 1 <= int(refused.value.headers["Retry-After"]) <= 60
    [gone] = batcher.submit(["y" * 900], [])  # all of a request or none of it was taken
    gone.cancel()  # and makes room
    kept += batcher.submit(["y" * 990], [])
    translator.may_go.set()
    assert [len(text) for text in texts(kept)] == [19_003, 993]
    assert batcher.num_waiting == 0 and texts(batcher.submit(["y" * 1000], []))


def test_the_wait_for_a_shared_thread_counts_when_to_come_back(translator: Fake) -> None:
    with ThreadPoolExecutor(1) as computing:
        batcher = Batcher(translator, max_waiting=100, computing=computing)
        computing.submit(time.sleep, 0.2)  # another model's batch
        translator.may_go.set()
        texts(batcher.submit(["a"], []))
        translator.may_go.clear()
        batcher.submit(["b"], [])
        assert translator.begun.acquire(timeout=30) and translator.begun.acquire(timeout=30)
        batcher.submit(["y" * 90], [])
        with pytest.raises(RequestError) as refused:
            batcher.submit(["y" * 90], [])
        assert int(refused.value.headers["Retry-After"]) > 1
        translator.may_go.set()
        batcher.close()


def test_other_methods_of_the_translator_take_their_turn(translator: Fake, batcher: Batcher) -> None:
    before, after = batcher.submit(["x"], []), batcher.ask("count", "aab", times=3, letter="a")
    assert batcher.num_waiting == 2 + 3 * 4
    others = [batcher.ask("count", "ba", letter="a"), batcher.ask("count", "ba", letter="b")]
    translator.may_go.set()
    assert texts(before) == ["[] X"] and [one.result(timeout=30) for one in (after, *others)] == [2, 1, 1]
    assert translator.batches == [["first"], ["x"], ["aab", "ba"], ["ba"]]


def test_what_is_cancelled_is_not_translated(translator: Fake, batcher: Batcher) -> None:
    gone, kept = batcher.submit(["gone", "kept"], [])
    assert gone.cancel()
    translator.may_go.set()
    assert texts([kept]) == ["[] KEPT"] and translator.batches[1:] == [["kept"]]


def test_closing_cancels_what_waits(translator: Fake, batcher: Batcher) -> None:
    [asked] = batcher.submit(["a"], [])
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(CancelledError):
        asked.result(timeout=30)
    with pytest.raises(RequestError, match="ending"):
        batcher.submit(["b"], [])
    translator.may_go.set()
    closing.join()
    assert translator.batches == [["first"]]


@given(st.lists(st.tuples(st.lists(st.text("abc\n", max_size=300), max_size=40), st.integers(0, 2)), max_size=12))
def test_each_answer_is_its_own_texts(requests: list[tuple[list[str], int]]) -> None:
    translator = Fake()
    translator.may_go.set()
    batcher = Batcher(translator, max_waiting=10_000_000)
    asked = [batcher.submit(lines, [tag]) for lines, tag in requests]
    expected = [[f"[{tag}] {line.upper()}" for line in lines] for lines, tag in requests]
    found = [texts(futures) for futures in asked]
    batcher.close()
    assert found == expected
