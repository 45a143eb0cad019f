"""The words that pieces spell: for those who want to show what a model sees as people read it."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from transformer_mt.text.scripts import UNSPACED_CHARACTER

SPACE = "\u2581"  # what SentencePiece writes for the space before a word
_BYTE = re.compile("<0x([0-9A-F]{2})>")


class Word(NamedTuple):
    """A word and the pieces that spell it."""

    text: str
    pieces: range


def words_of(pieces: Sequence[str], symbols: Collection[str]) -> list[Word]:
    """Return the words of a text in pieces, each piece in one of them.

    A word begins where there is a space. In scripts that have none, each piece is a word.

    Args:
        symbols: pieces that stand by themselves: tags, the end of a sentence.
    """
    words: list[Word] = []
    last, is_open = "", False  # what the last word ends in, and whether anything may belong to it
    for text, own in characters(pieces):
        is_symbol = pieces[own.start] in symbols
        begins = text.startswith(SPACE) or (_is_unspaced(last, text) and last != SPACE)
        if is_open and not is_symbol and not begins:
            words[-1] = Word(words[-1].text + text, range(words[-1].pieces.start, own.stop))
        else:
            words.append(Word(text, own))
        last, is_open = words[-1].text, not is_symbol
    return [Word(word.text.replace(SPACE, " ").strip() or SPACE, word.pieces) for word in words]


def word_numbers(text: str, starts: Sequence[int]) -> list[int]:
    """Return which word of a text begins or goes on at each of some places in it, or else is the next, or the last.

    A word is what stands between white space, whatever its script; the first one is 0.
    """
    ends = [word.end() for word in re.finditer(r"\S+", text)]
    return [min(bisect_right(ends, start), max(0, len(ends) - 1)) for start in starts]


def _is_unspaced(before: str, after: str) -> bool:
    """Return whether two neighbours are apart because one is of a script without spaces."""
    if unicodedata.category(after[0]).startswith("M"):  # a vowel sign or an accent on what is before it
        return False
    return bool(UNSPACED_CHARACTER.match(before[-1:]) or UNSPACED_CHARACTER.match(after))


def characters(pieces: Sequence[str]) -> Iterator[tuple[str, range]]:
    """Yield the pieces with their numbers; those that are bytes together, a character at a time."""
    spelled, start = b"", 0
    for number, piece in enumerate(pieces):
        byte = bytes.fromhex(found[1]) if (found := _BYTE.fullmatch(piece)) else b""
        if spelled and not b"\x80" <= byte < b"\xc0":  # all bytes of a character but the first
            yield spelled.decode("utf-8", "replace"), range(start, number)
            spelled = b""
        if byte:
            spelled, start = spelled + byte, start if spelled else number
        else:
            yield piece, range(number, number + 1)
    if spelled:
        yield spelled.decode("utf-8", "replace"), range(start, len(pieces))
