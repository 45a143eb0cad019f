"""A line that is too long for the model, as parts that are not: sentences first, pieces of sentences where it must be.

    split = split_line(line, lambda texts: [len(ids) for ids in tokenizer.encode(texts)], max_tokens=200)
    translated = split.join([translate(part.text) for part in split.parts])

No list of rules finds every sentence end. Where these are in doubt, they do not cut: two sentences in one part cost
little, half a sentence costs its meaning. White space is what `str.isspace` says: U+2028, U+00A0 and tabs too.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import regex

from transformer_mt.text.scripts import UNSPACED, UNSPACED_CHARACTER

CountTokens = Callable[[list[str]], list[int]]

# These end a sentence whatever follows: CJK, Arabic, Urdu, Indic, Burmese, Khmer, Ethiopic, Armenian.
SURE = "。｡！？；؟۔।॥။។።։"
# These end one where white space follows, and a word that does not go on in lower case.
DOUBTFUL = ".!?…‼⁇⁈⁉‽．"
# Closing quotes and brackets, as between a regular expression's brackets, some only where they touch the mark before
# them: a German “ or « closes there, a Chinese “ or, behind a space, a French « opens.
CLOSING = "\"'”’»›)\\]}」』】》〉〕）］｝"
CLOSING_HERE = CLOSING + "“‘«‹"
OPENING = "\"'“”„‘‚«»‹›(\\[{「『【《〈〔（［｛¿¡\\-–—―•*"

_SENTENCE_END = re.compile(rf"(?P<sure>[{SURE}][{SURE}{DOUBTFUL}{CLOSING}]*+)|[{DOUBTFUL}][{DOUBTFUL}{CLOSING_HERE}]*+")
# Marks that stand apart, as in French and in tokenised text: « Non ! » or  . . .
_APART = re.compile(rf"(?:\s++[{DOUBTFUL}\"'”’»›)\]}}]++(?=\s))*+")
# Weaker marks, inside a sentence. A sentence end that was in doubt is one of them.
_CLAUSE_END = re.compile(
    rf"(?P<sure>(?:(?<!\d)[，：]|[，：](?!\d)|[、､{SURE}])[，：、､{SURE}{CLOSING}]*+)"
    rf"|[;:,،؛–—{DOUBTFUL}][;:,،؛–—{DOUBTFUL}{CLOSING_HERE}]*+"
)
_SPACES = re.compile(r"\s*+")
_SPACE_RUN = re.compile(r"\s++")
_WORD = re.compile(r"[^\W_]")
_OPENINGS = re.compile(rf"(?:[{OPENING}]\s*+){{0,8}}+")  # more are a row of dots or dashes, which may be very long
_HAS_NO_SPACE_AFTER = re.compile(f"[{UNSPACED}{SURE}]")
# Unicode's annex 29, and marks of direction, soft hyphens and the like stay with the character before them.
# A flag is two letters; `\X` alone looks back to the first of a row of flags at each of them.
_CHARACTER = regex.compile(r"(?:[\U0001F1E6-\U0001F1FF]{2}\p{M}*|\X)\p{Cf}*+")
_NO_BREAK = "\u00a0\u2007\u202f"
_OPENING_BRACKETS = "«‹„‚([{¿¡"

# A full stop behind one of these ends no sentence. Single letters only of scripts with capitals: one syllable of Korean
# may be a word.
_ABBREVIATIONS = (
    "Mr Mrs Ms Mx Dr Prof St Mt Sr Jr Ph.D Gen Col Lt Sgt Capt Rev Hon Gov Sen Rep Hr Fr Mme Mlle MM Sra Srta Dña Dott "
    "Ing Dipl vs cf ca approx bzw vgl inkl zzgl bspw sog evtl ggf"
)
ABBREVIATIONS = [*dict.fromkeys(form for word in _ABBREVIATIONS.split() for form in (word, word[0].upper() + word[1:]))]
_LETTER = "[A-Za-z\u00c0-\u024f\u0370-\u03ff\u0400-\u052f]"
_ABBREVIATION = re.compile(
    rf"(?:(?<!\w)(?:{_LETTER}\.)*{_LETTER}"  # J. R. R. Tolkien, z.B., U.S.
    r"|(?<![^\s(\[.])(?:[12]?\d|3[01])"  # am 3. Mai, 1. Introduction
    rf"|(?<!\w)(?:{'|'.join(map(re.escape, ABBREVIATIONS))}))\Z"
)
_BEFORE_NUMBER = re.compile(
    r"(?<!\w)(?:nos?|nr|núm|pp|pág|vol|figs?|abb|art|arts|sec|ch|cap|bd|eq|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov"
    r"|dec)\Z",
    re.IGNORECASE,
)
_LONGEST_ABBREVIATION = 24  # characters looked at, so that a long word costs nothing


class Part(NamedTuple):
    text: str
    gap: str  # the white space after it; "" where there was none


@dataclass(frozen=True)
class SplitLine:
    """A line in parts: ``lead`` and then each part's text and gap, one behind the other, are the line exactly.

    A text is never empty, and neither begins nor ends with white space. A blank line is all ``lead``.
    """

    lead: str
    parts: list[Part]

    def join(self, texts: Sequence[str]) -> str:
        """The line again, with ``texts`` in the parts' places and the white space that stood between them.

        Chinese has no space between sentences, English has one: where the source had none for its script's sake, and
        neither translation beside the gap is in such a script, there will be one.
        """
        return "".join(self._joined(texts))

    def starts(self, texts: Sequence[str]) -> list[int]:
        """Where each of the texts begins in what `join` makes of them, in characters."""
        ends = list(itertools.accumulate(map(len, self._joined(texts))))
        return ends[:-1:2]

    def _joined(self, texts: Sequence[str]) -> list[str]:
        """The lead, then each text and what stands behind it."""
        joined = [self.lead]
        for i, (part, text) in enumerate(zip(self.parts, texts, strict=True)):
            gap = part.gap
            if (
                not part.gap
                and i + 1 < len(texts)
                and _needs_space(part.text, self.parts[i + 1].text, text, texts[i + 1])
            ):
                gap = " "
            joined += text, gap
        return joined


def _needs_space(src: str, src_after: str, tgt: str, tgt_after: str) -> bool:
    """Whether two translations need a space between them though their sources, which are not empty, had none."""
    if not (tgt and tgt_after) or (tgt, tgt_after) == (src, src_after):
        return False
    if not (_HAS_NO_SPACE_AFTER.match(src[-1]) or UNSPACED_CHARACTER.match(src_after[0])):
        return False  # a long word cut in two
    return not (UNSPACED_CHARACTER.match(tgt[-1]) or UNSPACED_CHARACTER.match(tgt_after[0]))


def split_line(line: str, count_tokens: CountTokens, max_tokens: int) -> SplitLine:
    """Split a line of more than ``max_tokens`` tokens; a shorter one is one part.

    One sentence is one part: a model is at its best near the lengths that it was trained on. A sentence that is too
    long itself is cut behind weaker punctuation (``; : ,`` and their like), else at white space, else between
    characters, each time as late as the limit allows.

    Every part was counted and has at most ``max_tokens`` tokens; the one exception is a single code point that has
    more. A cut between characters is inside a word only where the word has too many tokens, and inside a character as
    a reader sees it (a letter with its marks, a joined emoji, a flag, a Hangul syllable) only where that has.

    ``count_tokens`` gives the number of tokens of each text. What is counted grows linearly with the line.
    """
    text = line.strip()
    if not text:
        return SplitLine(line, [])
    lead = line[: len(line) - len(line.lstrip())]
    spans = [(0, len(text))]
    if count_tokens([text])[0] > max_tokens:
        sentences = list(_spans(text, _sentence_ends(text), 0, len(text)))
        counts = count_tokens([text[start:end] for start, end in sentences])
        spans = []
        for (start, end), count in zip(sentences, counts, strict=True):
            if count <= max_tokens:
                spans.append((start, end))
            else:
                spans += _spans(text, _piece_ends(text, start, end, count_tokens, max_tokens), start, end)
    line = line[len(lead) :]
    next_starts = [start for start, _ in spans[1:]] + [len(line)]
    parts = [Part(line[start:end], line[end:after]) for (start, end), after in zip(spans, next_starts, strict=True)]
    return SplitLine(lead, parts)


def _spans(text: str, cuts: Iterable[int], start: int, end: int) -> Iterator[tuple[int, int]]:
    """What lies between cuts, from ``start`` to ``end``, without the white space behind a cut."""
    for cut in cuts:
        yield start, cut
        start = _after_spaces(text, cut)
    yield start, end


def _after_spaces(text: str, at: int) -> int:
    found = _SPACES.match(text, at)
    assert found is not None  # it matches nothing, too
    return found.end()


def _sentence_ends(text: str) -> Iterator[int]:
    """Where sentences end inside a stripped text. Each has a letter or a digit at least."""
    start = at = 0
    word = _first_word(text, 0)
    while found := _SENTENCE_END.search(text, at):
        end = at = found.end()
        if word > found.start():  # dots, bullets or emoji alone: they belong to what follows
            continue
        if found["sure"]:
            # Japanese goes on behind a quotation with と: 「行こう。」と言った。
            is_end = _starts_text(text, end) and not (found[0][-1] in "」』" and text[end] == "と")
        else:
            apart = _APART.match(text, end)
            assert apart is not None
            end = at = apart.end()
            is_end = _ends_doubtful(text, start, found.start(), end)
        if is_end:
            yield end
            start = _after_spaces(text, end)
            word = _first_word(text, start)


def _first_word(text: str, start: int) -> int:
    found = _WORD.search(text, start)
    return found.start() if found else len(text)


def _ends_doubtful(text: str, start: int, mark: int, end: int) -> bool:
    """Whether a mark such as a full stop, followed by closing ones up to ``end``, ends the sentence from ``start``."""
    after = _after_spaces(text, end)
    if after == end:
        # Chinese and Japanese with a half-width mark: 好吗?好.
        return (
            text[mark] in "!?"
            and mark > start
            and end < len(text)
            and all(UNSPACED_CHARACTER.match(text[i]) and text[i].isalnum() for i in (mark - 1, end))
        )
    if not _starts_text(text, after):
        return False
    if text[mark:end] == "." and text[mark - 1].isspace():
        return True  # tokenised text, which is often in lower case
    before = text[mark - 1]
    has_case = not before.isalpha() or before.lower() != before.upper()
    if has_case and text[_after_openings(text, after)].islower():
        return False  # in a script without capitals, a word in lower case is a foreign word or a name
    return text[mark:end] != "." or not _is_abbreviation(text, start, mark)


def _is_abbreviation(text: str, start: int, mark: int) -> bool:
    """Whether the full stop at ``mark`` belongs to the word before it."""
    before = text[max(start, mark - _LONGEST_ABBREVIATION) : mark]
    if _ABBREVIATION.search(before):
        return True
    return text[_after_spaces(text, mark + 1)].isdecimal() and bool(_BEFORE_NUMBER.search(before))


def _after_openings(text: str, at: int) -> int:
    found = _OPENINGS.match(text, at)
    assert found is not None
    return found.end()


def _starts_text(text: str, at: int) -> bool:
    """Whether white space and opening marks lead to a letter, a digit or a sign such as $ or +.

    Else come closing marks or an emoji, which belong to the words before them, or the end.
    """
    at = _after_openings(text, _after_spaces(text, at))
    return at < len(text) and (text[at].isalnum() or unicodedata.category(text[at]) in ("Sc", "Sm"))


def _piece_ends(text: str, start: int, end: int, count_tokens: CountTokens, max_tokens: int) -> Iterator[int]:
    """Where to cut the sentence from ``start`` to ``end``, which is too long."""
    chars_per_token = 4.0  # a guess; the pieces correct it

    def count(stop: int) -> int:
        return count_tokens([text[start:stop]])[0]

    while True:
        # First a stretch that is too long, so that nothing beyond it need ever be counted.
        stop = min(end, start + max(1, int(1.25 * max_tokens * chars_per_token)))
        while (num_tokens := count(stop)) <= max_tokens:
            if stop == end:
                return
            stop = min(end, stop + (stop - start))
        chars_per_token = (stop - start) / num_tokens
        for candidates in _candidates(text, start, stop):
            cut = _last_that_fits(candidates, start, count, max_tokens, chars_per_token)
            if cut is not None:
                break
        else:
            cut = start + 1
            if cut == end:
                return
        yield cut
        start = _after_spaces(text, cut)


def _candidates(text: str, start: int, stop: int) -> Iterator[Sequence[int]]:
    """Where a piece that begins at ``start`` might end before ``stop``: the best kind of places first."""
    yield list(_clause_ends(text, start, stop))
    spaces = [found.span() for found in _SPACE_RUN.finditer(text, start, stop)]
    # Not where a writer wants no break, nor beside a mark that would begin or end a piece without its word.
    yield [
        left
        for left, right in spaces
        if text[left:right].strip(_NO_BREAK) and text[left - 1] not in _OPENING_BRACKETS and _starts_text(text, right)
    ]
    yield [left for left, _ in spaces]
    if spaces:
        stop = spaces[0][0]
    yield _character_ends(text, start, stop)
    yield range(start + 1, stop)


def _clause_ends(text: str, start: int, stop: int) -> Iterator[int]:
    for found in _CLAUSE_END.finditer(text, start, stop):
        end = found.end()
        if end < stop and (found["sure"] or text[end].isspace()) and _starts_text(text, end):
            is_abbreviation = found[0] == "." and _is_abbreviation(text, start, found.start())
            if not is_abbreviation:
                yield end


def _last_that_fits(
    ends: Sequence[int], start: int, count: Callable[[int], int], max_tokens: int, chars_per_token: float
) -> int | None:
    """The last of ``ends`` up to which there are at most ``max_tokens`` tokens, or none.

    A longer text has more tokens: true of all but a few. Where it is not, one of the others that fit is found.
    """
    fits, too_long = -1, len(ends)
    guess = start + max_tokens * chars_per_token
    num_probes = 0
    while too_long - fits > 1:
        # A guess is soon a place or two away from the truth; halves are for a text that is not alike everywhere.
        i = bisect_right(ends, guess) - 1 if num_probes < 4 else (fits + too_long) // 2
        i = min(max(i, fits + 1), too_long - 1)
        num_tokens = count(ends[i])
        num_probes += 1
        if num_tokens <= max_tokens:
            fits = i
        else:
            too_long = i
        guess = ends[i] + (max_tokens - num_tokens) * chars_per_token
    return ends[fits] if fits >= 0 else None


def _character_ends(text: str, start: int, stop: int) -> list[int]:
    """The ends of characters as a reader sees them, between ``start`` and ``stop``."""
    return [end for found in _CHARACTER.finditer(text, start, stop) if (end := found.end()) < stop]
