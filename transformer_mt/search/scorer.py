"""What search asks of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints: TypeAlias = npt.NDArray[np.int64]
Array: TypeAlias = npt.NDArray[Any]


_HOST = "cpu"  # the type of device that is the host itself
_LEAVING_SHARE = 8  # done sentences leave a batch when an eighth of it can go: leaving copies all that stays


class SearchState(Protocol):
    """What a scorer keeps between steps: encoded sources and, for each row, the ids fed so far."""

    def select(self, keep_B: Tensor | None, parents_BW: Tensor) -> None:
        """Move rows, in place: keep some of the sentences and let each row continue from an earlier one.

        Only the sentences ``keep_B`` stay (int64 indices into the batch; None keeps all); then row w of each kept
        sentence b continues from its former row ``parents_BW[b, w]`` (int64). The number of rows may change.
        """

    def make_room(self, num_positions: int) -> None:
        """Prepare for so many ids more, of each sentence's hypotheses together.

        It is called where the host has just waited for the device: what has to be read from there is read here.
        """


StateT = TypeVar("StateT", bound=SearchState)


class StepScorer(Protocol[StateT]):
    """What search needs of a model, or of several."""

    @property
    def device(self) -> torch.device:
        """The device on which the tensors of `step` and `select` live."""

    def start(self, src: list[list[int]]) -> StateT:
        """Encode the sources and return a state with one row a sentence."""

    def step(self, state: StateT, last_BW: Tensor) -> Tensor:
        """Feed one id (int64) to each row; return log-probabilities (B, W, V) of the next one.

        They are float32, the log-softmax over all ids, in a contiguous tensor that the caller may overwrite. V may be
        more than there are ids: the rest is -inf.
        """


def is_on_host(device: torch.device) -> bool:
    """Return whether the host sees what a device computes without waiting for it and copying."""
    return device.type == _HOST


def numbers(x: Tensor) -> Any:
    """Return a tensor of few numbers as what works with it fastest: on the host as an array, which shares its memory.

    NumPy takes a third of PyTorch's time for them.
    """
    return x.numpy() if is_on_host(x.device) else x


def stable_order(x_BK: Any) -> Any:
    """Return the order of each row's numbers, of equal ones that of their places."""
    return x_BK.argsort(dim=1, stable=True) if isinstance(x_BK, Tensor) else x_BK.argsort(1, kind="stable")


def on_host(steps: Sequence[Sequence[Any]]) -> Sequence[Sequence[Array]]:
    """Return what some steps have found, all of one shape, as arrays. From a GPU this waits, and copies once."""
    if not isinstance(steps[0][0], Tensor):
        return steps
    # In float64 both scores and ids are exact.
    copied = iter(torch.stack([found.double() for step in steps for found in step]).cpu().unbind())
    return [[next(copied).to(found.dtype).numpy() for found in step] for step in steps]


def batch_size(at_least: int) -> int:
    """Return the next number of sentences that a batch may have: 1, 2, 4, 8, 16, 24, 32, …

    The libraries below prepare their kernels anew for each new size of a matrix, which costs as much as using them.
    """
    return -(-at_least // 8) * 8 if at_least > 4 else 1 << (at_least - 1).bit_length()


def staying(live: Sequence[int | None]) -> Ints:
    """Return the rows of a batch that stay, int64; none when no sentence is left.

    They are all rows until enough sentences are done (None in ``live``), then the others and some to fill up.
    """
    rows = [b for b, s in enumerate(live) if s is not None]
    size = batch_size(len(rows)) if rows else 0
    if rows and len(live) - size < max(1, len(live) // _LEAVING_SHARE):
        return np.arange(len(live))
    done = [b for b, s in enumerate(live) if s is None]
    return np.array(sorted(rows + done[: size - len(rows)]), dtype=np.int64)
