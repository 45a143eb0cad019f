"""A comparison of systems as text for people; its tables and titles are those of the page, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from transformer_mt.errors import printable
from transformer_mt.evaluation.comparison import ComparedSentence, Comparison, Part
from transformer_mt.evaluation.significance import PairedScore
from transformer_mt.evaluation.word_accuracy import FrequencyBucket, Kept
from transformer_mt.system.console import aligned, counted

Rows = list[list[str]]  # the first one has the titles of the columns, the first column the names of the rows

FREQUENCY_TITLE = "Words by their frequency in the training text: precision and recall in percent"


def format_comparison(comparison: Comparison, num_shown: int) -> str:
    """Return the verdicts, tables and sentences of a comparison; of lines with changed numbers the first few."""
    names = comparison.names
    blocks = [comparison.verdicts]
    blocks.append(
        [score_title(comparison), *_indented(aligned(score_rows(comparison))), *_indented(signatures(comparison))]
    )
    for number, found in enumerate(comparison.sentences):
        block = [f"{sentence_title(comparison, number)}; in [brackets] what differs"]
        for kind, pairs in (("won", found.won), ("lost", found.lost)):
            for pair in pairs:
                block += _indented([pair_title(kind, pair), *_pair(pair, names[0], names[number + 1])])
        blocks.append(block)
    blocks += [[title, *_indented(aligned(rows))] for title, rows in length_tables(comparison)]
    for title, of_systems in kept_kinds(comparison):
        changes = _indented(changed_lines(names, of_systems, num_shown))
        blocks.append([title, *_indented(aligned(kept_rows(names, of_systems))), *changes])
    if comparison.frequencies is not None:
        blocks.append([FREQUENCY_TITLE, *_indented(aligned(frequency_rows(names, comparison.frequencies)))])
    return "\n\n".join("\n".join(map(printable, block)) for block in blocks)


def score_title(comparison: Comparison) -> str:
    return (
        f"Scores of {counted(comparison.num_sentences, 'sentence')}, with 95 % intervals; differences to "
        f"{comparison.names[0]}; p, how likely so large a one is between equally good systems, by paired bootstrap and "
        "by approximate randomisation"
    )


def score_rows(comparison: Comparison) -> Rows:
    every = comparison.scores.values()
    rows = [["", *(scores.label for scores in every)]]
    for number, name in enumerate(comparison.names):
        rows.append([name, *(_score(scores.systems[number]) for scores in every)])
    return rows


def signatures(comparison: Comparison) -> list[str]:
    return [
        f"{scores.label}|{signature}"
        for scores in comparison.scores.values()
        for signature in (scores.bootstrap_signature, scores.randomisation_signature)
    ]


def _score(one: PairedScore) -> str:
    text = f"{one.score:.2f} [{one.interval}]"
    if one.p_bootstrap is None:
        return text
    return f"{text} ({one.difference:+.2f}, p {one.p_bootstrap:.4f} and {one.p_randomisation:.4f})"


def sentence_title(comparison: Comparison, number: int) -> str:
    """Return what one of ``comparison.sentences`` comes to."""
    found = comparison.sentences[number]
    return (
        f"Sentences: {comparison.names[number + 1]} wins {found.num_won:,} against {comparison.names[0]}, loses "
        f"{found.num_lost:,}, {found.num_tied:,} are level, by chrF2 of each"
    )


def pair_title(kind: str, pair: ComparedSentence) -> str:
    return f"{kind}, line {pair.line}: chrF2 {pair.first_chrf:.1f} → {pair.other_chrf:.1f}"


def _pair(pair: ComparedSentence, first: str, other: str) -> list[str]:
    lines = [] if pair.source is None else [("source", pair.source)]
    lines += [("reference", reference) for reference in pair.references]
    lines += [(first, _brackets(pair.first)), (other, _brackets(pair.other))]
    width = max(len(name) for name, _ in lines)
    return _indented(f"{name:<{width}}  {text}" for name, text in lines)


def _brackets(parts: Sequence[Part]) -> str:
    return "".join(f"[{part.text}]" if part.differs else part.text for part in parts)


def length_tables(comparison: Comparison) -> Iterator[tuple[str, Rows]]:
    """Yield a title and a table for each metric that groups of sentences have."""
    lengths = comparison.lengths
    for number, whole in enumerate(lengths.all.reports[0].scores):
        rows = [["words", "sentences", *comparison.names]]
        for group in lengths.groups:
            row = [group.label, f"{group.num_sentences:,}"]
            for score in (report.scores[number] for report in group.reports):
                row.append(f"{score.score:.2f}" + (f" [{score.interval}]" if score.interval else ""))
            rows.append(row)
        yield f"{whole.label} by the words of the reference, with 95 % intervals", rows


def kept_kinds(comparison: Comparison) -> list[tuple[str, list[Kept]]]:
    return [
        ("Numbers: missing of those expected, and added", comparison.numbers),
        (
            "Names (words with a capital inside a sentence): missing of those expected; added, as German nouns are",
            comparison.capitals,
        ),
    ]


def kept_rows(names: Sequence[str], of_systems: Sequence[Kept]) -> Rows:
    rows = [["", "expected", "missing", "added"]]
    for name, kept in zip(names, of_systems, strict=True):
        rows.append([name, f"{kept.num_expected:,}", f"{kept.num_missing:,}", f"{kept.num_added:,}"])
    return rows


def changed_lines(names: Sequence[str], of_systems: Sequence[Kept], num_shown: int) -> Iterator[str]:
    """Yield the first lines in which each system lacks something."""
    for name, kept in zip(names, of_systems, strict=True):
        for change in [change for change in kept.changes if change.missing][:num_shown]:
            added = f", added {', '.join(change.added)}" if change.added else ""
            yield f"{name}, line {change.line}: missing {', '.join(change.missing)}{added}"


def frequency_rows(names: Sequence[str], buckets: Sequence[FrequencyBucket]) -> Rows:
    rows = [["frequency", "words of the references", *names]]
    for bucket in buckets:
        shares = [f"{_percent(one.precision)} {_percent(one.recall)}" for one in bucket.systems]
        rows.append([bucket.label, f"{bucket.num_reference_words:,}", *shares])
    return rows


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]
