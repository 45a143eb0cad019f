"""The speed that a run reports."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from transformer_mt.checkpoints.training_state import TrainState
from transformer_mt.training import meter
from transformer_mt.training.meter import Meter


def test_updates_that_are_read_at_a_pause_share_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU two are launched before the numbers of one are read, but before a validation all are."""
    now, told = [0.0], list[float]()
    monkeypatch.setattr(meter, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(meter, "_LAG_STEPS", {"cpu": 2})
    log: Any = SimpleNamespace(
        progress=lambda *_: None, training=lambda _, numbers: told.append(numbers["tokens_per_second"])
    )
    nothing: Any = None
    meters = Meter(nothing, log, torch.device("cpu"), nothing, TrainState(corpus="", tokenizer=""), 1)
    for step in range(1, 5):
        now[0] = step / 10
        meters.add(step, np.zeros(1, np.int64), 1000, 0.1, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    now[0] = 0.6
    meters.pause()
    now[0] = 9
    meters.resume()
    for step in range(5, 8):
        now[0] = 9 + (step - 4) / 10
        meters.add(step, np.zeros(1, np.int64), 1000, 0.1, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert told == pytest.approx([1000 / 0.3, 10_000, 10_000, 10_000, 1000 / 0.3], abs=0.1)
