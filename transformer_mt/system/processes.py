"""Work spread over processes of this machine, each with one thread: small operations are better spread over sentences
than over threads, and Python threads would wait for each other.

The processes are forks: they share the weights, and start within a moment. Only Linux has forks that are safe enough
for that, and none of them may touch a GPU. They are made by `os.fork`, not as `multiprocessing.Process`: a program
that was itself forked from ours would end those when it exits.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import multiprocessing
import os
import queue
import signal
import stat
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from transformer_mt.errors import RunError, TmtError
from transformer_mt.system.signals import interrupts_later

if TYPE_CHECKING:
    import torch

Job = TypeVar("Job")
Result = TypeVar("Result")

_MOST_SENT = 3  # jobs that a process has before it, so that none waits while this process does something else


class _Turns:
    """A lock like `threading.RLock`, but a thread that gives it back has it again only after one that waits for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._next = threading.Lock()  # held by the one who waits for the other; all others wait for this one

    def __enter__(self) -> None:
        # Whoever has the lock already waits for nobody.
        with contextlib.nullcontext() if self._lock._is_owned() else self._next:  # type: ignore[attr-defined]
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def forked(self) -> None:
        """In the child of a fork that was made with the lock: who waited for it has stayed behind."""
        self._next = threading.Lock()
        self._lock.release()


# Held by whoever computes in this process, by whoever starts processes, and by every fork of the program. A process
# that is forked while another thread computes inherits locks of PyTorch that nobody will ever open; and threads that
# compute at once, in operations as small as ours, take longer than one after the other.
ONE_AT_A_TIME = _Turns()


def _after_fork_in_child() -> None:
    ONE_AT_A_TIME.forked()
    if "torch" in sys.modules:  # OpenMP's threads have stayed behind, and would be waited for
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=ONE_AT_A_TIME.__enter__, after_in_parent=ONE_AT_A_TIME.__exit__, after_in_child=_after_fork_in_child
    )
# A daemon thread that the end of the program finds within PyTorch would abort it.
atexit.register(ONE_AT_A_TIME.__enter__)

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of work in each so many, or "max"


def num_cores() -> int:
    """Return how many cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, _QUOTA.read_text().split())
        cores = min(cores, max(1, quota // period))
    return cores


def can_fork(device: torch.device | None = None) -> bool:
    """Return whether this process may have such processes, for work on a device if it is torch's; itself one of
    `multiprocessing`'s, it may not."""
    is_cpu = device is None or device.type == "cpu"
    return sys.platform == "linux" and is_cpu and not multiprocessing.current_process().daemon


