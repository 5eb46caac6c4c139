"""Find cases on disk in every supported layout. No voxel is read."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from modfill.cases.accounting import UNEXPLAINED, unexplained_problem
from modfill.cases.filenames import split_name
from modfill.cases.files import CaseFiles, Cohort, folder_name, id_problem
from modfill.cases.layouts import bids, decathlon, folders, nnunet, table
from modfill.cases.layouts.dataset_json import described, is_foreign
from modfill.cases.marks import has_mark, read_sidecar, sidecar_path
from modfill.cases.nifti import Unusable, read_header
from modfill.errors import CaseError, ModfillError, printable
from modfill.modalities import ModalitySet

__all__ = ["IGNORE_UNEXPLAINED", "case_of_files", "find_case", "find_cases", "find_cohort"]


_LOG = logging.getLogger("modfill")

IGNORE_UNEXPLAINED = "ignore-unexplained"
"""The entry in a case's ``overrides`` for completion in spite of unexplained images."""


def find_cases(
    path: Path | str, *, modality_set: ModalitySet | str | Path | None = None, ignore_unexplained: bool = False
) -> list[CaseFiles]:
    """Find the cases in a folder or table; see ``find_cohort``."""
    return find_cohort(path, modality_set=modality_set, ignore_unexplained=ignore_unexplained).cases


def find_case(
    path: Path | str, *, modality_set: ModalitySet | str | Path | None = None, ignore_unexplained: bool = False
) -> CaseFiles:
    """Find the one case in a folder; see ``find_cohort``.

    Raises:
        CaseError: There is no case, or more than one.
    """
    found = find_cases(path, modality_set=modality_set, ignore_unexplained=ignore_unexplained)
    if len(found) != 1:
        raise CaseError(f"{path} must hold one case, got {len(found)}; give one case's folder")
    return found[0]


def case_of_files(
    files: Mapping[str, str | Path],
    *,
    case_id: str | None = None,
    modality_set: ModalitySet | str | Path | None = None,
) -> CaseFiles:
    """Make a case of files that are named one by one. They may lie in different folders.

    Args:
        files: By modality, or by any name of it such as ``flair``.
        case_id: Name of the case; None takes the part before the modality in all files' names, else the name of
            the folder in which the first one lies.
        modality_set: A set, the name of a built-in one, or a TOML file; None is the BraTS set.

    Raises:
        CaseError: A key is no modality's or one modality is named twice, there is no file, or a file is not there.
    """
    known = ModalitySet.of(modality_set)
    paths = {modality: Path(path) for modality, path in known.by_modality(files, "a file's modality").items()}
    if not paths:
        raise CaseError(
            "a case must have at least one file, got none; name one by its modality, e.g. "
            f"{known.modalities[0].short.lower()}='a.nii.gz'"
        )
    for modality, path in paths.items():
        if not path.exists():
            raise CaseError(f"{path} must be the file of {modality}, got nothing there; correct the path")
        split = split_name(path.name, known)
        if split is not None and split[1] != modality:
            _LOG.warning("%s is used as %s, but its name is that of %s", path, modality, split[1])
    named = {split[0] if (split := split_name(path.name, known)) else "" for path in paths.values()}
    common = named.pop() if len(named) == 1 else ""
    case_id = case_id or common or folder_name(next(iter(paths.values())).parent) or "case"
    ordered = {modality: paths[modality] for modality in known.in_order(paths)}
    return CaseFiles(case_id, ordered, problem=id_problem(case_id), modality_set=known)


