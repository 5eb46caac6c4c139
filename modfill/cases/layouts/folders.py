"""Case folders and flat files under BraTS names: a file's name ends in its modality."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from modfill.cases.accounting import (
    UNEXPLAINED,
    account,
    holds_images,
    image_inside,
    is_own_output,
    is_uncertainty_map,
    leads_up,
)
from modfill.cases.filenames import is_contrast_word, is_segmentation, nifti_stem, possible_splits, split_name
from modfill.cases.files import CaseFiles, Cohort, case_of_candidates, folder_name, nifti_files, visible
from modfill.cases.layouts.dataset_json import channel_number
from modfill.cases.nifti import Unusable, read_header
from modfill.errors import CaseError
from modfill.modalities import ModalitySet

__all__ = ["find"]

_MUST = "must hold NIfTI files named after their modality, e.g. <case>-{}.nii.gz"
_GRADES = ("HGG", "LGG")  # BraTS 2013 to 2019 put high-grade and low-grade cases into folders of their own

_Named = dict[str, dict[str, list[Path]]]  # files by case id and modality


def find(path: Path, modality_set: ModalitySet) -> Cohort:
    """Find the cases in a folder by the names of the files.

    The folder may be one case, a flat folder with files of several cases (grouped by the part of the name before the
    modality), or a cohort with such folders in it, one level down, or two within ``HGG`` and ``LGG``. A case may also
    have a folder for each sequence. Where images lie both directly in ``path`` and in two or more case folders, the
    larger number of cases is the cohort, and the others are listed in ``left_alone``. The case id is the part before
    the modality in the file names, or the folder's name for bare names such as ``t1c.nii.gz``.

    Every other file and folder is accounted for: see ``CaseFiles.others`` and ``Cohort.left_alone``. A folder that
    holds images of any format but no case is a case with a problem.

    Args:
        path: Folder to look into.
        modality_set: The modalities to look for.

    Raises:
        CaseError: If nothing is found.
    """
    cases = _cases_in(path, modality_set)
    used = {entry for case in cases for entry in _entries_of(case, path)}
    folders = (
        [] if _by_sequence(path, modality_set) else [folder for folder in _case_folders(path) if folder not in used]
    )
    below = {folder: _cases_of_cohort_folder(folder, modality_set) for folder in folders}
    whole = [folder for folder, found in below.items() if any(case.paths for case in found)]
    if not cases or len(whole) > max(1, len(cases)):
        stray = [entry for entry in visible(path) if entry not in below and entry.name not in _GRADES]
        cases = [case for found in below.values() for case in found]
        left_alone = account([*stray, *(folder for folder, found in below.items() if not found)], modality_set)
        if cases:
            return Cohort("folders", cases, left_alone=left_alone)
        raise CaseError(_nothing_found(path, modality_set))
    rest = [e for e in visible(path) if not any(e.name in case.others or e in used for case in cases)]
    return Cohort("folders", cases, left_alone={} if len(cases) == 1 else account(rest, modality_set))


def _nothing_found(path: Path, modality_set: ModalitySet) -> str:
    must = _MUST.format(modality_set.names[0])
    other = next(nifti_files(path), None)
    if other is not None and channel_number(other) is not None:
        return (
            f"{path} must have a dataset.json whose channel_names give the modalities, got only files such "
            f"as {other.name}; add it there or one folder up: the order is never guessed"
        )
    got = "none" if other is None else f"others such as {other.name}"
    if other is None:
        foreign = sorted(name for name, kind in account(visible(path), modality_set).items() if kind == UNEXPLAINED)
        if foreign:
            got = f"images of other formats such as {foreign[0]}"
            return f"{path} {must}, got {got}; modfill prepare reads raw scans, DICOM or NIfTI"
    return f"{path} {must}, got {got}; add or rename files, or give the folder right above the cases"


def _entries_of(case: CaseFiles, folder: Path) -> Iterator[Path]:
    """The entries of a folder that hold a case's images: the files, or the folders in which they lie."""
    for file in case.paths.values():
        yield folder / file.relative_to(folder).parts[0]


def _case_folders(path: Path) -> Iterator[Path]:
    """The folders in a cohort's folder, and those in its folders of one tumour grade."""
    for folder in (entry for entry in visible(path) if entry.is_dir()):
        if folder.name in _GRADES:
            yield from (entry for entry in visible(folder) if entry.is_dir())
        else:
            yield folder


