"""What ranks share before the training begins."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from transformer_mt.data import preparing
from transformer_mt.errors import RunError
from transformer_mt.system.console import tell_nobody
from transformer_mt.system.ranks import Ranks
from transformer_mt.training import memory, setup


class Listening(Ranks):
    """Of eight ranks on two nodes, one that hears of rank 0 where something is."""

    def broadcast(self, value: Any, patiently: bool = False) -> Any:
        assert patiently, "preparing may take hours"
        return value if self.is_first else Path("there")

    def all_gather(self, value: Any, patiently: bool = False) -> Sequence[Any]:
        assert patiently
        return [value]


once_a_node = pytest.mark.parametrize(
    ("rank", "local", "prepares"), [(0, 0, True), (3, 3, False), (4, 0, True), (5, 1, False)]
)


@once_a_node
def test_what_a_model_makes_is_checked_once_a_node(
    rank: int, local: int, prepares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "synthesize", lambda data, tell, parts: f"{data}, made: {', '.join(parts)}")
    found: Any = setup._with_synthetic("text", Listening(rank, 8, local), tell_nobody)  # type: ignore[arg-type]
    assert found == ("text, made: train, valid" if prepares else Path("there"))


@once_a_node
def test_a_corpus_is_checked_once_a_node(
    rank: int, local: int, prepares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Any = SimpleNamespace(directory=Path("there"))
    monkeypatch.setattr(preparing, "prepare", lambda *args: made)
    monkeypatch.setattr(setup, "IdStore", lambda directory: f"opened {directory}")
    anything: Any = SimpleNamespace(data=None, batch=None)
    store = setup._corpus(anything, anything, Listening(rank, 8, local))
    assert store == (made if prepares else "opened there")


@pytest.mark.parametrize(
    ("ways", "reason"),
    [
        ([("cuda", "bfloat16"), ("cuda", "bfloat16")], None),
        (
            [("cpu", "bfloat16"), ("cpu", "float32")],
            "rank 0 computes on cpu in bfloat16, rank 1 on cpu in float32; set train.precision",
        ),
        (
            [("cuda", "bfloat16"), ("cuda", "bfloat16"), ("cpu", "float32")],
            "rank 0 computes on cuda in bfloat16, rank 2 on cpu in float32; see whether that machine's GPUs work",
        ),
    ],
)
def test_ranks_that_compute_in_different_ways_are_refused(
    ways: list[tuple[str, str]], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: Any = SimpleNamespace(train=SimpleNamespace(precision="float32"))
    for rank in range(len(ways)):
        ranks = Ranks(rank, len(ways))
        monkeypatch.setattr(Ranks, "all_gather", lambda *_: ways)
        refused = nullcontext() if reason is None else pytest.raises(RunError if rank == 0 else SystemExit)
        with refused as error:
            setup._refuse_mixed(config, torch.device("cpu"), ranks)
        assert error is None or rank > 0 or str(error.value) == reason


def test_the_time_that_is_told_is_that_of_all_labels_on_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of which a pass over the largest batch, of 500 labels, takes half a second."""
    now = [0.0]
    monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def run(*_: Any) -> int:
        now[0] += 0.5
        return 500

    monkeypatch.setattr(memory, "_run", run)
    told: list[str] = []
    store = SimpleNamespace(lengths=lambda side: {"tgt": np.full(6000, 20)}[side])
    plan = [[np.arange(i, i + 50) for i in range(start, start + 3000, 50)] for start in (0, 3000)]
    anything: Any = SimpleNamespace(
        config=SimpleNamespace(train=SimpleNamespace(max_steps=1200)),
        ranks=SimpleNamespace(num_ranks=2),
        largest=SimpleNamespace(shapes=[]),
        updater=SimpleNamespace(device=torch.device("cpu"), begin=lambda: None),
        epochs=SimpleNamespace(open=lambda *_: store, plan=lambda *_: plan),
        tried="tried",
        tell=told.append,
    )
    setup.tell_plan(anything)  # 120 updates of 1,000 labels, 2,000 labels a second on two ranks
    assert told == [
        "plan: 120 updates an epoch; tried",
        "time, by that batch: about 1 min an epoch and 10 min for train.max_steps 1,200, validation and saving apart",
    ]
