"""A queue for each model, and a thread, or several where it searches several batches at once, which translates what
waits for it together, whoever asked.

Nothing waits for company: a thread takes what is there as soon as it is free, and what comes meanwhile makes up the
next batch. So a lone request is answered at once, and under load batches grow by themselves. Threads that are free
share what waits. A batch is bounded, so that nobody waits long for those who came earlier.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from transformer_mt.decoding.translations import Translation
from transformer_mt.server.errors import RequestError

if TYPE_CHECKING:
    from transformer_mt.decoding.attention_maps import AttentionMaps

MOST_TEXTS, MOST_CHARACTERS = 64, 8192  # of a batch, unless one text alone has more
_MOST_SECONDS = 60  # that a client is told to come back after

Observe = Callable[[int], None]
Answer = TypeVar("Answer")


class ServedTranslator(Protocol):
    """What a `Batcher` asks of a `Translator`."""

    def translate(
        self, lines: Sequence[str], *, tags: Sequence[int], align: bool, n_best: int | None
    ) -> list[Translation]: ...

    def attention_maps(
        self, source: str, target: str | None, tags: Sequence[int], longest: int | None
    ) -> AttentionMaps: ...

    def found_at_most(self, n_best: int | None) -> int | None: ...

    @property
    def can_align(self) -> bool: ...

    @property
    def tells_attention(self) -> bool: ...

    @property
    def num_at_once(self) -> int: ...

    @property
    def is_pytorch(self) -> bool: ...


@dataclass(frozen=True)
class _Task:
    """A method of the translator, which takes texts, and its options: what a batch has in common."""

    method: str
    options: tuple[tuple[str, Hashable], ...]

    def __call__(self, translator: ServedTranslator, texts: list[str]) -> list[Any]:
        """Return the answer to each text."""
        answers: list[Any] = getattr(translator, self.method)(texts, **dict(self.options))
        return answers


class _Waiting(NamedTuple):
    text: str
    task: Callable[[ServedTranslator, list[str]], list[Any]]  # a batch has one
    cost: int  # characters
    answer: Future[Any]


class Batcher:
    """A model's threads and its queue. `submit` may be called from any thread."""

    def __init__(
        self,
        translator: ServedTranslator,
        max_waiting: int,
        observe: Observe = lambda num_texts: None,
        computing: Executor | None = None,
    ) -> None:
        """
        Args:
            max_waiting: characters that may wait; one request is taken whatever its size where nothing waits.
            observe: called with the number of texts of each batch, in one of the batcher's threads.
            computing: where batches are translated, if not in the batcher's threads; others may use it as well.
        """
        self._translator, self._computing = translator, computing
        self._max_waiting, self._observe = max_waiting, observe
        self._queue: deque[_Waiting] = deque()
        self._can_align, self.tells_attention = translator.can_align, translator.tells_attention
        self._num_waiting = 0  # characters
        self._seconds_each = 0.0  # for a character, lately
        self._changed = threading.Condition()
        self._num_idle = 0  # threads
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._run, name="batcher", daemon=True) for _ in range(translator.num_at_once)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def num_waiting(self) -> int:
        """Characters that wait."""
        return self._num_waiting

    def submit(
        self,
        texts: Sequence[str],
        tags: Sequence[int],
        align: Sequence[bool] | None = None,
        n_best: int | None = None,
    ) -> list[Future[Translation]]:
        """Put the texts of a request into the queue, all or none; who cancels a translation takes it back.

        Args:
            align: of each text, whether its words are aligned with the translation's, where the translator can.
            n_best: translations of each, where not as many as the translator always finds.

        Raises:
            RequestError: too much waits already.
        """
        wanted = [False] * len(texts) if align is None or not self._can_align else align
        n_best = self._translator.found_at_most(n_best)  # those that ask for more, and get as many, share batches
        tasks = [
            _Task("translate", (("tags", tuple(tags)), ("align", is_aligned), ("n_best", n_best)))
            for is_aligned in wanted
        ]
        return self._enqueue([_Waiting(*each, _cost(each[0]), Future()) for each in zip(texts, tasks, strict=True)])

    def ask(self, method: str, text: str, times: int = 1, **options: Hashable) -> Future[Any]:
        """Put a text into the queue for another of the translator's methods: texts in, as many answers out.

        Args:
            times: what it costs, in translations of the text.

        Raises:
            RequestError: too much waits already.
        """
        task = _Task(method, tuple(options.items()))
        return self._enqueue([_Waiting(text, task, times * _cost(text), Future())])[0]

    def run(self, work: Callable[[ServedTranslator], Answer], num_characters: int) -> Future[Answer]:
        """Put something else into the queue that the translator does, by itself.

        Raises:
            RequestError: too much waits already.
        """
        entry = _Waiting("", lambda translator, _: [work(translator)], num_characters + 1, Future())
        return self._enqueue([entry])[0]

    def _enqueue(self, entries: list[_Waiting]) -> list[Future[Any]]:
        cost = sum(entry.cost for entry in entries)
        with self._changed:
            if self._is_closed:
                raise RequestError(503, "The server is ending")
            if self._num_waiting + cost > self._max_waiting:  # those who gave up make room
                self._queue = deque(entry for entry in self._queue if not entry.answer.cancelled())
                self._num_waiting = sum(entry.cost for entry in self._queue)
            if self._queue and self._num_waiting + cost > self._max_waiting:
                seconds = math.ceil(self._num_waiting * self._seconds_each / len(self._threads))
                raise RequestError(429, "Slowdown: too many texts are waiting", min(max(seconds, 1), _MOST_SECONDS))
            self._queue.extend(entries)
            self._num_waiting += cost
            self._changed.notify()
        return [entry.answer for entry in entries]

    def close(self) -> None:
        """End each thread when its batch is done; what waits is cancelled."""
        with self._changed:
            self._is_closed = True
            for entry in self._queue:
                entry.answer.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while self._wait():
            started = time.monotonic()
            if self._computing is None:
                self._translate_batch(started)
            else:
                self._computing.submit(self._translate_batch, started).result()

    def _wait(self) -> bool:
        """Wait for texts. False: there will be no more."""
        with self._changed:
            self._num_idle += 1
            self._changed.wait_for(lambda: self._queue or self._is_closed)
            self._num_idle -= 1
            return not self._is_closed

    def _translate_batch(self, started: float) -> None:
        """``started``: when its turn was asked for."""
        batch = [entry for entry in self._take() if entry.answer.set_running_or_notify_cancel()]
        if batch:
            self._answer(batch)
            seconds = (time.monotonic() - started) / sum(entry.cost for entry in batch)
            self._seconds_each += (seconds - self._seconds_each) / 4
            self._observe(len(batch))

    def _take(self) -> list[_Waiting]:
        """Return what waits for the task of the first text, in its order, as much as makes a batch."""
        with self._changed:
            most = min(MOST_TEXTS, math.ceil(len(self._queue) / (1 + self._num_idle)))
            batch: list[_Waiting] = []
            others: deque[_Waiting] = deque()
            cost = 0
            while self._queue and len(batch) < most:
                entry = self._queue.popleft()
                if batch and entry.task != batch[0].task:
                    others.append(entry)
                elif batch and cost + entry.cost > MOST_CHARACTERS:
                    self._queue.appendleft(entry)
                    break
                else:
                    batch.append(entry)
                    cost += entry.cost
            self._queue.extendleft(reversed(others))
            self._num_waiting -= cost
            if self._queue:
                self._changed.notify()
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        """Answer each. Where a batch fails, each is tried by itself: one text must not spoil the others'."""
        try:
            found = batch[0].task(self._translator, [entry.text for entry in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for entry in batch:
                self._answer([entry])
            return
        for entry, answer in zip(batch, found, strict=True):
            entry.answer.set_result(answer)


def _cost(text: str) -> int:
    return len(text) + 1  # a blank text is not free
