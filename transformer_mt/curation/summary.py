"""Statistics of parallel text as aligned tables, and as plain data for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformer_mt.curation.common import format_table, share
from transformer_mt.curation.stats import RATIO_BINS, REPEATS, PairStats, PartStats
from transformer_mt.curation.tables import (
    LENGTH_HEADER,
    REPEAT_HEADER,
    SIZE_HEADER,
    Labelled,
    describe_rule,
    length_rows,
    repeat_rows,
    rows_of,
    sides_of,
    size_rows,
    suspicions,
)


def as_dict(parts: Sequence[PartStats]) -> dict[str, Any]:
    """All of it. Sources by their labels, and the part as a whole."""
    return {
        part.name: {
            "total": _pairs_as_dict(part, part.total),
            "sources": {label: _pairs_as_dict(part, stats) for label, stats in part.sources.items()},
        }
        for part in parts
    }


def _pairs_as_dict(part: PartStats, stats: PairStats) -> dict[str, Any]:
    return {
        "pairs": stats.pairs,
        "copies": stats.copies,
        "source": stats.src.as_dict(),
        "target": stats.tgt.as_dict(),
        # By the ratio in the middle of a bin.
        "length_ratios": {f"{2 ** (b / RATIO_BINS):.4g}": stats.ratios[b] for b in sorted(stats.ratios)},
        "repeats": {f"{one.unit}, {one.kind}": stats.repeats[one] for one in REPEATS},
        "suspicious": {
            reason: {
                "rule": None if rule is None else {rule.key: rule.value},
                "is_configured": rule is None or rule.is_configured,
                "pairs": stats.suspects.rejected.get(reason, 0),
                "examples": [
                    {"place": part.places.describe(place), "source": src, "target": tgt}
                    for place, src, tgt in sorted(stats.suspects.examples.get(reason, []))
                ],
            }
            for reason, rule in suspicions(part)
        },
    }


def format_summary(parts: Sequence[PartStats]) -> str:
    """Tables of text, each under a line that says what it counts."""
    rows = [row for part in parts for row in rows_of(part)]
    tables = [
        (
            "Size. Words are what stands between white space; copies are pairs whose sides are equal.",
            format_table(SIZE_HEADER, size_rows(rows)),
        ),
        (
            "Words in a line. In a column such as 95 %: the length that so many of the lines do not exceed.",
            _lengths(rows, "words"),
        ),
        ("Characters in a line.", _lengths(rows, "characters")),
        (
            "Repeats: pairs and sides that stand earlier in the same part. Near ones differ in case, accents, digits, "
            "punctuation and white space only.",
            format_table(REPEAT_HEADER, repeat_rows(rows)),
        ),
        ("Characters by kind; letters by script.", _classes(rows)),
        (
            "Suspicious pairs: what each rule of data.clean would reject by itself. * is a rule of this configuration, "
            "the others have usual values; min_language_probability, which takes long, has none.",
            _suspicious(parts),
        ),
    ]
    return "\n\n".join(f"{caption}\n\n{table}" for caption, table in tables)


def _lengths(rows: Labelled, wanted: str) -> str:
    label, side, _, *numbers = LENGTH_HEADER
    lengths = [[label, side, *numbers] for label, side, unit, *numbers in length_rows(rows) if unit == wanted]
    return format_table([label, side, *numbers], lengths, num_names=2)


def _classes(rows: Labelled) -> str:
    lines = []
    for label, side, stats in sides_of(rows):
        total = stats.classes.total()
        shares = [f"{name} {100 * number / total:.1f} %" for name, number in stats.classes.most_common()]
        lines.append([label, side, ", ".join(one for one in shares if not one.endswith(" 0.0 %"))])
    return format_table(["", "side", "characters"], lines, num_names=3)


def _suspicious(parts: Sequence[PartStats]) -> str:
    totals = [(part.name, part.total) for part in parts]
    rules = {reason: rule for part in parts for reason, rule in suspicions(part)}
    return format_table(
        ["reason", "rule", *(f"{name} pairs" for name, _ in totals)],
        [
            [
                f"{reason}{' *' if rule is None or rule.is_configured else ''}",
                describe_rule(rule),
                *(share(total.suspects.rejected.get(reason, 0), total.pairs) for _, total in totals),
            ]
            for reason, rule in rules.items()
        ],
        num_names=2,
    )
