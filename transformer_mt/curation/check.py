"""Findings about parallel text that spoil a training or its scores: leaks, encoding, alignment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from transformer_mt.config.data_sections import DataConfig
from transformer_mt.curation.common import PARTS, named_sources
from transformer_mt.curation.encoding import encoding_findings
from transformer_mt.curation.leaks import HeldOut, Ints
from transformer_mt.curation.shifted_lines import Block, Shifts, shifted_blocks
from transformer_mt.curation.stats import REPEATS, Repeats, keys_of
from transformer_mt.data.clean_report import SentencePair
from transformer_mt.data.duplicates import Keys
from transformer_mt.data.pairs import Chunk, NamedSource, Places, read_chunks
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.errors import InputError
from transformer_mt.system.lines import TOO_LONG
from transformer_mt.system.processes import on_all_cores


def check(data: DataConfig) -> Iterator[str]:
    """One line for each finding. That a source cannot be read, or is empty, is one, too, and the others are checked.

    Of the held-out text six keys a pair are in memory: some 50 MB for a million pairs.
    """
    for part in PARTS:
        for named in named_sources(data, part):
            yield from encoding_findings(named)

    sources = [named for part in PARTS[1:] for named in named_sources(data, part)]
    keys: list[dict[Repeats, list[Keys]]] = [{one: [] for one in REPEATS} for _ in sources]
    counts: list[int] = []
    refusals: list[InputError] = []
    shifts = Shifts()

    num_usable = [0 for _ in sources]

    def read(chunk: Chunk) -> tuple[int, dict[Repeats, Keys], list[Block], int]:
        pairs = _known(chunk)
        return chunk.source, {one: keys_of(pairs, one) for one in REPEATS}, shifted_blocks(chunk), _usable(pairs)

    for number, of_chunk, blocks, usable in on_all_cores(
        read, read_chunks(sources, "reading", counts, refusals=refusals)
    ):
        for one in REPEATS:
            keys[number][one].append(of_chunk[one])
        shifts.add(number, blocks)
        num_usable[number] += usable
    yield from map(str, refusals)
    yield from _empty_sources(sources, counts, num_usable)
    yield from shifts.findings(sources, counts)
    held_out = HeldOut(keys)
    del keys

    train = named_sources(data, "train")
    train_counts: list[int] = []
    train_refusals: list[InputError] = []
    train_shifts = Shifts()
    train_usable = [0 for _ in train]

    def compare(chunk: Chunk) -> tuple[int, dict[Repeats, tuple[Ints, Ints]], list[Block], int]:
        pairs = _known(chunk)
        seen = {}
        for one in REPEATS:
            lines, numbers = held_out.look_up(keys_of(pairs, one), one)
            seen[one] = numbers, lines + chunk.first
        return chunk.source, seen, shifted_blocks(chunk), _usable(pairs)

    for number, seen, blocks, usable in on_all_cores(
        compare, read_chunks(train, "comparing", train_counts, refusals=train_refusals)
    ):
        for one, (numbers, places) in seen.items():
            held_out.see(one, numbers, places)
        train_shifts.add(number, blocks)
        train_usable[number] += usable
    yield from map(str, train_refusals)
    yield from _empty_sources(train, train_counts, train_usable)
    yield from train_shifts.findings(train, train_counts)
    yield from held_out.findings(sources, counts, Places([named.label for named in train], train_counts))


def _known(chunk: Chunk) -> list[SentencePair]:
    """Its pairs, with two blank sides where a line is too long to be read: it is like no other."""
    return [SentencePair("", "") if TOO_LONG in pair else pair for pair in chunk.pairs()]


def _usable(pairs: Sequence[SentencePair]) -> int:
    """How many pairs have text on both sides."""
    return sum(1 for src, tgt in pairs if src.strip() and tgt.strip())


def _empty_sources(sources: Sequence[NamedSource], counts: Sequence[int], num_usable: Sequence[int]) -> Iterator[str]:
    """A line for each source without a pair that can be used."""
    for named, count, usable in zip(sources, counts, num_usable, strict=True):
        if count > 0 and usable == 0:
            yield f"{named.label}: none of its {count:,} pairs has text on both sides ({named.source})"
        elif count == 0:
            with contextlib.suppress(InputError):  # it cannot be read, which is told
                next(read_pairs(named.source, *named.languages), None)
                yield f"{named.label}: empty, no sentence pairs ({named.source})"
