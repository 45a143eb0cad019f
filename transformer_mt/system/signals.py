"""Signals that ask a process to end: raised, so that it leaves nothing behind; remembered until a run has saved; or
held back for a moment."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

from transformer_mt.errors import RunError


class StoppedError(RunError):
    """A signal came within `StopSignal.raised`."""


class StopSignal:
    """Within its block, remembers SIGTERM, SIGHUP or SIGINT. A second SIGINT interrupts at once.

    Outside of the block the caller's handlers are there. Only the main thread may have any: in another one, signals
    remain the caller's.
    """

    def __init__(self) -> None:
        self.number = 0  # none yet
        self._is_raised = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                before = signal.getsignal(number)
                # Ignored: by nohup, or of a script's background job. None: of a C library, and could not be put back.
                if before not in (None, signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self.number = number
        if self._is_raised:
            self._is_raised = False  # once
            raise StoppedError(f"stopped by {signal.Signals(number).name}")

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Within the block, raise a signal, also one from before it: for long work that can be done again.

        Raises:
            StoppedError: a signal came.
        """
        try:
            self._is_raised = True
            if self.number:
                self._remember(self.number, None)
            yield
        finally:
            self._is_raised = False


class Ended(BaseException):
    """SIGTERM or SIGHUP, on the way to the end of the process; no failure that anything should handle."""


def interrupts_after_imports() -> None:
    """From now on, let an interrupt of an import wait for its end, as `raised_signals` does. Callbacks of locks would
    swallow it there, and libraries that are loaded by half fail in ways of their own."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _comes_again(number, frame):
        signal.default_int_handler(number, frame)


def _comes_again(number: int, frame: FrameType | None) -> bool:
    """Return whether a module is being imported, and if so, have the signal come again in a moment."""
    while frame is not None and frame.f_globals.get("__name__") != "importlib._bootstrap":
        frame = frame.f_back
    if frame is not None:
        _send_again(number)
    return frame is not None


def _send_again(number: int) -> None:
    again = threading.Timer(0.02, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


@contextlib.contextmanager
def raised_signals() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP are raised, so that all temporary files go; then they end the process.

    Those that are ignored or handled already are left alone. A process that forked off ends at once: what is
    temporary is its parent's.
    """
    process = os.getpid()
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if is_main and signal.getsignal(n) == signal.SIG_DFL]
    caught: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process and _comes_again(number, frame):
            return
        caught.append(number)
        # `timeout` and closed terminals send two: the second must not interrupt the cleaning up. A third one insists.
        if os.getpid() != process or len(caught) > 2:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if len(caught) == 1:
            raise Ended

    def not_raised(failure: sys.UnraisableHookArgs) -> None:
        if not isinstance(failure.exc_value, Ended):
            before(failure)
            return
        # A signal came in a callback of an object's end, as imports have many: nothing is raised from there. Once more.
        _send_again(caught[0])
        caught.clear()

    before, sys.unraisablehook = sys.unraisablehook, not_raised
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    except Ended as ended:
        # One that came between the beginning of a context and the block is not seen by that context: it ends with its
        # frames, which the exception would hold until the process is gone.
        traceback.clear_frames(ended.__traceback__)
        raise
    finally:
        sys.unraisablehook = before
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        if caught:
            signal.raise_signal(caught[0])


@contextlib.contextmanager
def interrupts_later() -> Iterator[None]:
    """Hold back an interrupt until the end of the block: for what must not be done by half."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is None:
        yield  # interrupts are not for this thread, or are a C library's, whose handler could not be put back
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        signal.raise_signal(signal.SIGINT)
