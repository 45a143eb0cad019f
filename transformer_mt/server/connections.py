"""Connections, bounded in number and in the time that they may keep the server waiting."""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Any

import h11
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

_CLOSE = {"Connection": "close"}


class Connection(H11Protocol):
    """Uvicorn's, which has no such bounds.

    Past ``max_connections`` a connection's requests are answered 503, and past twice as many it is closed at once, so
    that the process does not run out of file descriptors. ``seconds`` are for a head to come, and on Linux for an
    answer to be read.
    """

    def __init__(self, max_connections: int, seconds: float, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._max_connections, self._seconds = max_connections, seconds
        self._head_is_late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        own: socket.socket = transport.get_extra_info("socket")
        # asyncio sees no TCP in the sockets of `socket.create_server`. Without this, an answer's body waits behind its
        # head until the client's system acknowledges that one, 40 ms later.
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # the system's own, for those who do not read their answers
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(1000 * self._seconds))
        self._await_head()
        if len(self.connections) > self._max_connections:
            self.app = _busy
        if len(self.connections) > 2 * self._max_connections:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_answered = self.conn.our_state is h11.DONE  # before its body was there; nobody waits for the rest of it
        if self.conn.their_state is h11.IDLE or is_answered:
            self._await_head()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()

    def timeout_keep_alive_handler(self) -> None:
        self._end_waiting()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _await_head(self) -> None:
        """Of a connection's first request, or of the next, from its first byte on."""
        if self._head_is_late is None:
            self._head_is_late = self.loop.call_later(self._seconds, self._end_waiting)

    def _stop_waiting(self) -> None:
        if self._head_is_late is not None:
            self._head_is_late.cancel()
            self._head_is_late = None

    def _end_waiting(self) -> None:
        if self.conn.trailing_data[0]:
            self._refuse(408, "Invalid request: its head did not come in time")
        else:  # nothing was asked
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer, where no answer has begun, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            own = JSONResponse({"error": message}, status, _CLOSE)
            headers = [*self.server_state.default_headers, *own.raw_headers]
            start = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
            for event in (start, h11.Data(data=bytes(own.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            if self.cycle is not None:
                self.cycle.disconnected = True  # who still works on an answer need not send it
        self.transport.close()


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"error": "Too many connections"}, 503, {"Retry-After": "1", **_CLOSE})(scope, receive, send)
