"""What the loop is fed with: one update after the other, cut into micro-batches. For a GPU a thread prepares the next
update, up to its copy to the device, while the loop launches the one before; a CPU would compute no sooner."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch

from transformer_mt.data.batching import Cursor, Pairs, cut_update
from transformer_mt.data.store import IdStore
from transformer_mt.model.layout import ROWS_MULTIPLE, Batch, collate_joined
from transformer_mt.system.ranks import Ranks
from transformer_mt.training import memory

_T = TypeVar("_T")
_U = TypeVar("_U")
Planned = tuple[Cursor, Pairs, IdStore]  # the update after this one, the pairs of this one, their epoch's store


class Update(NamedTuple):
    cursor: Cursor  # of the update after this one
    pairs: Pairs  # of all ranks, as the number of labels
    num_labels: int
    batches: Iterable[Batch]  # of this rank; on a CPU each is made when it is its turn


def updates(
    planned: Iterator[Planned], ranks: Ranks, micro_tokens: int, device: torch.device
) -> Generator[Update, None, None]:
    """Yield the updates that are planned, their micro-batches as `cut_update` cuts them with ``micro_tokens``.

    To be closed when no more are wanted, whatever the reason: then no thread is left.

    Raises:
        InputError: a store is damaged.
    """

    def cut(one: Planned) -> Update:
        cursor, pairs, store = one
        num_labels = int(store.lengths("tgt")[pairs].sum())
        return Update(cursor, pairs, num_labels, _batches(pairs, store, ranks, micro_tokens))

    def prepare(one: Planned) -> Update:
        update = cut(one)
        # Copies and the loop's kernels are in one stream, the device's default: none has to wait for another's event.
        return update._replace(batches=[moved(batch) for batch in update.batches])

    def moved(batch: Batch) -> Batch:
        with memory.batch_fits(batch, micro_tokens, device):
            return batch.to(device)

    if device.type == "cuda":
        yield from one_ahead(planned, prepare, begin=lambda: torch.cuda.set_device(device))
    else:
        yield from map(cut, planned)


def _batches(pairs: Pairs, store: IdStore, ranks: Ranks, micro_tokens: int) -> Iterator[Batch]:
    src_lengths, tgt_lengths = store.lengths("src"), store.lengths("tgt")
    of_ranks = cut_update(pairs, src_lengths, tgt_lengths, num_ranks=ranks.num_ranks, micro_tokens=micro_tokens)
    for micro in of_ranks[ranks.rank]:
        yield collate_joined(store.gather("src", micro), store.gather("tgt", micro), ROWS_MULTIPLE)


def one_ahead(
    items: Iterator[_T], prepare: Callable[[_T], _U], begin: Callable[[], object]
) -> Generator[_U, None, None]:
    """Yield what ``prepare`` makes of each item, in a thread, while the caller is busy with what came before.

    Items are taken in the caller's thread and never while the other is at work: between two epochs ranks meet, and the
    store of the first is deleted. What ``prepare`` raises is raised in the place of its result.

    Args:
        begin: called once, in the thread.
    """
    with ThreadPoolExecutor(1, "feeding", initializer=begin) as thread:

        def coming() -> Future[_U] | None:
            for item in items:
                return thread.submit(prepare, item)
            return None

        following = coming()
        while following is not None:
            made = following.result()
            following = coming()
            yield made
