"""The series of a study: NIfTI files, or DICOM files that dcm2niix converts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modfill.cases.accounting import is_dicom, leads_up
from modfill.cases.filenames import nifti_stem
from modfill.cases.files import visible
from modfill.cases.marks import sidecar_path
from modfill.errors import CaseError
from modfill.prepare.names import are_sequences, modality_in

__all__ = ["Series", "find_series", "find_studies"]

_TAGS = {"0020|000e": "SeriesInstanceUID", "0020|000d": "StudyInstanceUID", "0018|0010": "ContrastBolusAgent",
         "0018|9087": "DiffusionBValue"}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One image that may be a sequence of the case.

    Attributes:
        path: the NIfTI file to read.
        source: what the user knows it by: the file, or the folder of the DICOM series.
        name: the file's name, or the description of the DICOM series.
        header: the sequence's parameters, with the keys and units of BIDS; empty where none are known.
    """

    path: Path
    source: Path
    name: str
    header: dict[str, Any] = field(default_factory=dict)


def find_studies(folder: Path) -> list[Path]:
    """The studies in a folder, or the folder itself if it is one.

    A folder that directly contains images is a study, and so is one whose subfolders are series of one DICOM study or
    are named after sequences. Otherwise each subfolder that contains images is a study.

    Raises:
        CaseError: there are no images.
    """
    if folder.is_file():
        raise CaseError(
            f"{folder} must be the folder of a study, got a file; name files one by one instead (t1=FILE, …)"
        )
    if any(nifti_stem(entry.name) or is_dicom(entry) for entry in visible(folder) if entry.is_file()):
        return [folder]
    parts = [entry for entry in visible(folder) if entry.is_dir() and next(_images(entry), None)]
    if not parts:
        raise CaseError(f"{folder} must contain NIfTI or DICOM images, got none; check the path")
    first = [next(_images(part)) for part in parts]
    studies = {_tags(file).get("StudyInstanceUID") if is_dicom(file) else None for file in first}
    one_dicom = len(studies) == 1 and None not in studies
    if len(parts) == 1 or one_dicom or (studies == {None} and _in_sequence_folders(parts)):
        return [folder]
    return parts


def _in_sequence_folders(parts: Sequence[Path]) -> bool:
    """Whether NIfTI files are in folders by sequence. "T1" may be a point in time too, which has a FLAIR."""
    for part in parts:
        inside = {modality_in(file.name) for file in _images(part)} - {None}
        if (stated := modality_in(part.name)) and inside - {stated}:
            return False
    return are_sequences([part.name for part in parts])


def find_series(study: Path, scratch: Path) -> list[Series]:
    """All series of a study, sorted by name.

    Args:
        study: a folder.
        scratch: an empty folder for converted images.

    Raises:
        CaseError: there are none, DICOM and NIfTI files or several DICOM studies lie side by side, or dcm2niix fails.
    """
    files = list(_images(study))
    dicom = [file for file in files if is_dicom(file)]
    if dicom and len(dicom) < len(files):
        raise CaseError(f"{study} must contain either DICOM or NIfTI images, got both; move one kind away")
    if dicom:
        return _converted(study, dicom, scratch)
    return [Series(file, file, _name(file, study), _json(sidecar_path(file))) for file in files]


def _name(file: Path, study: Path) -> str:
    """The name of a file, after that of its folder where the file's own name states no modality."""
    own = file.parent.resolve() != study.resolve() and modality_in(file.name) is None
    return f"{file.parent.name} {file.name}" if own else file.name


def _images(folder: Path) -> Iterator[Path]:
    for entry in visible(folder):
        if entry.is_dir():
            if not leads_up(entry):
                yield from _images(entry)
        elif nifti_stem(entry.name) is not None or is_dicom(entry):
            yield entry


def _converted(study: Path, files: list[Path], scratch: Path) -> list[Series]:
    """Every series as NIfTI. dcm2niix does not write the contrast agent, so it is read from one file of each series."""
    try:
        import dcm2niix
    except ImportError as error:
        raise CaseError(f"{study}: DICOM needs dcm2niix; pip install 'modfill[prepare]'") from error
    words = [dcm2niix.bin, "-b", "y", "-ba", "n", "-z", "n", "-f", "%j", "-o", str(scratch), str(study)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    converted = sorted(scratch.glob("*.nii"))
    if not converted:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise CaseError(f"{study} must contain a DICOM series that dcm2niix converts, got '{' '.join(last)}'")
    tags: dict[str, tuple[Path, dict[str, str]]] = {}
    for file in files:
        known = _tags(file)
        tags.setdefault(known.get("SeriesInstanceUID", ""), (file.parent, known))
    if len({known.get("StudyInstanceUID") for _, known in tags.values()}) > 1:
        raise CaseError(f"{study} must contain one DICOM study, got several; give each its own folder")
    found = []
    for path in converted:
        header = _json(path.with_suffix(".json"))
        folder, known = tags.get(str(header.get("SeriesInstanceUID")), (study, {}))
        name = str(header.get("SeriesDescription") or header.get("ProtocolName") or path.stem)
        found.append(Series(path, folder, name, {**known, **header}))
    return sorted(found, key=lambda series: (series.header.get("SeriesNumber", 0), series.name))


def _tags(file: Path) -> dict[str, str]:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return {}
    found = {name: reader.GetMetaData(key).strip() for key, name in _TAGS.items() if reader.HasMetaDataKey(key)}
    return {name: value for name, value in found.items() if value}


def _json(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
