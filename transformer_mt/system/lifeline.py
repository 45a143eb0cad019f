"""A line between the ranks, by which all of them learn at once that one has failed, which, and why.

Whoever waits for a GPU waits for the sums over ranks that it computes, and these wait for all ranks: for ever, where
one of them has died, and in code that neither exceptions nor signal handlers interrupt. So a thread of each rank holds
a connection to rank 0. A process that ends closes it, however it ends; one that fails sends its reason first, and rank
0 passes that on. A rank that has learned of it and has not ended by itself within some seconds is ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import threading
import time
import uuid
from typing import IO, Any

from transformer_mt.errors import RunError
from transformer_mt.system.console import tell

# To end by itself: rank 0 may be writing a checkpoint. (torchrun kills after 30 seconds.)
_GRACE_SECONDS = 20.0
# A machine that loses its power closes no connection. So the system asks, after seconds of silence, so many seconds
# apart, so many times: a failure is known after two minutes at most.
_PROBES = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 6}
_HELLO_SECONDS = 10.0  # for a stranger who has found the port
_GOODBYE = "goodbye\n"


class Lifeline:
    """One rank's end. Others than rank 0 have one connection, to rank 0."""

    def __init__(self, rank: int, connections: dict[int, socket.socket]) -> None:
        """``connections``: by the rank at the other end."""
        self._rank, self._connections = rank, connections
        self._failure: str | None = None  # of another rank, in words
        self._has_failed, self._is_over = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def failure(self, wait_seconds: float = 0.0) -> str | None:
        """Return which other rank has failed, and on rank 0 why; None when none has, after waiting for the news."""
        self._has_failed.wait(wait_seconds)
        return self._failure

    def fail(self, reason: str) -> None:
        """Tell the others that this rank has failed, and end it in some seconds if it does not `let_go` before."""
        if self._failure is None:  # else they know of the first failure, which led to this one
            self._failure = reason
            self._send(json.dumps({"rank": self._rank, "reason": reason}) + "\n")
            threading.Thread(target=self._end, args=(reason,), daemon=True).start()

    def let_go(self) -> None:
        """Say goodbye to the others, who from here on do not mind if this process ends."""
        self._is_over.set()
        self._send(_GOODBYE)

    def _send(self, message: str) -> None:
        for connection in self._connections.values():
            with contextlib.suppress(OSError):  # it has gone before
                connection.sendall(message.encode())

    def _watch(self) -> None:
        """Wait for what the others say, until all of them have ended."""
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, (rank, connection.makefile(encoding="utf-8")))
            while selector.get_map():
                for key, _ in selector.select():
                    rank, file = key.data
                    message = _line(file)
                    if message == _GOODBYE or self._failure is not None:
                        selector.unregister(key.fileobj)
                    else:
                        self._take_in(rank, message)

    def _take_in(self, rank: int, message: str) -> None:
        """Learn of a failure: the rank's own words or, where it has ended without any, nothing."""
        told: dict[str, Any] = json.loads(message) if message else {"rank": rank, "reason": None}
        if self._rank == 0:
            self._send(json.dumps(told) + "\n")
        rank, reason = told["rank"], told["reason"]
        if reason is None:
            self._failure = f"rank {rank} has ended without a word (was it killed?)"
        else:
            self._failure = f"rank {rank} has failed: {reason}" if self._rank == 0 else f"rank {rank} has failed"
        self._has_failed.set()
        threading.Thread(target=self._end, args=(f"rank {self._rank}: {self._failure}",), daemon=True).start()

    def _end(self, reason: str) -> None:
        if not self._is_over.wait(_GRACE_SECONDS):
            tell(f"tmt: {reason}")
            os._exit(RunError.exit_status)


def _line(file: IO[str]) -> str:
    """A line as it comes; empty at the end of the connection, also at a broken one."""
    try:
        return file.readline()
    except OSError:
        return ""


def hold(store: Any, rank: int, num_ranks: int, seconds: float) -> Lifeline:
    """Connect this rank with the others, which it finds through their `torch.distributed.Store`.

    Raises:
        OSError, RuntimeError: they do not come within so many seconds.
    """
    if rank > 0:
        port, secret = json.loads(store.get("lifeline"))
        connection = socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=seconds)
        connection.sendall(f"{secret} {rank}\n".encode())
        connection.settimeout(None)
        _probe(connection)
        return Lifeline(rank, {0: connection})
    has_both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if has_both else socket.AF_INET
    with socket.create_server(("", 0), family=family, backlog=num_ranks, dualstack_ipv6=has_both) as server:
        secret = uuid.uuid4().hex
        store.set("lifeline", json.dumps([server.getsockname()[1], secret]))
        connections: dict[int, socket.socket] = {}
        deadline = time.monotonic() + seconds
        while len(connections) < num_ranks - 1:
            server.settimeout(max(0.0, deadline - time.monotonic()))
            connection, _ = server.accept()
            connection.settimeout(_HELLO_SECONDS)
            own, _, other = _hello(connection).partition(" ")
            if own == secret:
                connection.settimeout(None)
                _probe(connection)
                connections[int(other)] = connection
    return Lifeline(0, connections)


def _probe(connection: socket.socket) -> None:
    """Let the system ask whether the other end is still there."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        if hasattr(socket, name):  # macOS has no TCP_KEEPIDLE
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _hello(connection: socket.socket) -> str:
    """The first line that comes, without its end: byte by byte, for what follows it is for others."""
    read = b""
    with contextlib.suppress(OSError):
        while (byte := connection.recv(1)) not in (b"", b"\n") and len(read) < 100:
            read += byte
    return read.decode("ascii", errors="replace")
