"""Case folders and flat files under BraTS names: the end of a file's name says its modality."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from modfill.errors import CaseError
from modfill.layouts.dataset_json import channel_number
from modfill.layouts.files import CaseFiles, Cohort, case_of_candidates, folder_name, nifti_files, visible
from modfill.modalities import is_contrast_word, is_segmentation, nifti_stem, split_name

__all__ = ["find"]

_MUST = "must hold NIfTI files named after their modality, e.g. <case>-t1c.nii.gz"
_GRADES = ("HGG", "LGG")  # BraTS 2013 to 2019 put high-grade and low-grade cases into folders of their own


def find(path: Path) -> Cohort:
    """Find the cases in a folder by the names of the files.

    The folder may be one case, a flat folder with files of several cases (grouped by what stands before the
    modality), or a cohort with such folders in it, one level down, or two within ``HGG`` and ``LGG``. NIfTI files
    named after a modality directly in ``path`` win: its sub-folders are then left alone. The case id is what stands
    before the modality in the file names, or the folder's name for bare names such as ``t1c.nii.gz``.

    Segmentations, hidden files (``.x``) and other NIfTI files are ignored, with one exception: a file such as
    ``p1_t1c_registered.nii.gz`` in a case without t1c is a problem, because the modality seems to be there.
    Sub-folders without NIfTI files are skipped, unless they are empty.

    Args:
        path: Folder to look into.

    Raises:
        CaseError: If nothing is found.
    """
    cases = _cases_in(path)
    if not cases:
        cases = [case for folder in _case_folders(path) for case in _cases_of_cohort_folder(folder)]
    if not cases:
        other = next(nifti_files(path), None)
        if other is not None and channel_number(other) is not None:
            raise CaseError(
                f"{path} must have a dataset.json whose channel_names say what the channels are, got only files such "
                f"as {other.name}; add it there or one folder up: the order is never guessed"
            )
        got = "none" if other is None else f"others such as {other.name}"
        raise CaseError(f"{path} {_MUST}, got {got}; add or rename files, or give the folder right above the cases")
    return Cohort("folders", cases)


def _case_folders(path: Path) -> Iterator[Path]:
    """The folders in a cohort's folder, and those in its folders of one tumour grade."""
    for folder in (entry for entry in visible(path) if entry.is_dir()):
        if folder.name in _GRADES:
            yield from (entry for entry in visible(folder) if entry.is_dir())
        else:
            yield folder


def _cases_of_cohort_folder(folder: Path) -> list[CaseFiles]:
    """Cases in a sub-folder of a cohort: as ``_cases_in``, but a folder that should hold a case is not lost."""
    try:
        cases = _cases_in(folder)
    except CaseError as error:
        return [CaseFiles(folder.name, {}, f"case {folder.name}: {error}")]
    if cases:
        return cases
    stray = next((file.name for file in nifti_files(folder) if not is_segmentation(file.name)), None)
    if stray is None and any(folder.iterdir()):
        return []
    got = "an empty folder" if stray is None else stray
    problem = f"case {folder.name}: {folder} {_MUST}, got {got}; add or rename files"
    return [CaseFiles(folder.name, {}, problem)]


def _cases_in(folder: Path) -> list[CaseFiles]:
    """Cases of the files directly in a folder, grouped by case id."""
    named: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    others: list[Path] = []
    for file in nifti_files(folder):
        split = _split(file.name, folder_name(folder))
        if split is not None:
            named[split[0]][split[1]].append(file)
        elif not is_segmentation(file.name):
            others.append(file)
    alone = len(named) == 1
    return [
        _case_files(case_id, files, [file for file in others if alone or file.name.startswith(case_id)])
        for case_id, files in named.items()
    ]


def _split(filename: str, name: str) -> tuple[str, str] | None:
    """Split a file name; the folder's name decides where the id ends in ``visit_t2/visit_t2_flair.nii.gz``."""
    if filename.startswith(name):
        rest = split_name(filename[len(name) :].lstrip("-_"))
        if rest is not None and rest[0] == "":
            return name, rest[1]
    split = split_name(filename)
    return split and (split[0] or name, split[1])


def _case_files(case_id: str, files: dict[str, list[Path]], others: list[Path]) -> CaseFiles:
    case = case_of_candidates(case_id, files, "rename or move all but one")
    last = case_id.replace("-", "_").rpartition("_")[2]
    if list(case.paths) == ["t1n"] and last != case_id and is_contrast_word(last):
        problem = (
            f"case {case_id}: {case.paths['t1n'].name} must say whether it is T1 or T1 with contrast agent, got "
            f"'{last}' before its modality; rename it to end in t1c or t1n"
        )
        return replace(case, problem=problem)
    for file in others:
        inside = _modality_inside(file.name.removeprefix(case_id))
        if case.problem is None and inside is not None and inside not in case.paths:
            problem = (
                f"case {case_id}: {file.name} must end in its modality, got what may be {inside}; "
                f"rename it to {case_id}-{inside}.nii.gz if it is, or move it away"
            )
            case = replace(case, problem=problem)
    return case


def _modality_inside(filename: str) -> str | None:
    """The modality that a name holds before other words, as ``p1_t1c_registered.nii.gz`` does."""
    words = (nifti_stem(filename) or "").replace("-", "_").split("_")
    for count in range(len(words) - 1, 0, -1):
        split = split_name("_".join(words[:count]) + ".nii")
        if split is not None:
            return split[1]
    return None
