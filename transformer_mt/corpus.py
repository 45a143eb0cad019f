"""From parallel text to the id store: read, clean, tokenise, and keep as memory-mapped shards.

A store is a directory that holds, per shard and side, one file of ids (uint16 or uint32) and one of offsets (int64).
It is written aside and renamed, found again by the content of its inputs, and identified by the content of its ids.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from transformer_mt.cleaning import CleanReport, SentencePair, clean
from transformer_mt.config import BatchConfig, CleanConfig, DataConfig, SourceConfig
from transformer_mt.errors import InputError
from transformer_mt.layout import EOS_ID
from transformer_mt.sources import read_pairs, source_files
from transformer_mt.textio import replaced_file, write_error
from transformer_mt.tokenizer import Tokenizers

FORMAT = 1
SHARD_PAIRS = 1 << 18  # also the unit of shuffling: an epoch visits shards in random order, a few at a time
_CHUNK_PAIRS = 8192  # pairs tokenised at once
SIDES = ("src", "tgt")

Lengths = npt.NDArray[np.int32]
Ids = npt.NDArray[np.integer[Any]]


class IdStore:
    """Tokenised pairs on disk, each side ending in </s>. Opening it reads no ids."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.meta: dict[str, Any] = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
        self.fingerprint: str = self.meta["fingerprint"]
        self.report = CleanReport(**self.meta["report"])
        self.shard_sizes: list[int] = self.meta["shards"]
        self.dtype = np.dtype(self.meta["dtype"])
        self._starts = np.cumsum([0, *self.shard_sizes])
        _allow_open_files(5 * len(self.shard_sizes))
        self._ids: dict[str, list[Ids]] = {}
        self._offsets: dict[str, list[npt.NDArray[np.int64]]] = {}
        for side in SIDES:
            paths = [directory / f"{shard:05d}.{side}" for shard in range(len(self.shard_sizes))]
            self._ids[side] = [np.memmap(f"{path}.ids", dtype=self.dtype, mode="r") for path in paths]
            self._offsets[side] = [np.load(f"{path}.offsets.npy", mmap_mode="r") for path in paths]
        self._origins = [
            np.load(directory / f"{shard:05d}.origin.npy", mmap_mode="r") for shard in range(len(self._ids["src"]))
        ]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def lengths(self, side: str) -> Lengths:
        """Ids of every pair's side, </s> included."""
        return np.concatenate([np.diff(offsets).astype(np.int32) for offsets in self._offsets[side]])

    def get(self, side: str, pairs: npt.NDArray[np.int64]) -> list[Ids]:
        """The ids of some pairs, by their number in the store."""
        shards = np.searchsorted(self._starts, pairs, side="right") - 1
        rows = pairs - self._starts[shards]
        out = []
        for shard, row in zip(shards.tolist(), rows.tolist(), strict=True):
            begin, end = self._offsets[side][shard][row : row + 2]
            out.append(self._ids[side][shard][begin:end])
        return out

    def describe(self, pair: int) -> str:
        """Where a pair came from: its source and its line there."""
        shard = int(np.searchsorted(self._starts, pair, side="right")) - 1
        ordinal = int(self._origins[shard][pair - int(self._starts[shard])])
        for name, count in self.meta["sources"]:
            if ordinal < count:
                return f"{name} line {ordinal + 1}"
            ordinal -= count
        raise AssertionError("a pair without a source")


def _allow_open_files(count: int) -> None:
    """Raise this process's limit: a memory map keeps its file open, and a store of 100 million pairs has 1,900."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 256 + 4 * count  # the corpus, an epoch of it, the next one, and some room
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _ShardWriter:
    """Collects one shard at a time and hashes what it writes."""

    def __init__(self, directory: Path, dtype: np.dtype[Any]) -> None:
        self.directory, self.dtype = directory, dtype
        self.shards: list[int] = []
        self.digest = hashlib.sha256()
        self._rows: dict[str, list[list[int]]] = {side: [] for side in SIDES}
        self._origins: list[int] = []

    def add(self, src: list[int], tgt: list[int], origin: int) -> None:
        self._rows["src"].append(src)
        self._rows["tgt"].append(tgt)
        self._origins.append(origin)
        if len(self._origins) == SHARD_PAIRS:
            self.flush()

    def flush(self) -> None:
        if not self._origins:
            return
        for side in SIDES:
            rows = self._rows[side]
            offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
            ids = np.fromiter(itertools.chain.from_iterable(rows), dtype=self.dtype, count=int(offsets[-1]))
            write_side(self.directory, len(self.shards), side, ids, offsets)
            self.digest.update(ids.tobytes())
            self.digest.update(offsets.tobytes())
            rows.clear()
        with replaced_file(self.directory / f"{len(self.shards):05d}.origin.npy") as file:
            np.save(file, np.array(self._origins, dtype=np.int64))
        self.shards.append(len(self._origins))
        self._origins.clear()


def write_side(directory: Path, shard: int, side: str, ids: Ids, offsets: npt.NDArray[np.int64]) -> None:
    """Write one side of a shard: the ids of all its pairs in a row, and where each pair's begin and end."""
    path = directory / f"{shard:05d}.{side}"
    with replaced_file(f"{path}.ids") as file:
        file.write(ids.data)
    with replaced_file(f"{path}.offsets.npy") as file:
        np.save(file, offsets)


