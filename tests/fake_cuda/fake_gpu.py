"""A GPU that is not there: CUDA tensors without contents, on a machine with a C++ compiler and no GPU.

    with fake_gpu() as device, Count() as count:
        …

PyTorch's `FakeTensorMode` carries shapes, dtypes and devices through every operation, and runs none. Two devices in one
operation raise, and so does the host when it reads a number (`DataDependentOutputException`) or needs a shape that
depends on one (`DynamicOutputShapeException`); what it copies back, to read it later, `Count` tells. That counts what
would run: kernels, bytes, arithmetic, copies.

Models are made on the device: ``with device: model = Transformer(…)`` (parameters that are fake cannot be moved to
it). Batches are made outside, where NumPy works, and moved inside.

This changes PyTorch for the rest of the process: use it in a process of its own, which ends then. Where there is a real
GPU nothing is changed, and nothing runs on it either.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda", 0)

# Besides views, what launches nothing: it sets memory aside, or is a view that must not be written through.
_NO_KERNEL = ("_unsafe_view", "unsafe_split", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
# Calls that launch more than one kernel, by their sources; sorting depends on sizes.
_KERNELS = {
    "_flash_attention_backward": 3,  # dot products of rows, the gradients, those of the queries to their dtype
    "native_layer_norm_backward": 2,  # of the rows; of weight and bias
    "embedding_dense_backward": 12,  # sorts the ids
    "linalg_vector_norm": 2,
    "argsort": 5,
    "sort": 5,
    "topk": 3,
    "cumsum": 2,
}
_TENSORS_A_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}  # of a fused update of lists, by how many lists it takes
_CHUNK, _CHUNKS_A_LAUNCH = 65536, 320
# A flash kernel works on tiles of this many queries and keys; a shorter sequence costs as much as a whole one.
_TILE = 128


class Cost(NamedTuple):
    """What kernels of one kind do, together."""

    kernels: int = 0
    bytes: int = 0
    flop: int = 0

    def plus(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


class Count(TorchDispatchMode):
    """Count what the ATen calls inside the block would do on the device.

    Attributes:
        calls: how many there are, on any device, with those that launch nothing.
        costs: of each kind of call.
        products: the kernels that multiply matrices or attend, each with its bytes and arithmetic.
        host_to_device: the bytes of each copy to the device.
        device_to_host: the same of copies back, for which the host waits.
        dtypes: the dtypes of results that each kind of call had.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = 0
        self.costs: defaultdict[str, Cost] = defaultdict(Cost)
        self.products: list[Cost] = []
        self.host_to_device: list[int] = []
        self.device_to_host: list[int] = []
        self.dtypes: defaultdict[str, Counter[tuple[torch.dtype, ...]]] = defaultdict(Counter)

    @property
    def kernels(self) -> int:
        return sum(cost.kernels for cost in self.costs.values())

    @property
    def other_bytes(self) -> int:
        """Bytes that kernels other than products read and write."""
        return sum(cost.bytes for cost in self.costs.values()) - sum(cost.bytes for cost in self.products)

    def milliseconds(self, flop_per_second: float, bytes_per_second: float, seconds_per_launch: float = 0.0) -> float:
        """Estimate the device's time: each product is bound by arithmetic or by memory, all else by memory."""
        seconds = sum(max(cost.flop / flop_per_second, cost.bytes / bytes_per_second) for cost in self.products)
        seconds += self.other_bytes / bytes_per_second + self.kernels * seconds_per_launch
        return 1000 * seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.calls += func.namespace == "aten"
        name = func._schema.name.removeprefix("aten::")
        inputs, outputs = _tensors((args, kwargs)), _tensors(out)
        if name in ("_to_copy", "copy_") and outputs[0].is_cuda != inputs[-1].is_cuda:
            copies = self.host_to_device if outputs[0].is_cuda else self.device_to_host
            copies.append(_bytes(inputs[-1]))
        elif any(x.is_cuda for x in (*inputs, *outputs)) and not (func.is_view or name in _NO_KERNEL or "::" in name):
            flop = _flop(name, args)
            read = [x for x in inputs if not any(x is y for y in _only_written(name, func, args, kwargs))]
            cost = Cost(_kernels(name, args), _traffic(name, read, outputs), flop)
            self.costs[name] = self.costs[name].plus(cost)
            self.dtypes[name][tuple(x.dtype for x in outputs)] += 1
            if flop:
                self.products.append(cost)
        return out


