"""A translation as steps: its tokens with what the model gave each of them, and what else it might have written."""

from __future__ import annotations

import itertools
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from transformer_mt.decoding.line_cutting import Line
from transformer_mt.decoding.searcher import Found, Searcher, SourcePart
from transformer_mt.errors import InputError
from transformer_mt.system.processes import ONE_AT_A_TIME
from transformer_mt.text.sentences import Part, SplitLine
from transformer_mt.text.tokenizer import Tokenizer
from transformer_mt.text.vocabulary import SPECIALS
from transformer_mt.text.words import SPACE, words_of


class Token(NamedTuple):
    """A piece of a translation, and how likely the model found it after those before."""

    piece: str
    text: str  # what it adds to the translation
    word: int  # which word of its part it belongs to; a mark at the edge of one is a word of its own
    log_prob: float


class ExplainedPart(NamedTuple):
    """What was translated by itself: a line, or a sentence of one."""

    source: str
    text: str
    after: str  # what stands between its translation and the next part's
    tokens: list[Token]


class Explanation(NamedTuple):
    """The best translation of a text; what `before` and its parts hold, one behind the other, is ``text``."""

    text: str
    alternatives: list[str]  # others that the search has found, each once
    before: str
    parts: list[ExplainedPart]


class Candidate(NamedTuple):
    """A token that might stand at a place, and what it leads to."""

    piece: str
    log_prob: float
    word: str  # that it is a part of, as the translation goes on
    text: str  # of the whole translation


def explained(line: Line, found: Sequence[Found], alternatives: Sequence[str], tokenizer: Tokenizer) -> Explanation:
    """Return the explanation of a line, given what was found for its parts, with log-probabilities.

    Args:
        alternatives: translations of the whole line.
    """
    best = [of_part.hypotheses[0].ids for of_part in found]
    texts = [tokenizer.decode(ids) for ids in best]
    split = line.split or SplitLine("", [Part(line.text.strip(), "")] if found else [])
    text, starts = split.join(texts), split.starts(texts)
    parts = [
        ExplainedPart(part.text, own, text[start + len(own) : end], _tokens(ids, of_part.log_probs[0], tokenizer))
        for part, own, start, end, ids, of_part in zip(
            split.parts, texts, starts, [*starts, len(text)][1:], best, found, strict=True
        )
    ]
    others = [other for other in dict.fromkeys(alternatives) if other != text]
    return Explanation(text, others, split.lead, parts)


def _tokens(ids: Sequence[int], log_probs: Sequence[float], tokenizer: Tokenizer) -> list[Token]:
    pieces, text, starts = tokenizer.pieces_of(ids), tokenizer.decode(ids), tokenizer.starts_decoded(ids)
    texts = [text[start:end] for start, end in itertools.pairwise([*starts, len(text)])]
    return [Token(*each) for each in zip(pieces, texts, _word_numbers(pieces), log_probs, strict=True)]


def find_candidates(searcher: Searcher, part: SourcePart, count: int, tokenizer: Tokenizer) -> list[Candidate]:
    """Return what might follow a part's prefix, the likeliest first; each is searched on from.

    Of several that lead to the same translation there is the first.
    """
    best = searcher.next_ids(part.src, part.prefix, count)
    parts = [part._replace(prefix=[*part.prefix, one]) for one, _ in best]
    found = searcher.begin(len(parts), on_all_cores=False).submit(parts).result()
    by_text: dict[str, Candidate] = {}
    with ONE_AT_A_TIME:
        for (_, log_prob), of_part in zip(best, found, strict=True):
            one = _candidate(of_part.hypotheses[0].ids, len(part.prefix), log_prob, tokenizer)
            by_text.setdefault(one.text, one)
    return list(by_text.values())


def _candidate(ids: Sequence[int], position: int, log_prob: float, tokenizer: Tokenizer) -> Candidate:
    """Return what the token at a position of a translation is and leads to."""
    pieces, text = tokenizer.pieces_of(ids), tokenizer.decode(ids)
    numbers, starts = _word_numbers(pieces), [*tokenizer.starts_decoded(ids), len(text)]
    first, after = (bisect(numbers, numbers[position]) for bisect in (bisect_left, bisect_right))
    return Candidate(pieces[position], log_prob, text[starts[first] : starts[after]].strip(), text)


def prefix_ids(prefix: Sequence[str], tokenizer: Tokenizer, most: int) -> list[int]:
    """Return the ids of the pieces that a translation starts with.

    Raises:
        InputError: one is no piece of a translation, or there are more than ``most``.
    """
    for piece in prefix:
        if piece in (*SPECIALS, *tokenizer.tags) or piece not in tokenizer.table:
            raise InputError(
                f"prefix: {piece[:40]} is no piece of a translation; give pieces of one that was explained"
            )
    if len(prefix) > most:
        raise InputError(
            f"prefix: {len(prefix)} pieces, a translation of this text may go on after {most} at most; shorten it"
        )
    return [tokenizer.table[piece] for piece in prefix]


def _word_numbers(pieces: Sequence[str]) -> list[int]:
    """Return which word each piece belongs to."""
    numbers: list[int] = []
    number = -1
    for word in words_of(pieces, ()):
        was_mark = None
        for i in word.pieces:
            text = pieces[i].lstrip(SPACE)
            is_mark = text != "" and all(unicodedata.category(character)[0] in "PS" for character in text)
            if is_mark != was_mark:  # also where the word begins
                number += 1
            numbers.append(number)
            was_mark = is_mark
    return numbers
