"""The directory of a run: whose it is, and that one process at a time trains into it.

`tmt train` writes a handful of names into it and leaves every other file there alone. A directory in which one of these
names stands already is taken only if it is a run's: known by its mark, which is the content of ``.lock``, or, as those
of version 0.1.0, by the manifest of a checkpoint.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transformer_mt.checkpoints.manifest import MANIFEST, verify
from transformer_mt.checkpoints.training_state import read_state
from transformer_mt.errors import InputError
from transformer_mt.system import locks
from transformer_mt.system.console import Tell, tell
from transformer_mt.system.directories import listed_files, put_back, remove_directory, sync
from transformer_mt.system.whole_files import looked_for_in, open_plain, read_plain, replaced_file

_MARK = b"A run of transformer_mt: tmt train holds this file's lock.\n"
_LOCK = ".lock"
_FILES = (
    *("config.yaml", "tokenizer.model", "source.model", "target.model", "vocab.json", "target_vocab.json"),
    *("metrics.jsonl", "last", "best", _LOCK),
)
_DIRECTORIES = ("checkpoints", "epochs", "tensorboard")
_MOMENT = 0.1  # seconds


@contextlib.contextmanager
def only_process_in(run: Path) -> Iterator[Callable[[], bool]]:
    """Hold the lock of a run directory, which is made if need be, and is removed again where nothing came into it.

    Yields:
        Whether the lock still is the directory's: somebody may have removed it, or all of the directory.

    Raises:
        InputError: another process is training there; the directory cannot be written, or is not a run's.
    """
    with contextlib.ExitStack() as cleanup:
        try:
            made = [path for path in (run, *run.parents) if not path.exists()]
            _refuse_foreign(run)
            is_new = not os.path.lexists(run / _LOCK)
            cleanup.callback(_remove_empty, made)
            run.mkdir(parents=True, exist_ok=True)
            try:
                is_held = cleanup.enter_context(locks.locked(run / _LOCK, tell, wait=False))
            except BlockingIOError:  # perhaps of somebody who looks whether a process holds it (`is_training`)
                time.sleep(_MOMENT)
                is_held = cleanup.enter_context(locks.locked(run / _LOCK, tell, wait=False))
            if is_new:
                cleanup.callback(_remove_failed_start, run, is_held)
            if not _is_marked(run):
                (run / _LOCK).write_bytes(_MARK)
        except BlockingIOError:
            raise InputError(
                f"{run}: another process is training into it; wait for it or choose another --output"
            ) from None
        except OSError as error:
            raise InputError(f"{run}: cannot be written ({error.strerror}); choose another --output") from None
        yield is_held


def is_training(run: Path) -> bool:
    """Return whether a process holds the lock of a run directory, as far as this can be known."""
    try:
        with open_plain(run / _LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock, or a file system without locks
        pass
    return False


def _remove_failed_start(run: Path, is_held: Callable[[], bool]) -> None:
    """Remove what a start has made that never came to its run's files."""
    if is_held() and {*_found(run)} <= {_LOCK, "epochs"}:
        shutil.rmtree(run / "epochs", ignore_errors=True)
        (run / _LOCK).unlink()


def _remove_empty(directories: list[Path]) -> None:
    for path in directories:
        with contextlib.suppress(OSError):  # somebody's files are in it
            path.rmdir()


def remove_leftovers(run: Path) -> None:
    """Delete what a crash left behind under hidden names: half-written checkpoints, half-deleted ones and half-written
    files of the run. A checkpoint that was put aside to be replaced gets its name again."""
    for path in (run / "checkpoints").glob(".step_*"):
        put_back(path.with_name(path.name.split(".")[1]))
        shutil.rmtree(path, ignore_errors=True)
    for name in _FILES:
        locks.remove_leftovers(run / name, "tmp")


def _refuse_foreign(run: Path) -> None:
    """Refuse a directory in which a name that a run has stands for something else.

    Raises:
        InputError: such a name; a link, behind which somebody else's file would be written.
        OSError: the directory cannot be read.
    """
    found = _found(run)
    for name in found:
        mode = os.lstat(run / name).st_mode
        kind = "a link" if stat.S_ISLNK(mode) else "no directory" if name in _DIRECTORIES else "no plain file"
        if not (stat.S_ISDIR(mode) if name in _DIRECTORIES else stat.S_ISREG(mode)):
            raise InputError(
                f"{run / name}: is {kind}, and a run would write there; remove it, or choose another --output"
            )
    # What a start of 0.1.0 that failed has left behind.
    is_empty = {
        _LOCK: lambda: not os.stat(run / _LOCK).st_size,
        "checkpoints": lambda: not os.listdir(run / "checkpoints"),
    }
    foreign = [name for name in found if name not in is_empty or not is_empty[name]()]
    if foreign and not _is_marked(run) and not any(map(_is_ours, list_checkpoints(run))):
        raise InputError(
            f"{run}: is not a run, and its {foreign[0]} would be overwritten; choose another --output, or move it away"
        )


