"""What every way through a corpus needs: its sources by name, their pairs in chunks, and cleaning's verdict on those.

A corpus may be larger than memory: processes on all cores work on chunks of it, a few at a time, and what grows with it
goes to files.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from transformer_mt.config.data_sections import CleanConfig, SourceConfig
from transformer_mt.data.clean_report import CleanReport
from transformer_mt.data.cleaning import clean
from transformer_mt.data.duplicate_keys import duplicate_key
from transformer_mt.data.duplicates import LATER, DuplicateFinder, Keys, Occurrences
from transformer_mt.data.held_out import HeldOut, is_held_out
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.errors import InputError
from transformer_mt.system.lines import TOO_LONG
from transformer_mt.system.processes import on_all_cores

# Pairs that a process works on at once: whole thousands, and fewer where they are long.
CHUNK_PAIRS, _CHUNK_CHARACTERS = 8000, 1 << 22


class NamedSource(NamedTuple):
    """A source, what reports call it, its languages and, of a data set on the hub, the commit if one is wanted."""

    label: str
    source: SourceConfig
    languages: tuple[str, str]
    revision: str | None = None


class Chunk(NamedTuple):
    """Pairs of one source that follow each other."""

    source: int  # its number among those that are read
    first: int  # the place of the first pair among those of all sources
    src: list[str]
    tgt: list[str]

    @property
    def end(self) -> int:
        return self.first + len(self.src)

    def pairs(self) -> Iterator[SentencePair]:
        return map(SentencePair, self.src, self.tgt)

    def readable(self) -> Iterator[SentencePair]:
        """Yield the pairs without those of which a line is too long to be read: nothing is known of their text."""
        return (pair for pair in self.pairs() if TOO_LONG not in pair)


def read_chunks(
    sources: Sequence[NamedSource],
    doing: str,
    counts: list[int],
    *,
    border: int | None = None,
    refusals: list[InputError] | None = None,
) -> Iterator[Chunk]:
    """Yield all pairs of some sources, in order, in chunks.

    Args:
        doing: what the progress bar says of it.
        counts: gets the number of pairs of each source.
        border: no chunk has pairs on both sides of a multiple of this place.
        refusals: gets the reason why a source cannot be read (any further), and the next one follows.

    Raises:
        InputError: a source that cannot be read, without ``refusals``.
    """
    first = 0
    for number, named in enumerate(sources):
        begin = first
        try:
            with tqdm(desc=f"{doing} {named.label}", unit=" pairs", unit_scale=True, disable=None, leave=False) as bar:
                for pairs in _in_chunks(
                    read_pairs(named.source, *named.languages, named.revision), first, border or CHUNK_PAIRS
                ):
                    chunk = Chunk(number, first, [src for src, _ in pairs], [tgt for _, tgt in pairs])
                    first = chunk.end
                    yield chunk
                    bar.update(len(pairs))
        except InputError as error:
            if refusals is None:
                raise
            refusals.append(error)
        counts.append(first - begin)


def _in_chunks(pairs: Iterator[SentencePair], first: int, border: int) -> Iterator[list[SentencePair]]:
    """Yield pairs in chunks, of which the first begins at a place; what stands before damage is one too."""
    chunk: list[SentencePair] = []
    num_characters = 0
    most = min(CHUNK_PAIRS, border - first % border)
    try:
        for pair in pairs:
            chunk.append(pair)
            num_characters += len(pair.src) + len(pair.tgt)
            if len(chunk) == most or num_characters >= _CHUNK_CHARACTERS:
                first += len(chunk)
                yield chunk
                chunk, num_characters = [], 0
                most = min(CHUNK_PAIRS, border - first % border)
    except InputError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


class Places:
    """Where pairs are, by their places among those of all sources."""

    def __init__(self, labels: Sequence[str], counts: Sequence[int]) -> None:
        self._ranges = list(zip(labels, itertools.accumulate(counts), counts, strict=True))

    def describe(self, place: int) -> str:
        """Return the source of a pair and its line there, in words."""
        label, end, count = next(one for one in self._ranges if place < one[1])
        return f"{label}, line {place - (end - count) + 1:,}"


def find_duplicates(
    sources: Sequence[NamedSource], kind: Literal["keep", "exact", "near"], directory: Path
) -> Occurrences | None:
    """Find, in a first pass, which pairs repeat an earlier one, whatever becomes of that; None if all shall be kept.

    ``directory``: an empty one for files that grow with the corpus.
    """
    if kind == "keep":
        return None

    def keys_of(chunk: Chunk) -> Keys:
        return np.array([duplicate_key(pair, kind) for pair in chunk.pairs()], dtype=np.uint64)

    finder = DuplicateFinder(directory)
    for keys in on_all_cores(keys_of, read_chunks(sources, "comparing", [])):
        finder.add(keys)
    return finder.find()


def judge(
    chunk: Chunk,
    named: NamedSource,
    rules: CleanConfig,
    occurrences: Occurrences | None,
    held_out: HeldOut | None,
    report: CleanReport,
) -> tuple[list[int], list[SentencePair]]:
    """Return the pairs that cleaning keeps and, before them, their places; the others are counted into the report."""
    repeated = "near_duplicate" if rules.duplicates == "near" else "duplicate"
    is_repeated = None if occurrences is None else occurrences[chunk.first : chunk.end] == LATER
    places: list[int] = []
    kept: list[SentencePair] = []
    for i, raw in enumerate(chunk.pairs()):
        pair, reason = clean(raw, rules, *named.languages)
        if reason is None and is_repeated is not None and is_repeated[i]:
            reason = repeated
        if reason is None and held_out is not None and is_held_out(pair, held_out):
            reason = "held_out"
        if reason is None:
            places.append(chunk.first + i)
            kept.append(pair)
        else:
            report.count(reason, pair, chunk.first + i)
    return places, kept
