"""Locks: one holder at a time, none that outlives its process, and no file left behind."""

from __future__ import annotations

import errno
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from modfill.cohort import locks
from modfill.cohort.locks import locked, take

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock on this system")


def test_one_holder_at_a_time_and_no_file_left(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = take(path)
    assert lock is not None and take(path) is None
    lock.release()
    assert not path.exists()
    again = take(path)
    assert again is not None
    again.release()


def _hold(path: Path) -> None:
    assert take(path) is not None
    (path.parent / "held").touch()
    time.sleep(60)


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(tmp_path / "lock",))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    assert take(tmp_path / "lock") is None
    process.kill()
    process.join()
    assert (tmp_path / "lock").exists()
    lock = take(tmp_path / "lock")
    assert lock is not None
    lock.release()


def test_many_threads_never_hold_it_together(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with locked(tmp_path / "lock"):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and not (tmp_path / "lock").exists()


def test_the_lock_of_a_removed_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder removes the file between our opening and our locking it; a lock on what is gone would bind nobody."""
    path, removed = tmp_path / "lock", []

    def slow(descriptor: int, how: int) -> None:
        if not removed:
            path.unlink()
            removed.append(True)
        original(descriptor, how)

    original = locks.fcntl.flock
    monkeypatch.setattr(locks.fcntl, "flock", slow)
    lock = take(path)
    assert removed and lock is not None and os.path.samestat(os.fstat(lock.descriptor), os.stat(path))
    lock.release()


def test_a_file_system_without_locks_grants_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    assert take(tmp_path / "lock") is not None
