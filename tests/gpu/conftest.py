"""The device of these tests: a GPU, or where there is none and a CPU can do the same, that. So they are not first tried
where a GPU is, although it is other kernels that give the numbers then."""

from __future__ import annotations

import pytest
import torch

from transformer_mt.system.device import prepare_determinism


@pytest.fixture(scope="session")
def device() -> torch.device:
    prepare_determinism()  # before the first kernel, as a run does it
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@pytest.fixture(scope="session")
def gpu(device: torch.device) -> torch.device:
    """For what a CPU cannot run."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    return device