def _cases_of_cohort_folder(folder: Path, modality_set: ModalitySet) -> list[CaseFiles]:
    """Cases in a sub-folder of a cohort: as ``_cases_in``, but an unusable folder is a case with a problem."""
    if is_own_output(folder) or leads_up(folder):
        return []
    try:
        cases = _cases_in(folder, modality_set)
        entries = visible(folder)
    except CaseError as error:
        return [CaseFiles(folder.name, {}, f"case {folder.name}: {error}")]
    if cases:
        return cases
    others = account(entries, modality_set)
    stray = sorted(name for name, kind in others.items() if kind == UNEXPLAINED)
    if entries and not stray:
        return []
    got = "an empty folder" if not entries else " and ".join(stray[:3])
    must = _MUST.format(modality_set.names[0])
    problem = (
        f"case {folder.name}: {folder} {must}, got {got}; add or rename files, convert other formats to NIfTI, "
        "or give the folder right above the cases"
    )
    return [CaseFiles(folder.name, {}, problem, others=others)]


def _cases_in(folder: Path, modality_set: ModalitySet) -> list[CaseFiles]:
    """Cases of the files directly in a folder, grouped by case id, or the one case whose sequences have folders."""
    by_sequence = _by_sequence(folder, modality_set)
    if by_sequence:
        rest = [entry for entry in visible(folder) if not any(entry in f.parents for f in by_sequence.values())]
        others = account(rest, modality_set)
        candidates = {modality: [file] for modality, file in by_sequence.items()}
        return [replace(case_of_candidates(folder_name(folder), candidates, modality_set, ""), others=others)]
    images = dict(_images(folder))
    named, unnamed = _grouped(folder, images, modality_set)
    named = _one_id(folder_name(folder), named)
    used = {file for files in named.values() for candidates in files.values() for file in candidates}
    kinds = account((entry for entry in visible(folder) if images.get(entry.name) not in used), modality_set)
    alone = len(named) == 1
    cases = []
    for case_id, files in named.items():
        own = [file for file in unnamed if alone or file.name.startswith(case_id)]
        others = {name: kind for name, kind in kinds.items() if alone or name.startswith(case_id)}
        inside = {file.name: _modality_inside(file.name, case_id, modality_set) for file in own}
        others |= {name: f"version of {modality}" for name, modality in inside.items() if modality in files}
        cases.append(replace(_case_files(case_id, files, inside, modality_set), others=others))
    return _refuse_parts(folder, cases)


