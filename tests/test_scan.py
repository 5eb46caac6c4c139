"""Scans say what is there, what is missing and what cannot be used, without being fooled and without changing it."""

from __future__ import annotations

import os
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modfill.cases.reading import Case, case_from_arrays
from modfill.cli import main
from modfill.completer import ModalityCompleter
from modfill.modalities import MODALITIES
from modfill.reports import swaps
from modfill.reports.advice import advice
from modfill.reports.scan import Scan, ScannedCase, scan_cohort
from modfill.reports.scan_page import as_text, case_table
from modfill.reports.swaps import ACCURACY, describe_pairs
from tests.case_files import brain_volumes, save, write_case
from tests.layout_files import AVAILABLE, LAYOUTS, case_name, small_cohort

DATA = Path(os.environ.get("MODFILL_DATA", Path(__file__).parents[2] / "shared" / "data"))


def one(scan: Scan, case_id: str = "p1") -> ScannedCase:
    (case,) = [case for case in scan.cases if case.case_id == case_id]
    return case


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_truth_in_every_layout(tmp_path: Path, layout: str, deep: bool) -> None:
    files = small_cohort(tmp_path / "in")
    scan = scan_cohort(LAYOUTS[layout](tmp_path / layout, files), deep=deep)
    assert {case.case_id: case.available for case in scan.cases} == {
        case_name(layout, case_id): available for case_id, available in AVAILABLE.items()
    }
    for case in scan.cases:
        assert set(case.available) | set(case.missing) == set(MODALITIES) and case.problem is None
        assert (case.grid, case.spacing) == ("24x28x20", "1x1.1x1.3") and case.unusable == {}


def test_rounding_does_not_make_another_grid(tmp_path: Path) -> None:
    for name, size in (("p1", 0.93749997), ("p2", 0.93750003)):
        save(tmp_path / name / f"{name}_t1.nii.gz", brain_volumes((8, 8, 8))["t1n"], np.diag((size, size, 1.2, 1)))
    assert {case.spacing for case in scan_cohort(tmp_path).cases} == {"0.938x0.938x1.2"}


def test_what_headers_show_and_what_only_voxels_show(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "p1")
    (folder / "p1-t1n.nii.gz").write_text("no image")
    save(folder / "p1-t1c.nii.gz", np.zeros((24, 28, 20), np.int16))
    path = folder / "p1-t2w.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    headers, deep = one(scan_cohort(tmp_path)), one(scan_cohort(tmp_path, deep=True))
    assert headers.available == ("t1c", "t2w", "t2f") and list(headers.unusable) == ["t1n"]
    assert deep.available == ("t2f",) and sorted(deep.unusable) == ["t1c", "t1n", "t2w"]
    assert "all zero" in deep.unusable["t1c"] and "truncated" in deep.unusable["t2w"] and deep.missing == ()


def test_bad_cases_are_reported_and_hold_nothing_back(tmp_path: Path) -> None:
    write_case(tmp_path, "good")
    folder = write_case(tmp_path, "grids", ("t1n", "t2w"))
    save(folder / "grids-t2w.nii.gz", brain_volumes((24, 28, 22))["t2w"])
    save(write_case(tmp_path, "flat", ("t1n",)) / "flat-t2w.nii.gz", np.ones((24, 28), np.int16))
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "gone-t1n.nii.gz").symlink_to("nowhere")
    (tmp_path / "twice").mkdir()
    for name in ("twice-t1n.nii.gz", "twice_t1.nii.gz"):
        shutil.copy(tmp_path / "good" / "good-t1n.nii.gz", tmp_path / "twice" / name)
    skull = write_case(tmp_path, "skull", ("t1n",))
    save(skull / "skull-t1n.nii.gz", brain_volumes()["t1n"] + 1)
    scan = scan_cohort(tmp_path)
    assert one(scan, "good").problem is None and one(scan, "skull").problem is None
    reasons = {"grids": "one grid", "flat": "must be 3D", "gone": "No such file or directory", "twice": "one file"}
    for case_id, reason in reasons.items():
        problem = str(one(scan, case_id).problem)
        assert problem.startswith(f"case {case_id}: ") and reason in problem and "\n" not in problem
    assert "skull-stripped" in str(one(scan_cohort(tmp_path, deep=True), "skull").problem)


