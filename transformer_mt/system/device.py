"""What the hardware can do: device, precision, and random streams that need no saved state."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from transformer_mt.errors import InputError
from transformer_mt.system.console import counted


def local_device(local_rank: int = 0) -> torch.device:
    """The CUDA device of this process where there is one, else the CPU.

    Raises:
        InputError: there are GPUs, but fewer than processes on this machine, or one that PyTorch cannot use.
    """
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"rank {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}; start as many "
                "processes as GPUs with torchrun --nproc-per-node"
            )
        torch.cuda.set_device(local_rank)
        # It prepares a graph for each new shape of a batch, in tens of milliseconds; translation has new ones always.
        torch.backends.cuda.enable_cudnn_sdp(False)
        device = torch.device("cuda", local_rank)
        _refuse_unknown(device)
        return device
    return torch.device("cpu")


def _refuse_unknown(device: torch.device) -> None:
    """Refuse a GPU that PyTorch finds, but has no programs for: older ones than it was built for are such."""
    try:
        torch.zeros(1, device=device)
    except torch.AcceleratorError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{torch.cuda.get_device_name(device)}: PyTorch {torch.__version__} cannot use it ({reason}); install a "
            "build of PyTorch for it, or set CUDA_VISIBLE_DEVICES= (to nothing) to use the CPU"
        ) from None


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` from what the hardware can do, never by timing: bfloat16 where it multiplies that faster than float32.

    Raises:
        InputError: int8, which only search on a CPU has, and only with oneDNN.
    """
    if precision == "int8" and not (device.type == "cpu" and torch.backends.mkldnn.is_available()):
        raise InputError("search.precision int8: needs a CPU and PyTorch with oneDNN; take bfloat16 or float32")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    return "bfloat16" if _multiplies_bfloat16_faster(_cpu_facts()) else "float32"


def _multiplies_bfloat16_faster(facts: Mapping[str, str]) -> bool:
    """Whether a processor has AMX tiles, or is AMD's with AVX-512's bfloat16 (2.3 times as fast as float32 there).

    Intel's without AMX stay with float32: whether AVX-512's bfloat16 is faster there has not been measured.
    """
    flags = facts.get("flags", "").split()
    return "amx_bf16" in flags or ("avx512_bf16" in flags and facts.get("vendor_id") == "AuthenticAMD")


def _cpu_facts() -> dict[str, str]:
    """What Linux tells of the first processor, by its names; nothing elsewhere."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="ignore").partition("\n\n")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[None]:
    """Matrix products in bfloat16 where ``precision`` says so; weights, sums and losses stay float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@contextlib.contextmanager
def matrix_products(device: torch.device, precision: str) -> Iterator[None]:
    """Inside, products in ``float32`` take TF32 on GPUs that have it (from Ampere on): ten bits of mantissa, many times
    as fast. Outside, where models are scored and used, they stay float32."""
    if device.type != "cuda" or precision != "float32":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def same_order_of_sums(device: torch.device, deterministic: bool) -> Iterator[None]:
    """Inside, where ``deterministic``, the kernels of a backward pass on a GPU add in the same order each time.

    Only attention's needs to be told, and on padded tables that of `Layout.unpack`: of all kernels of a training step
    these alone add atomically. The others are deterministic by construction, some of them faster than what PyTorch
    takes in this mode.
    """
    if device.type != "cuda" or not deterministic:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def prepare_determinism() -> None:
    """Set what a process has to set before its first kernel on a GPU, so that `same_order_of_sums` can hold."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def compile_layers(layers: list[torch.nn.Module]) -> None:
    """Compile layers in place with `torch.compile`.

    Layers of one kind share their code, so two are compiled, for any number of rows. Names and contents of the weights
    stay as they are.
    """
    for layer in layers:
        layer.compile(dynamic=True)


def run_uncompiled(layers: list[torch.nn.Module]) -> None:
    """Take back `compile_layers`."""
    for layer in layers:
        layer._compiled_call_impl = None


def reason_not_compiled(error: RuntimeError) -> str | None:
    """Return why `torch.compile` could not compile something, in a line; None where it is another error."""
    if "torch._dynamo" not in sys.modules or not isinstance(error, torch._dynamo.exc.TorchDynamoException):
        return None
    cause = getattr(error, "inner_exception", error)  # the compiler's own
    return f"{type(cause).__name__}: {str(cause).strip()}".partition("\n")[0]


def seed_stream(*key: int) -> None:
    """Start torch's random stream of (seed, update, rank, micro-batch), or of another such key."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    # As `torch.manual_seed` does it, which for each kind of device that is not there takes a tenth of a millisecond.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def processor() -> str:
    """The model of the CPU, where the system tells it."""
    return _cpu_facts().get("model name") or platform.processor() or platform.machine()


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {counted(torch.get_num_threads(), 'thread')}"
