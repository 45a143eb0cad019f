"""What a Python program hands to the translator: lists of texts are looked at while they are read, and what is none is
refused by its number."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from transformer_mt.errors import InputError

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
    return value