def test_synthetic_images_are_not_available(tmp_path: Path, completer: ModalityCompleter) -> None:
    folder = write_case(tmp_path, "p1", ("t1n", "t2w", "t2f"))
    completer.complete(folder, out=tmp_path)
    for deep in (False, True):
        case = one(scan_cohort(tmp_path, deep=deep))
        assert (case.synthetic, case.missing) == (("t1c",), ("t1c",))
        assert case_table(Scan(tmp_path, deep, [case]))["t1c"][0] == "synthetic"


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_duplicates_are_found_and_twins_on_one_grid_are_none(tmp_path: Path, deep: bool, ending: str) -> None:
    for seed, case_id in enumerate(("p1", "p2", "p3")):
        for modality in ("t1n", "t2w"):
            volume = brain_volumes((40, 44, 36), seed)[modality]  # its first 4 KiB are header and background
            save(tmp_path / case_id / f"{case_id}-{modality}{ending}", volume)
    shutil.copy(tmp_path / "p1" / f"p1-t2w{ending}", tmp_path / "p3" / f"p3-t2w{ending}")
    scan = scan_cohort(tmp_path, deep=deep)
    assert scan.duplicates == [("p1 t2w", "p3 t2w")]
    assert list(case_table(scan)["duplicates"]) == ["t2w as p3 t2w", "", "t2w as p1 t2w"]


def test_only_a_deep_scan_sees_the_same_voxels_in_another_file(tmp_path: Path) -> None:
    volume = brain_volumes()["t1n"]
    save(tmp_path / "p1" / "p1-t1n.nii.gz", volume)
    save(tmp_path / "p2" / "p2-t1n.nii", volume.astype(np.float32))
    assert scan_cohort(tmp_path).duplicates == []
    assert scan_cohort(tmp_path, deep=True).duplicates == [("p1 t1n", "p2 t1n")]


def test_the_command_writes_table_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_cohort(tmp_path / "in")
    (tmp_path / "in" / "<b>odd").mkdir()
    before = sorted(tmp_path.joinpath("in").rglob("*"))
    options = ["--csv", str(tmp_path / "out" / "scan.csv"), "--html", str(tmp_path / "out" / "scan.html")]
    assert main(["scan", str(tmp_path / "in"), *options]) == 0
    out, error = capsys.readouterr()
    assert error == "" and "4 cases in" in out and "only headers" in out and "t1c, t2w" in out
    table = pd.read_csv(tmp_path / "out" / "scan.csv", keep_default_na=False).set_index("case_id")
    assert list(table.loc["p1", list(MODALITIES)]) == ["available", "missing", "missing", "available"]
    assert "must hold NIfTI files" in table.loc["<b>odd", "problem"]
    page = (tmp_path / "out" / "scan.html").read_text()
    assert "<b>odd" not in page and "&lt;b&gt;odd" in page and "p3" in page
    assert '<td class="missing"><span>missing</span></td>' in page
    assert "://" not in page and "src=" not in page  # nothing is loaded from elsewhere
    assert sorted(tmp_path.joinpath("in").rglob("*")) == before


