"""Words that repeat themselves without end, as a translation does that is stuck."""

from __future__ import annotations

import re
import string
from itertools import repeat
from operator import eq

from transformer_mt.text.scripts import UNSPACED_CHARACTER, WORD

MAX_LOOP_WORDS = 4


MAX_LOOP_CHARACTERS = 8  # of scripts without spaces, where a word is one to a few


MIN_REPEATS = 4


MIN_CHARACTERS = 8  # that such a loop covers: 哈哈哈哈 is laughter


_PUNCTUATION = string.punctuation + "…“”„‘’‚«»‹›¿¡–—،؛؟۔।"


def has_loop(text: str, min_repeats: int = MIN_REPEATS) -> bool:
    """Whether the same one to four words stand there so often or more in a row, whatever their case and punctuation.

    In scripts without spaces the same one to eight characters, so often or more and eight characters at least.
    """
    text = text.casefold()
    is_spaced = UNSPACED_CHARACTER.search(text) is None
    words = text.split() if is_spaced else WORD.findall(text)
    units = list(map(str.strip, words, repeat(_PUNCTUATION)))
    if "" in units:
        units = [unit or word for unit, word in zip(units, words, strict=True)]
    max_period = MAX_LOOP_WORDS if is_spaced else MAX_LOOP_CHARACTERS
    for period in range(1, min(max_period, len(units) // min_repeats) + 1):
        # A loop is a run of units that equal the one a period before. Every run that is long enough has one of these.
        needed = (min_repeats - 1) * period
        if any(map(eq, units[period::needed], units[::needed])) and _has_loop(units, period, needed):
            return True
    return False


def _has_loop(units: list[str], period: int, needed: int) -> bool:
    equal = bytes(map(eq, units[period:], units))
    for run in re.finditer(b"\1{%d,}" % needed, equal):
        if not all(map(UNSPACED_CHARACTER.match, units[run.start() : run.start() + period])):
            if period <= MAX_LOOP_WORDS:
                return True
        elif run.end() - run.start() + period >= MIN_CHARACTERS:
            return True
    return False
