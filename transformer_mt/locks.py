"""One process at a time: locks on files, which end with the process that holds them."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, warn: Callable[[str], None], *, wait: bool) -> Iterator[None]:
    """Hold the lock of a file, which is made where it is not there.

    Args:
        warn: told where the file system has no locks; the work goes on without one.
        wait: for the process that holds it.

    Raises:
        BlockingIOError: another process holds it, and nobody waits.
        OSError: the file cannot be made.
    """
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            warn(f"warning: {path}: its file system has no locks; let no other process write there")
        yield
