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
from transformer_mt.system.console import counted

BLOCK_LINES = 1000
# With two sides, of a block that is called unrelated; of text that goes together they have a gain of 7 and more.
_FEWEST_LINES = 300
_PARTS = (1, 2, 4, 8)  # of a block: a shift may begin inside of it, and most validation texts are one block
_MAX_SHIFT = 3
# A gain of d_i by line i is one where Σd / √Σd² is above this. Where each gain is as likely as the same loss, that has
# a probability of exp(-18) at most (Hoeffding, 1963), and it cannot be in blocks of less than 36 lines: Σd / √Σd² ≤ √n.
_SURE = 6.0
# Above this it is by chance in one block of 90 at most.
_LIKELY = 3.0
_VARIED = 0.25  # the standard deviation of lengths that can tell; it is 0.3 and more in text, less where that is sorted
_ALIKE = 0.1  # between lengths, in the mean; it is 0.3 to 0.5 between lines that do not belong together
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
    shift: Shift | None  # None: with their own targets they agree no better than with others


def shifted_blocks(chunk: Chunk) -> list[Block]:
    found = []
    for begin in range(0, len(chunk.src), BLOCK_LINES):
        lines = slice(begin, begin + BLOCK_LINES)
        sides, start = Sides(chunk.src[lines], chunk.tgt[lines]), chunk.first + begin
        shifts = find_shifts(sides)
        found += [Block(start + part.start, start + part.stop, shift) for part, shift in shifts]
        if not shifts and are_unrelated(sides):
            found.append(Block(start, start + len(sides), None))
    return found


class _Run(NamedTuple):
    """Blocks of one source with the same shift."""

    begin: Block
    end: int
    num_lines: int


class Shifts:
    """All shifted blocks of some sources."""

    def __init__(self) -> None:
        self._runs: dict[tuple[int, int], _Run] = {}

    def add(self, source: int, blocks: Sequence[Block]) -> None:
        for block in blocks:
            key = source, 0 if block.shift is None else block.shift.lines
            run = self._runs.get(key, _Run(block, 0, 0))
            self._runs[key] = _Run(run.begin, block.end, run.num_lines + block.end - block.first)

    def findings(self, sources: Sequence[NamedSource], counts: Sequence[int]) -> Iterator[Finding]:
        for (source, _), (begin, end, num_lines) in self._runs.items():
            named, count = sources[source], counts[source]
            start = sum(counts[:source])  # where the source begins
            where = f"of {count:,} lines, between line {begin.first - start + 1:,} and line {end - start:,},"
            if begin.shift is None:
                text = (
                    f"{named.label}: {num_lines:,} {where} do not belong together: their lengths, and words that both "
                    f"have, agree no better than with other lines; look whether one side was sorted or shuffled "
                    f"({named.source})"
                )
            else:
                text = f"{named.label}: about {num_lines:,} {where} {_described(begin, begin.shift)}"
            yield Finding(text, ruins=num_lines >= RUINOUS_SHARE * count)


def _described(block: Block, shift: Shift) -> str:
    (distance_before, words_before), (distance_after, words_after) = shift.before, shift.after
    direction, side = ("later", "source") if shift.lines > 0 else ("earlier", "target")
    return (
        f"agree better when their targets are read {counted(abs(shift.lines), 'line')} {direction} (in the first "
        f"{block.end - block.first:,} {words_after:.2f} words a line are on both sides instead of {words_before:.2f}, "
        f"and length ratios are off by a factor of {math.exp(distance_after):.2f} "
        f"instead of {math.exp(distance_before):.2f}); look there and above "
        f"for lines that the {side} lacks"
    )


class Sides:
    """A block, and how well its lines go together with targets some lines away."""

    def __init__(self, src: Sequence[str], tgt: Sequence[str]) -> None:
        self._lengths = [np.log1p([len(line) for line in side]) for side in (src, tgt)]
        self._words = [[frozenset(_WORD.findall(line)) for line in side] for side in (src, tgt)]
        self._common: dict[int, Floats] = {}  # by shift: how many words each line has in common with its target there

    def __len__(self) -> int:
        return len(self._words[0])

    def num_pairs(self) -> int:
        """Return how many lines have text on both sides."""
        src, tgt = self._lengths
        return int(((src > 0) & (tgt > 0)).sum())

    def least_deviation(self) -> float:
        return min(float(lengths.std()) for lengths in self._lengths)

    def with_targets(self, lines: range, shift: int) -> range:
        """Return those of some lines that have a target so much later."""
        start = max(lines.start, -shift)
        return range(start, max(start, min(lines.stop, len(self) - shift)))

    def agreement(self, lines: range, shift: int) -> Agreement:
        """Of some source lines with the targets so much later."""
        if shift not in self._common:
            self._common[shift] = np.zeros(len(self))
            for line in self.with_targets(range(len(self)), shift):
                self._common[shift][line] = len(self._words[0][line] & self._words[1][line + shift])
        src, tgt = self._lengths
        ratios = tgt[lines.start + shift : lines.stop + shift] - src[lines.start : lines.stop]
        return Agreement(np.abs(ratios - np.median(ratios)), self._common[shift][lines.start : lines.stop])


def find_shifts(sides: Sides) -> list[tuple[range, Shift]]:
    """Return the lines of a block that agree clearly better when they are shifted: all, or halves, quarters and eighths
    of it, the largest that do."""
    found: list[tuple[range, Shift]] = []
    for num_parts in _PARTS:
        size = max(1, -(-len(sides) // num_parts))
        for begin in range(0, len(sides), size):
            part = range(begin, min(begin + size, len(sides)))
            if any(one.start <= begin < one.stop for one, _ in found):
                continue
            if (shift := _best_shift(part, sides)) is not None:
                found.append((part, shift))
    return sorted(found, key=lambda one: one[0].start)


def are_unrelated(sides: Sides) -> bool:
    """Return whether the lines of a block agree no better than with targets half a block away."""
    if sides.num_pairs() < _FEWEST_LINES or sides.least_deviation() < _VARIED:
        return False
    half = len(sides) // 2
    own = sides.agreement(range(2 * half), 0)
    others = [sides.agreement(range(half), half), sides.agreement(range(half, 2 * half), -half)]
    if own.distance.mean() < _ALIKE:  # lengths that go together as well as they can
        return False
    distance, words = (np.concatenate(both) for both in zip(*others, strict=True))
    return max(_gain(distance - own.distance), _gain(own.words - words)) < _LIKELY


def _best_shift(part: range, sides: Sides) -> Shift | None:
    """Return the shift by which some lines agree clearly better, if there is one."""
    best, most = None, 0.0
    for shift in range(-_MAX_SHIFT, _MAX_SHIFT + 1):
        lines = sides.with_targets(part, shift)
        if shift == 0 or len(lines) < _SURE**2:
            continue
        before, after = sides.agreement(lines, 0), sides.agreement(lines, shift)
        by_length, by_words = _gain(before.distance - after.distance), _gain(after.words - before.words)
        # In one respect clearly, and in the other not clearly worse.
        if max(by_length, by_words) > _SURE and min(by_length, by_words) > -_LIKELY and by_length + by_words > most:
            best, most = Shift(shift, before.mean(), after.mean()), by_length + by_words
    return best


def _gain(gains: Floats) -> float:
    squares = float(gains @ gains)
    return float(gains.sum()) / squares**0.5 if squares > 0 else 0.0
