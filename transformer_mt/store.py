"""The id store: tokenised pairs on disk, memory-mapped, for random access to corpora of any size.

A directory with, for each shard and side, one file of ids (uint16 or uint32) and one of offsets (int64), for each shard
the pairs' places in the corpus, for each side the lengths of all pairs (int32), and ``meta.json``.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transformer_mt.batching import Lengths, Pairs, Part
from transformer_mt.cleaning import CleanReport
from transformer_mt.errors import InputError
from transformer_mt.textio import replaced_file

FORMAT = 2
SIDES = ("src", "tgt")
# A memory map keeps its file open: five a shard, of the 1,024 files that a process may usually have.
_MAX_OPEN_SHARDS = 64

Ids = npt.NDArray[np.integer[Any]]
Offsets = npt.NDArray[np.int64]


class _Shard(NamedTuple):
    ids: dict[str, Ids]
    offsets: dict[str, Offsets]


class IdStore:
    """Tokenised pairs on disk, each side ending in </s>. Opening it reads no ids, and no shard before it is needed.

    Raises:
        InputError: files are missing or have another size than they should.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            self.meta: dict[str, Any] = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
            self._lengths = {side: np.memmap(directory / f"{side}.lengths", dtype=np.int32, mode="r") for side in SIDES}
        except (OSError, ValueError) as error:
            raise self._damaged(error) from None
        self.fingerprint: str = self.meta["fingerprint"]
        self.report = CleanReport(**self.meta["report"])
        self.shard_sizes: list[int] = self.meta["shards"]
        self.source_sizes: list[int] = [kept for _, _, kept in self.meta["sources"]]
        self.longest_src: int = self.meta["longest"]["src"]  # ids, tags and </s> included
        self.num_tgt_tokens: int = self.meta["tokens"]["tgt"]  # of all pairs, </s> included
        self.dtype = np.dtype(self.meta["dtype"])
        self._starts = np.cumsum([0, *self.shard_sizes])
        self._open: dict[int, _Shard] = {}
        if any(len(lengths) != len(self) for lengths in self._lengths.values()):
            raise self._damaged("its lengths are not those of its shards")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def lengths(self, side: str) -> Lengths:
        """Ids of every pair's side, </s> included: a memory map."""
        return self._lengths[side]

    def parts(self) -> list[Part]:
        """What the pairs of each source are on disk: a run for each of its shards."""
        borders = np.cumsum([0, *self.source_sizes])
        cuts = np.unique(np.concatenate([borders, self._starts]))
        sources = np.searchsorted(borders, cuts[:-1], side="right") - 1
        return [
            Part(int(source), int(start), int(end))
            for source, (start, end) in zip(sources, itertools.pairwise(cuts), strict=True)
        ]

    def get(self, side: str, pairs: Pairs) -> list[Ids]:
        """The ids of some pairs, by their number in the store."""
        shards = np.searchsorted(self._starts, pairs, side="right") - 1
        rows = pairs - self._starts[shards]
        out = []
        for shard, row in zip(shards.tolist(), rows.tolist(), strict=True):
            opened = self._shard(shard)
            begin, end = opened.offsets[side][row : row + 2]
            out.append(opened.ids[side][begin:end])
        return out

    def describe(self, pair: int) -> str:
        """Where a pair came from: its source and its line there."""
        shard = int(np.searchsorted(self._starts, pair, side="right")) - 1
        places = np.load(self.directory / f"{shard:05d}.places.npy", mmap_mode="r")
        return describe_place(int(places[pair - int(self._starts[shard])]), self.meta["sources"])

    def _shard(self, number: int) -> _Shard:
        """A shard's files, opened where they are not; those that were not used for the longest time are closed."""
        found = self._open.pop(number, None)
        if found is None:
            path = self.directory / f"{number:05d}"
            try:
                found = _Shard(
                    {side: np.memmap(f"{path}.{side}.ids", dtype=self.dtype, mode="r") for side in SIDES},
                    {side: np.load(f"{path}.{side}.offsets.npy", mmap_mode="r") for side in SIDES},
                )
            except (OSError, EOFError, ValueError) as error:
                raise self._damaged(error) from None
            if any(found.offsets[side][-1] != len(found.ids[side]) for side in SIDES):
                raise self._damaged(f"shard {number} is cut off")
            if len(self._open) == _MAX_OPEN_SHARDS:
                del self._open[next(iter(self._open))]
        self._open[number] = found  # now the last in order
        return found

    def _damaged(self, reason: object) -> InputError:
        return InputError(f"{self.directory}: the prepared corpus is damaged ({reason}); delete it and run again")


def describe_place(place: int, sources: list[tuple[str, int, int]]) -> str:
    """The source and the line of the pair with some place in a corpus; ``sources``: name, pairs, pairs kept."""
    for name, count, _ in sources:
        if place < count:
            return f"{name} line {place + 1}"
        place -= count
    raise AssertionError("a pair without a source")


def write_side(directory: Path, shard: int, side: str, ids: Ids, offsets: Offsets) -> None:
    """Write one side of a shard: the ids of all its pairs in a row, and where each pair's begin and end."""
    path = directory / f"{shard:05d}.{side}"
    with replaced_file(f"{path}.ids") as file:
        file.write(ids.data)
    with replaced_file(f"{path}.offsets.npy") as file:
        np.save(file, offsets)


def finish_store(directory: Path, meta: dict[str, Any]) -> None:
    """Make a store of its shards: the lengths of all pairs, then the file without which it is none."""
    for side in SIDES:
        with replaced_file(directory / f"{side}.lengths") as file:
            for shard, size in enumerate(meta["shards"]):
                if size:
                    offsets = np.load(directory / f"{shard:05d}.{side}.offsets.npy", mmap_mode="r")
                    file.write(np.diff(offsets).astype(np.int32).data)
    with replaced_file(directory / "meta.json") as file:
        file.write(json.dumps(meta, indent=1).encode())
