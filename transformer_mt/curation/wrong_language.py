"""Sides in another language than they should be, above all source and target the wrong way round.

What letters follow each other tells languages apart: each source is compared with the larger ones. Where the extra
`langid` is installed, it also looks at some sides of each source by itself.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from transformer_mt.curation.common import Finding, percent
from transformer_mt.data.pairs import Chunk, NamedSource
from transformer_mt.errors import InputError
from transformer_mt.system.lines import TOO_LONG
from transformer_mt.text.languages import language_label, likely_language, may_be_in
from transformer_mt.text.scripts import script_of

_MOST_LINES = 256  # of a chunk, drawn at random, of which letters are counted
_LONGEST = 1000  # characters of a line that are looked at
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
_IN_EACH_OF_BOTH = 0.25  # where rows of both directions are mixed
# Of languages that the identifier does not know. 0.97 and more of English and German are so probable; of Swiss German
# and Scots, three quarters at most are to be one of these. It takes all of Bavarian for German, of Silesian for Polish.
_CLEAR_SHARE, _CLEAR_PROBABILITY = 0.9, 0.9
_MANY_IN_ANOTHER, _FEWEST_LETTERS_OF_LINE = 0.2, 20  # of lines by themselves, where a side is in two languages
_NO_LANGUAGE = "no language"  # numbers, keys
# In which languages are written, too; the identifier, which knows them in others, takes them for other languages then.
_OTHER_SCRIPTS = {
    **dict.fromkeys(("ace", "ha", "ms", "pa", "so", "uz"), ("Arabic",)),
    **dict.fromkeys(("az", "ku", "tk"), ("Arabic", "Cyrillic")),
    **dict.fromkeys(("kk", "ky", "tt"), ("Arabic", "Latin")),
    **dict.fromkeys(("bs", "crh"), ("Cyrillic",)),
    "mn": ("Mongolian",),
    "ug": ("Cyrillic", "Latin"),
}


@dataclass
class SideLanguage:
    """What tells the language of one side of a source."""

    letters: Counter[str] = field(default_factory=Counter)  # how often two follow each other
    num_identified: int = 0  # passages that the identifier was asked about
    foreign: Counter[str] = field(default_factory=Counter)  # what it took those for that are not in their language

    def merge(self, other: SideLanguage) -> None:
        if self.letters.total() < _ENOUGH_LETTERS:
            self.letters.update(other.letters)
        self.num_identified += other.num_identified
        self.foreign.update(other.foreign)


def side_languages_of(chunk: Chunk, labels: Sequence[str | None]) -> list[SideLanguage]:
    """Look at some lines of a chunk, on both sides. ``labels``: of `labels_of`."""
    # Drawn, as damage may be periodic. Copies are told as what they are.
    usable = [
        i for i, pair in enumerate(chunk.pairs()) if TOO_LONG not in pair and pair.src.strip() != pair.tgt.strip()
    ]
    drawn = sorted(random.Random(chunk.first).sample(usable, min(len(usable), _MOST_LINES)))
    found = []
    for lines, label in zip((chunk.src, chunk.tgt), labels, strict=True):
        lines = [lines[i][:_LONGEST] for i in drawn]
        passages = [] if label is None else [*_passages(lines)]
        asked = random.Random(chunk.first).sample(passages, min(len(passages), _MOST_IDENTIFIED))
        found.append(SideLanguage(_letter_pairs(lines), len(asked), _foreign(asked, label)))
    return found


def another_language(lines: Sequence[str], code: str) -> str | None:
    """Return which language most of some lines are in, where that is not the one they should be in; None where it is,
    or the identifier cannot tell. Of a language that it does not know, nearly all of them are clearly in another."""
    lines = [line[:_LONGEST] for line in lines]
    asked = [*_passages(lines)]
    try:
        foreign = _foreign(asked, language_label(code))
        is_told = foreign.total() >= _RUINS_FROM * len(asked)
    except InputError:
        if _script_of(_letter_pairs(lines)) != "Latin":  # of others it knows few languages, and takes all for these
            return None
        foreign = Counter(one for passage in asked if (one := likely_language(passage, _CLEAR_PROBABILITY)))
        is_told = max(foreign.values(), default=0) >= _CLEAR_SHARE * len(asked)
    found = foreign.most_common(1)[0][0] if is_told and len(asked) >= _FEWEST_IDENTIFIED else None
    return None if found == _NO_LANGUAGE else found


def two_languages(lines: Iterable[str]) -> set[str]:
    """Return the two languages that many of some lines are in, each by itself; none where there are not two."""
    asked = [line[:_LONGEST] for line in lines if sum(map(str.isalpha, line)) >= _FEWEST_LETTERS_OF_LINE]
    found = Counter(one for line in asked if (one := likely_language(line, _CLEAR_PROBABILITY)))
    many = {one for one, count in found.items() if count >= _MANY_IN_ANOTHER * found.total()}
    return many if found.total() >= _FEWEST_IDENTIFIED and len(many) == 2 else set()


def _foreign(passages: Sequence[str], label: str | None) -> Counter[str]:
    """Count what the identifier takes those passages for that are hardly in the language of a label."""
    wrong = [passage for passage in passages if not may_be_in(passage, str(label), _LEAST_PROBABILITY)]
    # Of two languages that are alike, the one that is meant may be the likeliest, with little probability.
    return Counter(one for passage in wrong if (one := likely_language(passage) or _NO_LANGUAGE) != label)


def _passages(lines: Sequence[str]) -> Iterator[str]:
    """Yield lines, and short ones joined with the next ones."""
    passage = ""
    for line in lines:
        passage = f"{passage} {_PLACEHOLDER.sub(' ', line)}".strip()
        if sum(map(str.isalpha, passage)) >= _FEWEST_LETTERS_ASKED:
            yield passage
            passage = ""


def labels_of(named: NamedSource) -> list[str | None]:
    """Return what the identifier calls a source's languages; None where it does not know one, or is not there."""
    labels: list[str | None] = []
    for code in named.languages:
        try:
            labels.append(language_label(code))
        except InputError:
            labels.append(None)
    return labels


