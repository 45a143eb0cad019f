"""From parallel text to the id store: read, clean, tokenise, on all cores and in bounded memory.

A store is built aside, shard by shard: 262,144 pairs of input each. An interrupted build goes on behind its last whole
shard. It is found again by the content of its inputs, and identified by the content of its ids.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer_mt.config.data_sections import CleanConfig, DataConfig
from transformer_mt.config.sections import BatchConfig
from transformer_mt.data.batching import Lengths
from transformer_mt.data.cache_keys import hub_revision, source_key
from transformer_mt.data.checksums import Checksums, changed_file, damage, read_note, seal, write_note
from transformer_mt.data.clean_report import CleanReport
from transformer_mt.data.cleaning import check_rules
from transformer_mt.data.duplicates import Occurrences
from transformer_mt.data.held_out import HeldOut, held_out_sides, is_held_out
from transformer_mt.data.pairs import Chunk, NamedSource, find_duplicates, judge, read_chunks
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.data.store import FORMAT, SIDES, Ids, IdStore, finish_store, write_places, write_side
from transformer_mt.errors import InputError, RunError
from transformer_mt.system.console import tell
from transformer_mt.system.directories import build_once, remove_directory
from transformer_mt.system.lines import TOO_LONG
from transformer_mt.system.processes import on_all_cores
from transformer_mt.text.tokenizer import Tokenizers
from transformer_mt.text.vocabulary import EOS_ID

SHARD_PAIRS = 1 << 18  # of input
_SEAL = "occurrences.seal"  # the checksum of what an interrupted build has found


def prepare(data: DataConfig, batch: BatchConfig, tokenizers: Tokenizers) -> IdStore:
    """Return the id store of a training corpus: found in the cache by content, or written there.

    One that is not byte for byte what was written is built anew, and that is told on stderr.

    Raises:
        InputError: unreadable text, no pairs at all, or none left after cleaning.
        RunError: it cannot be written, or not read for a reason that is no damage; what is written is used when it is
            tried again.
    """
    cache = Path(data.cache_dir).expanduser()
    sources = [
        NamedSource(str(source), source, data.languages(source), hub_revision(source, cache)) for source in data.train
    ]
    src_budget, tgt_budget = batch.budget
    inputs = {
        "format": FORMAT,
        "tokenizer": tokenizers.fingerprint,
        "langs": [data.src_lang, data.tgt_lang],
        # Without what has come later, so that other keys do not change.
        "clean": data.clean.model_dump(exclude={"drop_held_out", "min_score", "score_model"}),
        # No larger update makes more pairs fit: what goes over these limits is rejected for its length.
        "batch": [
            min(tgt_budget, data.clean.max_tgt_tokens + 1),
            min(src_budget, data.clean.max_src_tokens + 1),
        ],
        "sources": [source_key(named, cache) for named in sources],
    }
    if data.clean.min_language_probability is not None and find_spec("py3langid") is not None:
        inputs["langid"] = version("py3langid")
    if data.clean.drop_held_out:
        held_out = [NamedSource(str(one), one, data.languages(one)) for one in (*data.valid, *data.test)]
        inputs["held_out"] = [source_key(named, cache) for named in held_out]
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]
    target = cache / key

    def build(directory: Path) -> None:
        try:
            _write_store(directory, sources, data.clean, batch, tokenizers, held_out_sides(data))
        except InputError:
            if not any(directory.glob("*.json")):  # shards are kept: the network may be there again later
                remove_directory(directory, target)
            raise
        if (reason := damage(directory)) is not None:
            remove_directory(directory, target)
            raise RunError(f"{target}: damaged while it was made ({reason}); check the disk and run again")

    build_once(target, build, damage, tell, what="the prepared corpus")
    return IdStore(target)


class _Encoded(NamedTuple):
    """What became of a chunk."""

    source: int
    end: int  # the place behind its last pair
    ids: dict[str, Ids]  # by side: all that were kept, in a row
    lengths: dict[str, Lengths]
    places: list[int]
    report: CleanReport


def _write_store(
    directory: Path,
    sources: list[NamedSource],
    rules: CleanConfig,
    batch: BatchConfig,
    tokenizers: Tokenizers,
    held_out: HeldOut | None,
) -> None:
    for named in sources:
        check_rules(rules, *named.languages)
    occurrences = _occurrences(directory, rules, sources)
    encoder = _Encoder(sources, rules, batch, tokenizers, occurrences, held_out)
    writer = _ShardWriter(directory, encoder.dtype)
    counts: list[int] = []
    done = writer.end
    chunks = read_chunks(sources, "preparing", counts, border=SHARD_PAIRS)
    for encoded in on_all_cores(encoder.encode, (chunk for chunk in chunks if chunk.end > done)):
        writer.add(encoded)
    for named, count in zip(sources, counts, strict=True):
        if count == 0:
            raise InputError(f"{named.label}: empty, no sentence pairs; check data.train")
    writer.finish([(named.label, count) for named, count in zip(sources, counts, strict=True)])


def _occurrences(directory: Path, rules: CleanConfig, sources: list[NamedSource]) -> Occurrences | None:
    """Find which pairs repeat an earlier one; of an interrupted build, take what it has found."""
    answer, keys = directory / "occurrences", directory / "keys"
    if damage(directory, _SEAL) is None:
        return np.memmap(answer, dtype=np.uint8, mode="r")
    shutil.rmtree(keys, ignore_errors=True)
    keys.mkdir()
    occurrences = find_duplicates(sources, rules.duplicates, keys)
    if isinstance(occurrences, np.memmap):
        occurrences.flush()
        (keys / answer.name).rename(answer)
        seal(directory, _SEAL, answer.name)
    shutil.rmtree(keys)
    return occurrences


class _Encoder:
    """What a process does with a chunk: it cleans and tokenises."""

    def __init__(
        self,
        sources: list[NamedSource],
        rules: CleanConfig,
        batch: BatchConfig,
        tokenizers: Tokenizers,
        occurrences: Occurrences | None,
        held_out: HeldOut | None,
    ) -> None:
        self._sources, self._rules, self._batch, self._tokenizers = sources, rules, batch, tokenizers
        self._occurrences, self._held_out = occurrences, held_out
        self._tags = [tokenizers.tag_ids(named.languages[1], named.source.tag) for named in sources]
        vocab_size = max(tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
        self.dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)

    def encode(self, chunk: Chunk) -> _Encoded:
        report, tags = CleanReport(), self._tags[chunk.source]
        named = self._sources[chunk.source]
        places, pairs = judge(chunk, named, self._rules, self._occurrences, self._held_out, report)
        rows = {
            "src": self._tokenizers.src.encode([pair.src for pair in pairs]),
            "tgt": self._tokenizers.tgt.encode([pair.tgt for pair in pairs]),
        }
        reasons = [self._too_long(len(tags), len(src), len(tgt)) for src, tgt in zip(*rows.values(), strict=True)]
        if any(reasons):
            for place, pair, why in zip(places, pairs, reasons, strict=True):
                if why is not None:
                    report.count(why, pair, place)
            kept = [why is None for why in reasons]
            places = list(itertools.compress(places, kept))
            rows = {side: list(itertools.compress(rows[side], kept)) for side in SIDES}
        report.kept += len(places)
        src, src_lengths = self._in_a_row(rows["src"], tags)
        tgt, tgt_lengths = self._in_a_row(rows["tgt"], [])
        lengths = {"src": src_lengths, "tgt": tgt_lengths}
        return _Encoded(chunk.source, chunk.end, {"src": src, "tgt": tgt}, lengths, places, report)

    def _too_long(self, num_tags: int, src: int, tgt: int) -> str | None:
        if src == 0 or tgt == 0:
            return "empty"  # nothing but characters that normalisation removes
        return too_long(num_tags + src, tgt, self._rules, self._batch)

    def _in_a_row(self, rows: list[list[int]], tags: list[int]) -> tuple[Ids, Lengths]:
        """Return all ids one after the other, each row between its tags and </s>, and the rows' lengths with these."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows)) + len(tags) + 1
        ends = np.cumsum(lengths)
        ids = np.empty(int(ends[-1]) if rows else 0, dtype=self.dtype)
        is_piece = np.ones(len(ids), dtype=np.bool_)
        for at, symbol in [*((ends - lengths + i, tag) for i, tag in enumerate(tags)), (ends - 1, EOS_ID)]:
            ids[at], is_piece[at] = symbol, False
        num_pieces = len(ids) - len(rows) * (len(tags) + 1)
        ids[is_piece] = np.fromiter(itertools.chain.from_iterable(rows), self.dtype, num_pieces)
        return ids, lengths.astype(np.int32)


