"""The device of these tests is a GPU. With TMT_GPU_TESTS=cpu those that a CPU can run are run on it, so that they are
not first tried where a GPU is: the numbers are other kernels' then."""

from __future__ import annotations

import os

import pytest
import torch

from transformer_mt.system.device import prepare_determinism

ON_CPU = os.environ.get("TMT_GPU_TESTS") == "cpu"
prepare_determinism()  # before the first kernel, as a run does it


@pytest.fixture(scope="session")
def device() -> torch.device:
    if not ON_CPU and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cpu") if ON_CPU else torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """For what a CPU cannot run."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda", torch.cuda.current_device())
