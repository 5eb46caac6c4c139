"""Finding cases in folders by the names of their files; nothing is read."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from modfill.errors import CaseError
from modfill.modalities import MODALITIES, is_segmentation, nifti_stem, split_name

__all__ = ["CaseFiles", "find_cases"]

_MUST = "must hold NIfTI files named after their modality, e.g. <case>-t1c.nii.gz"


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case, not read yet.

    Attributes:
        case_id: Name of the case.
        paths: File by modality, in the order of ``MODALITIES``.
        problem: One line that says why the case cannot be used, or None.
    """

    case_id: str
    paths: dict[str, Path]
    problem: str | None = None


def find_cases(path: Path | str) -> list[CaseFiles]:
    """Find the cases in a folder.

    The folder may be one case, a flat folder with files of several cases (grouped by what stands before the
    modality), or a cohort with such folders in it, one level down. NIfTI files named after a modality directly
    in ``path`` win: its sub-folders are then left alone. The case id is what stands before the modality in the
    file names, or the folder's name for bare names such as ``t1c.nii.gz``.

    Segmentations, hidden files (``.x``) and other NIfTI files are ignored, with one exception: a file such as
    ``p1_t1c_registered.nii.gz`` in a case without t1c is a problem, because the modality seems to be there.
    Sub-folders without NIfTI files are skipped, unless they are empty.

    Args:
        path: Folder to look into.

    Returns:
        The cases, sorted by id. In a cohort, a case that cannot be used has its ``problem`` set and does not
        keep the others back.

    Raises:
        CaseError: If there is no such folder, nothing is found, or the only case has a problem.
    """
    path = Path(path)
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing there"
        raise CaseError(f"{path} must be a folder with NIfTI files, got {found}; give a case or cohort folder")
    cases = _cases_in(path)
    if not cases:
        cases = [case for folder in _visible(path) if folder.is_dir() for case in _cases_of_cohort_folder(folder)]
    if not cases:
        got = next((f"others such as {file.name}" for file in _nifti_files(path)), "none")
        raise CaseError(f"{path} {_MUST}, got {got}; add or rename files, or give the folder right above the cases")
    cases = sorted(_refuse_shared_ids(cases), key=lambda case: case.case_id)
    if len(cases) == 1 and cases[0].problem:
        raise CaseError(cases[0].problem)
    return cases


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise CaseError(f"{folder} must be readable, got {error.strerror}; check its permissions") from error


def _nifti_files(folder: Path) -> Iterator[Path]:
    # A dangling link counts as a file: its modality is there for the user, and must not be synthesised quietly.
    return (file for file in _visible(folder) if nifti_stem(file.name) is not None and not file.is_dir())


def _folder_name(folder: Path) -> str:
    return os.path.basename(os.path.abspath(folder))  # "." has no name of its own


def _cases_of_cohort_folder(folder: Path) -> list[CaseFiles]:
    """Cases in a sub-folder of a cohort: as ``_cases_in``, but a folder that should hold a case is not lost."""
    try:
        cases = _cases_in(folder)
    except CaseError as error:
        return [CaseFiles(folder.name, {}, f"case {folder.name}: {error}")]
    if cases:
        return cases
    stray = next((file.name for file in _nifti_files(folder) if not is_segmentation(file.name)), None)
    if stray is None and any(folder.iterdir()):
        return []
    got = "an empty folder" if stray is None else stray
    problem = f"case {folder.name}: {folder} {_MUST}, got {got}; add or rename files"
    return [CaseFiles(folder.name, {}, problem)]


def _cases_in(folder: Path) -> list[CaseFiles]:
    """Cases of the files directly in a folder, grouped by case id."""
    named: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    others: list[Path] = []
    for file in _nifti_files(folder):
        split = _split(file.name, _folder_name(folder))
        if split is not None:
            named[split[0]][split[1]].append(file)
        elif not is_segmentation(file.name):
            others.append(file)
    alone = len(named) == 1
    return [
        _case_files(case_id, files, [file for file in others if alone or file.name.startswith(case_id)])
        for case_id, files in named.items()
    ]


def _split(filename: str, folder_name: str) -> tuple[str, str] | None:
    """Split a file name; the folder's name decides where the id ends in ``visit_t2/visit_t2_flair.nii.gz``."""
    if filename.startswith(folder_name):
        rest = split_name(filename[len(folder_name) :].lstrip("-_"))
        if rest is not None and rest[0] == "":
            return folder_name, rest[1]
    split = split_name(filename)
    return split and (split[0] or folder_name, split[1])


def _case_files(case_id: str, files: dict[str, list[Path]], others: list[Path]) -> CaseFiles:
    paths = {modality: files[modality][0] for modality in MODALITIES if modality in files}
    problem = None
    for modality in paths:
        if len(files[modality]) > 1:
            names = " and ".join(file.name for file in files[modality])
            problem = f"case {case_id}: {modality} must be one file, got {names}; rename or move all but one"
    for file in others:
        inside = _modality_inside(file.name.removeprefix(case_id))
        if problem is None and inside is not None and inside not in paths:
            problem = (
                f"case {case_id}: {file.name} must end in its modality, got what may be {inside}; "
                f"rename it to {case_id}-{inside}.nii.gz if it is, or move it away"
            )
    return CaseFiles(case_id, paths, problem)


def _modality_inside(filename: str) -> str | None:
    """The modality that a name holds before other words, as ``p1_t1c_registered.nii.gz`` does."""
    words = (nifti_stem(filename) or "").replace("-", "_").split("_")
    for count in range(len(words) - 1, 0, -1):
        split = split_name("_".join(words[:count]) + ".nii")
        if split is not None:
            return split[1]
    return None


def _refuse_shared_ids(cases: list[CaseFiles]) -> list[CaseFiles]:
    """Give every case whose id another one has too a problem: their results would go to one place."""
    folders: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        folders[case.case_id] += [str(file.parent) for file in list(case.paths.values())[:1]]
    checked = []
    for case in cases:
        shared = folders[case.case_id]
        if len(shared) > 1 and case.problem is None:
            where = " and ".join(shared)
            problem = f"case {case.case_id}: its id must be unique, got it in {where}; rename the files of one"
            case = replace(case, problem=problem)
        checked.append(case)
    return checked
