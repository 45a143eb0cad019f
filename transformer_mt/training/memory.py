"""Does it fit into memory? The largest batches are tried before the first update, and running out is told in one line.

Forward and backward passes of the longest input first, then everything else in the memory that they leave in the
allocator, is PyTorch's own advice for inputs of varying length (performance tuning guide).
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from transformer_mt.config.sections import MIN_UPDATE_TOKENS, Config
from transformer_mt.data import batching
from transformer_mt.data.batching import Lengths, Part
from transformer_mt.data.epochs import plan
from transformer_mt.errors import RunError, is_out_of_memory
from transformer_mt.model.layout import ROWS_MULTIPLE, Batch, collate
from transformer_mt.system.console import Tell
from transformer_mt.system.device import describe
from transformer_mt.system.ranks import Ranks, end_run
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.training.update import Updater

Shape = tuple[int, int, int]  # of a micro-batch: rows, longest source, longest target


@dataclass(frozen=True)
class Largest:
    """What to try, and how to cut updates so that nothing larger comes."""

    shapes: list[Shape]  # no micro-batch has more positions than the first, nor more attention scores than all of them
    micro_tokens: int  # to cut all updates with; at most batch.micro_tokens where that is given


def largest_batches(
    src_lengths: Lengths,
    tgt_lengths: Lengths,
    parts: Sequence[Part],
    weights: Sequence[Sequence[float]],
    config: Config,
    *,
    num_ranks: int,
    is_sampled: bool,
) -> Largest:
    """Return the micro-batches that need most memory, of all ranks and all epochs.

    Only the first window of each stage (``weights``: of its sources) is planned, which is a whole epoch below some two
    million pairs. Cut with the positions of its largest micro-batch instead of ``batch.micro_tokens``, it falls into
    the same micro-batches.

    - Where every epoch is one window with the same pairs, their plans differ only in which of several pairs of equal
      lengths stands where: its micro-batches have the shapes of every epoch's, and the largest of them are exact.
    - Else, and where subword sampling draws other lengths for each epoch (``is_sampled``), nobody can look at all plans
      in advance. There a larger micro-batch is cut in two, and what is tried is a bound: as many rows of the longest
      source and target that cleaning allows as have that many positions. Scores per position,
      (S² + ST + T²) / (S + T) or ST / (S + T), grow with both S and T, so no other micro-batch has more scores either.

    The one with most rows, which are short, is tried as well: flash attention's backward pass takes memory for 128
    positions a row, however short. Where there is a bound only, it is the first window's, and other windows may have
    some rows more.
    """
    src_budget, tgt_budget = config.batch.budget
    src = min(config.data.clean.max_src_tokens + 1, src_budget)
    tgt = min(config.data.clean.max_tgt_tokens + 1, tgt_budget)
    # Not given: no update has more, so none is cut.
    micro_tokens = config.batch.micro_tokens or min(src_budget, tgt_budget) * (src + tgt)
    micro_batches = [
        (len(micro), int(src_lengths[micro].max()), int(tgt_lengths[micro].max()))
        for stage in weights
        for pairs in next(plan(src_lengths, tgt_lengths, parts, stage, config, epoch=0))
        for of_rank in batching.cut_update(
            pairs, src_lengths, tgt_lengths, num_ranks=num_ranks, micro_tokens=micro_tokens
        )
        for micro in of_rank
    ]
    if not micro_batches:  # an epoch of a small sample may have none
        return Largest([(-(-micro_tokens // (src + tgt)), src, tgt)], micro_tokens)
    widest, most_rows = max(micro_batches, key=_num_positions), max(micro_batches)
    micro_tokens = min(micro_tokens, _num_positions(widest))  # a single pair may have more
    if not is_sampled and all(batching.is_same_in_all_epochs(parts, stage) for stage in weights):
        most_scores = max(micro_batches, key=_num_scores if config.model.kind == "transformer" else _num_cross_scores)
        return Largest(list(dict.fromkeys([widest, most_scores, most_rows])), micro_tokens)
    bound = (-(-micro_tokens // (src + tgt)), src, tgt)
    return Largest(list(dict.fromkeys([bound, most_rows])), micro_tokens)


def _num_positions(shape: Shape) -> int:
    """Return the number of padded positions, to which most of the memory is proportional."""
    rows, src, tgt = shape
    return rows * (src + tgt)


def _num_scores(shape: Shape) -> int:
    """Return the number of attention scores of a head and a layer, in the encoder, the decoder and between both."""
    rows, src, tgt = shape
    return rows * (src * src + src * tgt + tgt * tgt)


def _num_cross_scores(shape: Shape) -> int:
    """Return the number of attention scores of a recurrent model, which has some between both sides only."""
    rows, src, tgt = shape
    return rows * src * tgt


def try_batches(
    largest_of: Callable[[Config], Largest], config: Config, updater: Updater, ranks: Ranks, tell: Tell
) -> tuple[Largest, str]:
    """Run the largest batches forwards and backwards, beside all that a run keeps.

    Where ``batch.micro_tokens`` is not given it is chosen: an update in one pass or, as long as that does not fit on
    all ranks, halves of it. The weights, the optimizer and the random streams of the run are as before, the gradients
    are zero.

    Args:
        largest_of: what `largest_batches` finds with a configuration.

    Returns:
        What fits; its largest batch and the memory that it took, in words.

    Raises:
        RunError: out of memory. The first rank that is tells it; all of them end.
    """
    is_chosen, whole = config.batch.micro_tokens is None, 0
    ranks.all_reduce_sum(updater.gradients.buffer)  # zeros: NCCL takes the memory for its sums at the first one
    stand_in: list[Tensor] = []  # until all batches are tried
    failures = ranks.all_gather(_failure(lambda: stand_in.extend(_as_large_as_saved(config, updater))))
    if any(failures):
        _end(ranks, failures)
    while True:
        largest = largest_of(config)
        whole = whole or largest.micro_tokens
        failures = ranks.all_gather(_failure(functools.partial(_try, largest.shapes, config, updater)))
        if not any(failures):
            break
        half = largest.micro_tokens // 2
        if not is_chosen or half < MIN_UPDATE_TOKENS or all(rows == 1 for rows, _, _ in largest.shapes):
            _end(ranks, failures)
        config = config.with_micro_tokens(half)
        if updater.device.type == "cuda":
            torch.cuda.empty_cache()  # pieces of the larger batch are in the way of the smaller one
    if is_chosen:
        how = "an update in one pass" if largest.micro_tokens == whole else f"an update's {whole:,} do not fit"
        tell(f"batch.micro_tokens: {largest.micro_tokens:,}, {how}")
    rows, src, tgt = largest.shapes[0]
    return largest, (
        f"largest batch {rows} × {src} source and {rows} × {tgt} target positions; "
        f"peak memory of the whole process {_peak_memory(updater.device) / 2**30:.2f} GiB"
    )


def _failure(work: Callable[[], object]) -> str | None:
    """Return why this rank cannot do some work, or None if it has done it."""
    try:
        work()
    except RunError as error:
        return str(error)
    return None


def _end(ranks: Ranks, failures: Sequence[str | None]) -> NoReturn:
    """Stop all ranks for what the first of them says that has failed."""
    first, reason = next((rank, reason) for rank, reason in enumerate(failures) if reason)
    end_run(ranks, reason, teller=first)


def _as_large_as_saved(config: Config, updater: Updater) -> list[Tensor]:
    """Return tensors as large as the copy of weights and moments that saving keeps on the host, or none for a GPU.

    Raises:
        RunError: out of memory, for which no smaller batch would help.
    """
    buffer, device = updater.gradients.buffer, updater.device
    num_copies = 0 if device.type != "cpu" else 4 if config.train.ema_decay > 0 else 3
    what = f"the copy of weights and moments that saving keeps, of {num_copies * buffer.nbytes / 2**30:.2f} GiB,"
    with _enough_memory(what, "end other programs, or take a smaller model", device):
        return [torch.ones_like(buffer) for _ in range(num_copies)]


def _try(shapes: Sequence[Shape], config: Config, updater: Updater) -> None:
    """Go forwards and backwards through batches of some shapes, and leave no trace of it, however it ends."""
    try:
        with torch.random.fork_rng([updater.device] if updater.device.type == "cuda" else []):
            _run(shapes, config, updater)
    finally:
        updater.begin()


def labels_per_second(shapes: Sequence[Shape], config: Config, updater: Updater) -> float:
    """Return how fast one rank goes forwards and backwards through batches that `try_batches` has tried before.

    It is an estimate of training's speed, to which the optimizer and the differences between batches come.
    """
    started = time.monotonic()
    num_labels = _run(shapes, config, updater)
    if updater.device.type == "cuda":
        torch.cuda.synchronize()
    updater.begin()
    return num_labels / (time.monotonic() - started)


def _run(shapes: Sequence[Shape], config: Config, updater: Updater) -> int:
    """Go forwards and backwards through batches of some shapes; return the number of their labels."""
    num_labels = 0
    for batch in (_filled(shape, config.batch.budget) for shape in shapes):
        with batch_fits(batch, config.batch.micro_tokens, updater.device):
            updater.add(batch, batch.num_labels)
        num_labels += batch.num_labels
    return num_labels


def _filled(shape: Shape, budgets: tuple[int, int]) -> Batch:
    """Return a batch of a shape with as many ids as an update may have, of source and target.

    So tables are as large as can be, and so are rows. Where there is more than one row, one is shorter, because padding
    takes memory too.
    """
    num_rows, *longest = shape
    sides: list[list[list[int]]] = []
    for length, budget in zip(longest, budgets, strict=True):
        rest = max(1, min(length, (budget - length) // max(1, num_rows - 1)))
        lengths = [length, *[rest] * (num_rows - 1)]
        if num_rows > 1:
            lengths[-1] = 1
        sides.append([[EOS_ID] * n for n in lengths])
    return collate(sides[0], sides[1], ROWS_MULTIPLE)


def batch_fits(batch: Batch, micro_tokens: int | None, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Compute one micro-batch inside; running out of memory becomes a `RunError` that names it and a remedy."""
    rows, src, tgt = batch.tgt.num_sequences, batch.src.max_length, batch.tgt.max_length
    remedy = "lower data.clean.max_src_tokens and data.clean.max_tgt_tokens, or take a smaller model"
    if rows > 1:
        now = rows * (src + tgt) if micro_tokens is None else micro_tokens
        half = max(min(rows * (src + tgt), now) // 2, MIN_UPDATE_TOKENS)
        remedy = f"lower batch.micro_tokens ({now}; try {half}), which changes the memory only"
    what = f"a batch of {rows} × {src} source and {rows} × {tgt} target positions"
    return _enough_memory(what, remedy, device)


def validation_fits(key: str, num_tokens: int, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Compute a part of validation inside, whose batches ``key`` limits, with the same `RunError`."""
    half = max(num_tokens // 2, MIN_UPDATE_TOKENS)
    return _enough_memory("validation", f"lower {key} ({num_tokens}; try {half})", device)


@contextlib.contextmanager
def _enough_memory(what: str, remedy: str, device: torch.device) -> Iterator[None]:
    """Turn running out of memory inside into one line.

    Raises:
        RunError: what did not fit into which memory, and the remedy.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(f"out of memory: {what} does not fit; {_memory(device)}; {remedy}") from None


def _memory(device: torch.device) -> str:
    """Return the memory that there is, in words, in GiB."""
    gib = 2**30
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        ours = torch.cuda.memory_reserved(device)
        name = describe(device)
        return f"{name} has {total / gib:.1f} GiB, {ours / gib:.1f} of them used here and {free / gib:.1f} free"
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        return f"this process is limited to {limit / gib:.1f} GiB of address space (ulimit -v)"
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"this machine has {total / gib:.1f} GiB"


def _peak_memory(device: torch.device) -> int:
    """Return the largest memory that was in use so far, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # Kibibytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
