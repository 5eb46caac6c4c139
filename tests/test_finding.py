"""Cases found in folders by file names, and the names that are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modfill.cases.finding import find_cases
from modfill.errors import CaseError
from modfill.modalities import MODALITIES
from tests.case_files import STYLES


def touch(folder: Path, *names: str) -> Path:
    """Make empty files: finding looks at names alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def refusal(path: Path) -> str:
    """The message with which a folder is refused; always one line."""
    with pytest.raises(CaseError) as caught:
        find_cases(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def problem(path: Path, case_id: str) -> str:
    """The problem of one case of a cohort; always one line."""
    (found,) = [case.problem for case in find_cases(path) if case.case_id == case_id]
    assert found is not None and "\n" not in found
    return found


@pytest.mark.parametrize("style", sorted(STYLES))
def test_every_style_is_found_in_modality_order(tmp_path: Path, style: str) -> None:
    for case_id in ("p2", "p1"):
        for name in reversed(STYLES[style].values()):
            file = tmp_path / name.format(id=case_id)
            touch(file.parent, file.name)
    cases = find_cases(tmp_path)
    assert [case.case_id for case in cases] == ["p1", "p2"]
    assert all(tuple(case.paths) == MODALITIES and case.problem is None for case in cases)
    assert cases[0].paths["t2f"] == tmp_path / STYLES[style]["t2f"].format(id="p1")


def test_folders_by_tumour_grade_are_one_cohort(tmp_path: Path) -> None:
    """As BraTS 2017 to 2019 come; a case beside them is found too, and other folders that hold images are problems."""
    for folder in ("HGG/Brats18_A_1", "LGG/Brats18_B_1", "Brats18_C_1", "old/Brats18_A_1"):
        touch(tmp_path / folder, f"{Path(folder).name}_t1.nii.gz")
    touch(tmp_path / "HGG", "survival.csv")
    cases = find_cases(tmp_path)
    assert [case.case_id for case in cases if not case.problem] == [f"Brats18_{name}_1" for name in "ABC"]
    assert [case.case_id for case in cases if case.problem] == ["old"]
    assert [case.case_id for case in find_cases(tmp_path / "LGG")] == ["Brats18_B_1"]


def test_one_case_folder(tmp_path: Path) -> None:
    folder = touch(tmp_path / "case1", "patient7_t1.nii.gz", "patient7_flair.nii", "patient7_seg.nii.gz", "notes.json")
    (case,) = find_cases(folder)
    assert case.case_id == "patient7"
    assert tuple(case.paths) == ("t1n", "t2f")


def test_bare_names_take_the_folders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(touch(tmp_path / "p9", "t1c.nii.gz", "T2.nii.gz"))
    (case,) = find_cases(Path("."))
    assert (case.case_id, tuple(case.paths)) == ("p9", ("t1c", "t2w"))


def test_folder_name_decides_where_the_id_ends(tmp_path: Path) -> None:
    (case,) = find_cases(touch(tmp_path / "visit_t2", "visit_t2_flair.nii.gz", "visit_t2_t1.nii.gz"))
    assert (case.case_id, tuple(case.paths)) == ("visit_t2", ("t1n", "t2f"))


def test_hidden_files_and_folders_without_images_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path / "p1", "p1-t1n.nii.gz", "._p1-t1c.nii.gz", ".tmp-t2w.nii.gz")
    touch(tmp_path / "logs", "run.json")
    touch(tmp_path / "segs", "p1-seg.nii.gz")
    touch(tmp_path / ".cache", "p2-t1n.nii.gz")
    (case,) = find_cases(tmp_path)
    assert tuple(case.paths) == ("t1n",)


