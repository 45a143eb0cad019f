"""The rows of the tables that statistics of parallel text are told in: as text (`summary`) and on a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformer_mt.curation.common import share
from transformer_mt.curation.stats import PERCENTILES, REPEATS, PairStats, PartStats, Rule, SideStats

Labelled = Sequence[tuple[str, PairStats]]

SIZE_HEADER = ["", "pairs", "source words", "target words", "source characters", "target characters", "copies"]
LENGTH_HEADER = ["", "side", "unit", "mean", *(f"{percent} %" for percent in PERCENTILES), "longest"]
REPEAT_HEADER = ["", *(f"{one.unit}, {one.kind}" for one in REPEATS)]


def rows_of(part: PartStats) -> Iterator[tuple[str, PairStats]]:
    """Each source, where there are several, and all of them."""
    if len(part.sources) > 1:
        yield from part.sources.items()
    yield part.name, part.total


def sides_of(labelled: Labelled) -> Iterator[tuple[str, str, SideStats]]:
    for label, stats in labelled:
        yield label, "source", stats.src
        yield label, "target", stats.tgt


def size_rows(labelled: Labelled) -> list[list[str]]:
    return [
        [
            label,
            f"{stats.pairs:,}",
            f"{stats.src.words.total:,}",
            f"{stats.tgt.words.total:,}",
            f"{stats.src.characters.total:,}",
            f"{stats.tgt.characters.total:,}",
            share(stats.copies, stats.pairs),
        ]
        for label, stats in labelled
    ]


def length_rows(labelled: Labelled) -> list[list[str]]:
    rows = []
    for label, side, stats in sides_of(labelled):
        for unit, lengths in (("words", stats.words), ("characters", stats.characters)):
            percentiles = [f"{lengths.percentile(percent):,}" for percent in PERCENTILES]
            rows.append([label, side, unit, f"{lengths.mean:.1f}", *percentiles, f"{lengths.longest:,}"])
    return rows


def repeat_rows(labelled: Labelled) -> list[list[str]]:
    return [[label, *(share(stats.repeats[one], stats.pairs) for one in REPEATS)] for label, stats in labelled]


def suspicions(part: PartStats) -> Iterator[tuple[str, Rule | None]]:
    """Every reason that was looked for, in the order of cleaning. A blank side needs no rule, nor a line of MiBs."""
    yield "empty", None
    if "too_long_line" in part.total.suspects.rejected:
        yield "too_long_line", None
    yield from part.rules.items()


def suspicion_rows(part: PartStats) -> list[list[str]]:
    total = part.total
    return [
        [
            reason,
            describe_rule(rule),
            "yes" if rule is None or rule.is_configured else "no",
            share(total.suspects.rejected.get(reason, 0), total.pairs),
        ]
        for reason, rule in suspicions(part)
    ]


def describe_rule(rule: Rule | None) -> str:
    """ "max_char_ratio: 3.0", with the scripts of each language in words."""
    if rule is None:
        return "always"
    if isinstance(rule.value, dict):
        return f"{rule.key}: " + ", ".join(f"{lang} {'/'.join(names)}" for lang, names in rule.value.items())
    value = str(rule.value).lower() if isinstance(rule.value, bool) else f"{rule.value:g}"
    return f"{rule.key}: {value}"
