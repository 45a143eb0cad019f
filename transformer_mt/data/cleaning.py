"""Rules on one sentence pair, each with a reason.

Cleaning rejects whole pairs; it changes no text beyond stripping the white space around each side. Of hundreds of
millions of pairs each passes here: a rule that is off costs nothing, and one that is on looks at the whole text with
compiled code and at single characters only where that has found some.

    pair, reason = clean(SentencePair("A dog .", "Ein Hund ."), CleanConfig(), "en", "de")

A new rule has a key in `CleanConfig`, its test in `_broken_rule` here, an entry in ``configs/reference.yaml``, in the
table of ``docs/data.md`` and in ``RULES`` of `curation.stats`, and a case in ``tests/unit/data/test_cleaning.py``.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from html.entities import html5
from typing import NamedTuple

from transformer_mt.config.data_sections import CleanConfig
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.system.lines import TOO_LONG
from transformer_mt.text.languages import language_label, may_be_in
from transformer_mt.text.loops import has_loop
from transformer_mt.text.scripts import UNSPACED_CHARACTER, Alphabet

# Cc but the tab, lone surrogates, private use, U+FFFD and what is no character. U+0085 too: inside text it was an
# ellipsis in another encoding. Not U+2028, nor what has no width (Cf), which some scripts need.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\uf8ff\ufdd0-\ufdef\ufffd-\uffff\U000f0000-\U0010ffff]")

# A tag of any name, <xliff:g> too, so that XML and placeholders such as <file> are some, but what follows the name is
# attributes: a < b, x <y and z> w and <3 are none.
_TAG = re.compile(r"<(?:/?[A-Za-z][A-Za-z0-9:-]*+(?:\s[^<>=]*+=[^<>]*+|\s*+/?)>|!--)")
_REFERENCE = re.compile(r"&(?:#(?:\d+|[xX][0-9A-Fa-f]+)|([A-Za-z][A-Za-z0-9]*+));")

# ASCII, so that an address ends where Chinese text goes on or a Korean particle follows.
_ADDRESS = re.compile(
    r"(?:(?:https?|ftp)://|(?<![a-z0-9.])www\.)[a-z0-9!#$%&'()*+,\-./:;=?@\[\]_~]+"
    r"|(?<![a-z0-9._%+-])[a-z0-9._%+-]++@[a-z0-9-]+(?:\.[a-z0-9-]+)+",
    re.ASCII | re.IGNORECASE,
)
_AFTER_ADDRESS = ".,:;!?'()[]*_~/"

# A run of digits, and groups of three behind it: 1,000 or 1.000 or 1 000 (the first has three at most), 10,00,000 in
# India. What follows a decimal mark is a number by itself, and so are the parts of a date.
_NUMBER = re.compile(r"\d+(?:(?<!\d{4})(?:[.,'’٬ \u00a0\u2009\u202f]\d{3}|(?:,\d\d){1,3},\d{3})(?!\d))*")
_NO_DIGITS = re.compile(r"\D+")


class Verdict(NamedTuple):
    """What became of a pair: its stripped text, and why it was rejected (``None``: kept)."""

    pair: SentencePair
    reason: str | None


def check_rules(rules: CleanConfig, src_lang: str, tgt_lang: str) -> None:
    """Refuse rules that cannot be applied, before the first pair.

    What they need is loaded meanwhile, for forked processes too.

    Raises:
        InputError: a script or a language that is not known, or a package that is missing.
    """
    for names in rules.scripts.values():
        _alphabet(names)
    if rules.min_language_probability is not None:
        language_label(src_lang)
        language_label(tgt_lang)


def clean(pair: SentencePair, rules: CleanConfig, src_lang: str = "", tgt_lang: str = "") -> Verdict:
    """Strip both sides and judge the pair by the first rule that it breaks, cheap ones first.

    Raises:
        InputError: as `check_rules`.
    """
    pair = SentencePair(pair.src.strip(), pair.tgt.strip())
    return Verdict(pair, _broken_rule(pair, rules, src_lang, tgt_lang))


def _broken_rule(pair: SentencePair, rules: CleanConfig, src_lang: str, tgt_lang: str) -> str | None:
    src, tgt = pair
    if not (src and tgt):
        return "empty"
    if src == TOO_LONG or tgt == TOO_LONG:
        return "too_long_line"
    if rules.drop_identical and src == tgt:
        return "identical"
    if rules.max_chars is not None and (len(src) > rules.max_chars or len(tgt) > rules.max_chars):
        return "too_long_characters"
    if rules.max_char_ratio is not None and _ratio(len(src), len(tgt)) > rules.max_char_ratio:
        return "length_ratio"
    if rules.max_word_ratio is not None and _has_word_ratio(src, tgt, rules.max_word_ratio):
        return "word_ratio"
    if rules.max_word_chars is not None and max(map(len, src.split() + tgt.split())) > rules.max_word_chars:
        return "word_too_long"
    if rules.drop_control_characters and (_CONTROL.search(src) or _CONTROL.search(tgt)):
        return "control_characters"
    if rules.drop_html and (has_html(src) or has_html(tgt)):
        return "html"
    if rules.match_urls and _addresses(src) != _addresses(tgt):
        return "url_mismatch"
    if rules.min_number_overlap is not None and _number_overlap(src, tgt) < rules.min_number_overlap:
        return "number_mismatch"
    # Leaders of a table of contents, too: from dots that only one side has a model learns to go on and on.
    if rules.max_repeats is not None and has_loop(src, rules.max_repeats + 1) != has_loop(tgt, rules.max_repeats + 1):
        return "repeated_ngram"
    if rules.scripts:
        for text, lang in ((src, src_lang), (tgt, tgt_lang)):
            names = rules.scripts.get(lang)
            if names is not None and _alphabet(names).share(text) < rules.min_script_share:
                return "wrong_script"
    if rules.min_language_probability is not None:
        for text, lang in ((src, src_lang), (tgt, tgt_lang)):
            if not may_be_in(text, language_label(lang), rules.min_language_probability):
                return "wrong_language"
    return None


def _ratio(src: int, tgt: int) -> float:
    return src / tgt if src > tgt else tgt / src


def _has_word_ratio(src: str, tgt: str, limit: float) -> bool:
    """Return whether one side has more than so many times the other's words.

    Nobody can say where words end in scripts without spaces; `max_char_ratio` is for pairs that have one.
    """
    if _ratio(len(src.split()), len(tgt.split())) <= limit:
        return False
    return not (UNSPACED_CHARACTER.search(src) or UNSPACED_CHARACTER.search(tgt))


def has_html(text: str) -> bool:
    """Return whether a text has a tag, or a reference to a character."""
    if "<" in text and _TAG.search(text):
        return True
    if "&" in text:
        for name in _REFERENCE.findall(text):
            if not name or f"{name};" in html5:  # R&D; is no reference
                return True
    return False


def _addresses(text: str) -> set[str]:
    """Return the web and e-mail addresses, in lower case, without the marks that end them or the sentence."""
    if "://" in text or "@" in text or "www." in text or "WWW." in text:
        return {address.rstrip(_AFTER_ADDRESS).lower() for address in _ADDRESS.findall(text)}
    return set()


def _number_overlap(src: str, tgt: str) -> float:
    """Return the share of both sides' numbers that have a partner on the other; one where there are none."""
    src_numbers, tgt_numbers = _NUMBER.findall(src), _NUMBER.findall(tgt)
    if src_numbers == tgt_numbers:
        return 1.0
    common = Counter(map(_plain_number, src_numbers)) & Counter(map(_plain_number, tgt_numbers))
    return 2 * common.total() / (len(src_numbers) + len(tgt_numbers))


def _plain_number(number: str) -> str:
    """Return the digits of any script as ASCII, without separators and leading zeros."""
    digits = _NO_DIGITS.sub("", number)
    if not digits.isascii():
        digits = "".join(str(int(digit)) for digit in digits)
    return digits.lstrip("0")


_alphabet = cache(Alphabet)  # of each language's scripts
