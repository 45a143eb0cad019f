"""One update as the loop does it: what dropout draws from."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from transformer_mt.data.batching import Cursor
from transformer_mt.system import device
from transformer_mt.training import feeding, memory
from transformer_mt.training.loop import _Loop


def test_each_micro_batch_of_each_rank_and_update_has_its_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it one for all, the same numbers would be dropped everywhere."""
    keys: list[tuple[int, ...]] = []
    draws: list[float] = []
    seed_stream = device.seed_stream

    def noted(*key: int) -> None:
        keys.append(key)
        seed_stream(*key)

    monkeypatch.setattr(device, "seed_stream", noted)
    monkeypatch.setattr(memory, "batch_fits", lambda *_: contextlib.nullcontext())
    updater: Any = SimpleNamespace(
        begin=lambda: None,
        add=lambda *_: draws.append(float(torch.rand(()))),
        finish=lambda step: torch.zeros(4),
        rate=0.1,
    )
    config: Any = SimpleNamespace(train=SimpleNamespace(seed=3), batch=SimpleNamespace(micro_tokens=None))
    batch: Any = None
    update = feeding.Update(Cursor(), np.zeros(3, np.int64), 9, [batch] * 3)
    for seed in (3, 4):
        for rank in (0, 1):
            for step in (1, 2):
                config.train.seed = seed
                loop = object.__new__(_Loop)
                place = torch.device("cpu")
                setup: Any = SimpleNamespace(
                    updater=updater, config=config, ranks=SimpleNamespace(rank=rank), device=place
                )
                meter: Any = SimpleNamespace(add=lambda *_: None)
                state: Any = SimpleNamespace(step=step)
                loop.setup, loop.meter, loop.state = setup, meter, state
                loop.update(update)
    assert len(keys) == len({*keys}) == len(draws) == len({*draws}) == 2 * 2 * 2 * 3
