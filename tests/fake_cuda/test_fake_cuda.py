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


def test_the_cuda_path_without_a_gpu() -> None:
    """In a process of its own, as fake CUDA changes PyTorch. Without a C++ compiler it says what to install."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"OMP_NUM_THREADS": "1"}
    modules = [str(Path(__file__).with_name(f"{name}.py")) for name in ("checks", "counts")]
    options = ["-q", "-x", "--noconftest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", *options, *modules]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout and "skipped" not in done.stdout