def test_odd_names_are_told_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names that are not Unicode, and such that would command a terminal."""
    write_case(tmp_path / "in", os.fsdecode(b"no\xffunicode"), ("t1n",))
    (tmp_path / "in" / "\x1b[31mred").mkdir()
    options = ["--csv", str(tmp_path / "scan.csv"), "--html", str(tmp_path / "scan.html")]
    assert main(["scan", str(tmp_path / "in"), *options]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"case \x1b[31mred: " in out
    assert b"no\xffunicode,available" in (tmp_path / "scan.csv").read_bytes()
    assert r"no\udcffunicode" in (tmp_path / "scan.html").read_text(encoding="utf8")


def test_cases_that_would_not_be_completed_are_not_counted_as_usable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_case(tmp_path, "p1", ("t1n", "t2f"))
    (write_case(tmp_path, "p2", ("t1n", "t2w")) / "p2-t2w.nii.gz").write_text("no image")
    assert main(["scan", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "t1c, t2w      1" in out and "t1c, t2w, t2f" not in out and "case p2: p2-t2w.nii.gz must be" in out


def test_a_cohort_without_a_usable_case_is_reported_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for case_id in ("p1", "p2"):
        (tmp_path / "in" / case_id).mkdir(parents=True)
    assert main(["scan", str(tmp_path / "in"), "--html", str(tmp_path / "scan.html")]) == 0
    out = capsys.readouterr().out
    assert out.count("got an empty folder") == 2 and "Empty DataFrame" not in out


def test_the_command_reports_what_cannot_be_read_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["scan", str(tmp_path / "nowhere")])
    assert caught.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    small_cohort(tmp_path / "in")
    (tmp_path / "file").write_text("")
    assert main(["scan", str(tmp_path / "in"), "--csv", str(tmp_path / "file" / "scan.csv")]) == 1
    assert "scan.csv (" in capsys.readouterr().err


def test_figures_change_sign_when_two_images_are_exchanged() -> None:
    volumes = brain_volumes((40, 44, 36))
    pair = ("t1n", "t2w")
    straight = case_from_arrays({m: volumes[m] for m in pair}, np.eye(4))
    crossed = case_from_arrays({"t1n": volumes["t2w"], "t2w": volumes["t1n"]}, np.eye(4))
    np.testing.assert_allclose(describe_pairs(straight)[pair], -describe_pairs(crossed)[pair], atol=1e-5)
    assert describe_pairs(straight)[pair].shape == (len(swaps.WEIGHTS[pair]),)


@pytest.mark.skipif(not DATA.is_dir(), reason="real cases not found; set MODFILL_DATA to their folder")
def test_exchanged_files_are_suspected_in_real_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sorted((DATA / "val").iterdir())[0]
    for case_id, exchange in (("intact", {}), ("crossed", {"t1c": "t2w", "t2w": "t1c"})):
        (tmp_path / case_id).mkdir()
        for modality in MODALITIES:
            file = folder / f"{folder.name}-{exchange.get(modality, modality)}.nii.gz"
            (tmp_path / case_id / f"{case_id}-{modality}.nii.gz").symlink_to(file.resolve())
    assert main(["scan", str(tmp_path), "--deep"]) == 0
    out = capsys.readouterr().out
    assert "case crossed: t1c and t2w" in out and "case intact" not in out and ACCURACY in out
    assert "intact t1n = " in out or "crossed t1n = intact t1n" in out
    assert main(["scan", str(tmp_path)]) == 0
    assert "exchanged (" not in capsys.readouterr().out  # without voxels nothing can be suspected


def test_a_deep_scan_goes_on_after_a_case_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("p1", "p2"):
        write_case(tmp_path, name, ("t1n", "t2w"))

    def judge(case: Case) -> None:
        if case.case_id == "p1":
            raise MemoryError

    monkeypatch.setattr("modfill.reports.scan.suspected_swap", judge)
    scan = scan_cohort(tmp_path, deep=True)
    assert "out of memory" in str(one(scan, "p1").problem) and one(scan, "p2").problem is None


def test_advice_is_given_for_each_missing_set_and_none_is_claimed_within_an_error(tmp_path: Path) -> None:
    for number, missing in enumerate((("t2f",), ("t1c",), ("t2f",), ())):
        write_case(tmp_path, f"p{number}", [m for m in MODALITIES if m not in missing])
    text = as_text(scan_cohort(tmp_path))
    [headline] = [line for line in text.splitlines() if line.startswith("To segment with modfill")]
    rows = text.split(headline)[1].split("\n\n")[0].split("\n")[2:]
    assert len({row.split()[0] for row in rows}) == 2, "each set once a training, the complete case not at all"
    sets = [missing for count in (1, 2, 3) for missing in combinations(MODALITIES, count)]
    told = advice(sets)
    assert set(told.missing) == {", ".join(missing) for missing in sets}
    for words, figures in zip(told.advice, told["Dice with modfill"], strict=True):
        gain, error = map(float, figures.split(" ± "))
        if abs(abs(gain) - error) > 0.011:  # rounded
            assert words == (
                "no difference" if abs(gain) < error else "fill with modfill" if gain > 0 else "leave empty"
            )
