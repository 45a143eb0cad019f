"""Where the records of a run go besides its own file: TensorBoard, or a function of the user's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformer_mt.checkpoints.run_records import Record
from transformer_mt.config.sections import TrainConfig
from transformer_mt.errors import InputError

Tracker = Callable[[Record], object]  # called for every record, after it is in the file


class TensorBoard:
    """A tracker: every number of a record becomes a point of the curve ``kind/name``."""

    def __init__(self, directory: Path, step: int) -> None:
        """Write event files into ``directory``, and take back what older ones there have after ``step``."""
        self._writer = _summary_writer()(directory, purge_step=step + 1)

    def __call__(self, record: Record) -> None:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])
        self._writer.flush()  # like the file: a killed run has told everything


def open_trackers(config: TrainConfig, run: Path, step: int) -> dict[str, Tracker]:
    """Return the trackers that a configuration asks for, by their keys, for a run that goes on after ``step``.

    Raises:
        InputError: as `check_trackers`.
    """
    trackers: dict[str, Tracker] = {}
    if config.tensorboard:
        trackers["train.tensorboard"] = TensorBoard(run / "tensorboard", step)
    if config.tracker is not None:
        trackers["train.tracker"] = _function(config.tracker)
    return trackers


def check_trackers(config: TrainConfig) -> None:
    """Import what `open_trackers` needs: a mistake should show at once, not when the corpus is prepared.

    Raises:
        InputError: TensorBoard is not installed; ``train.tracker`` cannot be imported, or is no function.
    """
    if config.tensorboard:
        _summary_writer()
    if config.tracker is not None:
        _function(config.tracker)


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "train.tensorboard: TensorBoard is not installed; pip install 'transformer-mt[tensorboard]'"
        ) from None
    return SummaryWriter


def _function(name: str) -> Tracker:
    module, _, attribute = name.partition(":")
    try:
        function: Tracker = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # it is the user's code: anything may happen
        raise InputError(
            f"train.tracker {name}: cannot be imported ({reason_of(error)}); correct it, install it, or put its folder "
            "on PYTHONPATH"
        ) from None
    if not callable(function):
        raise InputError(f"train.tracker {name}: is {function!r}, not a function of one record")
    return function


def reason_of(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
