"""How many cores there are, and work spread over them in order; tests/e2e/test_decoding.py has the processes' ends."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from transformer_mt.errors import InputError, RunError
from transformer_mt.system import processes
from transformer_mt.system.processes import ONE_AT_A_TIME, Workers, num_cores, on_all_cores

needs_forks = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks are Linux's")


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 4), ("150000 100000", 1), ("250000 100000", 2), ("50000 100000", 1), (None, 4)]
)
def test_a_containers_quota_counts(
    quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(processes, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert num_cores() == cores


@pytest.mark.parametrize("num_processes", [1, 3])
def test_results_come_in_order_and_jobs_are_not_read_far_ahead(
    num_processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "num_cores", lambda: num_processes)
    read = 0

    def jobs() -> Iterator[int]:
        nonlocal read
        for number in range(1, 201):
            read = number
            yield number

    for number, result in enumerate(on_all_cores(lambda job: (job, os.getpid()), jobs()), 1):
        assert result[0] == number
        assert (result[1] == os.getpid()) == (num_processes == 1)
        assert read <= number + 3 * num_processes + 2
    assert number == 200


@pytest.mark.parametrize("count", [0, 1])
def test_little_work_needs_no_process(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "num_cores", lambda: 3)
    assert list(on_all_cores(lambda job: os.getpid(), range(count))) == [os.getpid()] * count


def test_a_refusal_of_a_process_is_ours() -> None:
    def refuse(job: int) -> int:
        if job == 5:
            raise InputError("line 5: no")
        return job

    found: list[int] = []
    with pytest.raises(InputError, match=r"^line 5: no$"):
        found.extend(on_all_cores(refuse, range(100)))


@needs_forks
def test_a_socket_that_the_program_closes_is_closed() -> None:
    """A server's client waits for that, and its connections were open in the processes."""
    ours, clients = socket.socketpair()
    pool: Workers[int, int] = Workers(abs, 2)
    ours.close()
    clients.settimeout(30)
    assert clients.recv(1) == b""
    assert [pool.result(number) for number in pool.submit([-1, -2, -3])] == [1, 2, 3]
    pool.close()
    clients.close()


class Unreadable:
    """Cannot be read where it arrives."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


@needs_forks
def test_a_job_that_a_process_cannot_read_is_a_refusal() -> None:
    pool: Workers[Any, Any] = Workers(lambda job: job, 2)
    [number] = pool.submit([Unreadable()])
    with pytest.raises(RunError, match="one of our processes has ended"):
        pool.result(number)


@needs_forks
def test_dropped_jobs_leave_nothing_behind() -> None:
    pool: Workers[int, None] = Workers(lambda job: None, 2)
    numbers = pool.submit([*range(8)])
    pool.result(numbers[-1])
    pool.drop(numbers)
    pool.result(*pool.submit([0]))
    assert not pool._open and not pool._results
    pool.close()


@needs_forks
def test_a_process_that_was_waited_for_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another one's."""
    killed: list[int] = []
    child, kill = os.fork(), os.kill
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)

    def noted(process: int, number: int) -> None:
        killed.append(process)
        kill(process, number)

    monkeypatch.setattr(os, "kill", noted)
    processes._end(os.getpid(), [child])
    assert killed == []
    pool: Workers[Any, Any] = Workers(lambda job: job, 2)
    pool.close()
    assert len(killed) == 2


@needs_forks
def test_a_fork_waits_for_one_turn_only() -> None:
    """Beside a thread that hardly ever lets go; and its child can begin, though others waited."""
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            with ONE_AT_A_TIME:
                time.sleep(0.02)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            started = time.monotonic()
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                with ONE_AT_A_TIME, ONE_AT_A_TIME:
                    os._exit(0)
            assert time.monotonic() - started < 2
            assert os.waitpid(child, 0)[1] == 0
    finally:
        ended.set()
        for thread in threads:
            thread.join()
