"""Cohorts: the same files whoever makes them and in whatever order, each case once, and no failure stops the rest."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from modfill import completion
from modfill.cases.files import CaseFiles
from modfill.cases.finding import find_cases
from modfill.cohort.locks import take
from modfill.cohort.parts import Part
from modfill.cohort.pipeline import run_cohort
from modfill.cohort.table import TABLE, read_table
from modfill.completer import ModalityCompleter
from modfill.errors import CaseError, ModfillError
from modfill.model.device import half_is_fast
from modfill.outputs.naming import OutputFolder
from modfill.results import Completed
from modfill.settings import Settings
from tests.case_files import MODALITIES, brain_volumes, save, write_case
from tests.cohort_process import start

pytestmark = pytest.mark.usefixtures("one_thread")  # of which `jobs` leaves a case fewer
PRESENT = (("t1n", "t2f"), ("t1n", "t1c", "t2w"), ("t2w",), MODALITIES, ("t1c", "t2f"))


def write_cohort(folder: Path, count: int) -> Path:
    for number in range(count):
        write_case(folder, f"p{number:03d}", PRESENT[number % len(PRESENT)], shape=(20, 24, 16), seed=number)
    return folder


def hashes(out: Path) -> dict[str, str]:
    """Of every file below a folder but the table, hidden ones too."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != TABLE)
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five cases; p003 lacks nothing."""
    return write_cohort(tmp_path_factory.mktemp("cohort") / "in", 5)


@pytest.fixture(scope="module")
def expected(one_thread: None, cohort: Path, completer: ModalityCompleter) -> dict[str, str]:
    """The files that completing one case after the other gives."""
    for files in find_cases(cohort):
        completer.complete(cohort / files.case_id, out=cohort.parent / "expected")
    return hashes(cohort.parent / "expected")


@pytest.fixture
def out(cohort: Path) -> Iterator[Path]:
    """A new output folder beside `expected`, so that sidecars tell the same ways to the sources."""
    yield cohort.parent / f"out-{time.monotonic_ns()}"


@pytest.mark.parametrize("jobs", [1, 3])
def test_files_do_not_depend_on_jobs_or_order(
    completer: ModalityCompleter, cohort: Path, expected: dict[str, str], out: Path, jobs: int
) -> None:
    found = find_cases(cohort)[:: 1 if jobs == 1 else -1]
    results = list(completer.complete_cohort(found, out=out, jobs=jobs))
    assert [result.case_id for result in results] == [files.case_id for files in found]
    assert hashes(out) == expected
    for result in results:
        assert result.error is None and result.completed is not None
        assert set(result.synthesised) == set(result.completed.paths) == set(result.completed.images)
        assert all(image.shape == (20, 24, 16) for image in result.completed.images.values())
        assert 0 <= result.model_seconds <= result.seconds


def test_results_come_one_by_one_and_memory_holds_few(completer: ModalityCompleter, cohort: Path, out: Path) -> None:
    """Whoever takes one result and stops has had no more than that one and those under way done, and gets no lock."""
    results = completer.complete_cohort(cohort, out=out)
    assert next(results).case_id == "p000"
    results.close()
    assert 1 <= len(list(out.glob("p*"))) <= 3
    assert not list(out.rglob(".*"))


def test_reading_computing_and_writing_overlap(tmp_path: Path) -> None:
    """A case is computed while the next is read, and written while the next is computed; two at once if asked."""

    class Meeting:
        """In place of a completion: each case goes on when the case or step that it shares the time with is there."""

        def __init__(self, jobs: int):
            self.read_next, self.compute_next = threading.Event(), threading.Event()
            self.both = threading.Barrier(2, timeout=20) if jobs == 2 else None

        def read(self, files: CaseFiles) -> str:
            if files.case_id == "p2":
                self.read_next.set()
            return files.case_id

        def has_work(self, case_id: str) -> bool:
            return True

        def synthesise(self, case_id: str) -> str:
            if self.both is not None:
                self.both.wait()
            assert case_id == "p2" or self.read_next.wait(20)
            if case_id == "p2":
                self.compute_next.set()
            return case_id

        def write(self, case_id: str) -> Completed:
            assert case_id == "p2" or self.compute_next.wait(20)
            return Completed(case_id)

    found, out = [CaseFiles("p1", {}), CaseFiles("p2", {})], OutputFolder(tmp_path)
    for jobs in (1, 2):
        results = list(run_cohort(found, out, Meeting(jobs), jobs=jobs))  # type: ignore[arg-type]
        assert [(result.case_id, result.problem) for result in results] == [("p1", None), ("p2", None)]


def test_what_is_done_is_skipped_and_settings_count(
    completer: ModalityCompleter, cohort: Path, expected: dict[str, str], out: Path
) -> None:
    list(completer.complete_cohort(cohort, out=out))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    again = list(completer.complete_cohort(cohort, out=out))
    assert not any(result.synthesised for result in again)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")} == before
    others = list(completer.complete_cohort(cohort, out=out, targets=["t1c"], settings=Settings(seed=1)))
    assert [result.case_id for result in others if result.error] == ["p000", "p002"]
    assert "Seed" in str(others[0].problem)
    assert not list(
        completer.complete_cohort(cohort, out=out, targets=["t1c"], settings=Settings(seed=1), overwrite=True)
    )[0].error


def test_a_failure_stops_nothing_whatever_it_is(
    completer: ModalityCompleter, cohort: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(files: CaseFiles, **options: bool) -> object:
        if files.case_id == "p001":
            raise CaseError("case p001: must be better, got worse")
        if files.case_id == "p002":
            raise MemoryError("no room\nat all")
        return original(files, **options)

    original = completion.read_case
    monkeypatch.setattr(completion, "read_case", read)
    results = {result.case_id: result for result in completer.complete_cohort(cohort, out=out)}
    assert [case for case, result in results.items() if result.completed is None] == ["p001", "p002"]
    assert results["p001"].problem == "case p001: must be better, got worse"
    assert results["p002"].problem == "case p002: it must be computable, got MemoryError: no room"
    rows = {row["case"]: row for row in read_table(out)}
    assert rows["p002"]["status"] == "failed" and rows["p002"]["reason"] == results["p002"].problem
    assert not list(out.rglob(".lock*"))


def test_the_table_lists_every_case_and_what_lies_there(
    completer: ModalityCompleter, cohort: Path, out: Path, expected: dict[str, str]
) -> None:
    found = find_cases(cohort)
    list(completer.complete_cohort(found[:2], out=out, targets=["t2w"]))
    list(completer.complete_cohort(found, out=out))
    rows = read_table(out)
    assert [(row["case"], row["status"], row["targets"]) for row in rows] == [
        ("p000", "completed", "t1c t2w"),
        ("p001", "completed", "t2f"),
        ("p002", "completed", "t1n t1c t2f"),
        ("p003", "nothing missing", ""),
        ("p004", "completed", "t1n t2w"),
    ]
    for row in rows:
        assert bool(row["seconds"]) == bool(row["targets"])
        names = [f"{row['case']}/{row['case']}-{target}.nii.gz" for target in row["targets"].split()]
        assert row["sha256"].split() == [expected[name] for name in names]
    seconds = [row["seconds"] for row in rows]
    list(completer.complete_cohort(found, out=out))
    assert [row["seconds"] for row in read_table(out)] == seconds


@pytest.mark.parametrize("text", ["patient,age\n1,40\n", "case\np000\n", "\0\n", "case;status\n"])
def test_another_table_is_left_alone(completer: ModalityCompleter, cohort: Path, out: Path, text: str) -> None:
    out.mkdir()
    (out / TABLE).write_text(text)
    with pytest.raises(ModfillError, match=r"cohort\.csv must be free or modfill's table, got another file; move it"):
        completer.complete_cohort(find_cases(cohort)[:1], out=out)
    assert (out / TABLE).read_text() == text and [path.name for path in out.iterdir()] == [TABLE]


def test_a_table_that_somebody_opened_keeps_its_rows_and_columns(
    completer: ModalityCompleter, cohort: Path, out: Path
) -> None:
    """A byte order mark before the header, a column more, a name with a line break that csv would not quote."""
    found = find_cases(cohort)
    list(completer.complete_cohort(found[3:4], out=out))
    header, row = (out / TABLE).read_text().splitlines()
    other = '"a\rb",failed,,,,,"no\rroom",by hand'
    (out / TABLE).write_bytes(f"\ufeff{header},note\n{row},as it was\n{other}\n".encode())
    list(completer.complete_cohort(found[4:], out=out))
    rows = {row["case"]: row for row in read_table(out)}
    assert list(rows) == ["a\rb", "p003", "p004"] and rows["a\rb"]["reason"] == "no\rroom"
    assert [row["note"] for row in rows.values()] == ["by hand", "as it was", ""]
    assert "\ufeff" not in (out / TABLE).read_text()


@pytest.mark.parametrize("damage", ["", "jobs"])
def test_what_cannot_be_begun_is_refused_before_a_result_is_asked_for(
    completer: ModalityCompleter, cohort: Path, out: Path, damage: str
) -> None:
    if not damage:
        out.write_text("a file")
    with pytest.raises(ModfillError, match="jobs must be" if damage else "cannot write"):
        completer.complete_cohort(cohort, out=out, jobs=0 if damage else 1)


def test_a_synthetic_image_gives_way_to_what_has_been_acquired(
    completer: ModalityCompleter, tmp_path: Path, out: Path
) -> None:
    folder = write_case(tmp_path / "in", "p1", ("t1n", "t2w", "t2f"))
    list(completer.complete_cohort(tmp_path / "in", out=out, settings=Settings(uncertainty=True)))
    save(folder / "p1-t1c.nii.gz", brain_volumes()["t1c"])
    (result,) = completer.complete_cohort(tmp_path / "in", out=out)
    assert "p1-t1c.nii.gz must be removed, got a synthetic t1c though it" in (result.problem or "")
    (result,) = completer.complete_cohort(tmp_path / "in", out=out, overwrite=True)
    assert result.problem is None and not list((out / "p1").iterdir())
    assert [(row["status"], row["targets"]) for row in read_table(out)] == [("nothing missing", "")]


def test_a_case_that_another_process_does_is_waited_for(
    completer: ModalityCompleter, cohort: Path, expected: dict[str, str], out: Path
) -> None:
    out.mkdir()
    lock = take(out / ".lock-p000")
    assert lock is not None
    results = completer.complete_cohort(cohort, out=out)
    assert [next(results).case_id for _ in range(2)] == ["p001", "p002"]
    lock.release()
    assert [result.case_id for result in results] == ["p003", "p004", "p000"]
    assert hashes(out) == expected


def test_two_processes_do_each_case_once(cohort: Path, tiny_weights: Path, expected: dict[str, str], out: Path) -> None:
    log = out.with_suffix(".log")
    processes = [start(cohort, out, tiny_weights, log) for _ in range(2)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert hashes(out) == expected
    assert len(log.read_text().splitlines()) == len(set(log.read_text().splitlines())) == 8
    assert [row["case"] for row in read_table(out)] == [f"p{n:03d}" for n in range(5)]


def _finished(out: Path, expected: dict[str, str]) -> dict[Path, tuple[int, int]]:
    """Inode and time of every image that is there; each must be whole."""
    images = list(out.glob("*/*.nii.gz"))
    for path in images:
        name = str(path.relative_to(out))
        assert hashlib.sha256(path.read_bytes()).hexdigest() == expected[name], "partial under a final name"
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in images}


def _kill_and_go_on(cohort: Path, out: Path, weights: Path, expected: dict[str, str], kills: int) -> list[int]:
    """Kill a process at random moments, then let one end; returns the number of images that were there at each kill."""
    rng, moments = random.Random(0), []
    finished: dict[Path, tuple[int, int]] = {}
    for _ in range(kills):
        wanted = len(finished) + rng.randint(1, 3)
        process = start(cohort, out, weights)
        while process.is_alive() and len(glob(f"{out}/*/*.nii.gz")) < wanted:  # pathlib's raises for folders that go
            time.sleep(0.002)
        process.join(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        now = _finished(out, expected)
        assert {path: now[path] for path in finished} == finished, "done again"
        finished = now
        moments.append(len(finished))
    process = start(cohort, out, weights)
    process.join(300)
    assert process.exitcode == 0 and hashes(out) == expected
    now = _finished(out, expected)
    assert {path: now[path] for path in finished} == finished, "done again"
    return moments


@pytest.mark.parametrize("die", [("save", 2), ("replace", 1), ("replace", 2), ("replace", 5)])
def test_killed_at_a_file_operation(
    cohort: Path, tiny_weights: Path, expected: dict[str, str], out: Path, die: tuple[str, int]
) -> None:
    """In an image, before its sidecar, between sidecar and image, and before the table appears."""
    process = start(cohort, out, tiny_weights, die=die)
    process.join(120)
    assert process.exitcode == -9
    finished = _finished(out, expected)
    process = start(cohort, out, tiny_weights)
    process.join(120)
    assert process.exitcode == 0 and hashes(out) == expected
    assert {path: state for path, state in _finished(out, expected).items() if path in finished} == finished


def test_killed_and_started_again(cohort: Path, tiny_weights: Path, expected: dict[str, str], out: Path) -> None:
    _kill_and_go_on(cohort, out, tiny_weights, expected, 3)


@pytest.mark.slow
def test_killed_at_twenty_moments(tiny_weights: Path, tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "in", 60)
    process = start(cohort, tmp_path / "expected", tiny_weights)
    process.join(600)
    assert process.exitcode == 0
    moments = _kill_and_go_on(cohort, tmp_path / "out", tiny_weights, hashes(tmp_path / "expected"), 20)
    print(f"images there at each kill: {moments}")
    assert len(set(moments)) > 5


@pytest.mark.slow
def test_memory_stays_flat_over_200_cases(completer: ModalityCompleter, tmp_path: Path) -> None:
    cohort, process, sizes = write_cohort(tmp_path / "in", 200), psutil.Process(), []
    for _ in completer.complete_cohort(cohort, out=tmp_path / "out", jobs=2):
        sizes.append(process.memory_info().rss / 2**20)
    print(f"MiB after 50, 100, 150, 200 cases: {[round(sizes[n - 1]) for n in (50, 100, 150, 200)]}")
    assert sizes[-1] - sizes[49] < 20


def test_shards_are_equal_and_disjoint_and_give_the_same_files(
    completer: ModalityCompleter, cohort: Path, expected: dict[str, str], out: Path
) -> None:
    found = find_cases(cohort)
    parts = [Part.parse(f"{number}/3").of(found) for number in (1, 2, 3)]
    assert sorted(len(part) for part in parts) == [1, 2, 2]
    for part in parts:
        list(completer.complete_cohort(part, out=out))
    assert hashes(out) == expected
    assert [row["case"] for row in read_table(out)] == [files.case_id for files in found]


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "3", "1/0", "-1/3", "1/3/5", "a/b", "1/٣"])
def test_a_shard_must_exist(text: str) -> None:
    with pytest.raises(ModfillError, match="shard must be one of 1/N to N/N"):
        Part.parse(text)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_hardly_change_an_image(completer: ModalityCompleter, threads: int) -> None:
    """Libraries choose how to add by the number of threads: the last bit may differ, above all in bfloat16."""
    arrays = {"t1n": brain_volumes((40, 48, 36))["t1n"].astype(np.float32) / 7}
    before, made = torch.get_num_threads(), []
    for number in (2, threads):
        torch.set_num_threads(number)
        made.append(completer.complete_arrays(arrays, affine=np.eye(4), targets=["t1c"])["t1c"])
    torch.set_num_threads(before)
    apart, half = np.abs(made[0] - made[1]) / np.ptp(made[0]), half_is_fast(torch.device("cpu"))
    assert apart.max() <= (0.02 if half else 1e-4) and apart.mean() <= (1e-4 if half else 1e-6)


def test_sidecars_tell_the_number_of_threads(completer: ModalityCompleter, cohort: Path) -> None:
    done = completer.complete(cohort / "p000")
    assert {note["Threads"] for note in done.provenance.values()} == {torch.get_num_threads()}


def test_jobs_and_folder_are_checked(completer: ModalityCompleter, cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(ModfillError, match="jobs must be at least 1, got 0"):
        next(completer.complete_cohort(cohort, out=tmp_path / "out", jobs=0))
    (tmp_path / "file").write_text("")
    with pytest.raises(ModfillError, match="cannot write"):
        next(completer.complete_cohort(cohort, out=tmp_path / "file"))
