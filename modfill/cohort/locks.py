"""Locks between processes, as files. A lock ends with its process, even if the process is killed.

They are the locks of the `filelock` package: `flock` on Unix and `LockFileEx` on Windows. The operating system releases
them when their process ends. They also work between machines where the file system supports it: NFS 4 (and NFS 3 with
its lock daemon), CephFS, GPFS, SMB, and Lustre mounted with `flock`. On a file system without locks every lock is
granted, with one warning per folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import lock_descriptor, unlock_descriptor

from modfill.atomic import writable
from modfill.cases.files import LONGEST_NAME
from modfill.errors import CaseError

__all__ = ["FileLock", "case_lock", "case_locked", "locked", "take"]

_LOG = logging.getLogger("modfill")
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # opening a link would create a file outside of the folder
_PAUSE = 0.05  # seconds between two attempts at a lock that another process holds
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_without_locks: set[Path] = set()  # folders for which this process has logged the warning


@dataclass(frozen=True)
class FileLock:
    """A lock that this process holds; any thread may release it.

    Attributes:
        path: the lock's file; it is removed when the lock is released.
        descriptor: of the open file.
    """

    path: Path
    descriptor: int

    def release(self) -> None:
        """Release the lock and remove its file."""
        try:
            if sys.platform != "win32":
                self._unlink()  # while the lock is held, so that the file cannot be another holder's
        finally:
            with contextlib.suppress(OSError):
                unlock_descriptor(self.descriptor)  # a forked child may hold a copy of the descriptor
            os.close(self.descriptor)
        if sys.platform == "win32":
            self._unlink()  # Windows cannot remove an open file: neither this one earlier, nor another holder's now

    def _unlink(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def take(path: Path) -> FileLock | None:
    """Take a lock, or return None if another process, or another part of this one, holds it.

    Args:
        path: the lock's file; its folder is created if it does not exist.

    Raises:
        OSError: the file cannot be created.
    """
    while True:
        os.makedirs(path.parent, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
        except FileNotFoundError:
            if path.parent.exists():
                raise
            continue  # `case_locked` of another process has just removed the empty folder
        try:
            if not _lock(descriptor, path):
                os.close(descriptor)
                return None
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return FileLock(path, descriptor)
        except FileNotFoundError:
            pass
        os.close(descriptor)  # its holder removed the file after it was opened here: the lock would exclude no process


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock, hold it, release it.

    Args:
        path: as for `take`.

    Raises:
        OSError: the file cannot be created.
    """
    while (lock := take(path)) is None:
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        lock.release()


def case_lock(folder: Path, case_id: str) -> Path:
    """The file of the lock of one case in an output folder."""
    name = os.fsencode(f".lock-{case_id}")
    if len(name) > LONGEST_NAME:
        name = b".lock-" + hashlib.sha256(name).hexdigest().encode()
    return folder / os.fsdecode(name)


@contextlib.contextmanager
def case_locked(folder: Path, case_id: str) -> Iterator[None]:
    """Wait for the lock of one case in an output folder, hold it, release it.

    A folder that cannot be written needs no lock: its finished images can be read.

    Args:
        folder: the output folder; created if it does not exist, and removed again if nothing is written to it.
        case_id: of the case.

    Raises:
        CaseError: the folder cannot be written.
    """
    is_new = not folder.exists()
    try:
        with contextlib.ExitStack() as stack:
            with writable(folder, CaseError, case=case_id):
                try:
                    stack.enter_context(locked(case_lock(folder, case_id)))
                except OSError as error:
                    if error.errno not in _READ_ONLY:
                        raise
            yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def _lock(descriptor: int, path: Path) -> bool:
    """Lock an open file. Returns False if it is locked already."""
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if path.parent not in _without_locks:
            _without_locks.add(path.parent)
            _LOG.warning("%s has no locks (%s); give each process its own shard", path.parent, error.strerror or error)
        return True
