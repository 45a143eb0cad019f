"""The id store: tokenised pairs on disk, memory-mapped, for random access to corpora of any size.

A directory with, for each shard and side, one file of ids (uint16 or uint32) and one of offsets (int64), for each shard
the pairs' places in the corpus, for each side the lengths of all pairs (int32), and ``meta.json``.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from transformer_mt.batching import Lengths, Pairs, Part
from transformer_mt.cleaning import CleanReport
from transformer_mt.config import Count
from transformer_mt.errors import InputError
from transformer_mt.passes import Places
from transformer_mt.textio import replaced_file

FORMAT = 2
SIDES = ("src", "tgt")
# A memory map keeps its file open: four a shard, and on some systems a process may have 256 files.
_MAX_OPEN_SHARDS = 32

Ids = npt.NDArray[np.integer[Any]]
Offsets = npt.NDArray[np.int64]


class _Shard(NamedTuple):
    ids: dict[str, Ids]
    offsets: dict[str, Offsets]


class _Sides(BaseModel, strict=True):
    src: Count
    tgt: Count


class _Meta(BaseModel, strict=True):
    """What ``meta.json`` holds besides the format."""

    dtype: Literal["uint16", "uint32"]
    shards: list[Count]
    sources: list[tuple[str, Count, Count]]  # name, pairs, pairs kept
    longest: _Sides
    tokens: _Sides
    report: CleanReport
    fingerprint: str


class IdStore:
    """Tokenised pairs on disk, each side ending in </s>. Opening it reads no ids, and no shard before it is needed.

    Raises:
        InputError: files are missing or do not fit together; of a shard, when it is needed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            content = (directory / "meta.json").read_text(encoding="utf-8")
            meta = _Meta.model_validate_json(content)
            self.meta: dict[str, Any] = json.loads(content)
            self._lengths = {side: np.memmap(directory / f"{side}.lengths", dtype=np.int32, mode="r") for side in SIDES}
        except ValidationError as error:
            raise self._damaged(f"meta.json: {error.errors()[0]['msg']}") from None
        except (OSError, ValueError) as error:
            raise self._damaged(error) from None
        self.fingerprint = meta.fingerprint
        self.report = meta.report
        self.shard_sizes = meta.shards
        self.source_sizes = [kept for _, _, kept in meta.sources]
        self.longest_src = meta.longest.src  # ids, tags and </s> included
        self.num_tgt_tokens = meta.tokens.tgt  # of all pairs, </s> included
        self.dtype = np.dtype(meta.dtype)
        self._starts = np.array([0, *itertools.accumulate(self.shard_sizes)])
        self._open: dict[int, _Shard] = {}
        sizes = {sum(self.shard_sizes), sum(self.source_sizes), *map(len, self._lengths.values())}
        if len(sizes) > 1:
            raise self._damaged("its shards, its sources and its lengths have different numbers of pairs")

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
        places = self._array(f"{shard:05d}.places.npy")
        is_whole = places.dtype == np.int64 and places.shape == (self.shard_sizes[shard],)
        place = int(places[pair - int(self._starts[shard])]) if is_whole else -1
        if not 0 <= place < sum(count for _, count, _ in self.meta["sources"]):
            raise self._damaged(f"shard {shard} has wrong places")
        labels, counts, _ = zip(*self.meta["sources"], strict=True)
        return Places(labels, counts).describe(place)

    def _shard(self, number: int) -> _Shard:
        """A shard's files, opened where they are not; those that were not used for the longest time are closed."""
        found = self._open.pop(number, None)
        if found is None:
            path = self.directory / f"{number:05d}"
            try:
                found = _Shard(
                    {side: np.memmap(f"{path}.{side}.ids", dtype=self.dtype, mode="r") for side in SIDES},
                    {side: self._array(f"{number:05d}.{side}.offsets.npy") for side in SIDES},
                )
            except (OSError, ValueError) as error:
                raise self._damaged(error) from None
            pairs = slice(*self._starts[number : number + 2])
            if not all(_fit(found.ids[side], found.offsets[side], self._lengths[side][pairs]) for side in SIDES):
                raise self._damaged(f"shard {number} is cut off or changed")
            if len(self._open) == _MAX_OPEN_SHARDS:
                del self._open[next(iter(self._open))]
        self._open[number] = found  # now the last in order
        return found

    def _array(self, name: str) -> npt.NDArray[Any]:
        try:
            return np.load(self.directory / name, mmap_mode="r")  # type: ignore[no-any-return]
        except Exception as error:  # whatever NumPy meets in a header: it is parsed as Python
            raise self._damaged(f"{name}: {error}") from None

    def _damaged(self, reason: object) -> InputError:
        return InputError(f"{self.directory}: the prepared corpus is damaged ({reason}); delete it and run again")


def _fit(ids: Ids, offsets: Offsets, lengths: Lengths) -> bool:
    """Whether offsets lead through all ids, in steps of these lengths."""
    if offsets.dtype != np.int64 or offsets.shape != (len(lengths) + 1,) or lengths.min() < 1:
        return False
    return bool(offsets[0] == 0 and offsets[-1] == len(ids) and np.array_equal(np.diff(offsets), lengths))


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
