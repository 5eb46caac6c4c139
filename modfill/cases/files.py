"""Cases as files by modality, not read yet: the result of every layout."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modfill.cases.filenames import nifti_stem
from modfill.errors import CaseError
from modfill.modalities import BRATS, ModalitySet

__all__ = ["LONGEST_NAME", "CaseFiles", "Cohort", "case_of_candidates", "folder_name", "id_problem", "nifti_files",
           "visible"]  # fmt: skip

LONGEST_NAME = 255  # bytes: the limit of common file systems


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case, not read yet.

    Attributes:
        case_id: Name of the case.
        paths: File by modality, in the order of ``modality_set``.
        problem: The reason why the case cannot be used, in one line, or None.
        volume_index: Place along the fourth axis by modality, where one 4D file holds all modalities; else empty.
        label: Where the segmentation of a training case lies or should lie, in layouts with a dataset.json.
        others: Kind by name of every other file and folder of the case, as ``accounting.account`` gives it.
        overrides: Options by which the user ignored a problem of the files, e.g. ``ignore-unexplained``.
        modality_set: The modalities that the files were searched for.
    """

    case_id: str
    paths: dict[str, Path]
    problem: str | None = None
    volume_index: dict[str, int] = field(default_factory=dict)
    label: Path | None = None
    others: dict[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    modality_set: ModalitySet = BRATS


@dataclass(frozen=True)
class Cohort:
    """The cases of one folder or table, and their layout.

    Attributes:
        layout: ``folders``, ``nnunet``, ``decathlon``, ``bids`` or ``table``.
        cases: Sorted by id.
        dataset: Content of dataset.json; empty where the layout has none.
        channels: Modalities in the order of dataset.json; empty where the layout has none.
        left_alone: Kind by name of every file and folder that belongs to no case.
        modality_set: The modalities that the files were searched for.
    """

    layout: str
    cases: list[CaseFiles]
    dataset: Mapping[str, Any] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    left_alone: dict[str, str] = field(default_factory=dict)
    modality_set: ModalitySet = BRATS


def visible(folder: Path) -> list[Path]:
    """List what is in a folder and not hidden, sorted. Raises CaseError if it cannot be read."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise CaseError(f"{folder} must be readable, got {error.strerror}; check its permissions") from error


def nifti_files(folder: Path) -> Iterator[Path]:
    """The NIfTI files directly in a folder, sorted. Raises CaseError if it cannot be read."""
    # A dangling link counts as a file: the user has this modality, so it must not be synthesised without notice.
    return (file for file in visible(folder) if nifti_stem(file.name) is not None and not file.is_dir())


def folder_name(folder: Path) -> str:
    """The name of a folder; ``.`` has none of its own."""
    return os.path.basename(os.path.abspath(folder))


def case_of_candidates(
    case_id: str, candidates: Mapping[str, Sequence[Path]], modality_set: ModalitySet, what_to_do: str
) -> CaseFiles:
    """Make a case of the files that may be each modality; more than one of a modality is a problem.

    Args:
        case_id: Name of the case.
        candidates: Files by modality.
        modality_set: Gives the order of the modalities.
        what_to_do: Ends the message.
    """
    files: dict[str, Sequence[Path]] = defaultdict(list, candidates)
    paths = {modality: files[modality][0] for modality in modality_set.names if files[modality]}
    problem = None
    for modality in paths:
        if len(files[modality]) > 1:
            names = " and ".join(file.name for file in files[modality])
            problem = f"case {case_id}: {modality} must be one file, got {names}; {what_to_do}"
    return CaseFiles(case_id, paths, problem)


def id_problem(case_id: str) -> str | None:
    """Return why outputs cannot be named after a case, or None."""
    try:
        fits = len(os.fsencode(case_id)) <= LONGEST_NAME
    except UnicodeEncodeError:  # half a surrogate pair
        fits = False
    if fits and case_id not in ("", ".", "..") and not set("/\\\0") & set(case_id):
        return None
    return f"case {case_id}: its id must be one folder's name, got '{case_id}'; rename the case"
