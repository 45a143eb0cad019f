"""Which languages a corpus is in: as somebody says, by the names or the contents of its files, by its letters."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from transformer_mt.curation.stats import PairStats, SideStats, scripts_of
from transformer_mt.curation.wrong_language import another_language, two_languages
from transformer_mt.data.readers.languages import distance, primary
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.errors import InputError
from transformer_mt.recipes.writing import Choice
from transformer_mt.text.languages import likely_language

MaybeCodes = tuple[str | None, str | None]  # of the source and the target
_UNKNOWN_SIDES = ("src", "tgt")  # what languages are called that nothing tells
UNKNOWN = ""  # the code of a language that has a name, but none that we know

_MOST_LINES = 200  # that a language is told by

# Languages that have a script for themselves, or nearly so.
_OF_SCRIPT = {
    **{"Hangul": "ko", "Han": "zh", "Thai": "th", "Lao": "lo", "Khmer": "km", "Myanmar": "my", "Tibetan": "bo"},
    **{"Greek": "el", "Hebrew": "he", "Georgian": "ka", "Armenian": "hy", "Tamil": "ta", "Kannada": "kn"},
    **{"Telugu": "te"},  # codespell:ignore
    **{"Malayalam": "ml", "Gujarati": "gu", "Gurmukhi": "pa", "Oriya": "or", "Sinhala": "si", "Thaana": "dv"},
    **{"Ethiopic": "am", "Cherokee": "chr", "Nko": "nqo", "Ol Chiki": "sat", "Meetei Mayek": "mni", "Lisu": "lis"},
    **{"Yi": "ii", "Vai": "vai"},  # codespell:ignore
}
# Scripts of several languages, of which the identifier knows some; of others it takes any text for Korean.
_TOLD_APART = {"Latin", "Cyrillic", "Arabic", "Devanagari", "Bengali"}
# Of a guess: Arabic, Marathi and Bulgarian, which have near kin, have 0.76 and more, most that it does not know less.
_LEAST_PROBABILITY = 0.75

# Languages that are written as Korean, Japanese and Chinese are.
_WRITTEN_ALIKE = {"ko": "ko okm jje", "ja": "ja ryu ojp", "zh": "zh yue wuu nan hak gan hsn cdo lzh ja"}


class Direction(NamedTuple):
    """Two languages, and how each is known."""

    src: str
    tgt: str
    how: tuple[str, str]

    @property
    def codes(self) -> tuple[str, str]:
        return self.src, self.tgt

    def described(self) -> str:
        """Return both, and how they are known, in words."""
        if self.how[0] == self.how[1]:
            return f"{self.src} to {self.tgt} ({self.how[0]})"
        return f"{self.src} ({self.how[0]}) to {self.tgt} ({self.how[1]})"

    def choices(self) -> list[Choice]:
        same = self.how[0] == self.how[1]
        return [Choice("src_lang", self.src, self.how[0]), Choice("tgt_lang", self.tgt, "" if same else self.how[1])]


def direction(
    asked: MaybeCodes,
    found: MaybeCodes,
    how_found: str,
    of_text: MaybeCodes = (None, None),
    of_model: MaybeCodes = (None, None),
) -> Direction:
    """Return the languages of a corpus, by what is surest. What nothing tells is called src and tgt.

    Raises:
        InputError: somebody has named one side's language, which is the other side's by its files, or another one than
            its text is in.
    """
    for code, text, other, side in zip(asked, of_text, asked[::-1], ("src", "tgt"), strict=True):
        is_turned = text is not None and other is not None and distance(other, text) is not None
        if not _may_be(code, text) and not is_turned:  # what is turned, `right_way` tells
            raise InputError(f"--{side}-lang {code}: the text is {text}, by its letters; say --{side}-lang {text}")
    sides = [
        next(
            (code, how)
            for code, how in (
                (asked[side], "as said on the command line"),
                (found[side] if found[side] and _may_be(found[side], of_text[side]) else None, how_found),
                (of_model[side], "that of the model"),
                (None if found[side] == UNKNOWN else of_text[side], "by the text itself"),
                (_UNKNOWN_SIDES[side], "nothing tells which language it is: put its code here"),
            )
            if code is not None
        )
        for side in (0, 1)
    ]
    found_both = Direction(sides[0][0], sides[1][0], (sides[0][1], sides[1][1]))
    if distance(*found_both.codes) in (0, 1) and any(asked) and not all(asked):  # de is DE-DE, pt-PT is not pt-BR
        raise InputError(f"languages: {found_both.described()}; say what both are with --src-lang and --tgt-lang")
    return found_both


def contradictions(languages: Direction, sample: Sequence[SentencePair]) -> Iterator[str]:
    """Yield a warning for each side whose text is in another language, or one where both are in the same two, as far as
    the extra `langid` tells."""
    lines = sample[:: -(-len(sample) // _MOST_LINES)]  # from everywhere
    src, tgt = (two_languages(pair[place] for pair in lines) for place in (0, 1))
    if src and src == tgt:
        both = " and ".join(sorted(src))
        yield f"warning: lines of both sides look like {both}; write those of each direction into a file of its own"
        return
    for place, (code, how) in enumerate(zip(languages.codes, languages.how, strict=True)):
        if code == _UNKNOWN_SIDES[place]:
            continue
        if (found := another_language([pair[place] for pair in lines], code)) is not None:
            option = ("--src-lang", "--tgt-lang")[place]
            yield f"warning: {code} ({how}): most of the text looks like {found}; if it is, say {option} {found}"


def _may_be(code: str | None, of_text: str | None) -> bool:
    """Return whether text may be in a language: Hangul is not kr, which is Kanuri, nor cn or jap, which are none."""
    if code is None or of_text not in _WRITTEN_ALIKE or not re.fullmatch("[a-z]{2,3}", language := primary(code)):
        return True
    return language in {*_WRITTEN_ALIKE[of_text].split(), *_UNKNOWN_SIDES}


def languages_of_pairs(pairs: Iterable[SentencePair]) -> MaybeCodes:
    """Return the languages of the first pairs, as `languages_of` does."""
    sample, stats = [*itertools.islice(pairs, _MOST_LINES)], PairStats()
    stats.add(sample)
    return languages_of(stats, sample)


def languages_of(stats: PairStats, sample: Sequence[SentencePair]) -> MaybeCodes:
    """Return the languages of a text where it tells them, and tells two; None for both sides elsewhere."""
    src, tgt = (language_of(side, [pair[i] for pair in sample]) for i, side in enumerate((stats.src, stats.tgt)))
    return (None, None) if src == tgt else (src, tgt)


def language_of(stats: SideStats, lines: Sequence[str]) -> str | None:
    """Return the language of a text where its script tells, or the identifier of the extra `langid`; else None."""
    scripts = scripts_of(stats.classes)
    if {"Hiragana", "Katakana"} & {*scripts}:
        return "ja"
    script = scripts[0] if scripts else None
    if script in _OF_SCRIPT:
        return _OF_SCRIPT[script]
    guess = likely_language("\n".join(lines[:_MOST_LINES]), _LEAST_PROBABILITY) if script in _TOLD_APART else None
    return None if guess in _WRITTEN_ALIKE else guess  # a few words of Korean make no Korean text