class _ShardWriter:
    """Collects one shard at a time and writes it, with a note beside it by which it is found when the build goes on."""

    def __init__(self, directory: Path, dtype: np.dtype[Any]) -> None:
        self._directory, self._dtype = directory, dtype
        self._notes: list[dict[str, Any]] = []
        for temporary in directory.glob(".*.tmp"):  # of files that a killed process had begun
            temporary.unlink()
        with contextlib.suppress(ValueError):  # no further note, or a damaged one
            while True:
                note = read_note(self._note(len(self._notes)))
                if changed_file(directory, note["files"]) is not None:
                    break
                self._notes.append(note)
        for path in directory.glob("*.json"):
            if path.name >= self._note(len(self._notes)).name:  # they would be taken for whole when their turn comes
                path.unlink()
        self.end = self._notes[-1]["end"] if self._notes else 0  # the place behind the last pair that is written
        self._waiting: list[_Encoded] = []

    def _note(self, shard: int) -> Path:
        return self._directory / f"{shard:05d}.json"

    def add(self, encoded: _Encoded) -> None:
        """Take in the next chunk. No chunk goes over the end of a shard."""
        self._waiting.append(encoded)
        self.end = encoded.end
        if self.end % SHARD_PAIRS == 0:
            self._flush()

    def _flush(self) -> None:
        shard, digest = len(self._notes), hashlib.sha256()
        files: Checksums = {}
        note: dict[str, Any] = {"end": self.end, "longest": {}, "tokens": {}}
        for side in SIDES:
            lengths = np.concatenate([one.lengths[side] for one in self._waiting])
            offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
            ids = np.concatenate([one.ids[side] for one in self._waiting])
            if len(lengths):
                files |= write_side(self._directory, shard, side, ids, offsets)
            digest.update(ids.tobytes())
            digest.update(offsets.tobytes())
            note["longest"][side], note["tokens"][side] = int(lengths.max(initial=0)), int(offsets[-1])
        places = np.array([place for one in self._waiting for place in one.places], dtype=np.int64)
        files |= write_places(self._directory, shard, places)
        kept: dict[str, int] = {}
        report = CleanReport()
        for one in self._waiting:
            kept[str(one.source)] = kept.get(str(one.source), 0) + len(one.places)
            report.merge(one.report)
        note |= {"size": len(places), "kept": kept, "report": dataclasses.asdict(report), "digest": digest.hexdigest()}
        note["files"] = files
        write_note(self._note(shard), note)
        self._notes.append(note)
        self._waiting.clear()

    def finish(self, sources: list[tuple[str, int]]) -> None:
        """Make the store of the shards. ``sources``: the name and the number of pairs of each.

        Raises:
            InputError: no pair is left.
        """
        if self._waiting:
            self._flush()
        report = CleanReport()
        for note in self._notes:
            report.merge(CleanReport(**note["report"]))
        if report.kept == 0:
            for shard in range(len(self._notes)):
                self._note(shard).unlink()  # nothing to go on with: so `prepare` removes the directory
            raise InputError(f"no sentence pair is left after cleaning ({report.summary()}); {report.advice()}")
        kept = [sum(note["kept"].get(str(number), 0) for note in self._notes) for number in range(len(sources))]
        digests = "".join([str(FORMAT), *(note["digest"] for note in self._notes)])
        meta = {
            "format": FORMAT,
            "dtype": self._dtype.name,
            "shards": [note["size"] for note in self._notes],
            "sources": [(name, count, own) for (name, count), own in zip(sources, kept, strict=True)],
            "longest": {side: max(note["longest"][side] for note in self._notes) for side in SIDES},
            "tokens": {side: sum(note["tokens"][side] for note in self._notes) for side in SIDES},
            "report": dataclasses.asdict(report),
            "fingerprint": hashlib.sha256(digests.encode()).hexdigest()[:16],
        }
        files = {name: sums for note in self._notes for name, sums in note["files"].items()}
        finish_store(self._directory, meta, files)
        for shard in range(len(self._notes)):
            self._note(shard).unlink()
        for name in ("occurrences", _SEAL):
            (self._directory / name).unlink(missing_ok=True)


def too_long(src: int, tgt: int, rules: CleanConfig, batch: BatchConfig) -> str | None:
    """Return the reason to leave a pair of so many ids (tags, without </s>) out, if there is one."""
    src_budget, tgt_budget = batch.budget
    if src > rules.max_src_tokens:
        return "too_many_src_tokens"
    if tgt > rules.max_tgt_tokens:
        return "too_many_tgt_tokens"
    if tgt + 1 > tgt_budget or src + 1 > src_budget:
        return "fits_no_update"
    return None


def training_pairs(data: DataConfig) -> Iterator[SentencePair]:
    """Yield the raw pairs of all training sources, without those of which a line is too long to be read, and those
    that ``data.clean`` holds out."""
    held_out = held_out_sides(data) or frozenset()
    for source in data.train:
        for pair in read_pairs(source, *data.languages(source)):
            if TOO_LONG not in pair and not (held_out and is_held_out(pair, held_out)):
                yield pair