def prepare(data: DataConfig, batch: BatchConfig, tokenizers: Tokenizers) -> IdStore:
    """The id store of a training corpus: found in the cache by content, or written there.

    Raises:
        InputError: unreadable text, no pairs at all, or none left after cleaning.
    """
    cache = Path(data.cache_dir).expanduser()
    inputs = {
        "format": FORMAT,
        "tokenizer": tokenizers.fingerprint,
        "langs": [data.src_lang, data.tgt_lang],
        "clean": data.clean.model_dump(),
        "batch": [batch.max_tokens, batch.max_source_tokens],
        "sources": [_source_key(source, cache) for source in data.train],
    }
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]
    target = cache / key
    if (target / "meta.json").exists():
        return IdStore(target)
    temporary = cache / f".{key}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process of that number, as in restarted containers
    try:
        temporary.mkdir(parents=True)
        _write_store(temporary, data, batch, tokenizers)
        if not target.exists():
            temporary.rename(target)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return IdStore(target)


def _write_store(directory: Path, data: DataConfig, batch: BatchConfig, tokenizers: Tokenizers) -> None:
    vocab_size = max(tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
    dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
    writer = _ShardWriter(directory, dtype)
    report = CleanReport()
    sources: list[tuple[str, int]] = []
    first = 0
    for source in data.train:
        pairs = read_pairs(source, data.src_lang, data.tgt_lang)
        count = 0
        with tqdm(desc=f"preparing {source}", unit=" pairs", unit_scale=True, disable=None, leave=False) as bar:
            while chunk := list(itertools.islice(pairs, _CHUNK_PAIRS)):
                _add_chunk(writer, report, chunk, first + count, data.clean, batch, tokenizers)
                count += len(chunk)
                bar.update(len(chunk))
        if count == 0:
            raise InputError(f"{source}: empty, no sentence pairs; check data.train")
        sources.append((str(source), count))
        first += count
    writer.flush()
    if not writer.shards:
        raise InputError(f"no sentence pair is left after cleaning ({report.summary()}); loosen data.clean")
    meta = {
        "format": FORMAT,
        "dtype": dtype.name,
        "shards": writer.shards,
        "sources": sources,
        "report": dataclasses.asdict(report),
        "fingerprint": writer.digest.hexdigest()[:16],
    }
    with replaced_file(directory / "meta.json") as file:
        file.write(json.dumps(meta, indent=1).encode())


def _add_chunk(
    writer: _ShardWriter,
    report: CleanReport,
    chunk: Sequence[SentencePair],
    first: int,
    rules: CleanConfig,
    batch: BatchConfig,
    tokenizers: Tokenizers,
) -> None:
    """Clean and tokenise some pairs; ``first`` is the number of the first one over all sources."""
    kept: list[tuple[int, SentencePair]] = []
    for origin, pair in enumerate(chunk, first):
        stripped, reason = clean(pair, rules)
        if reason is None:
            kept.append((origin, stripped))
        else:
            report.count(reason)
    threads = os.cpu_count() or 1
    all_src = tokenizers.src.encode([pair.src for _, pair in kept], threads)
    all_tgt = tokenizers.tgt.encode([pair.tgt for _, pair in kept], threads)
    for (origin, _), src, tgt in zip(kept, all_src, all_tgt, strict=True):
        reason = too_long(len(src), len(tgt), rules, batch)
        report.count(reason)
        if reason is None:
            writer.add([*src, EOS_ID], [*tgt, EOS_ID], origin)


def too_long(src: int, tgt: int, rules: CleanConfig, batch: BatchConfig) -> str | None:
    """The reason to leave a pair of so many pieces (without </s>) out, if there is one."""
    assert batch.max_source_tokens is not None
    if src == 0 or tgt == 0:
        return "empty"  # nothing but characters that normalisation removes
    if src > rules.max_src_tokens:
        return "too_many_src_tokens"
    if tgt > rules.max_tgt_tokens:
        return "too_many_tgt_tokens"
    if tgt + 1 > batch.max_tokens or src + 1 > batch.max_source_tokens:
        return "fits_no_update"
    return None


def _source_key(source: SourceConfig, cache: Path) -> Any:
    """What a source's pairs depend on: the content of its files, or the settings of what has no files here."""
    settings = source.model_dump(exclude_none=True)
    paths = source_files(source)
    if paths:  # their content counts, not their names
        for name in ("src", "tgt", "hub"):
            settings.pop(name, None)
    return [settings, [_content_hash(path, cache) for path in paths]]


def training_files(data: DataConfig) -> dict[str, str]:
    """The SHA-256 of every file that the training pairs are read from, by its path."""
    cache = Path(data.cache_dir).expanduser()
    return {path: _content_hash(path, cache) for source in data.train for path in source_files(source)}


def _content_hash(path: str, cache: Path) -> str:
    """SHA-256 of a file, remembered by path, size and modification time."""
    try:
        stat = os.stat(path)
        note = cache / "hashes" / hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:24]
        stamp = f"{stat.st_size} {stat.st_mtime_ns} "
        if note.exists() and (text := note.read_text()).startswith(stamp):
            return text.removeprefix(stamp)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check data.train") from None
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(note.parent, error) from error
    with replaced_file(note) as out:
        out.write((stamp + digest).encode())
    return digest
