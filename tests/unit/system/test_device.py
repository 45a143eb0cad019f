"""Devices, precisions and random streams."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from transformer_mt.errors import InputError
from transformer_mt.system.device import local_device, resolve_precision, seed_stream


def test_a_stream_is_that_of_pytorchs_own_seed() -> None:
    seed_stream(1, 2, 3)
    found, seed = torch.rand(5), torch.initial_seed()
    torch.manual_seed(seed)
    assert torch.equal(torch.rand(5), found)
    seed_stream(1, 2, 4)
    assert torch.initial_seed() != seed


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: None)
    assert local_device(1) == torch.device("cuda", 1)
    with pytest.raises(InputError, match="rank 2 of this machine has no GPU: there are 2; start as many"):
        local_device(2)
    assert chosen == [1]


def test_a_gpu_that_pytorch_has_no_programs_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*_: int, device: torch.device) -> None:
        raise torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device\nCompile")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GTX 1080")
    monkeypatch.setattr(torch, "zeros", launch)
    with pytest.raises(InputError) as refused:
        local_device()
    assert str(refused.value) == (
        f"GTX 1080: PyTorch {torch.__version__} cannot use it (CUDA error: no kernel image is available for execution "
        "on the device); install a build of PyTorch for it, or set CUDA_VISIBLE_DEVICES= (to nothing) to use the CPU"
    )


@pytest.mark.parametrize(
    ("vendor", "flags", "precision"),
    [
        ("GenuineIntel", "avx512f avx512_bf16 amx_bf16 amx_tile", "bfloat16"),
        ("GenuineIntel", "avx512f avx512_bf16", "float32"),
        ("AuthenticAMD", "avx512f avx512_bf16", "bfloat16"),
        ("AuthenticAMD", "avx2 fma", "float32"),
    ],
)
def test_auto_is_what_the_processor_multiplies_faster(
    vendor: str, flags: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\nflags\t: amx_bf16\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **_: cpuinfo)
    assert resolve_precision("auto", torch.device("cpu")) == precision


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "5000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),
    ],
)
def test_waiting_threads_soon_sleep_unless_the_user_has_chosen(given: dict[str, str], found: str) -> None:
    """Set before PyTorch loads OpenMP, which reads it once."""
    chosen = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    clean = {key: value for key, value in os.environ.items() if key not in chosen}
    script = "import os, transformer_mt; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**clean, **given}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{found}\n"
