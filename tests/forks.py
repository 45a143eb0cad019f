"""Programs of Python that start within a moment: as forks of a process that has imported PyTorch and ours.

Importing takes some five seconds of CPU time, more than most tests. Apart from that each program is a process like any
other, with arguments, environment, streams, signals and an exit of its own; only the seed of its hashes it shares with
the others, and at its end what was imported before is left as it is, which takes a third of the time of taking it
apart. Needs Linux and its C library. As a program, this file is the process that is forked.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, Any

# What nearly every program needs, and what Adam imports.
PRELOADED = (
    *("transformer_mt.training.loop", "transformer_mt.decoding.model_searcher", "torch._dynamo", "sacrebleu"),
    *(
        f"transformer_mt.cli.{name}"
        for name in ("train", "translate", "evaluate", "data", "info", "models", "plot", "init")
    ),
)


class Fork:
    """A program that runs, with what our tests need of `subprocess.Popen`."""

    def __init__(
        self, words: Sequence[str], streams: Sequence[IO[Any]], env: Mapping[str, str], own_group: bool = False
    ) -> None:
        """``words``: the interpreter's, ``-m MODULE …``, ``-c CODE …`` or ``FILE …``. ``streams``: the first three."""
        request = {"words": words, "env": dict(env), "own_group": own_group}
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            descriptors = [*(stream.fileno() for stream in streams), theirs.fileno()]
            socket.send_fds(server()[1], [json.dumps(request).encode()], descriptors)
        self.pid = int(self._line.recv(100))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        if self.returncode is None and select.select([self._line], [], [], 0)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._line.recv(100)))
            self._line.close()
        return self.returncode

    def wait(self, timeout: float = 240.0) -> int:
        """Return the exit status when it has ended."""
        if self.returncode is None:
            select.select([self._line], [], [], timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def server() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process that is forked, which ends with the line to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path = os.pathsep.join([os.getcwd(), *filter(None, sys.path)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": path}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return process, ours


def serve(line: socket.socket) -> list[str] | None:
    """Fork for each request, and tell how the fork has ended. Returns its words in a fork, and None at the end."""
    ends: dict[int, int] = {}  # where to tell the exit status of a process

    def tell_ends(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with contextlib.suppress(OSError):  # nobody wants to know
                    os.write(ends[ended[0]], str(ended[1]).encode())
                os.close(ends.pop(ended[0]))

    signal.signal(signal.SIGCHLD, tell_ends)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    while True:
        message, descriptors, _, _ = socket.recv_fds(line, 1 << 20, 4)
        if not message:
            return None
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        process = os.fork()
        if process == 0:
            line.detach()
            request = json.loads(message)
            _become(request, descriptors)
            words: list[str] = request["words"]
            return words
        *streams, ends[process] = descriptors
        for descriptor in streams:
            os.close(descriptor)
        os.write(ends[process], str(process).encode())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


def _become(request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """In the fork: be as a process that has just been started."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    if request["own_group"]:
        os.setsid()
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    os.closerange(3, 1000)
    # Those of the process that is forked belong to another file: they would seek in a pipe.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  as long as the process
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["env"])
    c_library = ctypes.CDLL(None)
    c_library.on_exit(c_library._exit, None)  # before what PyTorch's C++ part takes apart


def run(words: Sequence[str]) -> None:
    """As the interpreter does it with such words."""
    first, *rest = words
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.modules["__main__"] = ModuleType("__main__")  # lives to the end of the process
        exec(rest[0], vars(sys.modules["__main__"]))
    else:
        sys.argv = list(words)
        sys.path[0] = str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


def keep(modules: Mapping[str, ModuleType]) -> None:
    """Keep the interpreter, which ends, from taking these modules apart: in a fork, that copies all of their memory."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object([*modules.values()]))
    for name in modules:
        del sys.modules[name]


if __name__ == "__main__":
    basic, preloaded = set(sys.modules), dict[str, ModuleType]()
    atexit.register(keep, preloaded)  # before whatever the modules register: it is called last
    for module in PRELOADED:
        __import__(module)
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False  # those of PyTorch's operators
    preloaded.update((name, module) for name, module in sys.modules.items() if name not in basic)
    gc.freeze()  # a fork that looked through all of these objects would copy them
    assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"
    if (own_words := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        run(own_words)
