"""Directories that appear whole or not at all, in the place of an earlier one that this program wrote and nothing else.

A directory is made under a hidden name beside its place, and changes places with what stands there in one step, where
the system can. Elsewhere what stood there is put aside for a moment; after a crash in it, the next start puts it back.
The hidden name is a new one each time, or, for work that goes on where a killed process has stopped, always the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformer_mt.errors import InputError
from transformer_mt.system.console import Tell
from transformer_mt.system.locks import hidden, hold, leftovers, locked, remove_leftovers
from transformer_mt.system.whole_files import be_like, read_plain, write_error

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux
_MAX_MANIFEST_BYTES = 1 << 20


def listed_files(directory: Path, manifest: str, is_ours: Callable[[dict[str, Any]], bool]) -> set[str] | None:
    """The names in the list ``files`` of a directory's manifest, and the manifest's own; None if it is not ours."""
    try:
        content = json.loads(read_plain(directory / manifest, _MAX_MANIFEST_BYTES))
        return {*content["files"], manifest} if is_ours(content) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def check_replaceable(target: Path, files_of: Callable[[Path], set[str] | None], what: str) -> Path:
    """Where a directory will stand: ``target``, or what the link leads to that it is.

    Args:
        files_of: the files that a directory lists as ours, or None.
        what: what may be replaced, as "an earlier export".

    Raises:
        InputError: something stands there that is neither an empty directory nor ours, or holds more or less than what
            it lists; there is no directory for it, or it cannot have this name.
    """
    resolved = Path(os.path.realpath(target))
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(hidden(resolved, "deleted"))  # the longest name that will be needed
        put_back(resolved)
        if resolved == Path.cwd():
            raise InputError(f"{target}: is the current directory, which cannot be replaced; choose another --output")
        if os.path.ismount(resolved):
            raise InputError(f"{target}: is a mount point, which cannot be replaced; name a directory in it")
        if not resolved.parent.is_dir():
            raise InputError(f"{target}: cannot be written (no directory {resolved.parent}); make it first")
        if not os.access(resolved.parent, os.W_OK):
            raise InputError(
                f"{target}: cannot be written (no permission in {resolved.parent}); choose another --output"
            )
        if not os.path.lexists(resolved):
            return resolved
        if not resolved.is_dir():
            raise InputError(f"{target}: exists and is not a directory; choose another --output")
        found = {entry.name for entry in os.scandir(resolved)}
        listed = files_of(resolved) or set()
        is_ours = found == {name.partition("/")[0] for name in listed} and _files_below(resolved) == listed
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); choose another --output") from None
    if found and not is_ours:
        raise InputError(
            f"{target}: exists and holds something else than {what}; remove it, or choose another --output"
        )
    return resolved


def _files_below(directory: Path) -> set[str]:
    """Return the files of a directory and of those in it; a slash ends what is no file, nor a directory with files."""
    found = set()
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            found |= {f"{entry.name}/{name}" for name in _files_below(Path(entry)) or {""}}
        else:
            found.add(entry.name if entry.is_file(follow_symlinks=False) else f"{entry.name}/")
    return found


@contextlib.contextmanager
def replaced_directory(target: Path, files_of: Callable[[Path], set[str] | None], what: str) -> Iterator[Path]:
    """Yield an empty directory to fill with files; when the block ends well it takes the place of ``target``.

    Raises:
        InputError: as `check_replaceable`, before the block and again after it.
        RunError: the place cannot be written or is full; what stood there before stays.
    """
    resolved = check_replaceable(target, files_of, what)
    try:
        with scratch_directory(resolved) as temporary:
            yield temporary
            for path in [*temporary.rglob("*"), temporary]:
                sync(path)
            check_replaceable(target, files_of, what)
            if resolved.exists():
                _be_like_earlier(temporary, resolved)
            exchange(temporary, resolved)
    except OSError as error:
        raise write_error(target, error) from error


@contextlib.contextmanager
def scratch_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory under a hidden name beside ``target``; it is gone when the block ends, however it does.

    Raises:
        OSError: it cannot be made.
    """
    for ending in ("tmp", "deleted", "old"):
        remove_leftovers(target, ending)
    temporary = hidden(target, "tmp")

    def make() -> int:
        temporary.mkdir()
        return os.open(temporary, os.O_RDONLY)

    descriptor = None
    try:  # a signal that is raised may come at any moment
        descriptor = hold(temporary, make)
        yield temporary
    finally:
        if descriptor is not None:
            os.close(descriptor)
        shutil.rmtree(temporary, ignore_errors=True)


