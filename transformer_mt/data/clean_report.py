"""What cleaning left out: counts and examples by reason."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from transformer_mt.data.duplicate_keys import hash_of
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.system.console import counted, shortened

MAX_EXAMPLES = 5  # of each reason
MAX_EXAMPLE_CHARS = 300  # of each side


class Example(NamedTuple):
    """A rejected pair: its number over the corpus, and its text, cut where it is long."""

    place: int
    src: str
    tgt: str


@dataclass
class CleanReport:
    """How many pairs were kept, and how many rejected for each reason, with a few of these as examples.

    Later stages count reasons of their own into it, such as "too_many_src_tokens". The examples are a uniform sample of
    the pairs that came with their text, the same in whatever order and in however many reports they are counted. What
    `dataclasses.asdict` makes of a report, JSON can store, and ``CleanReport(**stored)`` is the report again.
    """

    kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.examples = {reason: [Example(*fields) for fields in stored] for reason, stored in self.examples.items()}

    @property
    def num_pairs(self) -> int:
        return self.kept + sum(self.rejected.values())

    def count(self, reason: str | None, pair: SentencePair | None = None, place: int = 0) -> None:
        """Count one pair: rejected for this reason, or kept (``None``).

        ``place`` is its number over the corpus, from 0.
        """
        if reason is None:
            self.kept += 1
            return
        self.rejected[reason] = self.rejected.get(reason, 0) + 1
        if pair is not None:
            src, tgt = (shortened(side, MAX_EXAMPLE_CHARS) for side in pair)
            self._add_examples(reason, [Example(place, src, tgt)])

    def merge(self, other: CleanReport) -> None:
        """Add what another report has counted, and let its examples compete with ours."""
        self.kept += other.kept
        for reason, number in other.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + number
        for reason, examples in other.examples.items():
            self._add_examples(reason, examples)

    def _add_examples(self, reason: str, examples: Iterable[Example]) -> None:
        kept = self.examples.setdefault(reason, [])
        for example in examples:
            if len(kept) < MAX_EXAMPLES or _rank(example) < _rank(kept[-1]):
                insort(kept, example, key=_rank)
        del kept[MAX_EXAMPLES:]

    def summary(self) -> str:
        """Return one line, reasons in alphabetical order: "29,000 pairs: 28,731 kept, 12 empty, 257 length_ratio"."""
        counts = [(self.kept, "kept")] + [(self.rejected[reason], reason) for reason in sorted(self.rejected)]
        return f"{counted(self.num_pairs, 'pair')}: " + ", ".join(f"{number:,} {name}" for number, name in counts)

    def advice(self) -> str:
        """Return what to do where nothing is kept, by the most frequent reason."""
        if not self.rejected:
            return "there are none in its sources: check the files of data.train"
        reason = max(self.rejected, key=lambda one: self.rejected[one])
        if reason == "empty":
            return "a side of most pairs is empty: check the files, columns and languages of the sources"
        if reason == "fits_no_update":
            return "most pairs are longer than an update: raise batch.max_tokens"
        return f"most are {reason}: loosen that rule of data.clean"


def _rank(example: Example) -> int:
    """Return a number by chance, but always the same for a pair.

    The lowest ones of all are a uniform sample, however they are found.
    """
    return hash_of(str(example.place))
