"""Which pairs make an update, and which of them a rank and a micro-batch compute: pure functions and a cursor.

Nothing here keeps state. A run that stops at a cursor continues with the same pairs, on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Pairs = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int32]

WINDOW_PAIRS = 1 << 21  # shuffled and sorted together


class Part(NamedTuple):
    """Pairs of one source that lie together on disk: those with the numbers from ``start`` to before ``end``."""

    source: int
    start: int
    end: int


@dataclass(frozen=True)
class Cursor:
    """The next update: its epoch and its number in that epoch, both from 0."""

    epoch: int = 0
    update: int = 0


def plan_windows(
    src_lengths: Lengths,
    tgt_lengths: Lengths,
    parts: Sequence[Part],
    weights: Sequence[float],
    *,
    seed: int,
    epoch: int,
    max_tokens: int,
    max_source_tokens: int,
) -> Iterator[list[Pairs]]:
    """Yield the updates of one epoch, arrays of pair numbers, window by window.

    A source of weight w (``weights`` by the number of the source) has each of its pairs ⌊w⌋ times, and the fraction of
    w is the share of its pairs that are there once more; so with weight 1 each pair is in exactly one update.

    Every source is spread evenly over windows of about ``WINDOW_PAIRS`` pairs, its parts in random order. In a window
    the pairs are sorted by length (equal lengths in random order), cut into updates of at most ``max_tokens`` labels
    and ``max_source_tokens`` source ids, and the updates shuffled. Work and memory are bounded by the window and few
    parts are open at a time, however large the corpus is.
    """
    passes = [
        _Pass(order, seed, epoch, number)
        for number, order in enumerate(_orders(parts, weights, np.random.default_rng((seed, epoch))))
    ]
    num_windows = max(1, round(sum(len(one) for one in passes) / WINDOW_PAIRS))
    for window in range(num_windows):
        pairs = np.concatenate([one.window(window, num_windows) for one in passes] or [np.empty(0, np.int64)])
        rng = np.random.default_rng((seed, epoch, window + 1))
        rng.shuffle(pairs)
        pairs = pairs[np.lexsort((src_lengths[pairs], tgt_lengths[pairs]))]
        borders = _update_borders(src_lengths[pairs], tgt_lengths[pairs], max_tokens, max_source_tokens)
        yield [pairs[borders[update] : borders[update + 1]] for update in rng.permutation(len(borders) - 1)]


def is_same_in_all_epochs(parts: Sequence[Part], weights: Sequence[float]) -> bool:
    """Return whether every epoch has the same pairs and is a single window."""
    if any(weight != int(weight) for weight in weights):
        return False
    return round(sum((part.end - part.start) * weights[part.source] for part in parts) / WINDOW_PAIRS) <= 1


def _orders(
    parts: Sequence[Part], weights: Sequence[float], rng: np.random.Generator
) -> Iterator[list[tuple[Part, int]]]:
    """Yield the way through a source for each time that it is gone through.

    A way is the source's parts in random order, each with the number of its pairs that are seen.
    """
    for source, weight in enumerate(weights):
        own = [part for part in parts if part.source == source]
        times, fraction = int(weight), weight - int(weight)
        for _ in range(times):
            yield [(own[i], own[i].end - own[i].start) for i in rng.permutation(len(own))]
        if fraction > 0:
            shares = [fraction * (part.end - part.start) + rng.random() for part in own]  # rounded at random
            yield [(own[i], int(shares[i])) for i in rng.permutation(len(own))]


class _Pass:
    """A way once through a source, or through a sample of it."""

    def __init__(self, order: list[tuple[Part, int]], seed: int, epoch: int, number: int) -> None:
        self._parts = [part for part, _ in order]
        self._ends = np.cumsum([0, *(count for _, count in order)], dtype=np.int64)
        self._key = (seed, epoch, number)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def window(self, window: int, num_windows: int) -> Pairs:
        """Return the pairs (numbers in the store) of one of so many equal shares of the way."""
        first, last = len(self) * window // num_windows, len(self) * (window + 1) // num_windows
        taken = [np.empty(0, dtype=np.int64)]
        for i in range(int(np.searchsorted(self._ends, first, side="right")) - 1, len(self._parts)):
            begin, end = int(self._ends[i]), int(self._ends[i + 1])
            if begin >= last:
                break
            part = self._parts[i]
            pairs = np.arange(part.start, part.end)
            if begin < first or end > last or end - begin < len(pairs):  # which of them, is a matter of chance
                np.random.default_rng((*self._key, part.start + 1)).shuffle(pairs)
            taken.append(pairs[max(first - begin, 0) : min(end, last) - begin])
        return np.concatenate(taken)


def _update_borders(src_lengths: Lengths, tgt_lengths: Lengths, max_tokens: int, max_source_tokens: int) -> list[int]:
    """Return the borders of the longest runs that keep both budgets, from left to right, the first at 0."""
    src_ends, tgt_ends = np.cumsum(src_lengths, dtype=np.int64), np.cumsum(tgt_lengths, dtype=np.int64)
    borders = [0]
    while borders[-1] < len(src_ends):
        start = borders[-1]
        src_done = src_ends[start - 1] if start else 0
        tgt_done = tgt_ends[start - 1] if start else 0
        end = min(
            int(np.searchsorted(src_ends, src_done + max_source_tokens, side="right")),
            int(np.searchsorted(tgt_ends, tgt_done + max_tokens, side="right")),
        )
        if end == start:
            raise ValueError(f"a pair of {src_lengths[start]} and {tgt_lengths[start]} ids fits no update")
        borders.append(end)
    return borders


def cut_update(
    pairs: Pairs, src_lengths: Lengths, tgt_lengths: Lengths, *, num_ranks: int, micro_tokens: int
) -> list[list[Pairs]]:
    """Share an update among ranks, and each rank's part among forward passes.

    Pairs are dealt in order of length, so that all ranks get nearly the same tokens. A micro-batch has at most
    ``micro_tokens`` padded positions, source and target together, or is a single pair that has more; a rank may get
    none where pairs are few.

    Returns:
        For each rank its micro-batches, as arrays of pair numbers.
    """
    ordered = pairs[np.lexsort((src_lengths[pairs], tgt_lengths[pairs]))]
    return [
        _micro_batches(ordered[rank::num_ranks], src_lengths, tgt_lengths, micro_tokens) for rank in range(num_ranks)
    ]


def _micro_batches(pairs: Pairs, src_lengths: Lengths, tgt_lengths: Lengths, micro_tokens: int) -> list[Pairs]:
    batches: list[Pairs] = []
    start = 0
    while start < len(pairs):
        rows = np.arange(1, len(pairs) - start + 1)
        longest_src = np.maximum.accumulate(src_lengths[pairs[start:]]).astype(np.int64)
        longest_tgt = np.maximum.accumulate(tgt_lengths[pairs[start:]]).astype(np.int64)
        fitting = int(np.searchsorted(rows * (longest_src + longest_tgt), micro_tokens, side="right"))
        end = start + max(fitting, 1)
        batches.append(pairs[start:end])
        start = end
    return batches