def unfinished(target: Path) -> Path:
    """Return the hidden name beside ``target`` of a directory that one process after the other goes on to build.

    It is always the same, so that the next process finds what a killed one has left. `exchange` ends the work.
    """
    return target.with_name(f".{target.name}.tmp")


def build_once(
    target: Path,
    build: Callable[[Path], None],
    damage_of: Callable[[Path], str | None],
    tell: Tell,
    *,
    what: str,
    waiting: str | None = None,
) -> None:
    """Make a directory, unless it is there and whole: one process at a time, and the next goes on with its work.

    Args:
        build: fills the directory that it is given, which holds what an interrupted call has left.
        damage_of: the reason why a directory cannot be used, or None; of one that is not there as well.
        tell: gets one line where a damaged directory is made anew, and where another process is waited for.
        what: stands in the directory, for the line about damage.
        waiting: the line about another process, if there shall be one.

    Raises:
        RunError: the place cannot be written or is full.
    """
    if damage_of(target) is None:
        return
    lock = target.with_name(f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(lock, tell, wait=False))
            except BlockingIOError:
                if waiting is not None:
                    tell(waiting)
                held.enter_context(locked(lock, tell, wait=True))
            if (reason := damage_of(target)) is None:  # another process has made it meanwhile
                return
            if target.exists():
                tell(f"{target}: {what} is damaged ({reason}); making it anew")
            remove_directory(target)
            unfinished(target).mkdir(exist_ok=True)
            build(unfinished(target))
            exchange(unfinished(target), target)
    except OSError as error:
        raise write_error(target, error) from error


def exchange(temporary: Path, target: Path) -> None:
    """Let a directory whose files are synced take the place of another, which is deleted, if there is one."""
    if not target.exists():
        os.rename(temporary, target)
        sync(target.parent)
    elif _swap(temporary, target):
        sync(target.parent)  # before what it replaces is gone
        remove_directory(temporary, target)
    else:
        old = hidden(target, "old")
        os.rename(target, old)
        try:
            os.rename(temporary, target)
        except OSError:
            os.rename(old, target)
            raise
        sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)


def remove_directory(path: Path, target: Path | None = None) -> None:
    """Take a directory out of sight in one step before deleting it, so that no half of it is ever found.

    Where it is not there, only what a process that was killed in this function has left is deleted.

    Args:
        target: whose leftover it would be; by default its own.
    """
    remove_leftovers(target or path, "deleted")
    if os.path.lexists(path):
        out_of_sight = hidden(target or path, "deleted")
        os.rename(path, out_of_sight)
        shutil.rmtree(out_of_sight, ignore_errors=True)


def _be_like_earlier(temporary: Path, target: Path) -> None:
    """Give a directory and its files the owner and the mode of those that they will replace."""
    for path in [*temporary.rglob("*"), temporary]:
        old = target / path.relative_to(temporary)
        if old.exists():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                be_like(old, descriptor)
            finally:
                os.close(descriptor)


def _swap(first: Path, second: Path) -> bool:
    """Exchange two directories in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    names = os.fsencode(first), os.fsencode(second)
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def put_back(target: Path) -> None:
    """What a crash has left put aside gets its name again."""
    if not os.path.lexists(target):
        for old in leftovers(target, "old")[:1]:
            os.rename(old, target)


def sync(path: Path) -> None:
    """Get a file, or the names in a directory, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
