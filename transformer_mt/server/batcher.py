"""One thread for each model, which translates what waits for it together, whoever asked.

Nothing waits for company: the thread takes what is there as soon as it is free, and what comes meanwhile makes up the
next batch. So a lone request is answered at once, and under load batches grow by themselves. A batch is bounded, so
that nobody waits long for those who came earlier.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from transformer_mt.decoding.translator import Translation
from transformer_mt.server.errors import RequestError

MOST_TEXTS, MOST_CHARACTERS = 64, 8192  # of a batch, unless one text alone has more
_MOST_SECONDS = 60  # that a client is told to come back after

Observe = Callable[[int], None]


class Engine(Protocol):
    """What a `Batcher` asks of a `Translator`."""

    def translate(self, lines: Sequence[str], *, tags: Sequence[int], align: bool) -> list[Translation]: ...

    @property
    def can_align(self) -> bool: ...


class _Waiting(NamedTuple):
    text: str
    kind: tuple[tuple[int, ...], bool]  # its tags, and whether words are aligned: what a batch has in common
    translation: Future[Translation]

    @property
    def cost(self) -> int:
        return len(self.text) + 1  # a blank text is not free


class Batcher:
    """A model's thread and its queue. `submit` may be called from any thread."""

    def __init__(self, engine: Engine, max_waiting: int, observe: Observe = lambda num_texts: None) -> None:
        """
        Args:
            max_waiting: characters that may wait; one request is taken whatever its size where nothing waits.
            observe: called with the number of texts of each batch, in the batcher's thread.
        """
        self._engine, self._max_waiting, self._observe = engine, max_waiting, observe
        self._queue: deque[_Waiting] = deque()
        self._can_align = engine.can_align
        self._num_waiting = 0  # characters
        self._seconds_each = 0.0  # for a character, lately
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Characters that wait."""
        return self._num_waiting

    def submit(
        self, texts: Sequence[str], tags: Sequence[int], align: Sequence[bool] | None = None
    ) -> list[Future[Translation]]:
        """Put the texts of a request into the queue, all or none; who cancels a translation takes it back.

        Args:
            align: of each text, whether its words are aligned with the translation's, where the engine can.

        Raises:
            RequestError: too much waits already.
        """
        wanted = [False] * len(texts) if align is None or not self._can_align else align
        entries = [
            _Waiting(text, (tuple(tags), is_aligned), Future()) for text, is_aligned in zip(texts, wanted, strict=True)
        ]
        cost = sum(entry.cost for entry in entries)
        with self._changed:
            if self._is_closed:
                raise RequestError(503, "The server is ending")
            if self._num_waiting + cost > self._max_waiting:  # those who gave up make room
                self._queue = deque(entry for entry in self._queue if not entry.translation.cancelled())
                self._num_waiting = sum(entry.cost for entry in self._queue)
            if self._queue and self._num_waiting + cost > self._max_waiting:
                seconds = math.ceil(self._num_waiting * self._seconds_each)
                raise RequestError(429, "Slowdown: too many texts are waiting", min(max(seconds, 1), _MOST_SECONDS))
            self._queue.extend(entries)
            self._num_waiting += cost
            self._changed.notify()
        return [entry.translation for entry in entries]

    def close(self) -> None:
        """End the thread when its batch is done; what waits is cancelled."""
        with self._changed:
            self._is_closed = True
            for entry in self._queue:
                entry.translation.cancel()
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            batch = [entry for entry in batch if entry.translation.set_running_or_notify_cancel()]
            if batch:
                started = time.monotonic()
                self._translate(batch)
                seconds = (time.monotonic() - started) / sum(entry.cost for entry in batch)
                self._seconds_each += (seconds - self._seconds_each) / 4
                self._observe(len(batch))

    def _take(self) -> list[_Waiting] | None:
        """Wait for texts; return those of the kind of the first, in their order. None: there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_closed)
            if self._is_closed:
                return None
            batch: list[_Waiting] = []
            others: deque[_Waiting] = deque()
            cost = 0
            while self._queue and len(batch) < MOST_TEXTS:
                entry = self._queue.popleft()
                if batch and entry.kind != batch[0].kind:
                    others.append(entry)
                elif batch and cost + entry.cost > MOST_CHARACTERS:
                    self._queue.appendleft(entry)
                    break
                else:
                    batch.append(entry)
                    cost += entry.cost
            self._queue.extendleft(reversed(others))
            self._num_waiting -= cost
        return batch

    def _translate(self, batch: list[_Waiting]) -> None:
        """Answer each. Where a batch fails, each is tried by itself: one text must not spoil the others'."""
        try:
            tags, align = batch[0].kind
            found = self._engine.translate([entry.text for entry in batch], tags=tags, align=align)
        except Exception as error:
            if len(batch) == 1:
                batch[0].translation.set_exception(error)
                return
            for entry in batch:
                self._translate([entry])
            return
        for entry, translation in zip(batch, found, strict=True):
            entry.translation.set_result(translation)
