"""Which words translations have right: numbers, names, and words by how often a training text has them."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import regex

from transformer_mt.text.scripts import UNSPACED

# Letters and digits together; in scripts without spaces, each character.
_WORD = regex.compile(rf"[[{UNSPACED}]&&\w]|[\w--[_{UNSPACED}]]+", regex.V1)
_NUMBER = re.compile(r"\d+(?:[.,:/'’\u00a0\u202f]\d+)*")
_SENTENCE_ENDS = frozenset(".!?…:")

FREQUENCIES = (0, 1, 2, 10, 100, 1000)  # the least frequency of each bucket


def words_in(text: str) -> list[str]:
    """Return the words of a text without its punctuation; in scripts without spaces, its characters."""
    return _WORD.findall(text)


def numbers_in(text: str) -> set[str]:
    """Return the digits of each number, so that 1,000 is 1.000 and 12:30 is 12.30."""
    return {
        "".join(str(unicodedata.decimal(character)) for character in number if character.isdecimal())
        for number in _NUMBER.findall(text)
    }


def names_in(text: str) -> set[str]:
    """Return the words of two letters or more with a capital that no sentence begins with."""
    names, end = set(), None
    for word in _WORD.finditer(text):
        begins = end is None or not _SENTENCE_ENDS.isdisjoint(text[end : word.start()])
        if not begins and word[0][0].isupper() and len(word[0]) > 1:
            names.add(word[0])
        end = word.end()
    return names


@dataclass(frozen=True)
class Change:
    """What a translation lacks of its references, and what neither they nor the source have."""

    line: int
    missing: list[str]
    added: list[str]


@dataclass(frozen=True)
class Kept:
    """How many of the numbers (or names) that are expected of all translations are there, and each line that errs."""

    num_expected: int
    num_missing: int
    num_added: int
    changes: list[Change]


def numbers_kept(hypotheses: Sequence[str], references: Sequence[Sequence[str]], sources: Sequence[str] | None) -> Kept:
    """Compare numbers: those that all references of a line have are expected."""
    return _kept(hypotheses, references, sources, numbers_in, numbers_in, in_source=False)


def names_kept(hypotheses: Sequence[str], references: Sequence[Sequence[str]], sources: Sequence[str] | None) -> Kept:
    """Compare names: those that all references of a line have, and the source, if given, are expected.

    Without a source each German noun is taken for a name, and with one still among those added.
    """
    return _kept(hypotheses, references, sources, names_in, lambda text: set(words_in(text)), in_source=True)


def _kept(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    sources: Sequence[str] | None,
    sought: Callable[[str], set[str]],
    any_place: Callable[[str], set[str]],
    in_source: bool,
) -> Kept:
    changes, num_expected = [], 0
    for number, (hypothesis, *refs) in enumerate(zip(hypotheses, *references, strict=True)):
        refs = [ref for ref in refs if ref.strip()] or refs
        source = [] if sources is None else [sources[number]]
        expected = set.intersection(*map(sought, refs))
        if in_source:
            expected.intersection_update(*map(any_place, source))
        missing = expected - any_place(hypothesis)
        added = sought(hypothesis).difference(*map(any_place, [*refs, *source]))
        num_expected += len(expected)
        if missing or added:
            changes.append(Change(number + 1, sorted(missing), sorted(added)))
    return Kept(
        num_expected,
        sum(len(change.missing) for change in changes),
        sum(len(change.added) for change in changes),
        changes,
    )


@dataclass(frozen=True)
class WordCounts:
    """Words of a system's translations: how many there are, how many of them are right, and the shares."""

    num_words: int
    num_right: int
    precision: float | None  # of the translations' words; None where there are none
    recall: float | None  # of the references' words


@dataclass(frozen=True)
class FrequencyBucket:
    """The words that a training text has ``least`` to ``most`` times (None: or more)."""

    least: int
    most: int | None
    num_reference_words: int
    systems: list[WordCounts]

    @property
    def label(self) -> str:
        """Return the frequencies for people: ``0``, ``2–9``, ``1000+``."""
        if self.most is None:
            return f"{self.least}+"
        return f"{self.least}" if self.least == self.most else f"{self.least}–{self.most}"


def accuracy_by_frequency(
    systems: Sequence[Sequence[str]], references: Sequence[Sequence[str]], train: Iterable[str]
) -> list[FrequencyBucket]:
    """Count the words that translations share with their references, by their frequency in the lines of a training
    text.

    A word is right as often as the reference has it. Several references are compared with one after the other, and the
    counts added.
    """
    in_references = [[Counter(words_in(line)) for line in stream] for stream in references]
    in_systems = [[Counter(words_in(line)) for line in hypotheses] for hypotheses in systems]
    wanted = {word for stream in (*in_references, *in_systems) for counter in stream for word in counter}
    frequencies = Counter(word for line in train for word in words_in(line) if word in wanted)

    def by_bucket(counters: Iterable[Counter[str]]) -> list[int]:
        totals = [0] * len(FREQUENCIES)
        for counter in counters:
            for word, count in counter.items():
                totals[bisect_right(FREQUENCIES, frequencies[word]) - 1] += count
        return totals

    expected = by_bucket(counter for stream in in_references for counter in stream)
    of_systems = []
    for own in in_systems:
        right = by_bucket(a & b for stream in in_references for a, b in zip(own, stream, strict=True))
        of_systems.append((by_bucket(own * len(references)), right))
    return [
        FrequencyBucket(
            least,
            None if most is None else most - 1,
            expected[i],
            [
                WordCounts(words[i], right[i], _share(right[i], words[i]), _share(right[i], expected[i]))
                for words, right in of_systems
            ],
        )
        for i, (least, most) in enumerate(zip(FREQUENCIES, [*FREQUENCIES[1:], None], strict=True))
    ]


def _share(part: int, total: int) -> float | None:
    return part / total if total else None