def _letter_pairs(lines: Iterable[str]) -> Counter[str]:
    """Count which letters follow each other, without case."""
    text = "\n".join(lines).lower()
    counts = Counter(map("".join, itertools.pairwise(text)))
    return Counter({pair: count for pair, count in counts.items() if pair.isalpha()})


class WrongLanguages:
    """The languages of all sources of a corpus."""

    def __init__(self, sources: Sequence[NamedSource]) -> None:
        self._sources = sources
        self._found = [[SideLanguage(), SideLanguage()] for _ in sources]

    def add(self, source: int, languages: Sequence[SideLanguage]) -> None:
        for side, more in zip(self._found[source], languages, strict=True):
            side.merge(more)

    def findings(self, counts: Sequence[int]) -> Iterator[Finding]:
        """Yield one for each source whose sides are the wrong way round, or side in another language.

        What the identifier says of both sides is believed before what the letters tell; of those, larger sources are
        believed before smaller ones.
        """
        exchanged: list[NamedSource] = []
        told: set[int] = set()
        for number, named in enumerate(self._sources):
            share, own_share = _shares_exchanged(self._found[number], labels_of(named))
            if min(share, own_share) >= _IN_EACH_OF_BOTH:
                told.add(number)
                yield Finding(
                    f"{named.label}: rows of both directions look mixed in it: on each side at least {percent(share)} "
                    "of the passages are in the other's language; write those of each direction into a source of its "
                    f"own, one of them with its src_lang and tgt_lang ({named.source})",
                    ruins=True,
                )
            elif share >= _RUINS_FROM:
                told.add(number)
                exchanged.append(named)
        are_of_data = all(one.source.src_lang is None and one.source.tgt_lang is None for one in exchanged)
        if are_of_data and len(exchanged) == len(self._sources) > 1:
            labels = ", ".join(named.label for named in exchanged)
            yield Finding(
                f"{labels}: the two sides of all sources look the wrong way round, each in the other's language; "
                "exchange data.src_lang and data.tgt_lang",
                ruins=True,
            )
            exchanged = []
        for named in exchanged:
            yield Finding(
                f"{named.label}: its two sides look the wrong way round, each in the other's language; exchange "
                f"them, or src_lang and tgt_lang ({named.source})",
                ruins=True,
            )
        believed: defaultdict[str, Counter[str]] = defaultdict(Counter)  # pairs of letters, by language
        for number in sorted({*range(len(counts))} - told, key=lambda number: -counts[number]):
            named, (src, tgt) = self._sources[number], (side.letters for side in self._found[number])
            src_lang, tgt_lang = (believed[code] for code in named.languages)
            is_turned = _fits_better(src, tgt_lang, src_lang), _fits_better(tgt, src_lang, tgt_lang)
            if not any(is_turned):
                src_lang.update(src)
                tgt_lang.update(tgt)
                continue
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
        for number, named in enumerate(self._sources):
            if number not in told:
                yield from _identified(named, self._found[number])