def _images(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and NIfTI file of each image in a folder. In place of a folder that is named like a file, the file in it."""
    for entry in visible(folder):
        if nifti_stem(entry.name) is None:
            continue
        file = image_inside(entry) if entry.is_dir() else entry
        if file is not None:
            yield entry.name, file


def _grouped(folder: Path, images: Mapping[str, Path], modality_set: ModalitySet) -> tuple[_Named, list[Path]]:
    """Files by case id and modality, and those whose name ends in no modality and is no segmentation's.

    Where a name can be split in several ways, the id that most files of the folder have is the right one:
    ``P1_T2_FLAIR`` beside ``P1_T2_T1`` is of ``P1_T2``, beside ``P1_T1`` of ``P1``.
    """
    name = folder_name(folder)
    splits = {file: _splits(file, name, modality_set) for file in images}
    votes = Counter(case_id for found in splits.values() for case_id, _ in found)
    named: _Named = defaultdict(lambda: defaultdict(list))
    others = []
    for file, found in splits.items():
        if found:
            case_id, modality = max(found, key=lambda split: votes[split[0]])  # the first, longest alias wins ties
            named[case_id][modality].append(images[file])
        elif not is_segmentation(file) and not is_uncertainty_map(file):
            others.append(images[file])
    return named, others


def _splits(filename: str, name: str, modality_set: ModalitySet) -> list[tuple[str, str]]:
    """Ways to split a file name; the folder's name decides where the id ends in ``visit_t2/visit_t2_flair.nii.gz``."""
    if filename.startswith(name):
        rest = split_name(filename[len(name) :].lstrip("-_+ "), modality_set)
        if rest is not None and rest[0] == "":
            return [(name, rest[1])]
    return [(case_id or name, modality) for case_id, modality in possible_splits(filename, modality_set)]


def _one_id(name: str, named: _Named) -> _Named:
    """Numbers of series before the modality (``5_T1``, ``7_T2``) are no ids: the case is called like its folder."""
    numbers = [case_id for case_id in named if case_id.isdecimal()]
    modalities = [modality for case_id in numbers for modality in named[case_id]]
    if len(numbers) < 2 or len(numbers) < len(named) or len(set(modalities)) < len(modalities):
        return named
    return {name: {modality: files for case_id in numbers for modality, files in named[case_id].items()}}


def _refuse_parts(folder: Path, cases: list[CaseFiles]) -> list[CaseFiles]:
    """Give cases a problem that may be parts of one: different ids, no modality twice, all on one grid."""
    modalities = [modality for case in cases for modality in case.paths]
    files = [file for case in cases for file in case.paths.values()]
    if len(cases) < 2 or len(set(modalities)) < len(modalities) or not _on_one_grid(files):
        return cases
    ids = " and ".join(case.case_id for case in cases)
    problem = (
        f"the files of {folder} must have one case id, got {ids} with no modality twice and all on one grid; "
        "give one case's files the same name before the modality, and each case a folder of its own"
    )
    return [replace(case, problem=case.problem or f"case {case.case_id}: {problem}") for case in cases]


def _on_one_grid(files: Sequence[Path]) -> bool:
    """Return whether all readable headers have the same grid."""
    grids = []
    for file in files:
        try:
            header = read_header(file)
        except Unusable:
            continue
        with np.errstate(all="ignore"):
            grids.append((header.get_data_shape()[:3], np.round(header.get_best_affine(), 2).tolist()))
    return all(grid == grids[0] for grid in grids)


def _by_sequence(folder: Path, modality_set: ModalitySet) -> dict[str, Path]:
    """The images of a case with a folder for each sequence, by modality; empty for anything else."""
    found: dict[str, Path] = {}
    try:
        entries = [entry for entry in visible(folder) if entry.is_dir()]
    except CaseError:
        return {}
    for entry in entries:
        modality, inside = modality_set.modality_of(entry.name), image_inside(entry)
        if modality is None or inside is None:
            if holds_images(entry) and modality is None and inside is not None:
                continue  # another sequence: accounted for
            if modality is not None:
                return {}  # several images: a time point called T1, or DICOM
            continue
        split = split_name(inside.name, modality_set)
        if modality in found or (split is not None and split[1] != modality):
            return {}
        found[modality] = inside
    return found if len(found) > 1 or (found and not any(nifti_files(folder))) else {}


def _case_files(
    case_id: str, files: dict[str, list[Path]], inside: Mapping[str, str | None], modality_set: ModalitySet
) -> CaseFiles:
    """The case of some files; `inside` has the names of others, and the modality within each."""
    case = case_of_candidates(case_id, files, modality_set, "rename or move all but one")
    if problem := _unclear_contrast(case, modality_set):
        return replace(case, problem=problem)
    for name, modality in inside.items():
        if case.problem is None and modality is not None and modality not in case.paths:
            problem = (
                f"case {case_id}: {name} must end in its modality, got what may be {modality}; "
                f"rename it to {case_id}-{modality}.nii.gz if it is, or move it away"
            )
            case = replace(case, problem=problem)
    return case


def _unclear_contrast(case: CaseFiles, modality_set: ModalitySet) -> str | None:
    """A word for contrast agent before the only modality of a case, as in ``p1_gd_scan_T1``."""
    only = next(iter(case.paths))
    enhanced, last = modality_set.enhanced_form(only), case.case_id.replace("-", "_").rpartition("_")[2]
    if len(case.paths) > 1 or enhanced is None or last == case.case_id or not is_contrast_word(last, modality_set):
        return None
    return (
        f"case {case.case_id}: {case.paths[only].name} must be named as {modality_set[only].short} without or with "
        f"contrast agent, got '{last}' before its modality; rename it to end in {enhanced} or {only}"
    )


def _modality_inside(filename: str, case_id: str, modality_set: ModalitySet) -> str | None:
    """The modality that a name holds between the case id and other words, as ``p1_t1c_registered.nii.gz`` does."""
    words = (nifti_stem(filename.removeprefix(case_id)) or "").replace("-", "_").split("_")
    for count in range(len(words) - 1, 0, -1):
        split = split_name("_".join(words[:count]) + ".nii", modality_set)
        if split is not None:
            return split[1]
    return None
