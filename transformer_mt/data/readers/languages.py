"""Language codes as files have them, beside those that are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

MAX_CODES = 100  # of a file are looked at


@lru_cache(1000)
def distance(wanted: str, found: str) -> int | None:
    """Return how far a language is from the one that is wanted: 0 for the same code, 1 where one of both names no
    variety (en for en-US), 2 for another variety (en-GB for en-US), None for another language."""
    one, other = (code.strip().lower().replace("_", "-") for code in (wanted, found))
    if one == other:
        return 0
    if one.partition("-")[0] != other.partition("-")[0]:
        return None
    return 2 if "-" in one and "-" in other else 1


def is_turned(wanted: tuple[str, str], found: tuple[str, str]) -> bool | None:
    """Return whether a file of two languages has them the other way round; None where they are not those wanted.

    An empty code, which a file does not tell, is any language.
    """
    straight, turned = (_sum(wanted, pair) for pair in (found, found[::-1]))
    if straight is None:
        return None if turned is None else True
    return turned is not None and turned < straight


def _sum(wanted: tuple[str, str], found: Iterable[str]) -> int | None:
    distances = [3 if not code else distance(one, code) for one, code in zip(wanted, found, strict=True)]
    return None if None in distances else sum(distances)  # type: ignore[arg-type]


def not_among(wanted: Iterable[str], found: Iterable[str]) -> str:
    """Return the refusal of a file that is in other languages than wanted."""
    codes = ", ".join(dict.fromkeys(found)) or "not told"
    return f"no text in {' or '.join(wanted)}: its languages are {codes}; set src_lang and tgt_lang to two of them"
