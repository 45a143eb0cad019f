"""Sides in another language than they should be, above all source and target the wrong way round.

What letters follow each other tells languages apart: each source is compared with the larger ones. Where the extra
`langid` is installed, it also looks at some sides of each source by itself.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from transformer_mt.curation.common import Finding, percent
from transformer_mt.data.pairs import Chunk, NamedSource
from transformer_mt.errors import InputError
from transformer_mt.system.lines import TOO_LONG
from transformer_mt.text.languages import is_language, language_label, likely_language

_MOST_LINES = 256  # of a chunk, drawn at random, of which letters are counted
_ENOUGH_LETTERS = 1_000_000  # of a source's side: its beginning tells
_FEWEST_LETTERS = 500  # by which a side can be judged, or others
# In nats for two letters that follow each other.
_CLEARLY = 0.2

_MOST_IDENTIFIED = 64  # passages of a chunk that are given to the identifier, which takes 0.1 ms each
# It errs on short sides, so those of neighbours are joined until a passage has so many letters, without placeholders.
_FEWEST_LETTERS_ASKED, _LEAST_PROBABILITY = 40, 0.02
_PLACEHOLDER = re.compile(r"\{[^}]*\}|<[^>]*>|[%$&]\S*|\d+")
_FEWEST_IDENTIFIED = 10
_TOLD_FROM, _RUINS_FROM = 0.1, 0.5  # of those


class Languages(NamedTuple):
    """What tells the languages of a source: of its source side, and of its target side."""

    letters: tuple[Counter[str], Counter[str]]  # how often two follow each other
    num_identified: tuple[int, int]  # passages that the identifier was asked about
    foreign: tuple[Counter[str], Counter[str]]  # what it took those for that are not in their language


def languages_of(chunk: Chunk, labels: tuple[str | None, str | None]) -> Languages:
    """Look at some sides of a chunk. ``labels``: of `labels_of`."""
    letters, num_identified, foreign = [], [], []
    # Drawn, as damage may be periodic. Copies are told as what they are.
    usable = [
        i for i, pair in enumerate(chunk.pairs()) if TOO_LONG not in pair and pair.src.strip() != pair.tgt.strip()
    ]
    drawn = sorted(random.Random(chunk.first).sample(usable, min(len(usable), _MOST_LINES)))
    for lines, label in zip((chunk.src, chunk.tgt), labels, strict=True):
        lines = [lines[i][:1000] for i in drawn]
        letters.append(letter_pairs(lines))
        passages = [] if label is None else [*_passages(lines)]
        asked = random.Random(chunk.first).sample(passages, min(len(passages), _MOST_IDENTIFIED))
        num_identified.append(len(asked))
        wrong = [line for line in asked if not is_language(line, str(label), _LEAST_PROBABILITY)]
        foreign.append(Counter(str(likely_language(line)) for line in wrong))
    return Languages((letters[0], letters[1]), (num_identified[0], num_identified[1]), (foreign[0], foreign[1]))


def _passages(lines: Sequence[str]) -> Iterator[str]:
    """Yield lines, and short ones joined with the next ones."""
    passage = ""
    for line in lines:
        passage = f"{passage} {_PLACEHOLDER.sub(' ', line)}".strip()
        if sum(map(str.isalpha, passage)) >= _FEWEST_LETTERS_ASKED:
            yield passage
            passage = ""


def labels_of(named: NamedSource) -> tuple[str | None, str | None]:
    """Return what the identifier calls a source's languages; None where it does not know one, or is not there."""
    labels: list[str | None] = []
    for code in named.languages:
        try:
            labels.append(language_label(code))
        except InputError:
            labels.append(None)
    return labels[0], labels[1]


def letter_pairs(lines: Iterable[str]) -> Counter[str]:
    """Count which letters follow each other, without case."""
    text = "\n".join(lines).lower()
    counts = Counter(map("".join, itertools.pairwise(text)))
    return Counter({pair: count for pair, count in counts.items() if pair.isalpha()})


