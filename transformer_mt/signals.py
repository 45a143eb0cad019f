"""Signals that ask a run to stop: remembered until it has saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class StopSignal:
    """Within its block, remembers SIGTERM, SIGHUP or SIGINT. A second SIGINT interrupts at once.

    Outside of the block the caller's handlers are there. Only the main thread may have any: in another one, signals
    remain the caller's.
    """

    def __init__(self) -> None:
        self.number = 0  # none yet
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                before = signal.getsignal(number)
                is_nohup = number == signal.SIGHUP and before == signal.SIG_IGN
                if before is not None and not is_nohup:  # None: of a C library, and could not be put back
                    self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self.number = number
