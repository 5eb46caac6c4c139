"""SIGTERM as an exception, so that a job that is told to stop cleans up as it does for Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Terminated", "terminable"]


class Terminated(BaseException):
    """The process was asked to end; like KeyboardInterrupt nothing but the outermost caller handles it."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` in the main thread when SIGTERM arrives in the context.

    Processes forked from this one end at once, as they would without.
    """
    own = os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() != own:
            os._exit(128 + number)
        raise Terminated

    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
