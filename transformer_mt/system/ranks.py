"""Several processes under torchrun: who we are, sums, and rank 0's word. Without torchrun, nothing happens.

Gradients are summed over one flat buffer after the last micro-batch of an update, not by DistributedDataParallel: its
buckets are rebuilt after the first step, which changes the order of sums and with it the last bits of a resumed run,
and it cannot wait on a rank that has no micro-batch.

Everything else goes through gloo and the memory of the host, whatever the device. On GPUs, sums go through NCCL, which
only puts them in the GPU's queue: what fails there fails later or never. So the ranks meet on the host before each such
sum, which nobody begins when somebody is missing, and wait for a GPU with an eye on the others (`Lifeline`).
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from transformer_mt.errors import RunError, TmtError
from transformer_mt.system.lifeline import Lifeline, hold

# A rank that waits this long waits for one that is stuck: honest waits are rank 0 scoring a validation, or a slow disk.
# A process that dies is noticed at once, because its connections close. Preparing a large corpus may take hours.
_TIMEOUT, _PATIENCE = timedelta(minutes=15), timedelta(days=7)
_NEWS_SECONDS = 5.0  # after which a failed connection without news of a failed rank is told as it is
_POLL_SECONDS = 0.0005


@dataclass(frozen=True)
class Ranks:
    """This process among its equals; as a context, until it has ended its part."""

    rank: int = 0
    num_ranks: int = 1
    local_rank: int = 0
    is_joined: bool = False  # a single one is, too, where torchrun has started it

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def connect(self, device: torch.device) -> None:
        """Let the sums of this rank's GPU go through NCCL. All ranks call it, each with a device of its own.

        Raises:
            RunError: NCCL cannot connect them, as when two have the same GPU.
        """
        global _device_group
        if self.is_joined and device.type == "cuda":
            # Twice the time of the host's groups: what stops is told by these, and not by NCCL's watchdog.
            with self._together():
                _device_group = dist.new_group(backend="nccl", timeout=2 * _TIMEOUT, device_id=device)

    def all_reduce_sum(self, *tensors: Tensor) -> None:
        """Replace tensors by their sums over all ranks, each on its own device."""
        if self.is_joined:
            if _device_group is not None:
                self.all_reduce_max(0)  # is everyone there?
            with self._together():
                for tensor in tensors:
                    dist.all_reduce(tensor, group=_device_group)

    def wait_for(self, event: torch.cuda.Event) -> None:
        """Wait until the GPU has come to an event.

        Raises:
            RunError: another rank has failed, for which the GPU may be waiting.
        """
        while self.is_joined and not event.query():
            self._refuse_alone()
            time.sleep(_POLL_SECONDS)
        event.synchronize()

    def all_reduce_max(self, number: int) -> int:
        """The largest of the ranks' numbers, on every rank (through host memory)."""
        box = torch.tensor(number)
        if self.is_joined:
            with self._together():
                dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return int(box)

    def broadcast(self, value: Any, patiently: bool = False) -> Any:
        """Rank 0's value, on every rank (through host memory); ``patiently`` where it may work for hours."""
        if not self.is_joined:
            return value
        box = [value]
        with self._together():
            dist.broadcast_object_list(box, src=0, group=_patient_group if patiently else None)
        return box[0]

    def all_gather(self, value: Any, patiently: bool = False) -> Sequence[Any]:
        """Every rank's value, in the order of ranks, on every rank; ``patiently`` where one may work for hours."""
        if not self.is_joined:
            return [value]
        values: list[Any] = [None] * self.num_ranks
        with self._together():
            dist.all_gather_object(values, value, group=_patient_group if patiently else None)
        return values

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """A rank that fails leaves the others waiting: they end as well, and point to its reason."""
        try:
            yield
        except RuntimeError as error:
            self._refuse_alone(_NEWS_SECONDS)
            reason, _, more = str(error).partition("\n")
            if cause := more.partition("Last error:\n")[2].partition("\n")[0]:  # NCCL's
                reason = f"{reason}: {cause}"
            raise RunError(f"rank {self.rank}: lost the other ranks ({reason}); see which one failed first") from None

    def _refuse_alone(self, wait_seconds: float = 0.0) -> None:
        assert _lifeline is not None
        if failure := _lifeline.failure(wait_seconds):
            raise RunError(f"rank {self.rank}: {failure}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the others, or tell them why this rank has failed. `SystemExit`: all have agreed on it (`end_run`)."""
        if not self.is_joined:
            return
        assert _lifeline is not None
        if error is None:
            self.all_gather(None, patiently=True)  # NCCL wants its connections closed by all together
        elif not isinstance(error, SystemExit):
            _lifeline.fail(str(error) if isinstance(error, TmtError) else repr(error))
        if error is not None and _device_group is not None:
            _device_group.abort()  # the GPU may wait for others, in vain, and `destroy_process_group` for the GPU
        else:
            dist.destroy_process_group()
        _lifeline.let_go()


def end_run(ranks: Ranks, reason: str, teller: int = 0) -> NoReturn:
    """Stop all ranks for a reason that all of them know, and that one of them tells.

    Raises:
        RunError: on the rank ``teller``; SystemExit on the others.
    """
    raise RunError(reason) if ranks.rank == teller else SystemExit(RunError.exit_status)


# The default group is gloo's, for the host.
_patient_group: dist.ProcessGroup | None = None
_device_group: dist.ProcessGroup | None = None  # NCCL, where there are GPUs; None: the default
_lifeline: Lifeline | None = None


def join() -> Ranks:
    """Join the group that torchrun describes in the environment; alone, just say so.

    Raises:
        RunError: the others cannot be found.
    """
    global _patient_group, _lifeline
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks == 1 and not dist.is_torchelastic_launched():
        return Ranks()
    try:
        store, rank, num_ranks = next(rendezvous("env://", timeout=_TIMEOUT))
        store = dist.PrefixStore(_name_of_this_start(store, rank, num_ranks), store)  # type: ignore[attr-defined]
        _lifeline = hold(store, rank, num_ranks, _TIMEOUT.total_seconds())
        dist.init_process_group("gloo", store=store, rank=rank, world_size=num_ranks, timeout=_TIMEOUT)
        _patient_group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"cannot join the other ranks ({reason}); start all of them with torchrun") from None
    return Ranks(rank, num_ranks, int(os.environ.get("LOCAL_RANK", "0")), is_joined=True)


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
