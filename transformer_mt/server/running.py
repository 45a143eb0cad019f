"""A server's life: it binds its address, loads its models, answers, and at a signal ends when all is answered."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import functools
import hashlib
import math
import os
import signal
import socket
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from transformer_mt.errors import InputError
from transformer_mt.server.app import Interface, Settings
from transformer_mt.server.connections import Connection
from transformer_mt.server.metrics import Metrics
from transformer_mt.server.models import Models
from transformer_mt.system.allocator import give_back_freed_memory
from transformer_mt.system.console import tell
from transformer_mt.system.open_files import allow_open_files

_OTHER_FILES = 64  # beside those of connections
# oneDNN compiles a kernel of up to half a MB for each shape of a product, and batches of ever other sizes ask for ever
# other shapes. It keeps 1,024 of them unless told otherwise, but compiles one in the time of a small product.
_KEPT_KERNELS = "256"
_SECONDS_BETWEEN_TIDYING = 15


def serve(
    paths: Sequence[Path], overrides: Sequence[str], host: str, port: int, settings: Settings, max_waiting: int
) -> None:
    """Serve models until a signal comes.

    Raises:
        InputError: an address that cannot be listened on, or models that cannot be served together.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _KEPT_KERNELS)
    metrics = Metrics()
    allow_files(settings.max_connections)
    with (
        listening(host, port) as listener,
        Models.load(paths, overrides, max_waiting, metrics.batch_texts.observe) as models,
    ):
        metrics.watch(lambda: models.num_waiting)
        name = f"[{host}]" if ":" in host else host
        directions = ", ".join("-".join(direction) for direction in models.directions)
        tell(f"serving {directions} at http://{name}:{listener.getsockname()[1]}; Ctrl-C ends it")
        asyncio.run(_run(Server(Interface(models, settings, metrics), settings), listener))


async def _run(server: Server, listener: socket.socket) -> None:
    """Answer until a signal comes; memory that batches leave free goes back now and then."""

    async def tidy() -> None:
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_TIDYING)
            await asyncio.to_thread(give_back_freed_memory)

    tidying = asyncio.create_task(tidy())
    await server.serve(sockets=[listener])
    tidying.cancel()


class Server(uvicorn.Server):
    """Uvicorn's, but at a signal it ends well: it raises none again when all is answered."""

    def __init__(self, interface: Interface, settings: Settings) -> None:
        protocol: Any = functools.partial(Connection, settings.max_connections, settings.timeout_seconds)
        config = uvicorn.Config(
            interface.app(),
            loop="asyncio",
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # what is no HTTP is its sender's affair
            access_log=False,
            server_header=False,
            headers=[("X-Content-Type-Options", "nosniff")],
            proxy_headers=False,
            timeout_graceful_shutdown=math.ceil(2 * settings.timeout_seconds),  # its body may come, and its turn
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        signals = [
            one
            for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(one) != signal.SIG_IGN  # by nohup, or of a script's background job
        ]
        for one in signals:
            loop.add_signal_handler(one, self.handle_exit, one, None)
        try:
            yield
        finally:
            for one in signals:
                loop.remove_signal_handler(one)


def allow_files(max_connections: int) -> None:
    """Let the process open the files that its connections take.

    Raises:
        InputError: the system does not.
    """
    wanted = 2 * max_connections + _OTHER_FILES  # as `Connection` has it
    if (allowed := allow_open_files(wanted)) < wanted:
        raise InputError(
            f"--max-connections {max_connections}: takes {wanted} open files, and this process may have {allowed}; "
            "choose fewer, or raise that limit (ulimit -n)"
        )


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        InputError: there is no such address here, or the port is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except socket.gaierror as error:
        reason = error.strerror
    except OSError as error:
        reason = os.strerror(error.errno or 0)  # its own words have the address once more
    except UnicodeError:
        reason = "not a name"
    raise InputError(
        f"--host {host} --port {port}: cannot be listened on ({reason}); choose another port, or an address of this "
        "machine"
    )


def read_keys(path: Path) -> frozenset[bytes]:
    """Return the SHA-256 of each key of a file, one a line; # begins a comment.

    Raises:
        InputError: it has none.
    """
    lines = (line.partition(b"#")[0].strip() for line in path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines())
    if keys := frozenset(hashlib.sha256(key).digest() for key in lines if key):
        return keys
    raise InputError(f"{path}: no keys; write one a line, or leave out --api-keys")
