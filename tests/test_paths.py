"""Odd names: outputs stay in the output folder, messages on one line, and no name stops a cohort."""

from __future__ import annotations

import os
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from modfill.cases.finding import find_cases
from modfill.cases.reading import case_from_arrays
from modfill.cli import main
from modfill.cohort.table import read_table
from modfill.completer import ModalityCompleter
from modfill.errors import CaseError
from modfill.outputs.naming import OutputFolder
from modfill.settings import Settings
from tests.case_files import brain_volumes, oblique_affine, write_case

SHAPE = (14, 16, 12)
ODD = ("with space", " space ", "Größe-脳-🧠", "e\u0301 and é", "-p1", "--out", "p1..p2", "p1..", "a;rm -rf $HOME `ls`",
       "'q' \"", "%s%n{0}", "line\nbreak", "bell\a\x1b[31mred", "right\u202eleft", "tab\tid", "*?", "CON", "t1c",
       "p" * 230, os.fsdecode(b"no-unicode-\xff\xfe"))  # fmt: skip

pytestmark = pytest.mark.usefixtures("in_float32")


def files_under(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.is_dir()}


def test_odd_names_are_only_names(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """Every one is completed into a folder of its name, and what is printed is one line each."""
    for seed, name in enumerate(ODD):
        write_case(tmp_path / "in", name, ("t1n",), SHAPE, seed=seed)
    before = files_under(tmp_path)
    options = ["--weights", str(tiny_weights), "--device", "cpu", "--targets", "t2f"]
    status = main(["complete", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *options])
    out, error = capsys.readouterr()
    assert (status, error) == (0, "")
    lines = out.splitlines()
    assert len(lines) == len(ODD) + 2 and all(line.isprintable() for line in lines)
    made = {tmp_path / "out" / name / f"{name}-t2f{end}" for name in ODD for end in (".json", ".nii.gz")}
    assert files_under(tmp_path) == before | made | {tmp_path / "out" / "cohort.csv"}
    assert {row["case"] for row in read_table(tmp_path / "out")} == set(ODD)


@pytest.mark.parametrize(
    "case_id", ["", ".", "..", "../evil", "/abs", "a/b", "..\\evil", "nul\0", "p" * 300, "p" * 250, "x/../../y"]
)
def test_outputs_never_leave_the_output_folder(completer: ModalityCompleter, tmp_path: Path, case_id: str) -> None:
    """Names that come from Python or from an nnU-Net dataset.json, not from a folder listing."""
    case = case_from_arrays({"t1n": brain_volumes(SHAPE)["t1n"]}, oblique_affine(), case_id)
    with pytest.raises(CaseError) as caught:
        completer.complete(case, out=tmp_path / "deep" / "out", targets=["t1c"])
    assert str(caught.value).isprintable() and files_under(tmp_path) == set()


@pytest.mark.parametrize("case_id", ["..", "../evil", "/abs", "a/b", "p" * 300, "p" * 252])
def test_an_odd_id_in_a_table_stops_no_other_case(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case_id: str
) -> None:
    write_case(tmp_path / "in", "p1", ("t1n",), SHAPE)
    write_case(tmp_path / "in", "p2", ("t1n",), SHAPE, seed=1)
    rows = f"case_id,t1n\n{case_id},p1/p1-t1n.nii.gz\nq,p2/p2-t1n.nii.gz\n"
    (tmp_path / "in" / "table.csv").write_text(rows)
    before = files_under(tmp_path)
    options = ["--weights", str(tiny_weights), "--device", "cpu", "--targets", "t1c"]
    assert main(["complete", str(tmp_path / "in" / "table.csv"), "--out", str(tmp_path / "out"), *options]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    made = {tmp_path / "out" / name for name in ("cohort.csv", "q/q-t1c.json", "q/q-t1c.nii.gz")}
    assert files_under(tmp_path) == before | made
    assert {row["case"]: row["status"] for row in read_table(tmp_path / "out")} == {case_id: "failed", "q": "completed"}


def test_a_link_in_place_of_a_lock_is_not_followed(completer: ModalityCompleter, tmp_path: Path) -> None:
    for seed, name in enumerate(("p1", "p2")):
        write_case(tmp_path / "in", name, ("t1n",), SHAPE, seed=seed)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock-p1").symlink_to(tmp_path / "elsewhere")
    results = list(completer.complete_cohort(tmp_path / "in", out=tmp_path / "out", targets=["t1c"]))
    assert [result.problem is None for result in results] == [False, True]
    assert not (tmp_path / "elsewhere").exists()


def test_links_to_what_was_acquired_stay_inside_too(completer: ModalityCompleter, tmp_path: Path) -> None:
    """Also of a case that lacks nothing."""
    write_case(tmp_path / "in", "p1", shape=SHAPE)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "p1").symlink_to(tmp_path / "elsewhere")
    (result,) = completer.complete_cohort(tmp_path / "in", out=tmp_path / "out", link=True)
    assert result.problem is not None and "must be a folder, got a link" in result.problem
    assert files_under(tmp_path / "elsewhere") == set()


def test_maps_stay_inside_too(completer: ModalityCompleter, tmp_path: Path) -> None:
    folder = write_case(tmp_path / "in", "p1", ("t1n",), SHAPE)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "imagesTs").mkdir(parents=True)
    (tmp_path / "out" / "imagesTs" / "uncertainty").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CaseError, match="must be a folder, got a link"):
        completer.complete(
            folder,
            out=OutputFolder(tmp_path / "out", "nnunet"),
            targets=["t1c"],
            settings=Settings(uncertainty=True),
        )
    assert files_under(tmp_path / "elsewhere") == set()