def _found(run: Path) -> list[str]:
    """The names that a run has, as far as they are there."""
    return [name for name in (*_FILES, *_DIRECTORIES) if os.path.lexists(run / name)]


def _is_marked(run: Path) -> bool:
    try:
        return (run / _LOCK).read_bytes() == _MARK
    except OSError:
        return False


def _is_ours(info: CheckpointInfo) -> bool:
    keys = {"format", "longest_src_tokens", "files"}
    return listed_files(info.path, MANIFEST, lambda facts: facts.keys() >= keys) is not None


@dataclass(frozen=True)
class CheckpointInfo:
    """One complete checkpoint of a run."""

    path: Path
    step: int
    by_signal: bool


CHECKPOINT_NAME = re.compile("step_[0-9]{1,18}")


def pointed(pointer: Path) -> str:
    """The name in ``last`` or ``best``."""
    return read_plain(pointer, 1 << 10).decode("utf-8").strip()


def checked_name(run: Path, pointer: str) -> str:
    """Return the name in ``last`` or ``best`` of a run that others may have made.

    Raises:
        InputError: there is none, or it is no checkpoint's.
    """
    try:
        name = pointed(run / pointer)
    except (OSError, ValueError):
        name = ""
    if not CHECKPOINT_NAME.fullmatch(name):
        raise InputError(f"{run / pointer}: damaged; write the name of one of {run}/checkpoints into it")
    return name


def is_run(path: Path) -> bool:
    return os.path.isdir(path / "checkpoints")


def resolve_model(path: Path) -> Path:
    """The model directory that MODEL names: a run's best checkpoint, or the directory itself."""
    if not os.path.isdir(path):
        what = "is a file" if os.path.exists(path) else f"no such model directory{looked_for_in(path)}"
        raise InputError(f"{path}: {what}; name a run, a checkpoint or another directory with a model")
    if not is_run(path):
        return path
    for pointer in ("best", "last"):
        if os.path.lexists(path / pointer):
            return path / "checkpoints" / checked_name(path, pointer)
    raise InputError(f"{path}: the run has no checkpoint yet; train it first (tmt train … --output {path})")


def checkpoint_path(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:08d}"


def run_of(checkpoint: Path) -> Path | None:
    """Return the run that a checkpoint lies in, by its path or, where that has links, by where they lead."""
    for path in (Path(os.path.abspath(checkpoint)), checkpoint.resolve()):
        if CHECKPOINT_NAME.fullmatch(path.name) and is_run(path.parent.parent):
            return path.parent.parent
    return None


def list_checkpoints(run: Path) -> list[CheckpointInfo]:
    """The checkpoints of a run, oldest first. Hidden names are unfinished writes and are passed over."""
    checkpoints = []
    for path in sorted((run / "checkpoints").glob("step_*")):
        number = path.name.removeprefix("step_")
        if not number.isdecimal():
            continue  # a copy that someone made
        try:
            by_signal = read_state(path).by_signal
        except InputError:
            by_signal = False  # damaged: it stays in the list, so that whoever uses it refuses it by name
        checkpoints.append(CheckpointInfo(path, int(number), by_signal))
    return checkpoints


def point(run: Path, pointer: str, checkpoint: Path) -> None:
    """Let ``last`` or ``best`` name a checkpoint."""
    with replaced_file(run / pointer) as file:
        file.write(f"{checkpoint.name}\n".encode())
    sync(run)  # before `retain` deletes what it named until now


def repoint(run: Path, latest: Path, best_step: int, *, is_validated: bool) -> None:
    """Let ``last`` and ``best`` agree with the state that a run continues from: a crash may have come between."""
    point(run, "last", latest)
    best = checkpoint_path(run, best_step) if best_step and is_validated else latest
    if best.exists() and (best_step or not is_validated or (run / "best").exists()):
        point(run, "best", best)


def retain(run: Path, keep: int) -> None:
    """Delete all checkpoints but the newest ``keep``, the one to resume from, the best, and those being read."""
    checkpoints = list_checkpoints(run)
    kept = {info.path.name for info in [info for info in checkpoints if not info.by_signal][-keep:]}
    kept.update(pointed(run / p) for p in ("last", "best") if (run / p).exists())
    for info in checkpoints:
        if info.path.name not in kept:
            _remove_unless_held(info.path)


def _remove_unless_held(path: Path) -> None:
    with contextlib.ExitStack() as files:
        try:
            # Network file systems ask for a writable file before they lock it exclusively.
            fcntl.flock(files.enter_context(open(path / MANIFEST, "r+b")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # the next time
        except OSError:
            pass  # no manifest, or a file system without locks
        remove_directory(path)


def newest_usable(run: Path, tell: Tell) -> Path | None:
    """The newest checkpoint whose files are all intact; a damaged one is reported and passed over."""
    for info in reversed(list_checkpoints(run)):
        try:
            verify(info.path)
        except InputError as error:
            tell(f"warning: {error}")
            continue
        return info.path
    return None
