"""Memory of the C library's allocator."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["give_back_freed_memory", "keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, instead of giving it back and asking for it anew.

    A network on the CPU frees and takes hundreds of MiB at every layer, and the kernel clears each page that it hands
    out: nearly half of all CPU time went there. The largest amount that was ever in use stays with the process. Does
    nothing where the C library is not glibc.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)  # no mappings of their own for large blocks, ...
        mallopt(_M_TRIM_THRESHOLD, -1)  # ... what is free at the end of the heap stays, ...
        mallopt(_M_ARENA_MAX, 1)  # ... and all threads share one heap, as the others are limited to 64 MiB


def give_back_freed_memory() -> None:
    """Return what this process has freed, which the C library holds on to wherever something in use lies beyond it.

    Half of what a data loader's worker has at hand after a completion is of that kind, and it may be long before the
    next one. Does nothing where the C library is not glibc.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
