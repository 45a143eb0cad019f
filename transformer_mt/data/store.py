"""The id store: tokenised pairs on disk, memory-mapped, for random access to corpora of any size.

A directory with, for each shard and side, one file of ids (uint16 or uint32) and one of offsets (int64), for each shard
the pairs' places in the corpus, for each side the lengths of all pairs (int32), and ``meta.json``. That holds the size
and the CRC-32 of each of these files, taken from memory when they were written, and one of its own.
"""

from __future__ import annotations

import io
import itertools
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from transformer_mt.config.section import Size
from transformer_mt.data.batching import Lengths, Pairs, Part
from transformer_mt.data.checksums import Checksums, reading, write_note
from transformer_mt.data.clean_report import CleanReport
from transformer_mt.data.pairs import Places
from transformer_mt.errors import InputError, RunError
from transformer_mt.system.open_files import allow_open_files
from transformer_mt.system.whole_files import replaced_file

FORMAT = 2
SIDES = ("src", "tgt")
# Of as many sources, an update has some of each. To open one takes 2 ms, as its offsets are looked through.
_MAX_OPEN_SHARDS = 1024

Ids = npt.NDArray[np.integer[Any]]
Offsets = npt.NDArray[np.int64]


class _Shard(NamedTuple):
    ids: dict[str, Ids]
    offsets: dict[str, Offsets]


class _Sides(BaseModel, strict=True):
    src: Size
    tgt: Size


class _Meta(BaseModel, strict=True):
    """What ``meta.json`` holds besides the format."""

    dtype: Literal["uint16", "uint32"]
    shards: list[Size]
    sources: list[tuple[str, Size, Size]]  # name, pairs, pairs kept
    longest: _Sides
    tokens: _Sides
    report: CleanReport
    fingerprint: str


class IdStore:
    """Tokenised pairs on disk, each side ending in </s>. Opening it reads no ids, and no shard before it is needed.

    Raises:
        InputError: files are missing or do not fit together; of a shard, when it is needed.
        RunError: the system does not let us read them.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            with reading(directory / "meta.json") as path:
                content = path.read_text(encoding="utf-8")
            meta = _Meta.model_validate_json(content)
            self.meta: dict[str, Any] = json.loads(content)
            self._lengths = {side: _mapped(directory / f"{side}.lengths", np.dtype(np.int32)) for side in SIDES}
        except ValidationError as error:
            raise self._damaged(f"meta.json: {error.errors()[0]['msg']}") from None
        except ValueError as error:
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
        self._most_open = _most_open_shards()
        sizes = {sum(self.shard_sizes), sum(self.source_sizes), *map(len, self._lengths.values())}
        if len(sizes) > 1:
            raise self._damaged("its shards, its sources and its lengths have different numbers of pairs")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def lengths(self, side: str) -> Lengths:
        """Return how many ids every pair's side has, </s> included: a memory map (int32)."""
        return self._lengths[side]

    def parts(self) -> list[Part]:
        """Return what the pairs of each source are on disk: a run for each of its shards."""
        borders = np.cumsum([0, *self.source_sizes])
        cuts = np.unique(np.concatenate([borders, self._starts]))
        sources = np.searchsorted(borders, cuts[:-1], side="right") - 1
        return [
            Part(int(source), int(start), int(end))
            for source, (start, end) in zip(sources, itertools.pairwise(cuts), strict=True)
        ]

    def gather(self, side: str, pairs: Pairs) -> tuple[Ids, Lengths]:
        """Return the ids of some pairs' side, by their number in the store, one behind the other, each ending in </s>;
        and how many each of them has."""
        shards = np.searchsorted(self._starts, pairs, side="right") - 1
        lengths = self._lengths[side][pairs]
        ends = np.cumsum(lengths, dtype=np.int64)
        try:
            ids = np.empty(lengths.sum(), dtype=self.dtype)
        except ValueError:  # not looked for in good ones, which this is called for all the time
            raise self._damaged(f"{side}.lengths has negative numbers") from None
        for shard in np.unique(shards).tolist():  # each is opened once, however many there are
            [own] = np.nonzero(shards == shard)
            opened = self._shard(shard)
            begins = opened.offsets[side][pairs[own] - self._starts[shard]]
            ids[_places(ends[own] - lengths[own], lengths[own])] = opened.ids[side][_places(begins, lengths[own])]
        return ids, lengths

    def get(self, side: str, pairs: Pairs) -> list[Ids]:
        """Return the same as an array for each pair."""
        ids, lengths = self.gather(side, pairs)
        borders = itertools.accumulate(lengths.tolist(), initial=0)
        return [ids[begin:end] for begin, end in itertools.pairwise(borders)]

    def describe(self, pair: int) -> str:
        """Return where a pair came from: its source and its line there."""
        shard = int(np.searchsorted(self._starts, pair, side="right")) - 1
        place = int(self.places(shard)[pair - int(self._starts[shard])])
        if not 0 <= place < sum(count for _, count, _ in self.meta["sources"]):
            raise self._damaged(f"shard {shard} has wrong places")
        labels, counts, _ = zip(*self.meta["sources"], strict=True)
        return Places(labels, counts).describe(place)

    def places(self, shard: int) -> npt.NDArray[np.int64]:
        """Return the places of a shard's pairs in the corpus, rejected pairs counted: a memory map (int64)."""
        places = self._array(f"{shard:05d}.places.npy")
        if places.dtype != np.int64 or places.shape != (self.shard_sizes[shard],):
            raise self._damaged(f"shard {shard} has wrong places")
        return places

    def _shard(self, number: int) -> _Shard:
        """Return a shard's files, opened where they are not.

        Those that were not used for the longest time are closed.
        """
        shard = self._open.pop(number, None)
        if shard is None:
            try:
                shard = _Shard(
                    {side: _mapped(self.directory / f"{number:05d}.{side}.ids", self.dtype) for side in SIDES},
                    {side: self._array(f"{number:05d}.{side}.offsets.npy") for side in SIDES},
                )
            except ValueError as error:
                raise self._damaged(error) from None
            pairs = slice(*self._starts[number : number + 2])
            if not all(_fit(shard.ids[side], shard.offsets[side], self._lengths[side][pairs]) for side in SIDES):
                raise self._damaged(f"shard {number} is cut off or changed")
            if len(self._open) == self._most_open:
                del self._open[next(iter(self._open))]
        self._open[number] = shard  # now the last in order
        return shard

    def _array(self, name: str) -> npt.NDArray[Any]:
        try:
            with reading(self.directory / name) as path:
                return _plain(np.load(path, mmap_mode="r"))
        except (RunError, MemoryError):
            raise
        except Exception as error:  # whatever NumPy meets in a header: it is parsed as Python
            raise self._damaged(f"{name}: {error}") from None

    def _damaged(self, reason: object) -> InputError:
        return InputError(f"{self.directory}: the prepared corpus is damaged ({reason}); delete it and run again")


