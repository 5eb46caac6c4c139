"""Whatever stops a job - a signal, a full disk, no memory - only whole files stand under final names."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from modfill.cases.finding import find_cases
from modfill.cases.marks import matches_sidecar, read_sidecar
from modfill.cases.reading import inspect
from modfill.cli import main
from modfill.completer import ModalityCompleter
from modfill.errors import CaseError, ModfillError, within_memory
from modfill.settings import Settings
from tests.case_files import write_case
from tests.cohort_process import Command
from tests.test_cli import one_line

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux' mounts, signals and limits")
SHAPE = (14, 16, 12)


def whole_images(out: Path) -> int:
    """Check that everything under a final name is whole; returns the number of images."""
    files = [path for path in out.rglob("*") if not any(part.startswith(".") for part in path.relative_to(out).parts)]
    images = [path for path in files if path.name.endswith(".nii.gz")]
    for path in images:
        voxels = np.asanyarray(nib.load(path).dataobj)  # raises where data or checksum are damaged
        assert path.name.endswith("-uncertainty.nii.gz") or matches_sidecar(path, voxels), path
    for path in files:
        assert path.suffix != ".json" or read_sidecar(path) is not None, path
    return len(images)


def leftovers(out: Path) -> list[str]:
    return [path.name for path in out.rglob(".*")]


class Dead(BaseException):
    """The process is no more: nothing that it would have done afterwards happens."""


STEPS = ((nib, "save"), (os, "fsync"), (os, "replace"), (Path, "unlink"), (Path, "write_text"), (Path, "mkdir"))
"""All that changes a disk when an output is written."""


@contextmanager
def stopping_at(number: int, error: BaseException) -> Iterator[None]:
    """The number-th step of writing fails with `error`; after `Dead` no step succeeds any more."""
    taken = 0

    def failing(original: Callable) -> Callable:
        def step(*arguments: object, **options: object) -> object:
            nonlocal taken
            taken += 1
            if taken == number or (taken > number and isinstance(error, Dead)):
                raise error
            return original(*arguments, **options)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, failing(getattr(owner, name)))
        yield


STOPS = {"full": OSError(errno.ENOSPC, "No space left on device"), "SIGINT": KeyboardInterrupt(), "SIGKILL": Dead()}


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("former", [False, True], ids=["fresh", "overwriting"])
@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_at_any_step_of_writing_leaves_whole_files(
    completer: ModalityCompleter, tmp_path: Path, stop: str, former: bool
) -> None:
    """Each single step of writing an image, its uncertainty and its sidecar is once the one that fails."""
    case = inspect(write_case(tmp_path / "in", "p1", ("t1n",), shape=SHAPE))
    if former:
        completer.complete(case, out=tmp_path / "former", targets=["t1c"], settings=Settings(uncertainty=True, seed=1))
    for number in range(1, 99):
        out = tmp_path / f"out-{number}"
        if former:
            shutil.copytree(tmp_path / "former", out)
        finished = False
        with suppress(CaseError, KeyboardInterrupt, Dead), stopping_at(number, STOPS[stop]):
            completer.complete(case, out=out, targets=["t1c"], overwrite=True, settings=Settings(uncertainty=True))
            finished = True
        images = whole_images(out)
        assert stop == "SIGKILL" or leftovers(out) == []
        if finished:
            break
    print(f"{number - 1} steps")
    assert number > 12 and images == 2


@LINUX
def test_signals(tiny_weights: Path, tmp_path: Path) -> None:
    """Three jobs, each stopped in its midst: statuses as the shell knows them, one line, and the rest later."""
    for seed in range(24):
        write_case(tmp_path / "in", f"p{seed}", ("t1n", "t2w"), shape=SHAPE, seed=seed)
    expected = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated"), signal.SIGKILL: (-9, "")}
    jobs = {}
    for number in expected:  # one after the other: a job that waits for its signal would finish
        words = ("complete", tmp_path / "in", "--out", tmp_path / str(number), "--weights", tiny_weights)
        job = jobs[number] = Command([*words, "--device", "cpu"], tmp_path / f"log-{number}")
        job.wait_for("[1/24] p0: synthesised")
        assert job.process.pid is not None
        os.kill(job.process.pid, number)
    for number, job in jobs.items():
        status, word = expected[number]
        assert job.status() == status, job.told("stderr")
        out = tmp_path / str(number)
        assert 2 <= whole_images(out) < 48
        if word:
            one_line(job.told("stderr"), word, "what is finished stays")
            assert leftovers(out) == []
    again = ["complete", str(tmp_path / "in"), "--out", str(out), "--weights", str(tiny_weights), "--device", "cpu"]
    assert main(again) == 0 and whole_images(out) == 48


MEMORY = """
import resource, sys
from modfill.cli import main
from modfill.completer import ModalityCompleter
arguments = sys.argv[1:]
assert main(["complete", arguments[0], *arguments[2:]]) == 0  # loads whatever is loaded late
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for megabytes in (5, 40, 120):
    resource.setrlimit(resource.RLIMIT_AS, (in_use + megabytes * 2**20, resource.RLIM_INFINITY))
    assert main(["complete", *arguments[1:]]) == 1
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@LINUX
def test_out_of_memory(tiny_weights: Path, tmp_path: Path) -> None:
    """With less and less to spare: one line each, and no half-written file."""
    small = write_case(tmp_path / "in", "small", ("t1n",), shape=SHAPE)
    large = write_case(tmp_path / "in", "large", ("t1n", "t2w"), (120, 120, 110), np.eye(4))
    options = ["--out", tmp_path / "out", "--weights", tiny_weights, "--device", "cpu", "--targets", "t1c"]
    done = subprocess.run([sys.executable, "-c", MEMORY, *map(str, (small, large, *options))], capture_output=True,
                          text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr
    assert all("must fit into memory" in line for line in lines)
    assert lines[-1].startswith("modfill: case large: ")
    assert whole_images(tmp_path / "out") == 1 and leftovers(tmp_path / "out") == []


def test_only_errors_about_memory_are_called_so() -> None:
    with pytest.raises(RuntimeError, match="sizes"), within_memory("p1"):
        raise RuntimeError("sizes do not match")
    with pytest.raises(ModfillError, match="case p1: must fit into memory"), within_memory("case p1"):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for two pages."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", disk], check=False).returncode:
        pytest.skip("this container may not mount a file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@LINUX
@pytest.mark.usefixtures("in_float32")
def test_a_full_disk_another_disk_and_a_read_only_disk(
    tiny_disk: Path, case_folder: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["complete", str(case_folder), "--out", str(tiny_disk / "out"), "--weights", str(tiny_weights)]
    assert main(command) == 1
    one_line(capsys.readouterr().err, "case p1", "No space left on device")
    assert whole_images(tiny_disk) == 0 and leftovers(tiny_disk) == []
    subprocess.run(["mount", "-o", "remount,size=4m", tiny_disk], check=True)
    assert main([*command, "--targets", "t1c"]) == 0
    assert whole_images(tiny_disk) == 1
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    capsys.readouterr()
    assert main(command) == 1
    one_line(capsys.readouterr().err, "case p1", "Read-only file system")
    assert whole_images(tiny_disk) == 1 and leftovers(tiny_disk) == []


@pytest.mark.usefixtures("in_float32")
def test_the_input_is_gone_once_it_was_read(completer: ModalityCompleter, case_folder: Path, tmp_path: Path) -> None:
    """The sidecar tells of what was read, not of what lies there later."""
    expected = hashlib.sha256((case_folder / "p1-t1n.nii.gz").read_bytes()).hexdigest()
    case = inspect(case_folder)
    (case_folder / "p1-t1n.nii.gz").write_bytes(b"another scan")
    (case_folder / "p1-t2f.nii.gz").unlink()
    done = completer.complete(case, out=tmp_path / "out", targets=["t1c"])
    assert done.provenance["t1c"]["SourceImages"][0]["SHA256"] == expected
    assert whole_images(tmp_path / "out") == 1


@pytest.mark.usefixtures("in_float32")
def test_a_case_that_disappears_does_not_hold_back_the_others(completer: ModalityCompleter, tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        write_case(tmp_path / "in", name, ("t1n", "t2w"), shape=SHAPE)
    found, out = find_cases(tmp_path / "in"), tmp_path / "out"
    shutil.rmtree(tmp_path / "in" / "p1")
    problems = [result.problem for result in completer.complete_cohort(found, out=out)]
    assert problems[1:] == [None] and str(problems[0]).startswith("case p1: ")
    assert "No such file or directory" in str(problems[0]) and "\n" not in str(problems[0])
    assert whole_images(out) == 2
