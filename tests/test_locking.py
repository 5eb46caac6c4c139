"""Locks: one holder at a time, none that outlives its process, and no file left behind."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from modfill.cohort import locks
from modfill.cohort.locks import locked, take


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

    def slow(descriptor: int, blocking: bool) -> bool:
        if not removed:
            path.unlink()
            removed.append(True)
        return original(descriptor, blocking=blocking)

    original = locks.lock_descriptor
    monkeypatch.setattr(locks, "lock_descriptor", slow)
    lock = take(path)
    assert removed and lock is not None and os.path.samestat(os.fstat(lock.descriptor), os.stat(path))
    lock.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_grants_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def none(descriptor: int, blocking: bool) -> bool:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks, "lock_descriptor", none)
    lock = take(tmp_path / "lock")
    assert lock is not None and "has no locks" in caplog.text
    lock.release()
    assert not (tmp_path / "lock").exists()
    with locked(tmp_path / "another"):
        pass
    assert caplog.text.count("has no locks") == 1  # one warning for each folder
    (tmp_path / "folder").mkdir()
    with locked(tmp_path / "folder" / "lock"):
        pass
    assert caplog.text.count("has no locks") == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_lock_is_released_though_a_forked_child_lives(tmp_path: Path) -> None:
    lock = take(tmp_path / "lock")
    assert lock is not None
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    os.link(tmp_path / "lock", tmp_path / "same")  # the same file, as one that could not be removed
    lock.release()
    again = take(tmp_path / "same")
    child.kill()
    child.join()
    assert again is not None
    again.release()