@contextlib.contextmanager
def fake_gpu() -> Iterator[torch.device]:
    """Make all tensors of the block fake, and give it a CUDA device to make them on."""
    if not torch.cuda.is_available():
        _pretend()
    torch.autograd.set_multithreading_enabled(False)  # modes belong to a thread
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield CUDA


def _pretend() -> None:
    """Tell PyTorch that there is one GPU, of the Hopper generation; `guard.cpp` tells its C++ part."""
    compiler = shutil.which("g++")
    if compiler is None:
        sys.exit("fake CUDA tensors need g++, found none: install it (Debian, Ubuntu: apt-get install g++)")
    torch_directory = Path(torch.__file__).parent
    with TemporaryDirectory() as directory:
        library = f"{directory}/guard.so"
        options = ["-std=c++20", "-shared", "-fPIC", f"-I{torch_directory}/include", f"-L{torch_directory}/lib"]
        source = str(Path(__file__).with_name("guard.cpp"))
        subprocess.run([compiler, *options, source, "-lc10", "-ltorch_cpu", "-o", library], check=True)
        ctypes.CDLL(library).pretend_that_there_is_a_gpu()
    properties: Any = SimpleNamespace(name="fake", major=9, minor=0, multi_processor_count=132, total_memory=80 << 30)
    torch.cuda._lazy_init = lambda: None
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_properties = lambda device=None: properties
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    torch.cuda.get_device_name = lambda device=None: properties.name
    torch.cuda.mem_get_info = lambda device=None: (70 << 30, properties.total_memory)
    torch.cuda.is_bf16_supported = lambda including_emulation=True: True
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(x: Tensor) -> int:
    """Return the bytes of a tensor's elements; what is expanded counts once."""
    elements: int = math.prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride)
    return elements * x.element_size()


def _only_written(name: str, func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the arguments that a call overwrites without reading them."""
    written = [kwargs[a.name] for a in func._schema.arguments if a.is_out and a.name in kwargs]
    return [*written, *([args[0]] if name in ("copy_", "zero_", "fill_", "random_", "bernoulli_", "uniform_") else [])]


def _traffic(name: str, read: list[Tensor], written: list[Tensor]) -> int:
    """Return the bytes that a call reads and writes."""
    if name in ("embedding", "index_select", "gather", "index"):  # of the table as much as is taken
        return 2 * _bytes(written[0]) + sum(map(_bytes, read[1:]))
    if name in ("scatter_", "index_fill_", "index_copy_", "index_put_"):  # of the table as much as is put
        return 2 * sum(map(_bytes, read[1:]))
    return sum(_bytes(x) for x in (*read, *written) if x.is_cuda)


def _flop(name: str, args: Any) -> int:
    """Return the multiplications and additions of a product, two for each pair of numbers; 0 for anything else."""
    if name in ("mm", "bmm"):
        return 2 * int(args[0].numel()) * int(args[1].shape[-1])
    if name in ("addmm", "addmm_", "baddbmm", "baddbmm_", "_addmm_activation"):
        return 2 * int(args[1].numel()) * int(args[2].shape[-1])
    if name in ("_flash_attention_forward", "_flash_attention_backward"):  # over packed rows
        query, offsets = (args[0], args[3]) if name.endswith("forward") else (args[1], args[6])
        tiles = (len(offsets) - 1) * int(query.shape[1])  # one a sequence and head
        return tiles * (2 if name.endswith("forward") else 5) * 2 * _TILE**2 * int(query.shape[2])
    return 0


def _kernels(name: str, args: Any) -> int:
    if name.startswith(("_foreach_", "_fused_")):
        lists = [arg for arg in args if isinstance(arg, list | tuple) and arg and isinstance(arg[0], Tensor)]
        chunks: int = sum(-(-x.numel() // _CHUNK) for x in lists[0])
        return max(-(-len(lists[0]) // _TENSORS_A_LAUNCH[min(5, len(lists))]), -(-chunks // _CHUNKS_A_LAUNCH))
    return _KERNELS.get(name, 1)
