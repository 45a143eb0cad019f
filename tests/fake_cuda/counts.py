"""What `test_fake_cuda` runs after the checks, in their process: scripts/count_cuda.py."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_what_a_gpu_would_do_is_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An update and a step of search have a row each, with kernels, and a copy to the device for an update only."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "argv", ["count_cuda.py", "--preset", "tiny"])
    count_cuda = importlib.import_module("count_cuda")
    monkeypatch.setattr(count_cuda, "FULL", dataclasses.replace(count_cuda.FULL, num_pairs=5000))  # to choose from
    count_cuda.main()
    said = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")] for line in said.splitlines() if line.startswith("| tiny")]
    assert [row[6].split()[0] for row in rows] == ["1", "0"]
    assert all(int(row[2].replace(",", "")) > 0 for row in rows)
