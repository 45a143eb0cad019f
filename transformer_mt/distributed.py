"""Several processes under torchrun: who we are, sums, and rank 0's word. Without torchrun, nothing happens.

Gradients are summed over one flat buffer after the last micro-batch of an update, not by DistributedDataParallel: its
buckets are rebuilt after the first step, which changes the order of sums and with it the last bits of a resumed run,
and it cannot wait on a rank that has no micro-batch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from transformer_mt.errors import RunError

# A rank that waits this long for gradients waits for a dead one; but rank 0 may prepare a large corpus for hours.
_DEVICE_TIMEOUT, _HOST_TIMEOUT = timedelta(minutes=30), timedelta(days=7)


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

    def first_says(self, value: Any) -> Any:
        """Rank 0's value, on every rank (through host memory)."""
        if self.num_ranks == 1:
            return value
        box = [value]
        with self._together():
            dist.broadcast_object_list(box, src=0, group=_host_group)
        return box[0]

    def gather(self, value: Any) -> Sequence[Any]:
        """Every rank's value, in the order of ranks, on every rank."""
        if self.num_ranks == 1:
            return [value]
        values: list[Any] = [None] * self.num_ranks
        with self._together():
            dist.all_gather_object(values, value, group=_host_group)
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


_host_group: dist.ProcessGroup | None = None  # objects travel through gloo, whatever the device


def join() -> Ranks:
    """Join the group that torchrun describes in the environment; alone, just say so."""
    global _host_group
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks == 1:
        return Ranks()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_DEVICE_TIMEOUT)
    _host_group = dist.new_group(backend="gloo", timeout=_HOST_TIMEOUT)
    return Ranks(dist.get_rank(), num_ranks, int(os.environ.get("LOCAL_RANK", "0")))