def _most_open_shards() -> int:
    """Return how many shards a store may keep open.

    A memory map keeps its file open: four a shard. Of a run's two stores each takes a quarter of all.
    """
    return max(1, allow_open_files(16 * _MAX_OPEN_SHARDS) // 16)


def _mapped(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        with reading(path):
            return _plain(np.memmap(path, dtype=dtype, mode="r"))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _plain(mapped: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a memory map as an array of NumPy's own class, of which views cost a tenth."""
    return mapped.view(np.ndarray)


def _places(begins: npt.NDArray[np.int64], lengths: Lengths) -> npt.NDArray[np.int64]:
    """Return the places from each begin to before begin + length, one run behind the other."""
    shifts = begins + lengths - np.cumsum(lengths, dtype=np.int64)
    places: npt.NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(shifts, lengths)
    return places


def _fit(ids: Ids, offsets: Offsets, lengths: Lengths) -> bool:
    """Return whether offsets lead through all ids, in steps of these lengths."""
    if offsets.dtype != np.int64 or offsets.shape != (len(lengths) + 1,) or lengths.min() < 1:
        return False
    return bool(offsets[0] == 0 and offsets[-1] == len(ids) and np.array_equal(np.diff(offsets), lengths))


def write_side(directory: Path, shard: int, side: str, ids: Ids, offsets: Offsets) -> Checksums:
    """Write one side of a shard: the ids of all its pairs in a row, and where each pair's begin and end.

    Returns:
        Sizes and checksums of the two files, by their names.
    """
    name = f"{shard:05d}.{side}"
    return _write(directory, f"{name}.ids", ids.tobytes()) | _write(directory, f"{name}.offsets.npy", _npy(offsets))


def write_places(directory: Path, shard: int, places: npt.NDArray[np.int64]) -> Checksums:
    """Write where the pairs of a shard come from, and return the file's size and checksum."""
    return _write(directory, f"{shard:05d}.places.npy", _npy(places))


def _write(directory: Path, name: str, content: bytes) -> Checksums:
    with replaced_file(directory / name) as file:
        file.write(content)
    return {name: (len(content), zlib.crc32(content))}


def _npy(array: npt.NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def finish_store(directory: Path, meta: Mapping[str, Any], files: Checksums) -> None:
    """Make a store of its shards: the lengths of all pairs, then the file without which it is none.

    ``files``: what the shards were written with.
    """
    files = dict(files)
    for side in SIDES:
        size = crc = 0
        with replaced_file(directory / f"{side}.lengths") as file:
            for shard, num_pairs in enumerate(meta["shards"]):
                if num_pairs:
                    offsets = np.load(directory / f"{shard:05d}.{side}.offsets.npy", mmap_mode="r")
                    content = np.diff(offsets).astype(np.int32).tobytes()
                    file.write(content)
                    size, crc = size + len(content), zlib.crc32(content, crc)
        files[f"{side}.lengths"] = size, crc
    write_note(directory / "meta.json", {**meta, "files": files})
