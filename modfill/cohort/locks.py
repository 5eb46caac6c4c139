"""Locks between processes, as files: whoever holds one that dies, however it dies, holds it no more.

They are the locks of the `filelock` package, `flock` on Unix and `LockFileEx` on Windows, which the system drops with
their process. They hold between machines too where the file system carries them: NFS 4 (and 3 with its lock daemon),
CephFS, GPFS, SMB, and Lustre mounted with `flock`. Where a file system has none, a lock is granted with a warning.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import lock_descriptor, unlock_descriptor

__all__ = ["FileLock", "locked", "take"]

_LOG = logging.getLogger("modfill")
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # it would make a file wherever it leads
_PAUSE = 0.05  # seconds between two attempts at a lock that another process holds


@dataclass(frozen=True)
class FileLock:
    """A lock that this process holds; any thread may release it.

    Attributes:
        path: the file that stands for it; it goes when the lock is released.
        descriptor: of the open file.
    """

    path: Path
    descriptor: int

    def release(self) -> None:
        """Let the next one have it."""
        if sys.platform != "win32":
            self._unlink()  # while it is held: nobody else's file can be meant
        with contextlib.suppress(OSError):
            unlock_descriptor(self.descriptor)  # a forked child may hold a copy of the descriptor
        os.close(self.descriptor)
        if sys.platform == "win32":
            self._unlink()  # Windows removes no open file: not this one before, and not another holder's now

    def _unlink(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()


def take(path: Path) -> FileLock | None:
    """Take a lock, or return None if another process, or another part of this one, holds it.

    Args:
        path: the file that stands for it, in a folder that exists.

    Raises:
        OSError: the file cannot be made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
        try:
            if not _lock(descriptor, path):
                os.close(descriptor)
                return None
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return FileLock(path, descriptor)
        except FileNotFoundError:
            pass
        os.close(descriptor)  # the holder removed the file between opening and locking: this lock would exclude nobody


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock, hold it, release it.

    Args:
        path: as for `take`.

    Raises:
        OSError: the file cannot be made.
    """
    while (lock := take(path)) is None:
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        lock.release()


def _lock(descriptor: int, path: Path) -> bool:
    """Lock an open file; False if another one has."""
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        _LOG.warning("%s has no locks (%s); give each process its own shard", path.parent, error.strerror or error)
        return True
