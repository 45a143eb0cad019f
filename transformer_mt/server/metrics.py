"""What Prometheus reads at /metrics: numbers only, nothing of any text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BATCH_TEXTS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counts of one server."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self.requests = Counter("tmt_requests", "Requests, by path and status.", ["path", "status"], registry=own)
        self.seconds = Histogram("tmt_request_seconds", "Seconds that requests took.", ["path"], registry=own)
        self.characters = Counter("tmt_characters", "Characters of translated texts.", registry=own)
        self.batch_texts = Histogram("tmt_batch_texts", "Texts of a batch.", buckets=_BATCH_TEXTS, registry=own)
        self._waiting = Gauge("tmt_waiting_characters", "Characters that wait for a model.", registry=own)

    def watch(self, num_waiting: Callable[[], int]) -> None:
        """Report what a function returns as the characters that wait."""
        self._waiting.set_function(num_waiting)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class Measured:
    """An application whose requests are counted. Those that the server's end breaks off are answered 503."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        """``paths``: those that exist; all others are counted as one."""
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["path"] in self._paths else "other"
        status, started = 0, time.monotonic()

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except asyncio.CancelledError:
            if status:
                raise
            await JSONResponse({"error": "The server is ending"}, 503)(scope, receive, observed)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - started)
