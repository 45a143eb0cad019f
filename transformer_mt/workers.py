"""Work spread over processes of this machine, each with one thread: small operations are better spread over sentences
than over threads, and Python threads would wait for each other.

The processes are forks: they share the weights, and start within a moment. Only Linux has forks that are safe enough
for that, and none of them may touch a GPU.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

import torch

from transformer_mt.errors import RunError

Job = TypeVar("Job")
Result = TypeVar("Result")

_MOST_SENT = 3  # jobs that a process has before it, so that none waits while this process does something else


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def can_fork(device: torch.device) -> bool:
    return sys.platform == "linux" and device.type == "cpu"


class Workers(Generic[Job, Result]):
    """Runs one function on many jobs, in processes; with fewer than two, in this one.

    The function goes along with the fork, so that it may hold what cannot be sent; jobs and results are sent.
    """

    def __init__(self, function: Callable[[Job], Result], num_processes: int) -> None:
        self.num_processes = num_processes
        self._function = function
        self._results: dict[int, Result | Exception] = {}
        self._num_jobs = 0
        self._waiting: deque[tuple[int, Job]] = deque()
        self._sent: dict[Connection, int] = {}  # jobs that each process has and has not answered
        self._processes = []
        if num_processes > 1:
            context = multiprocessing.get_context("fork")
            for _ in range(num_processes):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(function, theirs), daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
                self._sent[ours] = 0

    def submit(self, jobs: Sequence[Job]) -> list[int]:
        """Begin jobs, the first first; their numbers. Without processes they are done when this returns."""
        numbers = list(range(self._num_jobs, self._num_jobs + len(jobs)))
        self._num_jobs += len(jobs)
        if self._processes:
            self._waiting.extend(zip(numbers, jobs, strict=True))
            self._send()
        else:
            self._results.update((number, self._function(job)) for number, job in zip(numbers, jobs, strict=True))
        return numbers

    def result(self, number: int) -> Result:
        """Of a job, or the error that it raised; once.

        Raises:
            RunError: a process was killed.
        """
        while number not in self._results:
            for connection in wait(self._sent):
                assert isinstance(connection, Connection)
                try:
                    done, found = connection.recv()
                except (EOFError, OSError):
                    raise _killed() from None
                self._results[done] = found
                self._sent[connection] -= 1
            self._send()
        found = self._results.pop(number)
        if isinstance(found, Exception):
            raise found
        return found

    def _send(self) -> None:
        for connection in sorted(self._sent, key=lambda one: self._sent[one]):
            while self._waiting and self._sent[connection] < _MOST_SENT:
                try:
                    connection.send(self._waiting.popleft())
                except OSError:
                    raise _killed() from None
                self._sent[connection] += 1

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for process in self._processes:
            process.kill()
            process.join()
        for connection in self._sent:
            connection.close()


def _killed() -> RunError:
    return RunError(
        "a process that translates was killed (out of memory?); lower search.batch_tokens, or set search.workers to 1"
    )


def _work(function: Callable[[Job], Result], connection: Connection) -> None:
    """A process of its own: one job after the other, until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at a terminal it goes to all; the parent ends its processes itself
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        while True:
            number, job = connection.recv()
            found: Result | Exception
            try:
                found = function(job)
            except Exception as error:
                found = error
            connection.send((number, found))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
