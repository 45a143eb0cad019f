"""The script that kills a run at random moments, resumes it and compares its end sees differences (it runs before a
release)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from harness import load_script


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # as the script does for itself; undone after the test
    return load_script("torture_resume")


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def log(path: Path, **values: Any) -> None:
    with open(path, "a") as file:
        file.write(json.dumps({"kind": "train", "step": 2} | values) + "\n")


@pytest.mark.parametrize("status", [0, 1])
def test_a_rank_that_ends_by_itself_is_noticed_where_writing_is_awaited(
    status: int, script: ModuleType, tmp_path: Path
) -> None:
    run = script.Run(tmp_path / "run", 1)
    if (child := os.fork()) == 0:
        os._exit(status)
    run._ranks = [child]
    if status == 0:
        assert run.wait_for_writing(60) is True
    else:
        with pytest.raises(SystemExit, match="a rank failed by itself"):
            run.wait_for_writing(60)


WEIGHTS = "checkpoints/step_00000004/model.safetensors"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda run: None, []),
        (lambda run: log(run / "metrics.jsonl", loss=0.1), ["metrics.jsonl"]),
        (lambda run: flip_last_bit(run / WEIGHTS), [WEIGHTS]),
        (lambda run: (run / WEIGHTS).unlink(), [f"{WEIGHTS}, which is missing"]),
        (lambda run: (run / ".last.7.tmp").touch(), [".last.7.tmp, which should not be there"]),
    ],
)
def test_the_comparison_sees_any_difference(
    change: Callable[[Path], None], found: list[str], script: ModuleType, tmp_path: Path
) -> None:
    runs = [script.Run(tmp_path / name, 1) for name in ("run1", "reference")]
    for speed, run in enumerate(runs):
        (run.output / WEIGHTS).parent.mkdir(parents=True)
        (run.output / WEIGHTS).write_bytes(b"weights")
        log(run.output / "metrics.jsonl", loss=0.25, tokens_per_second=speed)
    change(runs[0].output)
    assert script.differences(*runs) == found
    assert script.is_same(*runs) == (not found)
