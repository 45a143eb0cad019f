"""What a `Translator` returns, and how the translations of a line's parts become the line's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformer_mt.decoding.line_cutting import Line
from transformer_mt.decoding.searcher import Found, SourcePart
from transformer_mt.decoding.word_links import Links, joined_links
from transformer_mt.text.tokenizer import Tokenizer


class Alternative(NamedTuple):
    """One translation of a line. Of a line translated in parts: theirs together, and the sum of their scores."""

    text: str
    score: float  # the log-probability divided by the length penalty: what alternatives are ranked by
    tokens: list[str]  # pieces
    alignment: Links | None = None  # of words of the line and of this translation; None: it was not asked for
    log_probs: list[float] | None = None  # of each piece, by the first model; None: they were not asked for


@dataclass(frozen=True)
class Translation:
    """The best translation of a line, and all that were asked for, best first. A blank line has blank ones."""

    source: str
    text: str
    score: float
    tokens: list[str]
    alternatives: list[Alternative]
    num_source_tokens: int
    is_cut: bool  # the search ended it because it could grow no longer (`search.max_extra_tokens`, learned positions)

    @property
    def alignment(self) -> Links | None:
        """The words of the line and of the best translation that belong together; None: they were not asked for."""
        return self.alternatives[0].alignment


class ScoredTokens(NamedTuple):
    """The pieces of a translation that was given, </s> at its end, and the log-probability of each after the others."""

    tokens: list[str]
    log_probs: list[float]


def joined(
    line: Line,
    parts: Sequence[SourcePart],
    found: Sequence[Found],
    tokenizer: Tokenizer,
    limits: Sequence[int],
    *,
    align: bool,
    log_probs: bool,
) -> Translation:
    """Join what was found for the parts of a line.

    Args:
        tokenizer: of the target.
        limits: tokens, with </s>, that a translation of each part may have.
        align, log_probs: whether what was found has word alignments, and log-probabilities.
    """
    if not parts:
        text = "" if line.split is None else line.split.lead
        blank = Alternative(text, 0.0, [], [] if align else None, [] if log_probs else None)
        return Translation(line.text, *blank[:3], [blank], 0, False)
    alternatives = []
    for rank in range(max(len(of_part.hypotheses) for of_part in found)):
        # A part that has fewer contributes its last.
        ranks = [min(rank, len(of_part.hypotheses) - 1) for of_part in found]
        chosen = [of_part.hypotheses[own] for of_part, own in zip(found, ranks, strict=True)]
        texts = [tokenizer.decode(h.ids) for h in chosen]
        text = texts[0] if line.split is None else line.split.join(texts)
        tokens = [piece for h in chosen for piece in tokenizer.pieces_of(h.ids)]
        links = None
        if align:
            starts = [0] if line.split is None else line.split.starts(texts)
            links = joined_links(text, starts, [of_part.links[own] for of_part, own in zip(found, ranks, strict=True)])
        each = None
        if log_probs:
            each = [x for of_part, own in zip(found, ranks, strict=True) for x in of_part.log_probs[own]]
        alternatives.append(Alternative(text, sum(h.score for h in chosen), tokens, links, each))
    is_cut = any(len(of.hypotheses[0].ids) + 1 >= limit for of, limit in zip(found, limits, strict=True))
    return Translation(line.text, *alternatives[0][:3], alternatives, sum(len(part.src) for part in parts), is_cut)
