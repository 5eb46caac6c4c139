"""Every file of a case is explained, or named: no modality is synthesised beside an acquired one of another name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modfill.cases.finding import IGNORE_UNEXPLAINED, find_cases, find_cohort
from modfill.errors import CaseError
from modfill.reports.scan import scan_cohort
from modfill.reports.scan_page import as_text
from tests.test_finding import touch

T1_T2_FLAIR = ("t1n", "t2w", "t2f")


def found(folder: Path) -> dict[str, tuple[str, ...]]:
    """Modalities by case id of the cases without a problem."""
    return {case.case_id: tuple(case.paths) for case in find_cases(folder) if not case.problem}


@pytest.mark.parametrize(
    "name",
    ["CT1", "T1KM", "T1+C", "t1ce (1)", "post_T1", "T1_Dotarem", "T1 Gd", "T1_MDC", "T1-con-contraste", "T1wCE",
     "p1_POST", "T1_post_gad", "gd_T1"],
)  # fmt: skip
def test_other_words_for_contrast_agent_are_a_t1c(tmp_path: Path, name: str) -> None:
    folder = touch(tmp_path / "p1", f"{name}.nii.gz", "T1.nii.gz", "T2.nii.gz", "FLAIR.nii.gz")
    assert found(folder) == {"p1": ("t1n", "t1c", "t2w", "t2f")}


@pytest.mark.parametrize("name", ["PRE", "pre_T1", "T1_pre_contrast", "T1_ohne_KM", "T1_nativ"])
def test_words_for_no_contrast_agent_are_a_native_t1(tmp_path: Path, name: str) -> None:
    assert found(touch(tmp_path / "p1", f"{name}.nii.gz", "T2.nii.gz")) == {"p1": ("t1n", "t2w")}


def test_post_after_another_modality_is_no_t1c(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="may be t2w"):
        find_cases(touch(tmp_path / "p1", "p1_t1.nii.gz", "p1_t2_post.nii.gz"))


def test_time_points_called_t1_and_t2_are_two_cases(tmp_path: Path) -> None:
    for point in ("T1", "T2"):
        touch(tmp_path / "P1" / point, *(f"P1_{point}_{name}.nii.gz" for name in ("T1", "T2", "FLAIR")))
    assert found(tmp_path / "P1") == {"P1_T1": T1_T2_FLAIR, "P1_T2": T1_T2_FLAIR}


def test_numbers_of_series_are_no_ids(tmp_path: Path) -> None:
    folder = touch(tmp_path / "p1", "5_T1.nii.gz", "7_T2.nii.gz", "9_FLAIR.nii.gz", "12_T1_POST.nii.gz")
    assert found(folder) == {"p1": ("t1n", "t1c", "t2w", "t2f")}


def test_numbered_patients_in_a_flat_folder_stay_patients(tmp_path: Path) -> None:
    folder = touch(tmp_path / "flat", *(f"{n}_{m}.nii.gz" for n in (1, 2) for m in ("T1", "T2")))
    assert found(folder) == {"1": ("t1n", "t2w"), "2": ("t1n", "t2w")}


def test_parts_of_one_case_under_several_ids_are_a_problem(tmp_path: Path) -> None:
    touch(tmp_path / "p1", "p1_t1.nii", "rp1_t2.nii", "rp1_flair.nii")
    touch(tmp_path / "p2", "p2_t1.nii")
    problems = {case.case_id: case.problem for case in find_cases(tmp_path)}
    assert problems.pop("p2") is None
    assert all(problem and "p1 and rp1" in problem for problem in problems.values()) and len(problems) == 2


def test_a_folder_for_each_sequence_is_one_case(tmp_path: Path) -> None:
    for sequence in ("T1w", "T1wCE", "T2w", "FLAIR"):
        touch(tmp_path / "cohort" / "00000" / sequence, f"{sequence}.nii.gz")
    assert found(tmp_path / "cohort") == found(tmp_path / "cohort" / "00000") == {"00000": ("t1n", "t1c", "t2w", "t2f")}


def test_a_folder_named_like_a_file_stands_for_the_file_in_it(tmp_path: Path) -> None:
    folder = touch(tmp_path / "B_1", "B_1_t1.nii.gz", "B_1_t2.nii.gz")
    touch(folder / "B_1_flair.nii", "00000377_brain_flair.nii")
    assert found(folder) == {"B_1": T1_T2_FLAIR}
    touch(folder / "B_1_flair.nii", "another.nii")
    with pytest.raises(CaseError, match="B_1_flair.nii"):
        find_cases(folder)


@pytest.mark.parametrize("name", ["p1_t1ce.mha", "p1_t2.img", "x.nrrd", "scan.mgz", "IM1.dcm", "p1_second.nii.gz"])
def test_an_unexplained_image_is_a_problem_of_a_case_that_lacks_a_modality(tmp_path: Path, name: str) -> None:
    folder = touch(tmp_path / "p1", "p1_t1.nii.gz", "p1_flair.nii.gz", name)
    with pytest.raises(CaseError) as refused:
        find_cases(folder)
    assert name in str(refused.value) and "ignore_unexplained=True" in str(refused.value)
    (case,) = find_cases(folder, ignore_unexplained=True)
    assert case.problem is None and case.overrides == (IGNORE_UNEXPLAINED,)
    touch(folder, "p1_t1ce.nii.gz", "p1_t2.nii.gz")
    (case,) = find_cases(folder)  # nothing will be synthesised
    assert case.problem is None and case.overrides == ()


def test_a_folder_with_images_in_a_case_is_unexplained(tmp_path: Path) -> None:
    folder = touch(tmp_path / "p1", "p1_t1.nii.gz")
    touch(folder / "dicom" / "series", "IM0001.dcm")
    with pytest.raises(CaseError, match="got dicom beside"):
        find_cases(folder)


def test_ordinary_files_beside_a_case_raise_no_alarm(tmp_path: Path) -> None:
    names = ("p1_seg.nii.gz", "W39_Segm.nii", "p1-t1n-voided.nii.gz", "p1_ADC.nii.gz", "p1_T1_bias.nii.gz", "notes.txt",
             "p1.json", "brain_mask.nii.gz", "reg.mat", "p1-t1c-uncertainty.nii.gz")  # fmt: skip
    folder = touch(tmp_path / "p1", "p1_t1.nii.gz", *names)
    touch(folder / "logs", "run.log")
    (case,) = find_cases(folder)
    assert case.problem is None and set(case.others) == {*names, "logs"}


def test_case_folders_win_over_a_stray_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "sri24_T1.nii.gz")
    for name in ("case1", "case2", "case3"):
        touch(tmp_path / name, f"{name}_t1.nii.gz", f"{name}_flair.nii.gz")
    cohort = find_cohort(tmp_path)
    assert [case.case_id for case in cohort.cases] == ["case1", "case2", "case3"]
    assert cohort.left_alone == {"sri24_T1.nii.gz": "unexplained"}
    assert "sri24_T1.nii.gz belong to no case" in caplog.text


def test_no_folder_with_images_vanishes(tmp_path: Path) -> None:
    touch(tmp_path / "p1", "p1_t1.nii.gz")
    touch(tmp_path / "p2", "p2_t1.mha")
    touch(tmp_path / "p3" / "dicom", "IM0001.dcm")
    touch(tmp_path / "p4" / "ses1", "t1.nii.gz")
    touch(tmp_path / "figures", "plot.png")
    cohort = find_cohort(tmp_path)
    assert [case.case_id for case in cohort.cases if case.problem] == ["p2", "p3", "p4"]
    assert cohort.left_alone == {"figures": "folder without images"}


def test_a_link_to_a_folder_above_is_no_case(tmp_path: Path) -> None:
    touch(tmp_path / "p1", "p1_t1.nii.gz")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "p1" / "up").symlink_to(tmp_path)
    cohort = find_cohort(tmp_path)
    assert [(case.case_id, case.problem) for case in cohort.cases] == [("p1", None)]
    assert cohort.left_alone == {"round": "link to a folder above"} == {"round": cohort.cases[0].others["up"]}


def test_outputs_inside_the_cohort_are_no_case(tmp_path: Path) -> None:
    touch(tmp_path / "p1", "p1_t1.nii.gz")
    touch(tmp_path / "completed" / "p1", "p1-t1c.nii.gz")
    (tmp_path / "completed" / "cohort.csv").write_text("case,status,targets,seconds,expected_psnr,sha256,reason\n")
    cohort = find_cohort(tmp_path)
    assert [(case.case_id, case.problem) for case in cohort.cases] == [("p1", None)]
    assert cohort.left_alone == {"completed": "output of modfill"}


def test_bids_from_any_level(tmp_path: Path) -> None:
    anat = touch(tmp_path / "sub-01" / "ses-a" / "anat", *(f"sub-01_ses-a_{s}.nii.gz" for s in ("T1w", "T2w")))
    levels = (tmp_path, tmp_path / "sub-01", tmp_path / "sub-01" / "ses-a", anat)
    assert [found(level) for level in levels] == [{"sub-01_ses-a": ("t1n", "t2w")}] * 4


def test_bids_entities(tmp_path: Path) -> None:
    names = ("acq-postop_T1w", "ce-none_T2w", "part-phase_T2w", "ce-Dotarem_T1w")
    anat = touch(tmp_path / "sub-01" / "anat", *(f"sub-01_{name}.nii.gz" for name in names))
    assert found(tmp_path) == {"sub-01": ("t1n", "t1c", "t2w")}
    touch(anat, "sub-01_ce-none_T1w.nii.gz")
    with pytest.raises(CaseError, match="t1n must be one file"):
        find_cases(tmp_path)


@pytest.mark.parametrize("name", ["acq-T1ce_T1w", "acq-PostGad_T1w", "run-1_acq-gd_T1w"])
def test_a_bids_t1_that_seems_enhanced_is_a_problem(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "sub-01" / "anat", f"sub-01_{name}.nii.gz", "sub-01_T2w.nii.gz")
    with pytest.raises(CaseError, match="must have the entity ce"):
        find_cases(tmp_path)


def test_two_runs_and_two_echoes_are_a_problem(tmp_path: Path) -> None:
    for entity in ("run", "echo"):
        touch(tmp_path / entity / "sub-01" / "anat", *(f"sub-01_{entity}-{n}_T2w.nii.gz" for n in (1, 2)))
        with pytest.raises(CaseError, match="t2w must be one file"):
            find_cases(tmp_path / entity)


def test_a_scan_lists_what_it_left_alone(tmp_path: Path) -> None:
    touch(tmp_path, "atlas_T1.nii.gz")
    for name in ("p1", "p2"):
        touch(tmp_path / name, f"{name}_t1.nii.gz", f"{name}_seg.nii.gz")
    scan = scan_cohort(tmp_path)
    assert scan.left_alone == {"atlas_T1.nii.gz": "unexplained"}
    assert scan.cases[0].files == {"p1_t1.nii.gz": "t1n", "p1_seg.nii.gz": "segmentation"}
    text = as_text(scan)
    assert "p1: p1_t1.nii.gz (t1n), p1_seg.nii.gz (segmentation)" in text
    assert "atlas_T1.nii.gz: unexplained" in text and "case p1: p1_seg.nii.gz: segmentation" in text


@pytest.mark.parametrize("name", ["a_0001.mha", "a_0001.nii", "a_0001.nrrd"])
def test_a_channel_in_another_format_is_not_synthesised(tmp_path: Path, name: str) -> None:
    images = touch(tmp_path / "imagesTr", "a_0000.nii.gz", "b_0000.nii.gz", name, "a_0000.json")
    channels = {str(n): m for n, m in enumerate(("T1", "T1ce", "T2", "FLAIR"))}
    description = {"channel_names": channels, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    problems = {case.case_id: case.problem for case in find_cases(tmp_path)}
    assert problems["b"] is None and name in str(problems["a"])
    touch(images, "c_0000.mha")
    assert "must end in .nii.gz" in str({case.case_id: case.problem for case in find_cases(tmp_path)}["c_0000.mha"])
