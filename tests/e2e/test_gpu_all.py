"""`scripts/gpu_all.py`, the one command for a machine with a GPU, tried without one: whatever fails there, shall fail
for want of what only a GPU has."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_all.py"
# Each kind once; base and big, and the corpora that are learned, differ in nothing but their sizes when it is dry. What
# is counted for "estimate" is so in `test_fake_cuda`.
PARTS = ["machine", "tests", "train base compiled", "decode", "resume", "kernels", "learn builtin"]


def test_every_part_reports_with_nothing_but_what_a_bare_machine_has(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--dry", "--output", str(tmp_path), "--parts", *PARTS]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + (tmp_path / "log.txt").read_text()
    for part in PARTS:
        assert f"\n{part:28} ok (" in f"\n{done.stdout}"
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert {record["part"] for record in records} == set(PARTS)
    assert len(list(tmp_path.iterdir())) <= 8
    [compiled] = [record for record in records if record["part"] == "train base compiled"]
    assert compiled["updates_per_second"] > 0 and compiled["host_ms"] > 0
    assert [record["model.safetensors"] for record in records if record["part"] == "resume"] == [True]


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
