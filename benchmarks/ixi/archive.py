"""The files of IXI as distributed: `IXI002-Guys-0828-T1.nii.gz`, in one folder or one for each modality."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modfill.errors import CaseError

__all__ = ["MODALITIES", "Archive", "read_archive", "subject_of"]

MODALITIES = ("t1", "t2", "pd")
"""In the order of the paper's Table D."""

_NAME = re.compile(r"(IXI\d{3,4}-[A-Za-z]+-\d{4})-(T1|T2|PD)\.nii(?:\.gz)?")


@dataclass(frozen=True)
class Archive:
    """The subjects of an archive.

    Attributes:
        subjects: the files by modality of each subject that has all three, sorted by subject.
        incomplete: the missing modalities of each other subject.
    """

    subjects: dict[str, dict[str, Path]]
    incomplete: dict[str, tuple[str, ...]]


def read_archive(folder: Path) -> Archive:
    """List the T1, T2 and PD files of a folder and of its sub-folders, e.g. `IXI-T1`, `IXI-T2` and `IXI-PD`.

    Other files, such as the angiograms (MRA), are left alone.

    Raises:
        CaseError: no subject has all three, or a file is there twice.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in sorted([*folder.glob("*.nii*"), *folder.glob("*/*.nii*")]):
        if match := _NAME.fullmatch(path.name):
            files, modality = found.setdefault(match[1], {}), match[2].lower()
            if modality in files:
                raise CaseError(f"{path} must be there once, got {files[modality]} too; remove one of them")
            files[modality] = path
    subjects = {s: {m: found[s][m] for m in MODALITIES} for s in sorted(found) if set(found[s]) == set(MODALITIES)}
    if not subjects:
        raise CaseError(
            f"{folder} must hold IXI's files, e.g. IXI002-Guys-0828-T1.nii.gz, -T2 and -PD, in it or in sub-folders, "
            f"got {len(found)} subjects and none with all three; unpack the archives there"
        )
    incomplete = {s: tuple(m for m in MODALITIES if m not in found[s]) for s in sorted(found) if s not in subjects}
    return Archive(subjects, incomplete)


def subject_of(names: Sequence[str]) -> list[str]:
    """Those names that are IXI's subjects, e.g. `IXI002-Guys-0828`, sorted."""
    return sorted(name for name in names if _NAME.fullmatch(f"{name}-T1.nii"))
