"""The CUDA path on tensors without contents: no mixed devices, no read by the host, dtypes as they are meant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has CUDA on Linux only, as far as we go")
def test_the_cuda_path_without_a_gpu() -> None:
    """In a process of its own, as it changes PyTorch; without a C++ compiler it fails, and says what to install."""
    checks = Path(__file__).with_name("checks.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--noconftest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(checks)], cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