def test_missing_path_and_file_are_refused(tmp_path: Path) -> None:
    assert "must be a folder" in refusal(tmp_path / "nowhere") and "nowhere" in refusal(tmp_path / "nowhere")
    file = touch(tmp_path, "p1-t1n.nii.gz") / "p1-t1n.nii.gz"
    assert "got a file" in refusal(file)


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    message = refusal(touch(tmp_path / "p1"))
    assert "p1" in message and "<case>-t1n.nii.gz" in message


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    message = refusal(touch(tmp_path / "p1", "scan.nii.gz"))
    assert "scan.nii.gz" in message and "rename" in message


@pytest.mark.parametrize("second", ["p1_t1ce.nii.gz", "p1-t1c.nii", "p1-T1C.nii.gz"])
def test_two_files_of_one_modality_are_refused(tmp_path: Path, second: str) -> None:
    message = refusal(touch(tmp_path / "p1", "p1-t1c.nii.gz", second))
    assert message.startswith("case p1: ") and "p1-t1c.nii.gz" in message and second in message


def test_other_images_are_ignored_unless_they_may_be_a_missing_modality(tmp_path: Path) -> None:
    folder = touch(tmp_path / "p1", "p1-t1n.nii.gz", "p1-swi.nii.gz", "p1-t1n-voided.nii.gz")
    assert tuple(find_cases(folder)[0].paths) == ("t1n",)
    message = refusal(touch(folder, "p1_t1_gd_registered.nii.gz"))
    assert message.startswith("case p1: p1_t1_gd_registered.nii.gz ") and "p1-t1c.nii.gz" in message


def test_a_bad_folder_does_not_keep_the_others_back(tmp_path: Path) -> None:
    touch(tmp_path / "good", "good-t1n.nii.gz")
    touch(tmp_path / "twice", "twice-t1n.nii.gz", "twice_t1.nii.gz")
    touch(tmp_path / "unknown", "scan.nii.gz")
    touch(tmp_path / "empty")
    assert [case.case_id for case in find_cases(tmp_path) if case.problem is None] == ["good"]
    assert "twice_t1.nii.gz" in problem(tmp_path, "twice")
    assert "scan.nii.gz" in problem(tmp_path, "unknown")
    assert "empty folder" in problem(tmp_path, "empty")


def test_an_unreadable_folder_does_not_keep_the_others_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "good", "good-t1n.nii.gz")
    locked = touch(tmp_path / "locked", "locked-t1n.nii.gz")
    iterdir = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:
        if folder == locked:
            raise PermissionError(13, "Permission denied")
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert [case.case_id for case in find_cases(tmp_path) if case.problem is None] == ["good"]
    assert "Permission denied" in problem(tmp_path, "locked")


def test_a_dangling_link_is_not_a_missing_modality(tmp_path: Path) -> None:
    folder = touch(tmp_path / "p1", "p1-t1n.nii.gz")
    (folder / "p1-t2w.nii.gz").symlink_to("nowhere")
    assert tuple(find_cases(folder)[0].paths) == ("t1n", "t2w")


@pytest.mark.parametrize("name", ["p1_T1contrast_t1", "sub-01_acq-postgad_T1w"])
def test_a_t1_after_a_word_for_contrast_is_a_problem(tmp_path: Path, name: str) -> None:
    """Not a second patient's native T1: the first one's T1ce would be synthesised beside the acquired one."""
    touch(tmp_path / "p1", "p1_t2.nii.gz", "p1_flair.nii.gz", f"{name}.nii.gz")
    touch(tmp_path / "p2_post", "p2_post_t1.nii.gz", "p2_post_t2.nii.gz")  # a second examination
    problems = {case.case_id: case.problem for case in find_cases(tmp_path)}
    assert problems.pop("p2_post") is None
    assert len(problems) == 2 and all(problems.values())


def test_shared_ids_are_a_problem(tmp_path: Path) -> None:
    touch(tmp_path / "a", "p1-t1n.nii.gz")
    touch(tmp_path / "b", "p1-t1n.nii.gz")
    cases = find_cases(tmp_path)
    assert len(cases) == 2
    for case in cases:
        assert case.problem is not None and str(tmp_path / "a") in case.problem and str(tmp_path / "b") in case.problem
