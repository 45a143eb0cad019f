"""Which of any number of 64-bit keys occur more than once, in order and in bounded memory.

An external sort: keys go to one of 64 files by their first bits, each with its place in the order, and one file after
the other is sorted. So a billion keys take 16 GB on disk, 1 GB for the answer, and less than 1 GB of memory. A file
that is too large, of even more keys or of one that is everywhere, is sorted in blocks, and of each block only the first
of every key goes on, to one of 64 files by the next bits. Two different texts share a 64-bit key with a probability of
3 % among a billion, and of 0.0003 % among ten million.

    finder = DuplicateFinder(directory)
    for chunk in chunks:
        finder.add(np.array([key(pair) for pair in chunk], dtype=np.uint64))
    occurrences = finder.find()
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from transformer_mt.system.whole_files import write_error

# What `DuplicateFinder.find` says of a key's place.
ONLY, FIRST, LATER = 0, 1, 2  # its only occurrence; the first of several; one after the first

_BITS = 6  # of a key, that say in which file it is
_NUM_FILES = 1 << _BITS  # all are open at once, and some systems allow 256
_MOST_ENTRIES = 1 << 24  # sorted at once, in 0.7 GB
_ZEROS = 1 << 20  # bytes written at once
_ENTRY = np.dtype([("key", np.uint64), ("place", np.int64)])

Keys = npt.NDArray[np.uint64]
Occurrences = npt.NDArray[np.uint8]
Entries = npt.NDArray[np.void]  # of _ENTRY


class DuplicateFinder:
    """Collects keys in a directory of its own, which the caller makes and deletes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0
        self._files = _Files(directory / "keys", 64 - _BITS)

    def add(self, keys: Keys) -> None:
        """Take in the next keys (uint64), in the order of the corpus.

        Raises:
            RunError: the disk is full.
        """
        entries = np.empty(len(keys), dtype=_ENTRY)
        entries["key"], entries["place"] = keys, np.arange(self._count, self._count + len(keys))
        self._count += len(keys)
        try:
            self._files.write(entries)
        except OSError as error:
            raise write_error(self._directory, error) from error

    def find(self) -> Occurrences:
        """Return ``ONLY``, ``FIRST`` or ``LATER`` for each key in its place: an array (uint8) in a file.

        No key can be added then.

        Raises:
            RunError: the disk is full.
        """
        try:
            self._files.close()
            if self._count == 0:
                return np.empty(0, dtype=np.uint8)
            answer = self._directory / "occurrences"
            with open(answer, "wb") as file:  # full: a map of a file with holes would end the process on a full disk
                for start in range(0, self._count, _ZEROS):
                    file.write(bytes(min(_ZEROS, self._count - start)))
            occurrences = np.memmap(answer, dtype=np.uint8, mode="r+")
            _find(self._files, occurrences)
            return occurrences
        except OSError as error:
            raise write_error(self._directory, error) from error

    def close(self) -> None:
        self._files.close()


class _Files:
    """Entries by the bits of their keys from ``shift`` on, each file in the order in which it got them."""

    def __init__(self, path: Path, shift: int) -> None:
        self.shift = shift
        self.paths = [path.with_name(f"{path.name}.{i:03d}") for i in range(_NUM_FILES)]
        with contextlib.ExitStack() as opened:
            self._files = [opened.enter_context(open(path, "wb", 1 << 16)) for path in self.paths]
            self._opened = opened.pop_all()

    def write(self, entries: Entries) -> None:
        file = (entries["key"] >> np.uint64(self.shift) & np.uint64(_NUM_FILES - 1)).astype(np.uint8)
        entries = entries[np.argsort(file, kind="stable")]
        ends = np.cumsum(np.bincount(file, minlength=_NUM_FILES))
        for i, part in enumerate(np.split(entries, ends[:-1])):
            self._files[i].write(part.data)

    def close(self) -> None:
        self._opened.close()


def _find(files: _Files, occurrences: Occurrences) -> None:
    """Mark what is repeated within files, and delete them."""
    for path in files.paths:
        if path.stat().st_size <= _MOST_ENTRIES * _ENTRY.itemsize:
            _mark(np.fromfile(path, dtype=_ENTRY), occurrences)
            path.unlink()
            continue
        # What a block has marked stays true, except of a first one that turns out to be a later one. Half as many,
        # because they are in memory more often than where they are sorted only.
        with contextlib.closing(_Files(path, max(files.shift - _BITS, 0))) as smaller, open(path, "rb") as file:
            while len(block := np.fromfile(file, dtype=_ENTRY, count=_MOST_ENTRIES // 2)):
                block, is_later = _mark(block, occurrences)
                smaller.write(block[~is_later])
        path.unlink()
        _find(smaller, occurrences)


def _mark(entries: Entries, occurrences: Occurrences) -> tuple[Entries, npt.NDArray[np.bool_]]:
    """Mark what is repeated among entries that are in order; return them by key, and which are not the first of one."""
    entries = entries[np.argsort(entries["key"], kind="stable")]
    is_later = np.zeros(len(entries), dtype=bool)
    is_later[1:] = entries["key"][1:] == entries["key"][:-1]
    occurrences[entries["place"][:-1][is_later[1:] & ~is_later[:-1]]] = FIRST
    occurrences[entries["place"][is_later]] = LATER
    return entries, is_later
