"""Checksums of files, in notes beside them: what is damaged is found before it is read."""

from __future__ import annotations

import contextlib
import errno
import json
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from transformer_mt.errors import RunError
from transformer_mt.system.processes import num_cores
from transformer_mt.system.whole_files import refused_read, replaced_file

_READ_BYTES = 1 << 20
_MAX_READERS = 8

# What the system says of damage. All else is about this process or this moment, and no reason to delete anything.
DAMAGE = {None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO}

Checksums = dict[str, tuple[int, int]]  # file name -> bytes, CRC-32


def write_note(path: Path, note: Mapping[str, Any]) -> None:
    """Write facts as JSON that tells whether it is whole."""
    with replaced_file(path) as file:
        file.write(_note_bytes(note))


def read_note(path: Path) -> dict[str, Any]:
    """Return the facts that `write_note` has written.

    Raises:
        ValueError: there are none, or they are not, byte for byte, what was written.
        RunError: the system does not let us read them.
    """
    with reading(path):
        content = path.read_bytes()
    note = json.loads(content)
    if not isinstance(note, dict) or _note_bytes(note) != content:
        raise ValueError("its checksum is missing or another")
    return note


def _note_bytes(note: Mapping[str, Any]) -> bytes:
    facts = {key: value for key, value in note.items() if key != "crc32"}
    return json.dumps({**facts, "crc32": zlib.crc32(json.dumps(facts).encode())}, indent=1).encode()


def seal(directory: Path, note: str, *names: str) -> None:
    """Write a note with the checksums of some files of a directory, as they are now.

    Raises:
        RunError: they cannot be read, or it cannot be written.
    """
    try:
        sums = {name: _checksum(directory / name) for name in names}
    except ValueError as error:
        raise RunError(f"{directory}: damaged while it was made ({error}); check the disk and run again") from None
    write_note(directory / note, {"files": sums})


def damage(directory: Path, note: str = "meta.json") -> str | None:
    """Return what keeps a store from being used, if anything does: a file that is missing or not what was written.

    It may be any directory in which there is such a note.

    Raises:
        RunError: the system does not let us read it: nothing is known then.
    """
    try:
        files = read_note(directory / note)["files"]
    except ValueError as error:
        return f"{note}: {error}"
    return changed_file(directory, files)


def changed_file(directory: Path, files: Mapping[str, Sequence[int]]) -> str | None:
    """Return the first file that is missing or not what was written, in words, if there is one.

    Several threads read, and not through memory maps: there, an error of the disk would end the process.

    Raises:
        RunError: the system does not let us read a file: nothing is known of it then.
    """

    def wrong(name: str) -> str | None:
        try:
            return None if _checksum(directory / name) == tuple(files[name]) else f"{name} is not what was written"
        except ValueError as error:
            return f"{name}: {error}"

    with ThreadPoolExecutor(min(_MAX_READERS, num_cores())) as pool:
        return next(filter(None, pool.map(wrong, files)), None)


def _checksum(path: Path) -> tuple[int, int]:
    size = crc = 0
    buffer = memoryview(bytearray(_READ_BYTES))
    with reading(path), open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            size, crc = size + count, zlib.crc32(buffer[:count], crc)
    return size, crc


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Tell damage of a file from all else that the system may refuse.

    Raises:
        ValueError: it is missing, no plain file, or the disk cannot read it.
        RunError: it may be whole.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would never end
            raise ValueError("no plain file")
        yield path
    except OSError as error:
        if error.errno in DAMAGE:
            raise ValueError(error.strerror or error) from None
        raise refused_read(path, error) from error
