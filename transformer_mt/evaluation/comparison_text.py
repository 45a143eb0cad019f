"""A comparison of systems as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformer_mt.evaluation.comparison import Comparison, Part, SentencePair
from transformer_mt.evaluation.lengths import METRICS
from transformer_mt.evaluation.significance import PairedScore
from transformer_mt.evaluation.word_accuracy import Kept


def format_comparison(comparison: Comparison, num_shown: int) -> str:
    """Return the verdicts, tables and sentences of a comparison; of lines with changed numbers the first few."""
    return "\n".join(
        [
            *comparison.verdicts,
            "",
            *_scores(comparison),
            *_sentences(comparison),
            *_lengths(comparison),
            *_kept("Numbers", comparison.numbers, comparison.names, num_shown),
            *_kept("Names (words with a capital inside a sentence)", comparison.capitals, comparison.names, num_shown),
            *_frequencies(comparison),
        ]
    ).rstrip("\n")


def _scores(comparison: Comparison) -> Iterator[str]:
    first = comparison.names[0]
    yield (
        f"Scores of {comparison.num_sentences:,} sentences, with 95 % intervals; differences to {first}; p, how likely "
        "so large a one is between equally good systems, by paired bootstrap and by approximate randomisation"
    )
    rows = [["", *(scores.label for scores in comparison.scores.values())]]
    for number, name in enumerate(comparison.names):
        rows.append([name, *(_score(scores.systems[number]) for scores in comparison.scores.values())])
    yield from _table(rows)
    for scores in comparison.scores.values():
        yield f"  {scores.label}|{scores.bootstrap_signature}"
        yield f"  {scores.label}|{scores.randomisation_signature}"
    yield ""


def _score(one: PairedScore) -> str:
    text = f"{one.score:.2f} ± {one.interval.half_width:.2f}"
    if one.p_bootstrap is None:
        return text
    return f"{text} ({one.difference:+.2f}, p {one.p_bootstrap:.4f} and {one.p_randomisation:.4f})"


def _sentences(comparison: Comparison) -> Iterator[str]:
    first = comparison.names[0]
    for name, found in zip(comparison.names[1:], comparison.sentences, strict=True):
        yield (
            f"Sentences: {name} wins {found.num_won:,} against {first}, loses {found.num_lost:,}, {found.num_tied:,} "
            "are level, by chrF2 of each; in [brackets] what differs"
        )
        for kind, pairs in (("won", found.won), ("lost", found.lost)):
            for pair in pairs:
                yield from _pair(kind, pair, first, name)
        yield ""


def _pair(kind: str, pair: SentencePair, first: str, other: str) -> Iterator[str]:
    yield f"  {kind}, line {pair.line}: chrF2 {pair.first_chrf:.1f} → {pair.other_chrf:.1f}"
    lines = [] if pair.source is None else [["source", pair.source]]
    lines += [["reference", reference] for reference in pair.references]
    lines += [[first, _brackets(pair.first)], [other, _brackets(pair.other)]]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        yield f"    {name:<{width}}  {text}"


def _brackets(parts: Sequence[Part]) -> str:
    return "".join(f"[{part.text}]" if part.differs else part.text for part in parts)


def _lengths(comparison: Comparison) -> Iterator[str]:
    lengths = comparison.lengths
    for name in METRICS:
        [label] = {score.label for score in lengths.all.reports[0].scores if score.name == name}
        yield f"{label} by the words of the reference, with 95 % intervals"
        rows = [["words", "sentences", *comparison.names]]
        for group in lengths.groups:
            row = [group.label, f"{group.num_sentences:,}"]
            for report in group.reports:
                [score] = [score for score in report.scores if score.name == name]
                row.append(f"{score.score:.2f}" + (f" ± {score.interval.half_width:.2f}" if score.interval else ""))
            rows.append(row)
        yield from _table(rows)
        yield ""


def _kept(title: str, of_systems: Sequence[Kept], names: Sequence[str], num_shown: int) -> Iterator[str]:
    yield f"{title}: missing of those expected, and added"
    rows = [["", "expected", "missing", "added"]]
    for name, kept in zip(names, of_systems, strict=True):
        rows.append([name, f"{kept.num_expected:,}", f"{kept.num_missing:,}", f"{kept.num_added:,}"])
    yield from _table(rows)
    for name, kept in zip(names, of_systems, strict=True):
        for change in [change for change in kept.changes if change.missing][:num_shown]:
            added = f", added {', '.join(change.added)}" if change.added else ""
            yield f"  {name}, line {change.line}: missing {', '.join(change.missing)}{added}"
    yield ""


def _frequencies(comparison: Comparison) -> Iterator[str]:
    if comparison.frequencies is None:
        return
    yield "Words by their frequency in the training text: precision and recall in percent"
    rows = [["frequency", "words of the references", *comparison.names]]
    for bucket in comparison.frequencies:
        row = [bucket.label, f"{bucket.num_reference_words:,}"]
        row += [f"{_percent(one.precision)} {_percent(one.recall)}" for one in bucket.systems]
        rows.append(row)
    yield from _table(rows)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}".rstrip("%")


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows with the first column on the left, the others on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(f"{cell:<{width}}" if i == 0 else f"{cell:>{width}}" for i, (cell, width) in enumerate(row))
        for row in (list(zip(cells, widths, strict=True)) for cells in rows)
    ]
