"""Writing a file: whole or not at all, nothing left behind, and one message when it fails."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from modfill.atomic import remove_leftovers, replacing, writable
from modfill.errors import CaseError, ModfillError


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_written_whole_and_nothing_else_stays(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "a" / "b" / "file.nii.gz"
    for text in ("first", "second"):
        with replacing(path, sync=sync) as temporary:
            assert temporary.name == path.name and temporary.parent.name.startswith(".tmp-")
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert content_of(tmp_path) == {os.path.join("a", "b", "file.nii.gz"): text.encode()}
        assert len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError()])
def test_an_error_leaves_the_former_file_and_nothing_beside_it(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("former")
    with pytest.raises(type(error)), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "former" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_not_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_many_writers_of_one_file_never_meet(tmp_path: Path) -> None:
    path, wrong = tmp_path / "file", []

    def write(number: int) -> None:
        for _ in range(20):
            with replacing(path) as temporary:
                temporary.write_text(str(number) * 1000)
            if len(set(path.read_text())) != 1:
                wrong.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="no modes on this system")
def test_a_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with replacing(tmp_path / "file") as temporary:
        temporary.touch()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    with replacing(path) as temporary:
        temporary.touch()
    assert path.exists()


def test_leftovers_of_a_killed_process_go_and_others_stay(tmp_path: Path) -> None:
    kept = replacing(tmp_path / "other")
    killed = replacing(tmp_path / "file")
    with kept as other:
        other.touch()
        scratch = killed.__enter__().parent
        remove_leftovers(tmp_path / "file")
        assert not scratch.exists() and other.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_the_message_names_case_file_reason_and_next_step() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(CaseError) as caught, writable("/out/p1-t1c.nii.gz", CaseError, case="p1"):
        raise full
    assert str(caught.value) == (
        "case p1: cannot write /out/p1-t1c.nii.gz (No space left on device); free space or choose another folder"
    )
    assert caught.value.__cause__ is full
    with pytest.raises(ModfillError, match=r"^cannot write x \(12 requested and 0 written\)"), writable("x"):
        raise OSError("12 requested and 0 written")  # as numpy has it
    with pytest.raises(ValueError, match="other"), writable("x"):
        raise ValueError("other")
