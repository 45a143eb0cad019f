"""Keys of texts and pairs by which equal or nearly equal ones are found."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Literal

Kind = Literal["exact", "near"]


class _NearCharacters(dict[int, str]):
    """What `str.translate` puts in a character's place so that near texts become equal; filled as they are seen."""

    def __missing__(self, code: int) -> str:
        folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", chr(code)).casefold())
        self[code] = near = "".join(map(_near_character, folded))
        return near


def _near_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return "0"
    # No other marks than those of European scripts: a vowel sign of Hindi makes another word.
    is_ignored = category[0] in "PSZ" or category in ("Cc", "Cf") or "\u0300" <= character <= "\u036f"
    return "" if is_ignored else character


_NEAR_CHARACTERS = _NearCharacters()


_NUMBERS_OF_ZEROS = re.compile("00+")


def text_key(text: str, kind: Kind) -> int:
    """Return a 64-bit key that equal texts share, whatever the white space around them.

    Near texts share it too: those that differ in case, accents, digits, punctuation, symbols and white space only. A
    text that has nothing else is near to itself only.
    """
    return hash_of(_near(text) if kind == "near" else text.strip())


def duplicate_key(pair: tuple[str, str], kind: Kind) -> int:
    """Return the key of a pair: equal keys where the keys of both sides are equal."""
    src, tgt = (_near(side) if kind == "near" else side.strip() for side in pair)
    return hash_of(f"{src}\n{tgt}")


def _near(text: str) -> str:
    near = text.translate(_NEAR_CHARACTERS)
    if not near.isascii():
        near = unicodedata.normalize("NFKD", near)  # the order of marks
    if "00" in near:
        near = _NUMBERS_OF_ZEROS.sub("0", near)
    return near or text.strip()


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