def on_all_cores(function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
    """Yield the results of a function on any number of jobs, in their order, a few of them ahead at a time.

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
    processes end with `close`, with this object, or with the program. Any number of threads may use them; a process
    that was forked from this one may not.
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
        self._changed = threading.Condition()  # guards all of these; told when a thread has read what has arrived
        self._is_reading = False  # a thread waits for messages, for all
        self._is_lost = False  # closed because a process was gone
        self._owner = os.getpid()
        processes: list[int] = []
        self._end = weakref.finalize(self, _end, self._owner, processes)
        if num_processes > 1:
            # Amid a fork an interrupt would be lost in one of the locks that are taken there.
            with ONE_AT_A_TIME, interrupts_later():
                for _ in range(num_processes):
                    ours, theirs = multiprocessing.Pipe()
                    process = os.fork()
                    if process == 0:
                        for connection in (*self._sent, ours):
                            connection.close()
                        _work(function, theirs, self._owner)
                    theirs.close()
                    processes.append(process)
                    self._sent[ours] = 0

    @property
    def is_closed(self) -> bool:
        """Whether they are of no use any more: closed, or another process's."""
        return not self._end.alive or self._owner != os.getpid()

    def submit(self, jobs: Sequence[Job]) -> list[int]:
        """Begin jobs, the first first, and return their numbers. Without processes they are done when this returns.

        Raises:
            RunError: as `result` does.
        """
        self._refuse_forked()
        with self._changed:
            numbers = list(range(self._num_jobs, self._num_jobs + len(jobs)))
            self._num_jobs += len(jobs)
            self._open.update(numbers)
            if self.num_processes > 1:
                self._waiting.extend(list(zip(numbers, jobs, strict=True)))
                self._send()
        if self.num_processes == 1:
            self._results.update((number, self._function(job)) for number, job in zip(numbers, jobs, strict=True))
        return numbers

    def result(self, number: int) -> Result:
        """Return a job's result, or raise the error that it raised; may be called once.

        Raises:
            RunError: a process was killed, and the others are ended; or another thread has called `close`; or this
                process was forked from the one that began the job.
        """
        self._refuse_forked()
        with self._changed:
            while number not in self._results:
                if self._is_reading:
                    self._changed.wait()
                else:
                    self._read()
            self._open.remove(number)
            outcome = self._results.pop(number)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget jobs whose results nobody will ask for."""
        if self._owner != os.getpid():
            return
        with self._changed:
            forgotten = self._open.intersection(numbers)
            self._open -= forgotten
            unwanted = {number for number in forgotten if number not in self._results}
            for number in forgotten - unwanted:
                del self._results[number]
            waiting = {number for number, _ in self._waiting}
            self._waiting = deque(job for job in self._waiting if job[0] not in unwanted)
            self._dropped |= unwanted - waiting

    def close(self) -> None:
        """End the processes, whatever they are at. A thread that waits for a result gets a RunError."""
        self._end()  # the connections are left to whoever reads them, and closed with this object

    def _refuse_forked(self) -> None:
        if self.num_processes > 1 and self._owner != os.getpid():
            raise RunError(
                f"this work was begun in process {self._owner}, from which this one was forked, and can go on only "
                "there; begin it again here"
            )

    def _read(self) -> None:
        """Wait for results and take them in; meanwhile other threads submit jobs, and wait for this one."""
        self._is_reading = True
        try:
            with self._whole_messages():
                self._changed.release()
                try:
                    ready = wait(self._sent)
                finally:
                    self._changed.acquire()
                for connection in ready:
                    assert isinstance(connection, Connection)
                    done, outcome = connection.recv()
                    self._sent[connection] -= 1
                    if done in self._dropped:
                        self._dropped.remove(done)
                    else:
                        self._results[done] = outcome
            self._send()
        finally:
            self._is_reading = False
            self._changed.notify_all()

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
            self._is_lost |= not self.is_closed
            self.close()
            if self._is_lost:
                reason = f"one of our processes has ended (killed for want of memory?); {self._advice}"
            else:
                reason = "our processes were ended by close() while they were at work for another thread; call again"
            raise RunError(reason) from None
        except BaseException:
            self.close()
            raise


def _end(owner: int, processes: list[int]) -> None:
    if os.getpid() != owner:
        return  # a fork of the program, which ends without ending the processes of the one that it comes from
    killed = []
    for process in processes:
        # The program ignores SIGCHLD, or has waited for any child: the number may be another process's by now.
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            if os.waitpid(process, os.WNOHANG)[0] == 0:
                os.kill(process, signal.SIGKILL)
                killed.append(process)
    for process in killed:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process, 0)


def _work(function: Callable[[Job], Result], connection: Connection, parent: int) -> NoReturn:
    """A process of its own: one job after the other, until it is ended."""
    try:
        _close_sockets(connection)
        # At a terminal it goes to all; the parent ends its processes itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        multiprocessing.current_process().daemon = True  # so that it starts none of its own, see `can_fork`
        # Jobs are read at once, so that the parent, which sends one, never waits for this one, which sends a result.
        jobs: queue.SimpleQueue[tuple[int, Job]] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(connection, jobs, parent), daemon=True).start()
        while True:
            number, job = jobs.get()
            outcome: Result | Exception
            try:
                outcome = function(job)
            except TmtError as error:
                outcome = error
            except Exception as error:  # not all of them can be sent
                outcome = RuntimeError("".join(traceback.format_exception(error)))
            connection.send((number, outcome))
    finally:
        os._exit(1)


def _close_sockets(own: Connection) -> None:
    """Close the program's sockets, its server's clients: open here, they stay open for these when it closes them."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        with contextlib.suppress(OSError):  # that of the directory itself
            if descriptor > 2 and descriptor != own.fileno() and stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.dup2(nothing, descriptor)  # some object has the number, and may close it


def _read(connection: Connection, jobs: queue.SimpleQueue[tuple[int, Job]], parent: int) -> None:
    """Jobs as they come; the process ends with its parent, also where another fork of that one keeps the pipe open, and
    at what it cannot read, for which the parent would wait."""
    try:
        while os.getppid() == parent:
            if connection.poll(1):
                jobs.put(connection.recv())
    finally:
        os._exit(1)


def end_with_parent() -> None:
    """For a thread of a process of `multiprocessing`: it shall not outlive the one that started it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
