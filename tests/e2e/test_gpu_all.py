"""`scripts/gpu_all.py`, the one command for a machine with a GPU, tried without one: whatever fails there, shall fail
for want of what only a GPU has."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Running

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_all.py"
# Those that start others; what is counted for "estimate" is so in `test_fake_cuda`.
PARTS = ["tests", "learn builtin"]


def test_parts_report_with_nothing_but_what_a_bare_machine_has(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--dry", "--output", str(tmp_path), "--parts", *PARTS]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + (tmp_path / "log.txt").read_text()
    for part in PARTS:
        assert f"\n{part:28} ok (" in f"\n{done.stdout}"
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert {record["part"] for record in records} == set(PARTS)
    assert len(list(tmp_path.iterdir())) <= 8


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of all parts, which starts `tmt` as our tests do."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    module = importlib.import_module("gpu_parts")
    monkeypatch.setattr(module, "tmt", lambda *words: Running(*words).process)
    yield module
    torch.set_float32_matmul_precision("highest")


# Each kind once; base and big differ in nothing but their sizes when it is dry.
@pytest.mark.parametrize("part", ["machine", "train base compiled", "decode", "resume", "kernels"])
def test_each_part_measures(
    part: str, parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*part.split(), "--dry", "--work", str(tmp_path), "--output", str(tmp_path), "--seconds", "60"]
    monkeypatch.setattr(sys, "argv", ["gpu_parts.py", *words])
    parts.main()
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert records
    numbers = [value for record in records for value in record.values() if isinstance(value, float)]
    assert all(0 < number < 1e12 for number in numbers) and (numbers or part in ("machine", "resume"))
    if part == "train base compiled":
        assert records[0]["updates_per_second"] > 0 and records[0]["host_ms"] > 0
    if part == "resume":
        assert records[0]["model.safetensors"] is True


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("print('{\"n\": 1}')", "ok"),
        ("pass", "failed (no number)"),
        ("raise SystemExit(3)", "failed (exit status 3, see log.txt)"),
        ("import time; print('{\"n\": 1}', flush=True); time.sleep(600)", "stopped after 1 s"),
    ],
)
def test_a_part_that_breaks_or_hangs_is_told(program: str, status: str, tmp_path: Path) -> None:
    run = runpy.run_path(str(SCRIPT))["run"]
    limit = 1.0 if "sleep" in program else 60.0
    outcome = run("one", [sys.executable, "-c", program], limit, os.environ, tmp_path / "log")
    assert outcome.status == status
    assert outcome.records == ([{"part": "one", "n": 1}] if "print" in program else [])


def test_modules_that_a_bare_machine_lacks_are_known() -> None:
    missing = runpy.run_path(str(SCRIPT))["missing_modules"]()
    assert "datasets" in missing
    assert not missing & {"torch", "numpy", "jinja2", "regex", "pydantic", "transformer_mt", "pytest"}
