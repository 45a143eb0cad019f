"""What ranks share before the training begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from transformer_mt.data import preparing
from transformer_mt.system.ranks import Ranks
from transformer_mt.training import setup


class Listening(Ranks):
    """Of eight ranks on two nodes, one that hears of rank 0 where the corpus is."""

    def first_says(self, value: Any, patiently: bool = False) -> Any:
        assert patiently, "preparing may take hours"
        return value if self.is_first else Path("there")

    def gather(self, value: Any, patiently: bool = False) -> Sequence[Any]:
        assert patiently
        return [value]


@pytest.mark.parametrize(("rank", "local", "prepares"), [(0, 0, True), (3, 3, False), (4, 0, True), (5, 1, False)])
def test_a_corpus_is_checked_once_a_node(
    rank: int, local: int, prepares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Any = SimpleNamespace(directory=Path("there"))
    monkeypatch.setattr(preparing, "prepare", lambda *args: made)
    monkeypatch.setattr(setup, "IdStore", lambda directory: f"opened {directory}")
    anything: Any = SimpleNamespace(data=None, batch=None)
    store = setup._corpus(anything, anything, Listening(rank, 8, local))
    assert store == (made if prepares else "opened there")
