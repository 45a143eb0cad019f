"""Statistics of parallel text as aligned tables, and as plain data for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformer_mt.curation.common import format_table, share
from transformer_mt.curation.stats import PERCENTILES, RATIO_BINS, REPEATS, Lengths, PairStats, PartStats, Rule


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


def suspicions(part: PartStats) -> Iterator[tuple[str, Rule | None]]:
    """Every reason that was looked for, in the order of cleaning. A blank side needs no rule, nor a line of MiBs."""
    yield "empty", None
    if "too_long_line" in part.total.suspects.rejected:
        yield "too_long_line", None
    yield from part.rules.items()


def describe_rule(rule: Rule | None) -> str:
    """ "max_char_ratio: 3.0", with the scripts of each language in words."""
    if rule is None:
        return "always"
    if isinstance(rule.value, dict):
        return f"{rule.key}: " + ", ".join(f"{lang} {'/'.join(names)}" for lang, names in rule.value.items())
    value = str(rule.value).lower() if isinstance(rule.value, bool) else f"{rule.value:g}"
    return f"{rule.key}: {value}"


def rows_of(part: PartStats) -> Iterator[tuple[str, PairStats]]:
    """Each source, where there are several, and all of them."""
    if len(part.sources) > 1:
        yield from part.sources.items()
    yield part.name, part.total


def format_summary(parts: Sequence[PartStats]) -> str:
    """Tables of text, each under a line that says what it counts."""
    rows = [row for part in parts for row in rows_of(part)]
    tables = [
        ("Size. Words are what stands between white space; copies are pairs whose sides are equal.", _sizes(rows)),
        (
            "Words in a line. In a column such as 95 %: the length that so many of the lines do not exceed.",
            _lengths(rows, "words"),
        ),
        ("Characters in a line.", _lengths(rows, "characters")),
        (
            "Repeats: pairs and sides that stand earlier in the same part. Near ones differ in case, accents, digits, "
            "punctuation and white space only.",
            _repeats(rows),
        ),
        ("Characters by kind; letters by script.", _classes(rows)),
        (
            "Suspicious pairs: what each rule of data.clean would reject by itself. * is a rule of this configuration, "
            "the others have usual values; min_language_probability, which takes long, has none.",
            _suspicious(parts),
        ),
    ]
    return "\n\n".join(f"{caption}\n\n{table}" for caption, table in tables)


def _sizes(rows: Sequence[tuple[str, PairStats]]) -> str:
    header = ["", "pairs", "source words", "target words", "source characters", "target characters", "copies"]
    return format_table(
        header,
        [
            [
                label,
                f"{stats.pairs:,}",
                f"{stats.src.words.total:,}",
                f"{stats.tgt.words.total:,}",
                f"{stats.src.characters.total:,}",
                f"{stats.tgt.characters.total:,}",
                share(stats.copies, stats.pairs),
            ]
            for label, stats in rows
        ],
    )


def _lengths(rows: Sequence[tuple[str, PairStats]], unit: str) -> str:
    header = ["", "side", "mean", *(f"{percent} %" for percent in PERCENTILES), "longest"]
    sides: list[tuple[str, str, Lengths]] = [
        (label, side, getattr(stats, name).words if unit == "words" else getattr(stats, name).characters)
        for label, stats in rows
        for side, name in (("source", "src"), ("target", "tgt"))
    ]
    return format_table(
        header,
        [
            [
                label,
                side,
                f"{lengths.mean:.1f}",
                *(f"{lengths.percentile(percent):,}" for percent in PERCENTILES),
                f"{lengths.longest:,}",
            ]
            for label, side, lengths in sides
        ],
        num_names=2,
    )


def _repeats(rows: Sequence[tuple[str, PairStats]]) -> str:
    header = ["", *(f"{one.unit}, {one.kind}" for one in REPEATS)]
    return format_table(
        header, [[label, *(share(stats.repeats[one], stats.pairs) for one in REPEATS)] for label, stats in rows]
    )


def _classes(rows: Sequence[tuple[str, PairStats]]) -> str:
    lines = []
    for label, stats in rows:
        for side, classes in (("source", stats.src.classes), ("target", stats.tgt.classes)):
            total = classes.total()
            shares = [f"{name} {100 * number / total:.1f} %" for name, number in classes.most_common()]
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
