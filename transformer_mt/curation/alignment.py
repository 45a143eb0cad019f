"""Whether line i of one side still belongs to line i of the other, told by lengths and numbers.

In a block of lines that belong together, long sources have long targets, and numbers are the same on both sides. Where
a line was lost on one side, both are true of lines that stand some lines apart instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transformer_mt.curation.passes import Chunk, NamedSource

BLOCK_LINES = 1000
_MAX_SHIFT = 3
# A correlation over n lines and a share of n lines have a standard error of 1/√n at most: no gain below this many of
# them is taken for one. (Of two such numbers' difference these are more than four, and most blocks are far from it.)
_ERRORS = 6.0

Floats = npt.NDArray[np.float64]


class Agreement(NamedTuple):
    """How well the lines of a block go together."""

    lengths: float  # correlation of the logarithms
    numbers: float  # share of the lines with a number on any side that have the same ones on the other
    num_lines: int
    num_numbers: int  # lines with a number


class Shift(NamedTuple):
    """A block whose lines go better together when the target is read some lines later (or, below 0, earlier)."""

    lines: int
    before: Agreement
    after: Agreement


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

    def findings(self, sources: Sequence[NamedSource], counts: Sequence[int]) -> Iterator[str]:
        for (source, lines), (begin, end, num_blocks) in self._runs.items():
            start = sum(counts[:source])  # where the source begins
            before, after = begin.shift.before, begin.shift.after
            distance = "1 line" if abs(lines) == 1 else f"{abs(lines)} lines"
            direction, side = ("later", "source") if lines > 0 else ("earlier", "target")
            yield (
                f"{sources[source].label}: {num_blocks:,} of {-(-counts[source] // BLOCK_LINES):,} blocks of "
                f"{BLOCK_LINES:,} lines, between line {begin.first - start + 1:,} and line {end - start:,}, agree better "
                f"when their targets are read {distance} {direction}: in the first one the lengths correlate by "
                f"{after.lengths:.2f} instead of {before.lengths:.2f}, and the numbers agree in "
                f"{100 * after.numbers:.0f} % instead of {100 * before.numbers:.0f} % of {before.num_numbers:,} lines; "
                f"look for lines that the {side} lost before there"
            )


def find_shift(src: Sequence[str], tgt: Sequence[str]) -> Shift | None:
    """The shift by which a block agrees far better, if there is one."""
    src_lengths, tgt_lengths = (np.log1p([len(line) for line in side]) for side in (src, tgt))
    src_numbers, tgt_numbers = (np.array([_numbers(line) for line in side], dtype=np.int64) for side in (src, tgt))

    def agreement(shift: int) -> Agreement:
        first, last = slice(max(0, -shift), len(src) - max(0, shift)), slice(max(0, shift), len(tgt) + min(0, shift))
        one, other = src_numbers[first], tgt_numbers[last]
        with_numbers = (one != 0) | (other != 0)
        num_numbers = int(with_numbers.sum())
        equal = int(((one == other) & with_numbers).sum())
        correlation = _correlation(src_lengths[first], tgt_lengths[last])
        return Agreement(correlation, equal / max(1, num_numbers), len(one), num_numbers)

    before = agreement(0)
    shifts = [shift for shift in range(-_MAX_SHIFT, _MAX_SHIFT + 1) if shift and abs(shift) < len(src)]
    found = [Shift(shift, before, after) for shift in shifts if _is_better(after := agreement(shift), before)]
    return max(found, key=lambda one: one.after.lengths + one.after.numbers, default=None)


def _is_better(after: Agreement, before: Agreement) -> bool:
    """In one respect clearly, and in the other not clearly worse."""
    lengths = (after.lengths - before.lengths) * after.num_lines**0.5 / _ERRORS
    numbers = (after.numbers - before.numbers) * after.num_numbers**0.5 / _ERRORS
    return bool(max(lengths, numbers) > 1 and min(lengths, numbers) > -1)


def _correlation(one: Floats, other: Floats) -> float:
    """Pearson's; 0 where all lines of a side are of one length."""
    one, other = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / norm if norm > 0 else 0.0


def _numbers(line: str) -> int:
    """A number for the numbers of a line, in whatever order; 0 where there are none."""
    return hash(tuple(sorted(map(int, re.findall(r"\d+", line))))) if re.search(r"\d", line) else 0
