"""Which of any number of 64-bit keys occur more than once, in order and in bounded memory.

An external sort: keys go to one of 64 files by their first bits, each with its place in the order, and one file after
the other is sorted. So a billion keys take 16 GB on disk, 1 GB for the answer, and less than 1 GB of memory. Two
different texts share a 64-bit key with a probability of 3 % among a billion, and of 0.0003 % among ten million.

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

_NUM_FILES = 64  # all are open at once, and some systems allow 256
_ZEROS = 1 << 20  # bytes written at once
_ENTRY = np.dtype([("key", np.uint64), ("place", np.int64)])

Keys = npt.NDArray[np.uint64]
Occurrences = npt.NDArray[np.uint8]


class DuplicateFinder:
    """Collects keys in a directory of its own, which the caller makes and deletes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0
        with contextlib.ExitStack() as opened:
            self._files = [opened.enter_context(open(self._path(i), "wb", 1 << 16)) for i in range(_NUM_FILES)]
            self._opened = opened.pop_all()

    def add(self, keys: Keys) -> None:
        """Take in the next keys (uint64), in the order of the corpus.

        Raises:
            RunError: the disk is full.
        """
        entries = np.empty(len(keys), dtype=_ENTRY)
        entries["key"], entries["place"] = keys, np.arange(self._count, self._count + len(keys))
        self._count += len(keys)
        file = (keys >> np.uint64(58)).astype(np.intp)
        entries = entries[np.argsort(file, kind="stable")]
        ends = np.cumsum(np.bincount(file, minlength=_NUM_FILES))
        try:
            for i, part in enumerate(np.split(entries, ends[:-1])):
                self._files[i].write(part.data)
        except OSError as error:
            raise write_error(self._directory, error) from error

    def find(self) -> Occurrences:
        """Return ``ONLY``, ``FIRST`` or ``LATER`` for each key in its place: an array (uint8) in a file.

        No key can be added then.

        Raises:
            RunError: the disk is full.
        """
        try:
            self._opened.close()
            if self._count == 0:
                return np.empty(0, dtype=np.uint8)
            answer = self._directory / "occurrences"
            with open(answer, "wb") as file:  # full: a map of a file with holes would end the process on a full disk
                for start in range(0, self._count, _ZEROS):
                    file.write(bytes(min(_ZEROS, self._count - start)))
            occurrences = np.memmap(answer, dtype=np.uint8, mode="r+")
            for i in range(_NUM_FILES):
                entries = np.fromfile(self._path(i), dtype=_ENTRY)
                self._path(i).unlink()
                entries = entries[np.argsort(entries["key"], kind="stable")]
                repeats = entries["key"][1:] == entries["key"][:-1]
                kinds = np.full(len(entries), ONLY, dtype=np.uint8)
                kinds[:-1][repeats] = FIRST
                kinds[1:][repeats] = LATER
                occurrences[entries["place"]] = kinds
            return occurrences
        except OSError as error:
            raise write_error(self._directory, error) from error

    def close(self) -> None:
        self._opened.close()

    def _path(self, number: int) -> Path:
        return self._directory / f"keys.{number:03d}"
