"""What a batch of translations looks like from outside: how many are empty, loop, are copies or are too long.

No reference is needed, so any translation can be watched. One such output proves nothing, and a name is rightly copied;
but a share that is far from the usual one is the first sign of a wrong language, a broken model or a wrong tokenizer.

    stats = OutputStats()
    stats.count("Ein Hund.", "A dog.", num_source_tokens=4, num_target_tokens=4)
    print(stats.format(seconds=12.5), file=sys.stderr)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformer_mt.system.console import shortened
from transformer_mt.text.loops import has_loop

# What other programs print beside a translation, or in the place of it.
_MORE_THAN_TEXT = {
    "JSON around them": re.compile(r"""\{["'].*\}$"""),
    "||| between fields, as lists of alternatives and links of words have": re.compile(r".*\|\|\| "),
    "tabs between fields": re.compile(".*\t"),
    "tags around them, as SGML has": re.compile(r"\s*<(?:seg|s|hl|p|doc|tuv|target)\b.*>"),
    "pieces for words (@@, ▁)": re.compile(r".*\w@@ |▁"),
    "quotes around them, as tables have": re.compile(r'"(?:[^"]|"")*"$'),
}
_MOST = 0.5  # of the lines

TOO_LONG_RATIO, TOO_LONG_EXTRA = 2, 10  # more target tokens than this times the source's, plus this

MAX_SOURCES = 100_000  # different ones whose translations are compared; 64-bit hashes of them are kept


def is_copy(source: str, output: str) -> bool:
    """Whether the output is the source, but for case and the amount of white space, and has a letter in it."""
    words = source.casefold().split()
    return words == output.casefold().split() and any(character.isalpha() for character in source)


def more_than_text(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> str | None:
    """Return what most outputs have beside their text and the references have not, in words."""

    def most_have(form: re.Pattern[str], lines: Sequence[str]) -> bool:
        return sum(map(bool, map(form.match, lines))) > _MOST * len(lines)

    for words, form in _MORE_THAN_TEXT.items():
        if most_have(form, outputs) and not any(most_have(form, lines) for lines in references):
            return words
    return None


@dataclass
class OutputStats:
    """Counts of translations, fed one at a time, in bounded memory.

    Blank sources are counted and otherwise left out: their outputs are blank by contract. An output may be of several
    kinds at once. All but the last are shares of ``num_translations``:

    - empty: nothing but white space;
    - looping: `has_loop`, where the source has none itself (a row of equal numbers is copied from a table);
    - copied: `is_copy`;
    - too long: more than twice the source's tokens and ten, or cut at the length limit (the caller says so);
    - alike: of the first 100,000 different sources (``num_sources``), those with the most frequent translation, when
      two or more have it and it is not empty.
    """

    num_translations: int = 0
    num_blank: int = 0
    num_empty: int = 0
    num_looping: int = 0
    num_copied: int = 0
    num_too_long: int = 0
    num_alike: int = 0
    most_frequent: str = ""  # the translation that `num_alike` sources share
    num_source_tokens: int = 0
    num_target_tokens: int = 0
    _sources: set[int] = field(default_factory=set, repr=False)
    _frequencies: dict[int, int] = field(default_factory=dict, repr=False)  # hash of a translation -> its sources

    @property
    def num_sources(self) -> int:
        return len(self._sources)

    def count(
        self, source: str, output: str, num_source_tokens: int, num_target_tokens: int, hit_limit: bool = False
    ) -> None:
        """Count one line. ``hit_limit``: the search ended it because it could grow no longer."""
        if not source.strip():
            self.num_blank += 1
            return
        self.num_translations += 1
        self.num_source_tokens += num_source_tokens
        self.num_target_tokens += num_target_tokens
        self.num_empty += not output.strip()
        self.num_looping += has_loop(output) and not has_loop(source)
        self.num_copied += is_copy(source, output)
        self.num_too_long += hit_limit or num_target_tokens > TOO_LONG_RATIO * num_source_tokens + TOO_LONG_EXTRA
        self._compare(source.strip(), output.strip())

    def _compare(self, source: str, output: str) -> None:
        if self.num_sources >= MAX_SOURCES or hash(source) in self._sources:
            return
        self._sources.add(hash(source))
        if output:
            key = hash(output)
            self._frequencies[key] = self._frequencies.get(key, 0) + 1
            if self._frequencies[key] > max(1, self.num_alike):
                self.num_alike, self.most_frequent = self._frequencies[key], output

    def format(self, seconds: float) -> str:
        """Three lines for a reader: throughput over ``seconds``, the kinds of outputs, the most frequent one."""
        blank = f" (blank lines left out: {self.num_blank:,})" if self.num_blank else ""
        throughput = f"{self.num_translations:,} translations{blank} in {seconds:.1f} s"
        if seconds > 0:
            sentences, source_tokens, target_tokens = (
                number / seconds for number in (self.num_translations, self.num_source_tokens, self.num_target_tokens)
            )
            throughput += (
                f": {sentences:,.1f} sentences/s, {source_tokens:,.0f} source and {target_tokens:,.0f} target tokens/s"
            )
        kinds = {
            "empty": self.num_empty,
            "looping": self.num_looping,
            "copied from the source": self.num_copied,
            "too long": self.num_too_long,
        }
        shares = ", ".join(f"{_share(number, self.num_translations)} {kind}" for kind, number in kinds.items())
        frequent = "no two sources gave the same"
        if self.num_alike:
            shown = shortened(" ".join(self.most_frequent.split()), 60)
            # As a literal: a terminal is told nothing by what a model made up.
            frequent = f"{_share(self.num_alike, self.num_sources)} of the different sources gave {shown!r}"
        return f"{throughput}\n{shares}\nmost frequent: {frequent}"


def _share(number: int, total: int) -> str:
    return f"{number:,} ({number / max(1, total):.1%})"
