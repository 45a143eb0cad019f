"""``tmt`` for torchrun, in which one rank fails by itself: ``failing_rank.py RANK STEP KIND train …``.

Of the kind "step" it fails in that step, of the kind "validation" in its first one, whatever its step.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from transformer_mt.cli import main as cli
from transformer_mt.errors import RunError
from transformer_mt.system import device
from transformer_mt.training.validation import Validation

rank, step, kind, *arguments = sys.argv[1:]
seed_stream = device.seed_stream


def fail_at_step(*key: int) -> None:
    """Called with (seed, step, rank, micro-batch) before each forward pass."""
    if key[1:3] == (int(step), int(rank)):
        raise ZeroDivisionError(f"rank {rank} failed on purpose")
    seed_stream(*key)


def fail(validation: Validation, numbers: Sequence[int]) -> NoReturn:
    raise RunError(f"rank {rank} failed on purpose")


def main(words: Sequence[str]) -> Any:
    if os.environ["RANK"] == rank and kind == "validation":
        Validation._translate = fail  # type: ignore[assignment, method-assign]
    elif os.environ["RANK"] == rank:
        device.seed_stream = fail_at_step
    sys.argv = ["tmt", *words]
    cli.main()


if __name__ == "__main__":
    main(arguments)