def find_cohort(
    path: Path | str,
    *,
    modality_set: ModalitySet | str | Path | None = None,
    ignore_unexplained: bool = False,
    channels: Sequence[str] | None = None,
) -> Cohort:
    """Find the cases in a folder or table, and their layout.

    Supported layouts, in the order in which they are tried:

    * a table (``.csv``, ``.tsv``) that lists files: ``layouts.table``;
    * a folder with a ``dataset.json``, of nnU-Net (or its imagesTr or imagesTs) or of the Medical Segmentation
      Decathlon: ``layouts.nnunet``, ``layouts.decathlon``; others, e.g. MONAI's datalists, are passed over with a
      logged warning;
    * a BIDS dataset, or one subject of it: ``layouts.bids``;
    * a case folder, a folder of case folders or a flat folder, by BraTS names: ``layouts.folders``.

    Args:
        path: Folder or table.
        modality_set: A set, the name of a built-in one, or a TOML file; None is the BraTS set.
        ignore_unexplained: Complete a case that lacks a modality although it holds images with unknown names,
            instead of giving it a problem; recorded in its ``overrides``.
        channels: Modalities in the order of an nnU-Net dataset's channels, instead of the names in its dataset.json.

    Returns:
        The cohort, its cases sorted by id. If there are several cases, one that cannot be used has its ``problem`` set
        and does not stop the others. Output of modfill that lies beside the case that it was made from is not a case;
        it is listed in ``left_alone``.

    Raises:
        SettingsError: If there is no such set of modalities.
        CaseError: If there is no such folder, nothing is found, or the only case has a problem.
        ModfillError: If a dataset.json or table cannot be read, or is ambiguous about the modalities; if
            `channels` are given for another layout than nnU-Net's.
    """
    path, known = Path(path), ModalitySet.of(modality_set)
    if table.is_table(path):
        cohort = table.find(path, known)
    elif not os.path.isdir(path):  # also False for a name that is too long
        found = "a file" if os.path.exists(path) else "nothing there"
        raise CaseError(
            f"{path} must be a folder with NIfTI files, or a .csv or .tsv, got {found}; give a case, cohort or table"
        )
    elif _is_described(path):
        cohort = decathlon.find(path, known) if decathlon.is_decathlon(path) else nnunet.find(path, known, channels)
    else:
        cohort = bids.find(path, known) if bids.is_bids(path, known) else folders.find(path, known)
    if channels is not None and cohort.layout != "nnunet":
        raise ModfillError(f"{path} must be an nnU-Net dataset to have channels, got {cohort.layout}; leave them out")
    cases = [replace(case, modality_set=known) for case in cohort.cases]
    cohort = _without_own_output(replace(cohort, cases=cases, modality_set=known))
    stray = sorted(name for name, kind in cohort.left_alone.items() if kind == UNEXPLAINED)
    if stray:
        _LOG.warning("%s: %s belong to no case and are left alone", path, " and ".join(map(printable, stray)))
    explained = [_refuse_unexplained(case, ignore_unexplained) for case in cohort.cases]
    cases = [_refuse_odd_id(case) for case in _refuse_shared_ids(explained)]
    cases.sort(key=lambda case: case.case_id)
    if len(cases) == 1 and cases[0].problem:
        raise CaseError(cases[0].problem)
    return replace(cohort, cases=cases)


def _is_described(path: Path) -> bool:
    """Return whether a dataset.json determines the layout of a folder."""
    root = described(path)
    if root is not None and is_foreign(root):
        _LOG.warning("%s is not nnU-Net's or the Decathlon's, and is ignored", root / "dataset.json")
        return False
    return root is not None


def _without_own_output(cohort: Cohort) -> Cohort:
    """Leave out outputs of an earlier run beside the cases: synthetic images, and links to a case of the same id.

    That case must have images of its own. Anything else of the same id is refused later.
    """
    same: dict[str, list[CaseFiles]] = defaultdict(list)
    for case in cohort.cases:
        same[case.case_id].append(case)
    left_alone = dict(cohort.left_alone)
    cases = []
    for case in cohort.cases:
        others = [other for other in same[case.case_id] if other is not case]
        if case.paths and others and _is_output_of(case, others):
            left_alone[next(iter(case.paths.values())).parent.name] = "output of modfill"
        else:
            cases.append(case)
    return replace(cohort, cases=cases, left_alone=left_alone)


def _is_output_of(case: CaseFiles, others: list[CaseFiles]) -> bool:
    theirs = {os.path.realpath(path) for other in others for path in other.paths.values() if not _is_synthetic(path)}
    return bool(theirs) and all(
        _is_synthetic(path) or (path.is_symlink() and os.path.realpath(path) in theirs) for path in case.paths.values()
    )


def _is_synthetic(path: Path) -> bool:
    """Return whether both a file's header and its sidecar mark it as made by modfill."""
    try:
        return read_sidecar(sidecar_path(path)) is not None and has_mark(read_header(path))
    except Unusable:
        return False


def _refuse_unexplained(case: CaseFiles, ignore: bool) -> CaseFiles:
    """Give a case a problem if it lacks a modality and holds an unexplained image, or record that this is ignored."""
    names = [name for name, kind in case.others.items() if kind == UNEXPLAINED]
    missing = case.modality_set.without(case.paths)
    if not names or not missing or case.problem or not case.paths:
        return case
    if ignore:
        return replace(case, overrides=(*case.overrides, IGNORE_UNEXPLAINED))
    return replace(case, problem=unexplained_problem(case.case_id, names, missing))


def _refuse_shared_ids(cases: list[CaseFiles]) -> list[CaseFiles]:
    """Give cases with the same id a problem: their outputs would have the same names."""
    places: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        places[case.case_id] += [str(file.parent) for file in list(case.paths.values())[:1]]
    checked = []
    for case in cases:
        shared = places[case.case_id]
        if len(shared) > 1 and case.problem is None:
            where = " and ".join(shared)
            problem = f"case {case.case_id}: its id must be unique, got it in {where}; rename one"
            case = replace(case, problem=problem)
        checked.append(case)
    return checked


def _refuse_odd_id(case: CaseFiles) -> CaseFiles:
    """Give a case whose id is not a plain name a problem: its outputs would go to another folder."""
    return case if case.problem else replace(case, problem=id_problem(case.case_id))
