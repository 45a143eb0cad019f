"""Findings about parallel text that spoil a training or its scores: leaks, encoding, alignment."""

from __future__ import annotations

from collections.abc import Iterator

from transformer_mt.config import DataConfig
from transformer_mt.curation.alignment import Block, Shifts, shifted_blocks
from transformer_mt.curation.common import PARTS, named_sources
from transformer_mt.curation.encoding import encoding_findings
from transformer_mt.curation.leaks import HeldOut, Ints
from transformer_mt.curation.stats import REPEATS, Repeats, keys_of
from transformer_mt.duplicates import Keys
from transformer_mt.errors import InputError
from transformer_mt.passes import Chunk, Places, read_chunks
from transformer_mt.workers import on_all_cores


def check(data: DataConfig) -> Iterator[str]:
    """One line for each finding. That a source cannot be read is one, too, and the others are checked.

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

    def read(chunk: Chunk) -> tuple[int, dict[Repeats, Keys], list[Block]]:
        pairs = list(chunk.pairs())
        return chunk.source, {one: keys_of(pairs, one) for one in REPEATS}, shifted_blocks(chunk)

    for number, of_chunk, blocks in on_all_cores(read, read_chunks(sources, "reading", counts, refusals=refusals)):
        for one in REPEATS:
            keys[number][one].append(of_chunk[one])
        shifts.add(number, blocks)
    yield from map(str, refusals)
    yield from shifts.findings(sources, counts)
    held_out = HeldOut(keys)
    del keys

    train = named_sources(data, "train")
    train_counts: list[int] = []
    train_refusals: list[InputError] = []
    train_shifts = Shifts()

    def compare(chunk: Chunk) -> tuple[int, dict[Repeats, tuple[Ints, Ints]], list[Block]]:
        pairs = list(chunk.pairs())
        seen = {}
        for one in REPEATS:
            lines, numbers = held_out.look_up(keys_of(pairs, one), one)
            seen[one] = numbers, lines + chunk.first
        return chunk.source, seen, shifted_blocks(chunk)

    for number, seen, blocks in on_all_cores(
        compare, read_chunks(train, "comparing", train_counts, refusals=train_refusals)
    ):
        for one, (numbers, places) in seen.items():
            held_out.see(one, numbers, places)
        train_shifts.add(number, blocks)
    yield from map(str, train_refusals)
    yield from train_shifts.findings(train, train_counts)
    yield from held_out.findings(sources, counts, Places([named.label for named in train], train_counts))
