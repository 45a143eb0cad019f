"""Several processes under torchrun: who we are, sums, and rank 0's word. Without torchrun, nothing happens.

Gradients are summed over one flat buffer after the last micro-batch of an update, not by DistributedDataParallel: its
buckets are rebuilt after the first step, which changes the order of sums and with it the last bits of a resumed run,
and it cannot wait on a rank that has no micro-batch.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from transformer_mt.errors import RunError

# A rank that waits this long waits for one that is stuck: honest waits are rank 0 scoring a validation, or a slow disk.
# A process that dies is noticed at once, because its connections close. Preparing a large corpus may take hours.
_TIMEOUT, _PATIENCE = timedelta(minutes=15), timedelta(days=7)

Made = TypeVar("Made")


@dataclass(frozen=True)
class Ranks:
    """This process among its equals."""

    rank: int = 0
    num_ranks: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks, on its own device."""
        if self.num_ranks > 1:
            with self._together():
                dist.all_reduce(tensor)

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers, on every rank (through host memory)."""
        box = torch.tensor(number)
        if self.num_ranks > 1:
            with self._together():
                dist.all_reduce(box, op=dist.ReduceOp.MAX, group=_host_group)
        return int(box)

    def first_says(self, value: Any, patiently: bool = False) -> Any:
        """Rank 0's value, on every rank (through host memory); ``patiently`` where it may work for hours."""
        if self.num_ranks == 1:
            return value
        box = [value]
        with self._together():
            dist.broadcast_object_list(box, src=0, group=_patient_group if patiently else _host_group)
        return box[0]

    def first_then_others(self, make: Callable[[], Made]) -> Made:
        """What each rank makes, rank 0 before the others, which so find its work done."""
        if self.is_first:
            made = make()
            self.first_says(None, patiently=True)
            return made
        self.first_says(None, patiently=True)
        return make()

    def gather(self, value: Any, patiently: bool = False) -> Sequence[Any]:
        """Every rank's value, in the order of ranks, on every rank; ``patiently`` where one may work for hours."""
        if self.num_ranks == 1:
            return [value]
        values: list[Any] = [None] * self.num_ranks
        with self._together():
            dist.all_gather_object(values, value, group=_patient_group if patiently else _host_group)
        return values

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """A rank that fails leaves the others waiting: they end as well, and point to its reason."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise RunError(f"rank {self.rank}: lost the other ranks ({reason}); see which one failed first") from None

    def close(self) -> None:
        if self.num_ranks > 1:
            dist.destroy_process_group()


# Objects travel through gloo, whatever the device.
_host_group: dist.ProcessGroup | None = None
_patient_group: dist.ProcessGroup | None = None


def join() -> Ranks:
    """Join the group that torchrun describes in the environment; alone, just say so.

    Raises:
        RunError: the others cannot be found.
    """
    global _host_group, _patient_group
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks == 1:
        return Ranks()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, num_ranks = next(rendezvous("env://", timeout=_TIMEOUT))
        store = dist.PrefixStore(_name_of_this_start(store, rank, num_ranks), store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=num_ranks, timeout=_TIMEOUT)
        _host_group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        _patient_group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"cannot join the other ranks ({reason}); start all of them with torchrun") from None
    return Ranks(rank, num_ranks, int(os.environ.get("LOCAL_RANK", "0")))


def _name_of_this_start(store: Any, rank: int, num_ranks: int) -> str:
    """A name that the ranks of this start have in common, and no start before had.

    After a restart torchrun gives the same store, with the addresses of the dead processes in it (PyTorch issue
    135712), and its count of restarts may differ between nodes. So rank 0 makes up a name, and hands it to each rank
    under a key that the rank has made up, until the rank has said that it knows.
    """
    own, name = uuid.uuid4().hex, uuid.uuid4().hex
    if rank > 0:
        store.set(f"hello {rank}", own)
        given: str = store.get(f"name for {own}").decode()
        store.set(f"{given} known to {rank}", "")
        return given
    deadline = time.monotonic() + _TIMEOUT.total_seconds()
    for other in range(1, num_ranks):
        while not store.check([f"{name} known to {other}"]):
            if store.check([f"hello {other}"]):
                store.set(f"name for {store.get(f'hello {other}').decode()}", name)
            if time.monotonic() > deadline:
                raise RuntimeError(f"rank {other} has not come")
            time.sleep(0.02)
    return name
