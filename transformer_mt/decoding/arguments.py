"""What a Python program hands to the translator: lists of texts are looked at while they are read, and what is none is
refused by its number."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from transformer_mt.errors import InputError

# Tokens of a side that are scored: attention of one such pair takes some 70 MB a head, and as much again on its way.
# Pairs beyond a quarter of that are scored one by one, so that no batch takes more.
LONGEST_SCORED = 4096

LINE_END = re.compile(r"\r?\n")  # of a text, as in files

T = TypeVar("T")


def checked_list(what: str, values: Iterable[T]) -> Iterable[T]:
    """Return an argument that is a list, and not one text, which would be taken apart into letters."""
    if isinstance(values, (str, bytes, bytearray, Path)):
        kind = type(values).__name__
        raise InputError(f"{what}: a list of texts is needed, one {kind} was found; write [text] for a single one")
    return values


def checked_texts(what: str, values: Iterable[str]) -> Iterator[str]:
    """Return the texts of such a list, each of them looked at when it is taken."""
    return itertools.starmap(partial(_checked_text, what), enumerate(checked_list(what, values), 1))


def checked_prefixes(prefixes: Iterable[str] | None) -> Iterator[str] | None:
    return None if prefixes is None else checked_texts("prefixes", prefixes)


def checked_pairs(lines: Iterable[str], prefixes: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pair lines with their prefixes, of which there must be equally many."""
    for number, (line, prefix) in enumerate(itertools.zip_longest(lines, prefixes), 1):
        if line is None or prefix is None:
            few, many = ("lines", "prefixes") if line is None else ("prefixes", "lines")
            raise InputError(f'{number - 1} {few}, but more {many}: give a prefix for each line, "" for none')
        yield line, prefix


def _checked_text(what: str, number: int, value: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{what}: number {number} is no text but of type {type(value).__name__}; a str is needed")
    check_unicode(f"{what}: number {number}", value)
    return value


def check_unicode(what: str, text: str) -> None:
    """Refuse a text with half a character, as Python makes of bytes of a command line that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what}: {text[error.start]!a} is half a character; give text in UTF-8") from None


def line_pairs(source: str, target: str, number: int) -> list[tuple[str, str]]:
    """Return the lines of two texts, without the white space around them; most texts have one, a blank source has none.

    Raises:
        InputError: the texts have not equally many lines, or a blank line's target is none.
    """
    if not source.strip():
        return []
    sources, targets = ([line.strip() for line in LINE_END.split(text.strip())] for text in (source, target))
    if len(sources) != len(targets):
        raise InputError(
            f"line {number}: {len(sources)} lines in the source, {len(targets)} in the target; each line of a text is "
            "scored by itself: give both the same line ends, or put spaces in their places"
        )
    pairs = list(zip(sources, targets, strict=True))
    if any(not one and other for one, other in pairs) and len(pairs) > 1:
        raise InputError(f"line {number}: in its text, a blank line has a target that is not; take one of the two away")
    return pairs


def check_lengths(
    src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]], numbers: Sequence[int], max_positions: int | None
) -> None:
    """Refuse to score a pair that is too long, by its line's number.

    Args:
        max_positions: ids of a side that the model has positions for; None: for any number.

    Raises:
        InputError: a side has more tokens than that, or than `LONGEST_SCORED`.
    """
    for number, one, other in zip(numbers, src, tgt, strict=True):
        longest = max(len(one), len(other))
        if max_positions is not None and longest > max_positions:
            raise InputError(
                f"line {number}: {longest} tokens, the model has {max_positions} positions; split the line"
            )
        if longest > LONGEST_SCORED:
            raise InputError(
                f"line {number}: {longest} tokens, at most {LONGEST_SCORED} of a side are scored; split the line"
            )


def check_length(what: str, ids: Sequence[int], longest: int | None) -> None:
    """Refuse a side whose attention is asked for and that is too long to tell."""
    if longest is not None and len(ids) > longest:
        raise InputError(f"{what}: {len(ids)} tokens, attention is told of at most {longest}; give a shorter sentence")
