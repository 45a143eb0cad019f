"""Single texts that fill a corpus: one pair again and again, or one text for everything that the other side says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from transformer_mt.config.data_sections import CleanConfig
from transformer_mt.curation.common import MAX_SHOWN_CHARS, RUINOUS_SHARE, Finding, percent, share
from transformer_mt.curation.stats import SOURCES, TARGETS
from transformer_mt.data.pairs import Chunk, NamedSource
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.system.console import shortened

# Of a chunk, the texts that stand there most often. One that fills a hundredth of a source is among them nearly
# anywhere; of clean text not even a thousandth is one text.
_MOST_TEXTS = 10
_RUINS_FROM = 0.1
_FEWEST = 50  # times; fewer may be chance in little text
# But of what programs write where there is no text: spreadsheets, databases, libraries, and people.
_FILLERS = {"#N/A", "#NAME?", "#NULL!", "#REF!", "#VALUE!", "\\N", "__NULL__", "NULL", "Null", "null", "None", "none"}
_FILLERS |= {"NaN", "nan", "N/A", "n/a", "NA", "undefined", "TODO", "TBD"}
_FEWEST_FILLERS = 5

_Text = TypeVar("_Text", str, SentencePair)


class Repeated(NamedTuple):
    """How often some texts stand in a source: pairs, and sides with different other sides."""

    pairs: Counter[SentencePair]
    sides: tuple[Counter[str], Counter[str]]


def repeated_in(chunk: Chunk) -> Repeated:
    """Return those of a chunk that stand there most often."""
    pairs = Counter(pair for src, tgt in chunk.pairs() if all(pair := SentencePair(src.strip(), tgt.strip())))
    # Each other side once: a pair that is repeated is no text that stands for everything.
    src, tgt = (Counter(pair[side] for pair in pairs) for side in (0, 1))
    return Repeated(_most_common(pairs), (_most_common(src), _most_common(tgt)))


def _most_common(texts: Counter[_Text]) -> Counter[_Text]:
    return Counter({text: count for text, count in texts.most_common(_MOST_TEXTS) if count > 1})


class RepeatedTexts:
    """Those of some sources."""

    def __init__(self, num_sources: int) -> None:
        self._found = [Repeated(Counter(), (Counter(), Counter())) for _ in range(num_sources)]

    def add(self, source: int, repeated: Repeated) -> None:
        found = self._found[source]
        _merge(found.pairs, repeated.pairs)
        for counts, more in zip(found.sides, repeated.sides, strict=True):
            _merge(counts, more)

    def findings(
        self, sources: Sequence[NamedSource], counts: Sequence[int], rules: CleanConfig | None
    ) -> Iterator[Finding]:
        """Yield one for each source, pairs or sides, with what stands there often.

        Args:
            rules: by which training text is cleaned; None for held-out text, which is not.
        """
        for named, found, total in zip(sources, self._found, counts, strict=True):
            told: list[tuple[int, str]] = []
            if rules is None or rules.duplicates == "keep":
                advice = "" if rules is None else "; data.clean.duplicates: exact keeps one of them"
                for pair, count in found.pairs.most_common(1):
                    same = f"{_shown(pair.src)} = {_shown(pair.tgt)}"
                    if _is_often(count, total):
                        told.append(
                            (count, f"{share(count, total)} of {total:,} pairs are all the same, {same}{advice}")
                        )
            for unit, sides in zip((SOURCES, TARGETS), found.sides, strict=True):
                often = [(side, count) for side, count in sides.most_common() if _is_often(count, total, side)]
                if often:
                    count = sum(count for _, count in often)
                    names = ", ".join(_shown(side) for side, _ in often[:_MOST_TEXTS])
                    where = f"beside {count:,} different texts, in {percent(count, total)} of the {unit} at least"
                    text = f"{names} {'stands' if len(often) == 1 else 'stand'} {where}"
                    told.append((count, f"{text}; if it does not say the same, write nothing in its place"))
            for count, text in told:
                yield Finding(f"{named.label}: {text} ({named.source})", ruins=count >= _RUINS_FROM * total)


def fillers_of(pairs: Sequence[SentencePair], named: NamedSource) -> Iterator[str]:
    """Yield what is told of single texts that stand for many on the other side, in some pairs of a source."""
    found = RepeatedTexts(1)
    found.add(0, repeated_in(Chunk(0, 0, [pair.src for pair in pairs], [pair.tgt for pair in pairs])))
    once = CleanConfig(duplicates="exact")  # pairs that are repeated are no matter
    yield from (finding.text for finding in found.findings([named], [len(pairs)], once) if finding.ruins)


def _is_often(count: int, total: int, text: str = "") -> bool:
    return count >= max(_FEWEST_FILLERS if text in _FILLERS else _FEWEST, RUINOUS_SHARE * total)


def _merge(counts: Counter[_Text], more: Counter[_Text]) -> None:
    """Add counts, and forget the rarest texts of too many."""
    counts.update(more)
    if len(counts) > 100 * _MOST_TEXTS:
        for text, _ in counts.most_common()[50 * _MOST_TEXTS :]:
            del counts[text]


def _shown(text: str) -> str:
    return repr(shortened(text, MAX_SHOWN_CHARS))
