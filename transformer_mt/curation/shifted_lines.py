"""Whether line i of one side still belongs to line i of the other, told by lengths and by words that both have.

Of lines that belong together the long ones have long translations, and numbers, names and loan words stand on both
sides. Where a line was lost on one side, both are true of lines that stand some lines apart instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transformer_mt.curation.common import RUINOUS_SHARE, Finding
from transformer_mt.data.pairs import Chunk, NamedSource

BLOCK_LINES = 1000
_MAX_SHIFT = 3
# A gain of d_i by line i is one where Σd / √Σd² is above this. Where each gain is as likely as the same loss, that has
# a probability of exp(-18) at most (Hoeffding, 1963), and it cannot be in blocks of less than 36 lines: Σd / √Σd² ≤ √n.
_SURE = 6.0
_WORD = re.compile(r"\d+|[^\W\d]+")

Floats = npt.NDArray[np.float64]


class Agreement(NamedTuple):
    """How well the lines of a block go together, line by line."""

    distance: Floats  # of the lengths: |log(target / source) - its median in the block|
    words: Floats  # how many are on both sides

    def mean(self) -> tuple[float, float]:
        return float(self.distance.mean()), float(self.words.mean())


class Shift(NamedTuple):
    """A block whose lines go better together when the target is read some lines later (or, below 0, earlier)."""

    lines: int
    before: tuple[float, float]  # `Agreement.mean`
    after: tuple[float, float]


class Block(NamedTuple):
    """Lines that agree better when they are shifted."""

    first: int  # place of the first of them
    end: int  # place behind the last one
    shift: Shift


def shifted_blocks(chunk: Chunk) -> list[Block]:
    found = []
    for begin in range(0, len(chunk.src), BLOCK_LINES):
        lines = slice(begin, begin + BLOCK_LINES)
        shift = find_shift(chunk.src[lines], chunk.tgt[lines])
        if shift is not None:
            found.append(Block(chunk.first + begin, min(chunk.first + lines.stop, chunk.end), shift))
    return found


class _Run(NamedTuple):
    """Blocks of one source with the same shift."""

    begin: Block
    end: int
    num_blocks: int


class Shifts:
    """All shifted blocks of some sources."""

    def __init__(self) -> None:
        self._runs: dict[tuple[int, int], _Run] = {}

    def add(self, source: int, blocks: Sequence[Block]) -> None:
        for block in blocks:
            key = source, block.shift.lines
            run = self._runs.get(key, _Run(block, 0, 0))
            self._runs[key] = _Run(run.begin, block.end, run.num_blocks + 1)

    def findings(self, sources: Sequence[NamedSource], counts: Sequence[int]) -> Iterator[Finding]:
        for (source, lines), (begin, end, num_blocks) in self._runs.items():
            start = sum(counts[:source])  # where the source begins
            distance_before, words_before = begin.shift.before
            distance_after, words_after = begin.shift.after
            how_far = "1 line" if abs(lines) == 1 else f"{abs(lines)} lines"
            direction, side = ("later", "source") if lines > 0 else ("earlier", "target")
            yield Finding(
                f"{sources[source].label}: {num_blocks:,} of {-(-counts[source] // BLOCK_LINES):,} blocks of "
                f"{BLOCK_LINES:,} lines, between line {begin.first - start + 1:,} and line {end - start:,}, agree "
                f"better when their targets are read {how_far} {direction} (in the first one {words_after:.2f} words a "
                f"line are on both sides instead of {words_before:.2f}, and length ratios are off by a factor of "
                f"{math.exp(distance_after):.2f} instead of {math.exp(distance_before):.2f}); look above for lines "
                f"that the {side} lacks",
                ruins=num_blocks * BLOCK_LINES >= RUINOUS_SHARE * counts[source],
            )


def find_shift(src: Sequence[str], tgt: Sequence[str]) -> Shift | None:
    """The shift by which the lines of a block agree clearly better, if there is one."""
    src_lengths, tgt_lengths = (np.log1p([len(line) for line in side]) for side in (src, tgt))
    src_words, tgt_words = ([frozenset(_WORD.findall(line)) for line in side] for side in (src, tgt))

    def agreement(lines: range, shift: int) -> Agreement:
        """Of some source lines with the targets so much later."""
        targets = slice(lines.start + shift, lines.stop + shift)
        ratios = tgt_lengths[targets] - src_lengths[lines.start : lines.stop]
        common = [len(src_words[line] & tgt_words[line + shift]) for line in lines]
        return Agreement(np.abs(ratios - np.median(ratios)), np.array(common, dtype=np.float64))

    best, most = None, 0.0
    for shift in range(-_MAX_SHIFT, _MAX_SHIFT + 1):
        lines = range(max(0, -shift), len(src) - max(0, shift))
        if shift == 0 or len(lines) < _SURE**2:
            continue
        before, after = agreement(lines, 0), agreement(lines, shift)
        by_length, by_words = _gain(before.distance - after.distance), _gain(after.words - before.words)
        # In one respect clearly, and in the other not clearly worse.
        if max(by_length, by_words) > _SURE and min(by_length, by_words) > -_SURE and by_length + by_words > most:
            best, most = Shift(shift, before.mean(), after.mean()), by_length + by_words
    return best


def _gain(gains: Floats) -> float:
    squares = float(gains @ gains)
    return float(gains.sum()) / squares**0.5 if squares > 0 else 0.0
