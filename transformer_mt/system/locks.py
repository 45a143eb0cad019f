"""One process at a time: locks on files, which end with the process that holds them.

What is made under a hidden name, ``.NAME.NUMBER.ENDING`` beside NAME, is locked while it is: what a process that was
killed has left is known by that, and removed by the next one that writes NAME.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from transformer_mt.system.console import Tell


@contextlib.contextmanager
def locked(path: Path, tell: Tell, *, wait: bool) -> Iterator[Callable[[], bool]]:
    """Hold the lock of a file, which is made where it is not there, and stays: two processes could else hold a lock
    each, of a file that is gone and of the one that came after it.

    Args:
        tell: gets one line where the file system has no locks; the work goes on without one.
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
                tell(f"warning: {path}: its file system has no locks; let no other process write there")
            if not _is_at(path, file.fileno()):  # somebody has removed it while we waited
                continue
            yield lambda: _is_at(path, file.fileno())
            return


def hidden(target: Path, ending: str) -> Path:
    """A new name beside ``target``; by chance, as processes of several machines may write there."""
    return target.parent / f".{target.name}.{secrets.randbelow(10**12):012}.{ending}"


def hold(path: Path, make: Callable[[], int]) -> int:
    """Make a hidden file or directory and lock it against `remove_leftovers`, until its descriptor is closed.

    Args:
        make: makes it and returns its descriptor.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        descriptor = make()
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # it was taken for a leftover


def leftovers(target: Path, ending: str) -> list[Path]:
    """The hidden files and directories of one ending that are being made, or were left, beside ``target``."""
    start, end = f".{target.name}.", f".{ending}"
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(target.parent) if name.startswith(start) and name.endswith(end)]
        return [target.parent / name for name in names if name[len(start) : -len(end)].isdecimal()]
    return []


def remove_leftovers(target: Path, ending: str) -> None:
    """Delete what processes that were killed have left; what another one holds stays, as does what cannot be locked."""
    for path in leftovers(target, ending):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
            finally:
                os.close(descriptor)


def _not_behind_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # a network file system that does not answer now: nothing is known to be lost
