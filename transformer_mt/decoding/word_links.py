"""Links between words of a line and words of its translation, where either is translated in parts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeAlias

from transformer_mt.text.sentences import SplitLine
from transformer_mt.text.tokenizer import Tokenizer
from transformer_mt.text.words import word_numbers

Links: TypeAlias = list[tuple[int, int]]  # of a source's word and a translation's, both counted from 0; ascending

NO_WORD = -1  # what a tag or </s> belongs to


def source_words(line: str, split: SplitLine | None, tokenizer: Tokenizer, num_tags: int) -> list[list[int]]:
    """Return the number of the line's word that each id belongs to, or `NO_WORD`, in each part of a line.

    Args:
        split: its parts; None: it is one.
        num_tags: ids that each part begins with.
    """
    texts = [line.strip()] if split is None else [part.text for part in split.parts]
    begins = [len(line) - len(line.lstrip())] if split is None else split.starts(texts)
    starts = [[begin + start for start in tokenizer.starts(text)] for text, begin in zip(texts, begins, strict=True)]
    numbers = iter(word_numbers(line, list(itertools.chain.from_iterable(starts))))
    return [[*[NO_WORD] * num_tags, *itertools.islice(numbers, len(own)), NO_WORD] for own in starts]


def joined_links(text: str, starts: Sequence[int], links: Sequence[Links]) -> Links:
    """Return the links of a line's translation, of those of its parts, which begin at ``starts``."""
    firsts = word_numbers(text, starts)
    return sorted({(i, first + j) for first, own in zip(firsts, links, strict=True) for i, j in own})
