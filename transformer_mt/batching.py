"""Which pairs make an update, and which of them a rank and a micro-batch compute: two pure functions and a cursor.

Nothing here keeps state. A run that stops at a cursor continues with the same pairs, on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pairs = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int32]

WINDOW_SHARDS = 8  # shards shuffled and sorted together: about two million pairs


@dataclass(frozen=True)
class Cursor:
    """The next update: its epoch and its number in that epoch, both from 0."""

    epoch: int = 0
    update: int = 0


def plan_epoch(
    src_lengths: Lengths,
    tgt_lengths: Lengths,
    shard_sizes: Sequence[int],
    *,
    seed: int,
    epoch: int,
    max_tokens: int,
    max_source_tokens: int,
) -> Iterator[Pairs]:
    """Yield the updates of one epoch as arrays of pair numbers; each pair is in exactly one of them.

    Shards are visited in random order, ``WINDOW_SHARDS`` at a time. In such a window the pairs are sorted by length
    (equal lengths in random order), cut into updates of at most ``max_tokens`` labels and ``max_source_tokens``
    source ids, and the updates shuffled. Work and memory are bounded by the window, not by the corpus.
    """
    starts = np.cumsum([0, *shard_sizes])
    order = np.random.default_rng((seed, epoch)).permutation(len(shard_sizes))
    for first in range(0, len(order), WINDOW_SHARDS):
        shards = order[first : first + WINDOW_SHARDS]
        pairs = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in shards])
        rng = np.random.default_rng((seed, epoch, first + 1))
        rng.shuffle(pairs)
        pairs = pairs[np.lexsort((src_lengths[pairs], tgt_lengths[pairs]))]
        cuts = _cut(src_lengths[pairs], tgt_lengths[pairs], max_tokens, max_source_tokens)
        for update in rng.permutation(len(cuts) - 1):
            yield pairs[cuts[update] : cuts[update + 1]]


def _cut(src_lengths: Lengths, tgt_lengths: Lengths, max_tokens: int, max_source_tokens: int) -> list[int]:
    """Borders of the longest runs that keep both budgets, from left to right."""
    src_ends, tgt_ends = np.cumsum(src_lengths, dtype=np.int64), np.cumsum(tgt_lengths, dtype=np.int64)
    cuts = [0]
    while cuts[-1] < len(src_ends):
        start = cuts[-1]
        src_done = src_ends[start - 1] if start else 0
        tgt_done = tgt_ends[start - 1] if start else 0
        end = min(
            int(np.searchsorted(src_ends, src_done + max_source_tokens, side="right")),
            int(np.searchsorted(tgt_ends, tgt_done + max_tokens, side="right")),
        )
        if end == start:
            raise ValueError(f"a pair of {src_lengths[start]} and {tgt_lengths[start]} ids fits no update")
        cuts.append(end)
    return cuts


def updates_from(
    cursor: Cursor,
    src_lengths: Lengths,
    tgt_lengths: Lengths,
    shard_sizes: Sequence[int],
    *,
    seed: int,
    max_tokens: int,
    max_source_tokens: int,
) -> Iterator[tuple[Cursor, Pairs]]:
    """Yield (cursor of the update after this one, pairs of this one), epoch after epoch, without end."""
    epoch, skip = cursor.epoch, cursor.update
    while True:
        plan = plan_epoch(
            src_lengths,
            tgt_lengths,
            shard_sizes,
            seed=seed,
            epoch=epoch,
            max_tokens=max_tokens,
            max_source_tokens=max_source_tokens,
        )
        for number, pairs in enumerate(plan):
            if number >= skip:
                yield Cursor(epoch, number + 1), pairs
        epoch, skip = epoch + 1, 0


def cut_update(
    pairs: Pairs, src_lengths: Lengths, tgt_lengths: Lengths, *, num_ranks: int, micro_tokens: int
) -> list[list[Pairs]]:
    """Share an update among ranks, and each rank's part among forward passes.

    Pairs are dealt in order of length, so that all ranks get nearly the same tokens. A micro-batch has at most
    ``micro_tokens`` padded positions, source and target together; a rank may get none where pairs are few.

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
