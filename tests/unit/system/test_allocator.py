"""The allocator seen from outside: what a training step frees is there for the next without new pages, and what a
server frees goes back."""

from __future__ import annotations

import sys

import pytest
from harness import tmt

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these are settings of glibc")

FAULTS = """
import resource, sys, torch
from transformer_mt.system.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(10 << 20) for _ in range(4)]  # 40 MiB each, above any threshold of glibc's own
    del blocks
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def page_faults(mode: str) -> int:
    """Of the fourth of four equal steps that use 160 MiB."""
    [faults] = tmt(mode, launcher=(sys.executable, "-c", FAULTS)).ok().lines
    return int(faults)


def test_freed_memory_is_used_again() -> None:
    assert page_faults("as installed") > 40 * 2**20 / 4096  # one block's pages at least: the comparison can fail
    assert page_faults("kept") < 100


HOLES = """
import torch
from transformer_mt.system.allocator import give_back_freed_memory, keep_freed_memory

def megabytes():
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmRSS"))

keep_freed_memory()
blocks = [torch.ones(1 << 18) for _ in range(100)]  # a MiB each
del blocks[::2]
before = megabytes()
give_back_freed_memory()
print(before - megabytes())
"""


def test_what_is_free_between_blocks_in_use_goes_back() -> None:
    [megabytes] = tmt(launcher=(sys.executable, "-c", HOLES)).ok().lines
    assert int(megabytes) >= 45
