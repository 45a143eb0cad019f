"""Systems beside the first of them: which is better, and where: in which sentences, lengths and words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from itertools import takewhile
from operator import eq
from typing import Any, NamedTuple

from transformer_mt.evaluation.lengths import LengthScores, System, scores_by_length
from transformer_mt.evaluation.scores import check_streams, sentence_scores
from transformer_mt.evaluation.significance import PairedScores, paired_scores, verdict
from transformer_mt.evaluation.word_accuracy import (
    FrequencyBucket,
    Kept,
    accuracy_by_frequency,
    names_kept,
    numbers_kept,
)
from transformer_mt.text.scripts import WORD

_MOST_PLACES = 100_000  # words of one text times words of another that are compared one by one


class Part(NamedTuple):
    """A part of a translation, and whether the other one has something else there."""

    text: str
    differs: bool


@dataclass(frozen=True)
class ComparedSentence:
    """A sentence as the first system and another one translate it."""

    line: int
    source: str | None
    references: list[str]
    first: list[Part]
    other: list[Part]
    first_chrf: float
    other_chrf: float

    def as_dict(self) -> dict[str, Any]:
        marked = {side: [part._asdict() for part in getattr(self, side)] for side in ("first", "other")}
        return {**asdict(self), **marked}


@dataclass(frozen=True)
class Sentences:
    """The sentences that a system wins against the first, loses or neither, by their chrF; of both the clearest."""

    num_won: int
    num_lost: int
    num_tied: int
    won: list[ComparedSentence]
    lost: list[ComparedSentence]

    def as_dict(self) -> dict[str, Any]:
        pairs = {kind: [pair.as_dict() for pair in getattr(self, kind)] for kind in ("won", "lost")}
        return {"num_won": self.num_won, "num_lost": self.num_lost, "num_tied": self.num_tied, **pairs}


@dataclass(frozen=True)
class Comparison:
    """All that is found out about systems. What is one for each other system begins with the second."""

    names: list[str]
    num_sentences: int
    scores: dict[str, PairedScores]
    verdicts: list[str]  # one for each other system
    sentences: list[Sentences]  # one for each other system
    lengths: LengthScores  # by the words of the first reference
    numbers: list[Kept]  # one for each system
    capitals: list[Kept]  # one for each system: names
    frequencies: list[FrequencyBucket] | None  # where there is a training text
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: ``systems`` has the names; the rest names them too, or is one for each of them, in their order."""
        return {
            "systems": self.names,
            "num_sentences": self.num_sentences,
            "metrics": {name: scores.as_dict(self.names) for name, scores in self.scores.items()},
            "verdicts": self.verdicts,
            "sentences": [
                {"name": name, **one.as_dict()} for name, one in zip(self.names[1:], self.sentences, strict=True)
            ],
            "lengths": self.lengths.as_dict(),
            "numbers": [asdict(kept) for kept in self.numbers],
            "names": [asdict(kept) for kept in self.capitals],
            "frequencies": self.frequencies and [asdict(bucket) for bucket in self.frequencies],
            "notes": self.notes,
        }


def compare(
    systems: Sequence[System],
    references: Sequence[Sequence[str]],
    sources: Sequence[str] | None = None,
    train: Iterable[str] | None = None,
    *,
    num_shown: int = 5,
    names: Sequence[str] | None = None,
) -> Comparison:
    """Compare systems with the first of them.

    Args:
        references: one or more streams.
        train: lines of a training text of the target language; they are read last, and not kept.
        num_shown: sentences won and lost that are kept, those with the largest difference in chrF.
        names: of the sources and of each reference stream, for messages.

    Raises:
        InputError: as `scores_by_length`.
    """
    src_name, *ref_names = names or ["sources", *(f"references[{i}]" for i in range(len(references)))]
    if sources is not None:
        check_streams(sources, references, [src_name, *ref_names])
    # First, because it refuses systems that cannot be compared.
    lengths = scores_by_length(references[0], references, systems, names=[ref_names[0], *ref_names])
    scores, notes = paired_scores(systems, references, ref_names)
    own_names = [system.name for system in systems]
    for name, report in zip(own_names, lengths.all.reports, strict=True):
        notes += [f"{name}: {score.note}" for score in report.scores if score.note]
    hypotheses = [system.hypotheses for system in systems]
    chrf = [[row["chrf"] for row in sentence_scores(one, references, ["chrf"])] for one in hypotheses]

    def pair(line: int, number: int) -> ComparedSentence:
        first, other = hypotheses[0][line], hypotheses[number][line]
        return ComparedSentence(
            line + 1,
            None if sources is None else sources[line],
            [stream[line] for stream in references],
            marked(first, other),
            marked(other, first),
            chrf[0][line],
            chrf[number][line],
        )

    def against_first(number: int) -> Sentences:
        gains = [other - first for first, other in zip(chrf[0], chrf[number], strict=True)]
        ranked = sorted(range(len(gains)), key=lambda line: -gains[line])
        won = [line for line in ranked if gains[line] > 0]
        lost = [line for line in reversed(ranked) if gains[line] < 0]
        shown = [[pair(line, number) for line in lines[:num_shown]] for lines in (won, lost)]
        return Sentences(len(won), len(lost), len(gains) - len(won) - len(lost), *shown)

    return Comparison(
        own_names,
        len(references[0]),
        scores,
        [verdict(list(scores.values()), own_names, number) for number in range(1, len(systems))],
        [against_first(number) for number in range(1, len(systems))],
        lengths,
        [numbers_kept(one, references, sources) for one in hypotheses],
        [names_kept(one, references, sources) for one in hypotheses],
        None if train is None else accuracy_by_frequency(hypotheses, references, train),
        notes,
    )


def marked(text: str, other: str) -> list[Part]:
    """Cut a text into parts that another one has at the same place in the order of its words, and parts that it lacks.

    The parts together are the text.
    """
    words = list(WORD.finditer(text))
    parts, end = [], 0
    for is_equal, start, stop in _stretches([word[0] for word in words], WORD.findall(other)):
        if start == stop:  # only the other has something here
            continue
        first, last = words[start].start(), words[stop - 1].end()
        if first > end:
            parts.append(Part(text[end:first], False))
        parts.append(Part(text[first:last], not is_equal))
        end = last
    if end < len(text):
        parts.append(Part(text[end:], False))
    return parts


def _stretches(words: list[str], others: list[str]) -> list[tuple[bool, int, int]]:
    """Cut a text into stretches of words that another one has, or has not, from the first to behind the last of each.

    Of long texts only the ends are compared: of two that loop, each word is at half of all places.
    """
    if len(words) * len(others) <= _MOST_PLACES:
        found = SequenceMatcher(None, words, others, autojunk=False).get_opcodes()
        return [(kind == "equal", start, stop) for kind, start, stop, _, _ in found]
    start = _num_equal(words, others)
    stop = len(words) - _num_equal(words[start:][::-1], others[start:][::-1])
    return [(True, 0, start), (False, start, stop), (True, stop, len(words))]


def _num_equal(words: list[str], others: list[str]) -> int:
    """Return how many words two texts begin with in common."""
    return sum(takewhile(bool, map(eq, words, others)))
