"""The process: SIGTERM as an exception, the memory of the C library's allocator, the threads of the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = [
    "WAITING",
    "ThreadShare",
    "Terminated",
    "end_now_if_busy",
    "give_back_freed_memory",
    "in_a_hurry",
    "keep_freed_memory",
    "terminable",
    "threads",
    "tune_process",
]

WAITING = "waiting for other processes"
"""Name of a daemon thread in which torch waits. It must not run while Python shuts down."""

_asked_to_end = threading.Event()

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


class Terminated(BaseException):
    """The process was asked to end; like KeyboardInterrupt nothing but the outermost caller handles it."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` in the main thread when SIGTERM arrives in the context, KeyboardInterrupt for SIGINT.

    Processes forked from this one end at once by SIGTERM, as they would without.
    """
    _asked_to_end.clear()
    own = os.getpid()
    interrupt = signal.getsignal(signal.SIGINT)

    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            os._exit(128 + number)
        _asked_to_end.set()
        raise Terminated

    def note_interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            _asked_to_end.set()
        signal.default_int_handler(number, frame)

    handlers: dict[int, Any] = {signal.SIGTERM: terminate}
    if interrupt is signal.default_int_handler:  # not where Ctrl-C is ignored, e.g. under nohup
        handlers[signal.SIGINT] = note_interrupt
    former = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def in_a_hurry() -> bool:
    """True if the process is asked to end: a signal came, or its exception is being raised through the caller."""
    return _asked_to_end.is_set() or isinstance(sys.exc_info()[1], KeyboardInterrupt | Terminated)


def end_now_if_busy(status: int) -> None:
    """End the process if threads still compute, which Python would wait for; what they do is no longer wanted.

    Args:
        status: exit status.
    """
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    if not any(thread.name == WAITING or not thread.daemon for thread in others):
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


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


def tune_process() -> None:
    """Set memory and threads of this process as the command line does; call it before torch is imported.

    Waiting threads sleep instead of spinning: two pools of spinning threads slow each other down fourfold. Freed memory
    stays with the process, as `keep_freed_memory` explains.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()


class ThreadShare:
    """The CPU's threads, shared by several cases that are computed at the same time.

    Args:
        jobs: number of cases.
    """

    def __init__(self, jobs: int):
        self._jobs, self._whole = jobs, 0
        self._counting = threading.Lock()

    def take(self) -> None:
        """Give the calling thread its share; call it before the thread computes."""
        import torch

        with self._counting:
            self._whole = self._whole or torch.get_num_threads()
        torch.set_num_threads(max(1, self._whole // self._jobs))

    def restore(self) -> None:
        """Give all threads back to the process."""
        if self._whole:
            import torch

            torch.set_num_threads(self._whole)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads of the CPU in the context; None changes nothing."""
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
