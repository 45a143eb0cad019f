"""The line between ranks: three of its ends in one process. Processes that end by it are in `tests/distributed`."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch.distributed as dist

from transformer_mt.system.lifeline import Lifeline, hold


@contextmanager
def lifelines() -> Iterator[list[Lifeline]]:
    store = dist.HashStore()  # type: ignore[attr-defined]
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(hold, store, 0, 3, 20.0)
        port, _ = json.loads(store.get("lifeline"))
        with socket.create_connection(("127.0.0.1", port)) as stranger:  # a scanner of ports, say
            stranger.sendall(b"GET / HTTP/1.1\n")
            found = [pool.submit(hold, store, rank, 3, 20.0) for rank in (1, 2)]
            ends = [first.result(), *(end.result() for end in found)]
    try:
        yield ends
    finally:
        for end in ends:  # before it ends this process
            end.let_go()


@pytest.fixture(autouse=True)
def address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


def test_a_failure_reaches_all_others_with_its_reason_on_rank_0() -> None:
    with lifelines() as (first, second, third):
        assert first.failure() is second.failure() is third.failure() is None
        second.fail("out of memory:\nlower batch.micro_tokens")
        assert first.failure(20) == "rank 1 has failed: out of memory:\nlower batch.micro_tokens"
        assert third.failure(20) == "rank 1 has failed"
        third.fail("lost rank 1")  # because of it: no news
        assert first.failure() == "rank 1 has failed: out of memory:\nlower batch.micro_tokens"


def test_a_machine_that_falls_silent_is_missed() -> None:
    """Of which the system alone can tell: so it asks, at both ends."""
    with lifelines() as ends:
        for connection in (one for end in ends for one in end._connections.values()):
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle, apart, times = (
                connection.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert 0 < idle + apart * times <= 120


def test_the_failure_of_rank_0_reaches_all() -> None:
    with lifelines() as (first, second, third):
        first.fail("a full disk")
        assert second.failure(20) == third.failure(20) == "rank 0 has failed"


def test_a_connection_that_ends_without_a_word_is_a_failure() -> None:
    with lifelines() as (first, second, third):
        third._connections[0].shutdown(socket.SHUT_RDWR)  # as the system does for a process that is killed
        expected = "rank 2 has ended without a word (was it killed?)"
        assert first.failure(20) == second.failure(20) == expected


def test_who_has_said_goodbye_may_go() -> None:
    with lifelines() as (first, second, third):
        second.let_go()
        second._connections[0].shutdown(socket.SHUT_RDWR)
        third.fail("a full disk")  # the news that comes is of another
        assert first.failure(20) == "rank 2 has failed: a full disk"
