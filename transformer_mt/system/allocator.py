"""What glibc's allocator does with memory that is freed: it keeps it for the next step, or gives it back."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_GLIBC = "libc.so.6"
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc, malloc.h
_MADV_HUGEPAGE = 14  # Linux, mman.h
_HEAP_BYTES, _HUGE_PAGE_BYTES = (1 << 31) - (1 << 26), 1 << 21


def keep_freed_memory() -> None:
    """Let glibc reuse the large blocks of a training step instead of returning them to the system each time.

    Its default gives every freed block above some MiB back and pays for it in page faults, up to a third of a step.
    The next two GiB of the heap ask for huge pages too, of which they need 512 times fewer; what is set aside for
    them is address space, not memory.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(_GLIBC)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(_M_TOP_PAD, _HEAP_BYTES)
        libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
        libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
        libc.sbrk.argtypes = [ctypes.c_long]
        libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        libc.free(libc.malloc(64 << 20))  # more than the heap holds free: it grows
        libc.mallopt(_M_TOP_PAD, 64 << 20)
        end = libc.sbrk(0)
        first = -(-(end - _HEAP_BYTES) // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
        libc.madvise(first, end - first, _MADV_HUGEPAGE)


def give_back_freed_memory() -> None:
    """Return to the system whatever is free, also between blocks in use, which takes some milliseconds.

    What is asked for in ever other sizes leaves holes that the next does not fit into, so that a process which lives
    for weeks would keep several times what it needs.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(_GLIBC).malloc_trim(0)
