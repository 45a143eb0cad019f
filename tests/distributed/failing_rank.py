"""``tmt`` for torchrun, in which one rank fails by itself: ``failing_rank.py RANK STEP KIND train …``.

Of the kind "step" it fails in that step, of the kinds "validation" and "log" in its first validation, whatever its
step, or as it logs that. Of the kind "asynchronous" none fails, but sums are like NCCL's: begun, not awaited, and never
there when a rank is lost.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from transformer_mt.cli import main as cli
from transformer_mt.errors import RunError
from transformer_mt.system import device
from transformer_mt.system import ranks as system_ranks
from transformer_mt.training import meter
from transformer_mt.training.run_log import RunLog
from transformer_mt.training.validation import Validation

rank, step, kind, *arguments = sys.argv[1:]
seed_stream, log_record = device.seed_stream, RunLog.record


def fail_at_step(*key: int) -> None:
    """Called with (seed, step, rank, micro-batch) before each forward pass."""
    if key[1:3] == (int(step), int(rank)):
        raise ZeroDivisionError(f"rank {rank} failed on purpose")
    seed_stream(*key)


def fail(validation: Validation, numbers: Sequence[int]) -> NoReturn:
    raise RunError(f"rank {rank} failed on purpose")


def fail_to_log(log: RunLog, **record: Any) -> None:
    if record["kind"] == "valid":
        raise RunError(f"rank {rank} failed on purpose")
    log_record(log, **record)


class Begun:
    """An event of a GPU that waits for the sums begun before it."""

    sums: list[dist.Work] = []  # noqa: RUF012

    def __init__(self) -> None:
        self._before = list(self.sums)

    def query(self) -> bool:
        return all(work.is_completed() and work.exception() is None for work in self._before)

    def synchronize(self) -> None:
        assert self.query()


def be_asynchronous() -> None:
    """Replace what reads numbers of the device, and sums of tensors on it; the loop is the one that trains."""
    all_reduce = dist.all_reduce

    def begin(tensor: Tensor, op: Any = dist.ReduceOp.SUM, group: dist.ProcessGroup | None = None) -> None:
        if group is None:
            all_reduce(tensor, op)
        else:
            Begun.sums.append(all_reduce(tensor.clone(), op, group, async_op=True))

    def add(own: Any, step: int, pairs: Any, num_labels: int, rate: float, numbers: Tensor) -> None:
        own._pending.append((step, pairs, num_labels, rate, numbers, Begun()))
        while len(own._pending) > 2:
            own._wait_for(own._pending[0][-1])
            own._read(time.monotonic())

    def connect(own: system_ranks.Ranks, where: torch.device) -> None:
        system_ranks._device_group = dist.new_group(backend="gloo")

    dist.all_reduce = begin  # type: ignore[assignment]
    meter.Meter.add = add  # type: ignore[method-assign, assignment]
    system_ranks.Ranks.connect = connect  # type: ignore[method-assign, assignment]


def main(words: Sequence[str]) -> Any:
    if kind == "asynchronous":
        be_asynchronous()
    elif os.environ["RANK"] == rank and kind == "validation":
        Validation._translate = fail  # type: ignore[assignment, method-assign]
    elif os.environ["RANK"] == rank and kind == "log":
        RunLog.record = fail_to_log  # type: ignore[assignment, method-assign]
    elif os.environ["RANK"] == rank:
        device.seed_stream = fail_at_step
    sys.argv = ["tmt", *words]
    cli.main()


if __name__ == "__main__":
    main(arguments)
