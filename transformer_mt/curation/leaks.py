"""Held-out text that is in the training text as well: whole pairs, or one side of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from transformer_mt.curation.common import MAX_EXAMPLES, MAX_SHOWN_CHARS, RUINOUS_SHARE, Finding, share
from transformer_mt.curation.stats import KINDS, PAIRS, REPEATS, TARGETS, UNITS, Repeats, keys_of
from transformer_mt.data.duplicate_keys import duplicate_key, text_key
from transformer_mt.data.duplicates import Keys
from transformer_mt.data.pairs import Chunk, NamedSource, Places, read_chunks
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.system.console import shortened

_NOWHERE = np.iinfo(np.int64).max
# Blank sides and pairs are no leaks.
_BLANK = np.array([text_key("", "exact"), duplicate_key(SentencePair("", ""), "exact")], dtype=np.uint64)

Ints = npt.NDArray[np.int64]


def keys_of_each(_: Chunk, pairs: list[SentencePair]) -> dict[Repeats, Keys]:
    return {one: keys_of(pairs, one) for one in REPEATS}


class LeakFinder:
    """Keys of the held-out text, and where each was first seen in the training text."""

    def __init__(self, num_sources: int, chunks: Iterable[tuple[int, Mapping[Repeats, Keys]]]) -> None:
        """``chunks``: the number of each one's source, and its keys."""
        keys: list[dict[Repeats, list[Keys]]] = [{one: [] for one in REPEATS} for _ in range(num_sources)]
        for source, of_chunk in chunks:
            for one in REPEATS:
                keys[source][one].append(of_chunk[one])
        self._keys = [{one: _joined(of_source[one]) for one in REPEATS} for of_source in keys]
        self._unique = {
            one: np.setdiff1d(_joined([of_source[one] for of_source in self._keys]), _BLANK) for one in REPEATS
        }
        self._first = {one: np.full(len(unique), _NOWHERE) for one, unique in self._unique.items()}

    def look_up(self, keys: Keys, one: Repeats, first: int = 0) -> tuple[Ints, Ints]:
        """Return the places, from the first key's, of those that are held out, and their numbers among these."""
        unique = self._unique[one]
        numbers = np.searchsorted(unique, keys)
        held_out = np.flatnonzero(numbers < len(unique))
        held_out = held_out[unique[numbers[held_out]] == keys[held_out]]
        return held_out + first, numbers[held_out]

    def see(self, found: Mapping[Repeats, tuple[Ints, Ints]]) -> None:
        """Remember what `look_up` has found in the training text."""
        for one, (places, numbers) in found.items():
            np.minimum.at(self._first[one], numbers, places)

    def leaks(self, source: int, one: Repeats) -> tuple[Ints, Ints]:
        """The lines (from 0) of a held-out source that are in the training text, and their first places there."""
        lines, numbers = self.look_up(self._keys[source][one], one)
        places = self._first[one][numbers]
        return lines[places < _NOWHERE], places[places < _NOWHERE]

    def between(self, sources: Sequence[NamedSource], counts: Sequence[int]) -> Iterator[Finding]:
        """Yield one for each held-out source of which pairs stand in one of another part."""
        near = Repeats(PAIRS, KINDS[1])
        for number, named in enumerate(sources):
            part = named.label.partition(".")[0]
            others = [i for i, other in enumerate(sources[:number]) if other.label.partition(".")[0] != part]
            keys = [np.setdiff1d(self._keys[i][near], _BLANK) for i in others]
            shared = int(np.isin(self._keys[number][near], _joined(keys)).sum())
            if shared:
                yield Finding(
                    f"{named.label}: {share(shared, counts[number])} of {counts[number]:,} pairs are in "
                    f"{' or '.join(sources[i].label for i in others)} as well, by which the best checkpoint is chosen: "
                    "its scores will be too good; take other pairs",
                    ruins=shared >= RUINOUS_SHARE * counts[number],
                )

    def findings(self, sources: Sequence[NamedSource], counts: Sequence[int], train: Places) -> Iterator[Finding]:
        """Yield one for each held-out source and each of pairs, source sides and target sides that leak.

        Sides of pairs that leak as a whole are told with those.
        """
        for number, named in enumerate(sources):
            of_pairs = np.empty(0, dtype=np.int64)
            for unit in UNITS:
                (exact, _), (lines, places) = (self.leaks(number, Repeats(unit, kind)) for kind in KINDS)
                is_new = np.isin(lines, of_pairs, invert=True)  # near ones; exact ones are near, too
                exact, lines, places = np.setdiff1d(exact, of_pairs), lines[is_new], places[is_new]
                if unit == PAIRS:
                    of_pairs = lines
                if len(lines):
                    texts = _texts(named, unit, lines[:MAX_EXAMPLES].tolist())
                    examples = "; ".join(
                        f"line {line + 1:,} = {train.describe(place)} ({text})"
                        for line, place, text in zip(lines.tolist(), places.tolist(), texts, strict=False)
                    )
                    yield Finding(
                        f"{named.label}: {share(len(lines), counts[number])} of {counts[number]:,} {unit} are in the "
                        f"training text, {len(exact):,} of them exactly: {examples}; data.clean.drop_held_out: true "
                        "leaves them out of training",
                        ruins=len(lines) >= RUINOUS_SHARE * counts[number],
                    )


def _joined(keys: Sequence[Keys]) -> Keys:
    return np.concatenate([np.empty(0, dtype=np.uint64), *keys])


def _texts(named: NamedSource, unit: str, lines: list[int]) -> list[str]:
    """What stands in some lines (from 0, in order), shortened."""
    found: list[str] = []
    for chunk in read_chunks([named], "reading", [], refusals=[]):
        for line in lines[len(found) :]:
            if line >= chunk.end:
                break
            pair = SentencePair(chunk.src[line - chunk.first], chunk.tgt[line - chunk.first])
            found.append(shortened(pair.tgt if unit == TARGETS else pair.src, MAX_SHOWN_CHARS))
        if len(found) == len(lines):
            break
    return found
