"""Rules on one sentence pair, each with a reason, and their counts.

Cleaning rejects whole pairs; it changes no text beyond stripping the white space around each side.

    pair, reason = clean(SentencePair("A dog .", "Ein Hund ."), CleanConfig())
    report.count(reason)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from transformer_mt.config import CleanConfig


class SentencePair(NamedTuple):
    src: str
    tgt: str


class Verdict(NamedTuple):
    """What became of a pair: its stripped text, and why it was rejected (``None``: kept)."""

    pair: SentencePair
    reason: str | None


def clean(pair: SentencePair, rules: CleanConfig) -> Verdict:
    """Strip both sides and judge the pair by the first rule that it breaks, in the order of ``CleanConfig``."""
    pair = SentencePair(pair.src.strip(), pair.tgt.strip())
    return Verdict(pair, next(_broken_rules(pair, rules), None))


def _broken_rules(pair: SentencePair, rules: CleanConfig) -> Iterator[str]:
    shorter, longer = sorted((len(pair.src), len(pair.tgt)))
    if shorter == 0:
        yield "empty"
    if rules.drop_identical and pair.src == pair.tgt:
        yield "identical"
    if rules.max_chars is not None and longer > rules.max_chars:
        yield "too_long_characters"
    if rules.max_char_ratio is not None and longer > rules.max_char_ratio * shorter:
        yield "length_ratio"
    limit = rules.max_word_chars
    if limit is not None and any(len(word) > limit for side in pair for word in side.split()):
        yield "word_too_long"


@dataclass
class CleanReport:
    """How many pairs were kept, and how many rejected for each reason.

    Later stages count reasons of their own into it, such as "too_many_src_tokens".
    """

    kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)

    @property
    def num_pairs(self) -> int:
        return self.kept + sum(self.rejected.values())

    def count(self, reason: str | None) -> None:
        """Count one pair: rejected for this reason, or kept (``None``)."""
        if reason is None:
            self.kept += 1
        else:
            self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def summary(self) -> str:
        """One line, reasons in alphabetical order: "29,000 pairs: 28,731 kept, 12 empty, 257 length_ratio"."""
        counts = [(self.kept, "kept")] + [(self.rejected[reason], reason) for reason in sorted(self.rejected)]
        return f"{self.num_pairs:,} pairs: " + ", ".join(f"{number:,} {name}" for number, name in counts)