def test_terminals_without_the_letters(tiny_weights: Path, tmp_path: Path) -> None:
    """The streams are as PYTHONIOENCODING=ascii makes them."""
    write_case(tmp_path / "in", "Größe-脳", ("t1n",), SHAPE)
    streams = {name: TextIOWrapper(BytesIO(), encoding="ascii") for name in ("stdout", "stderr")}
    command = ["complete", tmp_path / "in", "--out", tmp_path / "out", "--weights", tiny_weights, "--device", "cpu"]
    with redirect_stdout(streams["stdout"]), redirect_stderr(streams["stderr"]):
        status = main([str(word) for word in command])
    for stream in streams.values():
        stream.flush()
    out, error = (stream.buffer.getvalue() for stream in streams.values())
    assert (status, error) == (0, b"") and rb"Gr\xf6\xdfe-\u8133: synthesised" in out


def test_a_cohort_s_name_longer_than_names_can_be(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="must be a folder with NIfTI files"):
        find_cases(tmp_path / ("p" * 300))


def test_a_link_in_the_output_folder_is_not_followed(completer: ModalityCompleter, tmp_path: Path) -> None:
    folder = write_case(tmp_path / "in", "p1", ("t1n",), SHAPE)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "p1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CaseError, match="must be a folder, got a link"):
        completer.complete(folder, out=tmp_path / "out", targets=["t1c"])
    assert files_under(tmp_path / "elsewhere") == set()


def test_a_link_in_place_of_an_output_is_replaced_not_written_through(
    completer: ModalityCompleter, tmp_path: Path
) -> None:
    folder = write_case(tmp_path / "in", "p1", ("t1n",), SHAPE)
    (tmp_path / "out" / "p1").mkdir(parents=True)
    (tmp_path / "out" / "p1" / "p1-t1c.nii.gz").symlink_to(tmp_path / "nowhere")
    completer.complete(folder, out=tmp_path / "out", targets=["t1c"])
    assert not (tmp_path / "nowhere").exists() and not (tmp_path / "out" / "p1" / "p1-t1c.nii.gz").is_symlink()


def test_loops_pipes_and_devices_are_no_images(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """None of them hangs or ends the job; the intact case beside them is completed."""
    write_case(tmp_path / "in", "p1", ("t1n",), SHAPE)
    for name in ("loop", "pipe", "zero"):
        write_case(tmp_path / "in", name, ("t1n",), SHAPE)
    loop = tmp_path / "in" / "loop" / "loop-t2w.nii.gz"
    loop.symlink_to(loop)
    os.mkfifo(tmp_path / "in" / "pipe" / "pipe-t2w.nii.gz")
    (tmp_path / "in" / "zero" / "zero-t2w.nii").symlink_to("/dev/zero")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "again")
    options = ["--weights", str(tiny_weights), "--device", "cpu", "--targets", "t1c"]
    assert main(["complete", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *options]) == 1
    out, error = capsys.readouterr()
    assert "p1: synthesised t1c" in out and "1 of 4 cases completed, 3 failed" in out
    assert [line.split(":")[1] for line in error.splitlines()] == [" case loop", " case pipe", " case zero"]