class WrongLanguages:
    """The languages of all sources of a corpus."""

    def __init__(self, sources: Sequence[NamedSource]) -> None:
        self._sources = sources
        self._found = [Languages((Counter(), Counter()), (0, 0), (Counter(), Counter())) for _ in sources]

    def add(self, source: int, languages: Languages) -> None:
        found = self._found[source]
        for counts, more in zip(found.letters, languages.letters, strict=True):
            if counts.total() < _ENOUGH_LETTERS:
                counts.update(more)
        for counts, more in zip(found.foreign, languages.foreign, strict=True):
            counts.update(more)
        num_identified = found.num_identified[0] + languages.num_identified[0]
        self._found[source] = found._replace(
            num_identified=(num_identified, found.num_identified[1] + languages.num_identified[1])
        )

    def findings(self, counts: Sequence[int]) -> Iterator[Finding]:
        """Yield one for each source whose sides are the wrong way round, or side in another language.

        Larger sources are believed before smaller ones, and those in which the identifier knows the languages before
        others.
        """
        believed: dict[str, Counter[str]] = {}
        told = set()
        for number, named in enumerate(self._sources):
            if _is_exchanged(self._found[number], labels_of(named)):
                told.add(number)
                text = (
                    "its two sides look the wrong way round, each in the other's language; exchange them, or src_lang"
                )
                yield Finding(f"{named.label}: {text} and tgt_lang ({named.source})", ruins=True)
        for number in sorted({*range(len(counts))} - told, key=lambda number: -counts[number]):
            named, (src, tgt) = self._sources[number], self._found[number].letters
            one, other = (believed.get(code, Counter()) for code in named.languages)
            is_turned = fits_better(src, other, one), fits_better(tgt, one, other)
            if any(is_turned):
                told.add(number)
                what = (
                    "its two sides look the wrong way round"
                    if all(is_turned)
                    else f"its {'source' if is_turned[0] else 'target'} side looks as if it were in the other language"
                )
                yield Finding(
                    f"{named.label}: {what}, by the letters that follow each other there and in larger sources; look "
                    f"at its first lines, and set its src_lang and tgt_lang or exchange its sides ({named.source})",
                    ruins=True,
                )
            else:
                for code, counts_of_side in zip(named.languages, (src, tgt), strict=True):
                    believed.setdefault(code, Counter()).update(counts_of_side)
        for number, named in enumerate(self._sources):
            if number not in told:
                yield from self._identified(named, self._found[number])

    @staticmethod
    def _identified(named: NamedSource, found: Languages) -> Iterator[Finding]:
        for side, code, asked, foreign in zip(
            ("source", "target"), named.languages, found.num_identified, found.foreign, strict=True
        ):
            if asked >= _FEWEST_IDENTIFIED and foreign.total() >= _TOLD_FROM * asked:
                names = ", ".join(name for name, _ in foreign.most_common(3))
                is_most = foreign.total() >= _RUINS_FROM * asked
                advice = (
                    "look whether it is the right file"
                    if is_most
                    else "clean.min_language_probability leaves them out of training"
                )
                yield Finding(
                    f"{named.label}: {percent(foreign.total(), asked)} of {asked:,} passages of its {side} side that "
                    f"were looked at are not in {code}, but look like {names}; {advice} ({named.source})",
                    ruins=is_most,
                )


def _is_exchanged(found: Languages, labels: tuple[str | None, str | None]) -> bool:
    """Return whether most of each side is what the identifier takes for the other's language."""
    return all(
        asked >= _FEWEST_IDENTIFIED and foreign[str(other)] >= _RUINS_FROM * asked
        for asked, foreign, other in zip(found.num_identified, found.foreign, labels[::-1], strict=True)
    )


def fits_better(text: Counter[str], one: Counter[str], other: Counter[str]) -> bool:
    """Return whether the letters of a text follow each other clearly rather as in one language than in another."""
    totals = text.total(), one.total(), other.total()
    if min(totals) < _FEWEST_LETTERS:
        return False
    kinds = len(one.keys() | other.keys() | text.keys())
    gain = sum(count * math.log((one[pair] + 0.5) / (other[pair] + 0.5)) for pair, count in text.items()) / totals[
        0
    ] - math.log((totals[1] + 0.5 * kinds) / (totals[2] + 0.5 * kinds))
    return gain > _CLEARLY
