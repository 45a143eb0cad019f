"""Rules on one sentence pair, each with a reason, and their counts.

Cleaning rejects whole pairs; it changes no text beyond stripping the white space around each side.

    pair, reason = clean(SentencePair("A dog .", "Ein Hund ."), CleanConfig())
    report.count(reason)
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from transformer_mt.config import CleanConfig

MAX_EXAMPLES = 5  # of each reason
MAX_EXAMPLE_CHARS = 300  # of each side


class SentencePair(NamedTuple):
    src: str
    tgt: str


class Verdict(NamedTuple):
    """What became of a pair: its stripped text, and why it was rejected (``None``: kept)."""

    pair: SentencePair
    reason: str | None


def check_rules(rules: CleanConfig, src_lang: str, tgt_lang: str) -> None:
    """Refuse rules that cannot be applied, before the first pair; what they need is loaded, for forked processes too.

    Raises:
        InputError: a script or a language that is not known, or a package that is missing.
    """


def clean(pair: SentencePair, rules: CleanConfig, src_lang: str = "", tgt_lang: str = "") -> Verdict:
    """Strip both sides and judge the pair by the first rule that it breaks, cheap ones first.

    Raises:
        InputError: as `check_rules`.
    """
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


Kind = Literal["exact", "near"]


class _NearCharacters(dict[int, str]):
    """What `str.translate` puts in a character's place so that near texts become equal; filled as they are seen."""

    def __missing__(self, code: int) -> str:
        folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", chr(code)).casefold())
        self[code] = near = "".join(map(_near_character, folded))
        return near


def _near_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return "0"
    # No other marks than those of European scripts: a vowel sign of Hindi makes another word.
    is_ignored = category[0] in "PSZ" or category in ("Cc", "Cf") or "\u0300" <= character <= "\u036f"
    return "" if is_ignored else character


_NEAR_CHARACTERS = _NearCharacters()
_NUMBERS_OF_ZEROS = re.compile("00+")


def text_key(text: str, kind: Kind) -> int:
    """A 64-bit key that equal texts share, whatever the white space around them.

    Near texts share it too: those that differ in case, accents, digits, punctuation, symbols and white space only. A
    text that has nothing else is near to itself only.
    """
    return _key(_near(text) if kind == "near" else text.strip())


def duplicate_key(pair: SentencePair, kind: Kind) -> int:
    """The key of a pair: equal where those of both sides are."""
    src, tgt = (_near(pair.src), _near(pair.tgt)) if kind == "near" else (pair.src.strip(), pair.tgt.strip())
    return _key(f"{src}\n{tgt}")


def _near(text: str) -> str:
    near = text.translate(_NEAR_CHARACTERS)
    if not near.isascii():
        near = unicodedata.normalize("NFKD", near)  # the order of marks
    if "00" in near:
        near = _NUMBERS_OF_ZEROS.sub("0", near)
    return near or text.strip()


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


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
        self.examples = {reason: [Example(*fields) for fields in found] for reason, found in self.examples.items()}

    @property
    def num_pairs(self) -> int:
        return self.kept + sum(self.rejected.values())

    def count(self, reason: str | None, pair: SentencePair | None = None, place: int = 0) -> None:
        """Count one pair: rejected for this reason, or kept (``None``). ``place`` is its number over the corpus."""
        if reason is None:
            self.kept += 1
            return
        self.rejected[reason] = self.rejected.get(reason, 0) + 1
        if pair is not None:
            self._add_examples(reason, [Example(place, _cut(pair.src), _cut(pair.tgt))])

    def merge(self, other: CleanReport) -> None:
        """Add what another report has counted."""
        self.kept += other.kept
        for reason, number in other.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + number
        for reason, examples in other.examples.items():
            self._add_examples(reason, examples)

    def _add_examples(self, reason: str, examples: Iterable[Example]) -> None:
        found = self.examples.setdefault(reason, [])
        found += examples
        found.sort(key=lambda example: _key(str(example.place)))
        del found[MAX_EXAMPLES:]

    def summary(self) -> str:
        """One line, reasons in alphabetical order: "29,000 pairs: 28,731 kept, 12 empty, 257 length_ratio"."""
        counts = [(self.kept, "kept")] + [(self.rejected[reason], reason) for reason in sorted(self.rejected)]
        return f"{self.num_pairs:,} pairs: " + ", ".join(f"{number:,} {name}" for number, name in counts)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_EXAMPLE_CHARS else text[: MAX_EXAMPLE_CHARS - 1] + "…"
