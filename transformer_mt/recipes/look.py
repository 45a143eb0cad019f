"""What a corpus looks like: how much there is, how long it is, what it is written in, what repeats.

All of it is counted where there are some 250,000 pairs or fewer. Of more, whole blocks are looked at, at equal
distances; behind ten million pairs nothing is read.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transformer_mt.config.data_sections import SourceConfig
from transformer_mt.curation.stats import PairStats
from transformer_mt.data.duplicate_keys import duplicate_key, text_key
from transformer_mt.data.duplicates import Keys
from transformer_mt.data.pairs import Chunk, NamedSource, read_chunks
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.errors import InputError
from transformer_mt.system.console import counted
from transformer_mt.system.processes import on_all_cores

MOST_PAIRS = 10_000_000  # read; how many more there are makes no difference to any choice
_CHUNKS = 32  # of 8,000 pairs each, all looked at; of more, 17 to 32
_SAMPLE = 2000  # pairs of a chunk that are kept


@dataclass(frozen=True)
class Look:
    """What was seen of a corpus."""

    num_pairs: int  # read
    is_all: bool  # there are no more
    stats: PairStats  # of the pairs that were looked at
    num_repeated: int  # pairs among them that stand earlier, the same on both sides
    src_keys: Keys  # of each pair among them with text on both sides
    tgt_keys: Keys
    sample: list[SentencePair]  # some of them, drawn at random, in order
    # Of each pair of the sample: no equal one stands before it, and neither side, or one near to it, is in a different
    # pair.
    is_unique: npt.NDArray[np.bool_]

    @property
    def num_looked_at(self) -> int:
        return self.stats.pairs

    @property
    def num_full(self) -> int:
        """About how many pairs have text on both sides."""
        return round(self.num_pairs * len(self.src_keys) / self.num_looked_at)

    def counted(self) -> str:
        """Return how much there is and how much of it was looked at, in words."""
        if self.num_looked_at == self.num_pairs:
            return counted(self.num_pairs, "pair")
        read = (
            counted(self.num_pairs, "pair") if self.is_all else f"more than {self.num_pairs:,} pairs, read up to there"
        )
        return f"{read}, of which {self.num_looked_at:,} at equal distances were looked at"


class _Seen(NamedTuple):
    """What was seen of a chunk."""

    number: int
    stats: PairStats
    pair_keys: Keys
    src_keys: Keys
    tgt_keys: Keys
    sample: list[SentencePair]
    places: list[int]  # of the sample, among the pairs that have keys


def look_at(source: SourceConfig, languages: tuple[str, str], label: str) -> Look:
    """Look at a corpus, in bounded memory.

    Raises:
        InputError: it cannot be read, or there is no pair with text on both sides.
    """
    num_pairs, num_chunks, is_all = 0, 0, True

    def wanted() -> Iterator[tuple[int, Chunk]]:
        nonlocal num_pairs, num_chunks, is_all
        for number, chunk in enumerate(read_chunks([NamedSource(label, source, languages)], "looking at", [])):
            if num_pairs >= MOST_PAIRS:
                is_all = False
                return
            num_pairs, num_chunks = chunk.end, number + 1
            if number % _distance(number) == 0:
                yield number, chunk

    distance_at_last = 1
    seen: list[_Seen] = []
    for one in on_all_cores(_see, wanted()):
        distance_at_last = _distance(num_chunks - 1)
        seen = [other for other in [*seen, one] if other.number % distance_at_last == 0]
    stats = PairStats()
    for one in seen:
        stats.merge(one.stats)
    if not any(len(one.src_keys) for one in seen):
        raise InputError(f"{label}: no pair with text on both sides; check the file, or its columns and languages")
    pair_keys = np.concatenate([one.pair_keys for one in seen])
    src_keys = np.concatenate([one.src_keys for one in seen])
    tgt_keys = np.concatenate([one.tgt_keys for one in seen])
    starts = itertools.accumulate((len(one.src_keys) for one in seen), initial=0)
    places = np.array([start + place for start, one in zip(starts, seen, strict=False) for place in one.places])
    return Look(
        num_pairs=num_pairs,
        is_all=is_all,
        stats=stats,
        num_repeated=len(pair_keys) - len(np.unique(pair_keys)),
        src_keys=src_keys,
        tgt_keys=tgt_keys,
        sample=[pair for one in seen for pair in one.sample],
        is_unique=_are_unique(src_keys, tgt_keys)[places],
    )


def _distance(number: int) -> int:
    """Return the distance at which chunks are looked at, around the chunk of a number."""
    return 1 << (number // _CHUNKS).bit_length()


def _see(numbered: tuple[int, Chunk]) -> _Seen:
    number, chunk = numbered
    pairs = [SentencePair(pair.src.strip(), pair.tgt.strip()) for pair in chunk.readable()]
    stats = PairStats(pairs=len(chunk.src) - len(pairs))
    stats.add(pairs)
    pairs = [pair for pair in pairs if pair.src and pair.tgt]
    places = sorted(random.Random(chunk.first).sample(range(len(pairs)), min(len(pairs), _SAMPLE)))
    return _Seen(
        number,
        stats,
        np.array([duplicate_key(pair, "exact") for pair in pairs], dtype=np.uint64),
        np.array([text_key(pair.src, "near") for pair in pairs], dtype=np.uint64),
        np.array([text_key(pair.tgt, "near") for pair in pairs], dtype=np.uint64),
        [pairs[place] for place in places],
        places,
    )


def _are_unique(src_keys: Keys, tgt_keys: Keys) -> npt.NDArray[np.bool_]:
    """Return which pairs have sides that are in no different pair, on neither side; of equal pairs the first."""
    order = np.lexsort((tgt_keys, src_keys))
    src, tgt = src_keys[order], tgt_keys[order]
    is_first = np.ones(len(order), dtype=np.bool_)
    is_first[1:] = (src[1:] != src[:-1]) | (tgt[1:] != tgt[:-1])
    firsts, src, tgt = order[is_first], src[is_first], tgt[is_first]
    keys, counts = np.unique(np.concatenate([src, tgt[tgt != src]]), return_counts=True)
    src_is_once, tgt_is_once = (counts[np.searchsorted(keys, side)] == 1 for side in (src, tgt))
    unique = np.zeros(len(src_keys), dtype=np.bool_)
    unique[firsts[src_is_once & tgt_is_once]] = True
    return unique
