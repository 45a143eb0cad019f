"""Work spread over processes of this machine, each with one thread: small operations are better spread over sentences
than over threads, and Python threads would wait for each other.

The processes are forks: they share the weights, and start within a moment. Only Linux has forks that are safe enough
for that, and none of them may touch a GPU.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from transformer_mt.errors import RunError, TmtError

if TYPE_CHECKING:
    import torch

Job = TypeVar("Job")
Result = TypeVar("Result")

_MOST_SENT = 3  # jobs that a process has before it, so that none waits while this process does something else


_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of work in each so many, or "max"


def num_cores() -> int:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, _QUOTA.read_text().split())
        cores = min(cores, max(1, quota // period))
    return cores


def can_fork(device: torch.device | None = None) -> bool:
    """Whether this process may have such processes, for work on a device if it is torch's; itself one of
    `multiprocessing`'s, it may not."""
    is_cpu = device is None or device.type == "cpu"
    return sys.platform == "linux" and is_cpu and not multiprocessing.current_process().daemon


def on_all_cores(function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
    """The results of a function on any number of jobs, in their order, a few of them ahead at a time.

    In processes, where there are two jobs or more; what the function changes is then lost with them.
    """
    jobs = iter(jobs)
    first = list(itertools.islice(jobs, 2))
    num_processes = num_cores() if len(first) == 2 and can_fork() else 1
    most_ahead = _MOST_SENT * num_processes if num_processes > 1 else 0
    workers = Workers(function, num_processes)
    under_way: deque[int] = deque()
    try:
        for job in itertools.chain(first, jobs):
            under_way.extend(workers.submit([job]))
            if len(under_way) > most_ahead:
                yield workers.result(under_way.popleft())
        while under_way:
            yield workers.result(under_way.popleft())
    finally:
        workers.close()


class Workers(Generic[Job, Result]):
    """Runs one function on many jobs, in processes; with fewer than two, in this one.

    The function goes along with the fork, so that it may hold what cannot be sent; jobs and results are sent. The
    processes end with `close`, with this object, or with the program.
    """

    def __init__(
        self, function: Callable[[Job], Result], num_processes: int, advice: str = "free some memory and run again"
    ) -> None:
        """``advice``: what to do when one of the processes is killed."""
        self.num_processes = num_processes
        self._advice = advice
        self._function = function
        self._results: dict[int, Result | Exception] = {}
        self._num_jobs = 0
        self._open: set[int] = set()  # jobs that somebody will ask for
        self._waiting: deque[tuple[int, Job]] = deque()
        self._dropped: set[int] = set()  # jobs that a process has and nobody wants
        self._sent: dict[Connection, int] = {}  # jobs that each process has and has not answered
        processes: list[BaseProcess] = []
        self._end = weakref.finalize(self, _end, processes, self._sent)
        if num_processes > 1:
            context = multiprocessing.get_context("fork")
            with _interrupts_later():
                for _ in range(num_processes):
                    ours, theirs = context.Pipe()
                    process = context.Process(target=_work, args=(function, theirs), daemon=True)
                    process.start()
                    theirs.close()
                    processes.append(process)
                    self._sent[ours] = 0

    @property
    def is_closed(self) -> bool:
        return not self._end.alive

    def submit(self, jobs: Sequence[Job]) -> list[int]:
        """Begin jobs, the first first; their numbers. Without processes they are done when this returns."""
        numbers = list(range(self._num_jobs, self._num_jobs + len(jobs)))
        self._num_jobs += len(jobs)
        self._open.update(numbers)
        if self.num_processes > 1:
            self._waiting.extend(zip(numbers, jobs, strict=True))
            self._send()
        else:
            self._results.update((number, self._function(job)) for number, job in zip(numbers, jobs, strict=True))
        return numbers

    def result(self, number: int) -> Result:
        """Of a job, or the error that it raised; once.

        Raises:
            RunError: a process was killed; the others are ended.
        """
        while number not in self._results:
            with self._whole_messages():
                for connection in wait(self._sent):
                    assert isinstance(connection, Connection)
                    done, found = connection.recv()
                    self._sent[connection] -= 1
                    if done in self._dropped:
                        self._dropped.remove(done)
                    else:
                        self._results[done] = found
            self._send()
        self._open.remove(number)
        found = self._results.pop(number)
        if isinstance(found, Exception):
            raise found
        return found

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget jobs whose results nobody will ask for."""
        unwanted = {number for number in self._open.intersection(numbers) if self._results.pop(number, None) is None}
        self._open -= unwanted
        waiting = {number for number, _ in self._waiting}
        self._waiting = deque(job for job in self._waiting if job[0] not in unwanted)
        self._dropped |= unwanted - waiting

    def close(self) -> None:
        """End the processes, whatever they are at."""
        self._end()

    def _send(self) -> None:
        while self._waiting:
            connection = min(self._sent, key=lambda one: self._sent[one])
            if self._sent[connection] >= _MOST_SENT:
                return
            with self._whole_messages():
                connection.send(self._waiting.popleft())
                self._sent[connection] += 1

    @contextlib.contextmanager
    def _whole_messages(self) -> Iterator[None]:
        """End the processes when one is gone, or when an interrupt leaves half a message in a pipe."""
        try:
            yield
        except (EOFError, OSError):
            self.close()
            raise RunError(f"one of our processes has ended (killed for want of memory?); {self._advice}") from None
        except BaseException:
            self.close()
            raise


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold back an interrupt: amid a fork it would be lost in one of the locks that are taken there."""
    if threading.current_thread() is not threading.main_thread():
        yield  # interrupts are not for this thread
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        signal.raise_signal(signal.SIGINT)


def _end(processes: list[BaseProcess], connections: Iterable[Connection]) -> None:
    for process in processes:
        process.kill()
        process.join()
    for connection in connections:
        connection.close()


def _work(function: Callable[[Job], Result], connection: Connection) -> None:
    """A process of its own: one job after the other, until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at a terminal it goes to all; the parent ends its processes itself
    threading.Thread(target=end_with_parent, daemon=True).start()
    if "torch" in sys.modules:  # looking at text does without
        sys.modules["torch"].set_num_threads(1)
    # Jobs are read at once, so that the parent, which sends one, never waits for this process, which sends a result.
    jobs: queue.SimpleQueue[tuple[int, Job]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, jobs), daemon=True).start()
    while True:
        number, job = jobs.get()
        found: Result | Exception
        try:
            found = function(job)
        except TmtError as error:
            found = error
        except Exception as error:  # not all of them can be sent
            found = RuntimeError("".join(traceback.format_exception(error)))
        connection.send((number, found))


def _read(connection: Connection, jobs: queue.SimpleQueue[tuple[int, Job]]) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            jobs.put(connection.recv())


def end_with_parent() -> None:
    """For a thread of a process of `multiprocessing`: it shall not outlive the one that started it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
