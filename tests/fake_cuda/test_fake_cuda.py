"""The CUDA path on tensors without contents: no mixed devices, no read by the host, dtypes as they are meant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the guard is built for Linux, where PyTorch has CUDA"),
]


def run(*command: object) -> str:
    """Return what Python prints in a process of its own, as fake CUDA changes PyTorch.

    Without a C++ compiler it fails, and says what to install.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, *map(str, command)]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_cuda_path_without_a_gpu() -> None:
    checks = Path(__file__).with_name("checks.py")
    said = run("-m", "pytest", "-q", "-x", "--noconftest", "-p", "no:cacheprovider", "-p", "no:xdist", checks)
    assert "passed" in said and "skipped" not in said


def test_what_a_gpu_would_do_is_counted() -> None:
    """An update and a step of search have a row each, with kernels, and a copy to the device for an update only."""
    said = run(ROOT / "scripts" / "count_cuda.py", "--preset", "tiny")
    rows = [[cell.strip() for cell in line.split("|")] for line in said.splitlines() if line.startswith("| tiny")]
    assert [row[6].split()[0] for row in rows] == ["1", "0"]
    assert all(int(row[2].replace(",", "")) > 0 for row in rows)