def _identified(named: NamedSource, sides: Sequence[SideLanguage]) -> Iterator[Finding]:
    for name, code, label, side in zip(("source", "target"), named.languages, labels_of(named), sides, strict=True):
        asked, num_foreign = side.num_identified, side.foreign.total()
        if asked < _FEWEST_IDENTIFIED or num_foreign < _TOLD_FROM * asked:
            continue
        names = ", ".join(name for name, _ in side.foreign.most_common(3))
        what = f"{percent(num_foreign, asked)} of {asked:,} passages of its {name} side that were looked at"
        script = _script_of(side.letters)
        if script in _OTHER_SCRIPTS.get(str(label), ()):
            yield Finding(
                f"{named.label}: {what} look like {names}; the identifier does not know {code} in {script} letters, so "
                f"look whether they are in it ({named.source})",
                ruins=False,
            )
            continue
        is_most = num_foreign >= _RUINS_FROM * asked
        advice = (
            "look whether it is the right file, or column"
            if is_most
            else "data.clean.min_language_probability leaves them out of training"
        )
        yield Finding(
            f"{named.label}: {what} are not in {code}, but look like {names}; {advice} ({named.source})", ruins=is_most
        )


def _script_of(letters: Counter[str]) -> str | None:
    """Return the script of most letters, by how often two follow each other."""
    scripts: Counter[str | None] = Counter()
    for pair, count in letters.items():
        scripts[script_of(pair[0])] += count
    return max(scripts, key=lambda script: scripts[script], default=None)


def _shares_exchanged(sides: Sequence[SideLanguage], labels: Sequence[str | None]) -> tuple[float, float]:
    """Return which shares of each side, at least, the identifier takes for the other's language, and for its own."""
    if any(side.num_identified < _FEWEST_IDENTIFIED for side in sides):
        return 0.0, 0.0
    in_other = [
        side.foreign[str(other)] / side.num_identified for side, other in zip(sides, reversed(labels), strict=True)
    ]
    return min(in_other), min(1 - side.foreign.total() / side.num_identified for side in sides)


def _fits_better(text: Counter[str], one: Counter[str], other: Counter[str]) -> bool:
    """Return whether the letters of a text follow each other clearly rather as in one language than in another."""
    if min(text.total(), one.total(), other.total()) < _FEWEST_LETTERS:
        return False
    # Half a count for each pair of letters, so that one that was never seen is only unlikely.
    kinds = len(one.keys() | other.keys() | text.keys())
    by_counts = sum(count * math.log((one[pair] + 0.5) / (other[pair] + 0.5)) for pair, count in text.items())
    by_totals = math.log((one.total() + 0.5 * kinds) / (other.total() + 0.5 * kinds))
    return by_counts / text.total() - by_totals > _CLEARLY
