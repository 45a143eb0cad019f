"""One process at a time: locks on files, which end with the process that holds them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, warn: Callable[[str], None], *, wait: bool) -> Iterator[Callable[[], bool]]:
    """Hold the lock of a file, which is made where it is not there, and stays: two processes could else hold a lock
    each, of a file that is gone and of the one that came after it.

    Args:
        warn: told where the file system has no locks; the work goes on without one.
        wait: for the process that holds it.

    Yields:
        Whether the file still has the name: else another process may hold the lock of another file.

    Raises:
        BlockingIOError: another process holds it, and nobody waits.
        OSError: the file cannot be made.
    """
    while True:
        with open(path, "a", opener=_not_behind_a_link) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise
            except OSError:
                warn(f"warning: {path}: its file system has no locks; let no other process write there")
            if not _is_at(path, file.fileno()):  # somebody has removed it while we waited
                continue
            yield lambda: _is_at(path, file.fileno())
            return


def _not_behind_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False
