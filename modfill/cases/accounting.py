"""The kind of every file beside a case's images: recognised by its name, or an unexplained image."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from modfill.cases.filenames import is_other_sequence, is_segmentation, nifti_stem
from modfill.modalities import ModalitySet

__all__ = [
    "UNEXPLAINED",
    "account",
    "holds_images",
    "image_inside",
    "is_image",
    "is_own_output",
    "is_uncertainty_map",
    "leads_up",
    "unexplained_problem",
]

UNEXPLAINED = "unexplained"
"""The kind of an image, or a folder with images, that may be a modality under an unknown name."""

_FOREIGN_IMAGES = (".mha", ".mhd", ".nrrd", ".nhdr", ".hdr", ".img", ".img.gz", ".mgz", ".mgh", ".mnc", ".dcm", ".ima",
                   ".dicom")  # fmt: skip
_KINDS = {
    "sidecar": (".json", ".yaml", ".yml", ".xml"),
    "transform": (".mat", ".xfm", ".tfm", ".lta", ".h5", ".txt", ".bval", ".bvec"),
    "table": (".csv", ".tsv", ".xls", ".xlsx"),
    "document": (".md", ".html", ".htm", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".log", ".rst", ".doc", ".docx"),
}
_DICOM_MAGIC, _DICOM_PREAMBLE = b"DICM", 128  # bytes
_OWN_TABLE = b"case,status,targets,"  # beginning of the table that `cohort.table` writes
_DEEPEST = 4  # folders below a case's in which images are looked for


def account(entries: Iterable[Path], modality_set: ModalitySet) -> dict[str, str]:
    """Classify the files and folders beside a case's images.

    Args:
        entries: Files and folders that are no image of the case, hidden ones left out.
        modality_set: The modalities that an image may be.

    Returns:
        Kind by name, e.g. ``segmentation``, ``another sequence``, ``sidecar``; ``UNEXPLAINED`` for an image of any
        format with an unknown name, and for a folder that holds one.
    """
    return {entry.name: _kind(entry, modality_set) for entry in entries}


def _kind(entry: Path, modality_set: ModalitySet) -> str:
    name = entry.name.lower()
    if is_image(entry):
        stem = nifti_stem(entry.name)
        if stem is None:
            stem = entry.name[: -len(_extension(entry.name))] if _extension(entry.name) else entry.name
        plain = f"{stem}.nii"
        if is_uncertainty_map(entry.name):
            return "uncertainty map"
        if is_segmentation(plain):
            return "segmentation"
        return "another sequence" if is_other_sequence(plain, modality_set) else UNEXPLAINED
    if entry.is_dir():
        if is_own_output(entry):
            return "output of modfill"
        if leads_up(entry):
            return "link to a folder above"
        return UNEXPLAINED if holds_images(entry) else "folder without images"
    return next((kind for kind, endings in _KINDS.items() if name.endswith(endings)), "other file")


def is_image(path: Path) -> bool:
    """Return whether a file is an image of any medical format, by its name or, without a known ending, as DICOM."""
    if path.is_dir():
        return False
    if nifti_stem(path.name) is not None or _extension(path.name):
        return True
    return "." not in path.name and is_dicom(path)


def _extension(name: str) -> str:
    return next((ending for ending in _FOREIGN_IMAGES if name.lower().endswith(ending)), "")


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM, by its preamble."""
    try:
        if not path.is_file():  # reading a pipe would block
            return False
        with path.open("rb") as stream:
            return stream.read(_DICOM_PREAMBLE + 4)[_DICOM_PREAMBLE:] == _DICOM_MAGIC
    except OSError:
        return False


def holds_images(folder: Path) -> bool:
    """Return whether a folder holds an image of any format, segmentations and masks aside, some levels deep."""
    start = len(folder.parts)
    for place, folders, files in os.walk(folder):
        folders[:] = (
            sorted(f for f in folders if not f.startswith(".")) if len(Path(place).parts) - start < _DEEPEST else []
        )
        for name in files:
            if not name.startswith(".") and is_image(Path(place, name)) and not is_segmentation(name):
                return True
    return False


def is_uncertainty_map(name: str) -> bool:
    """Return whether a file's name is that of an uncertainty map, which is no image of a modality."""
    return (nifti_stem(name) or "").lower().endswith("-uncertainty")


def leads_up(folder: Path) -> bool:
    """Return whether a folder is a link to a folder above it, which adds no files."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def is_own_output(folder: Path) -> bool:
    """Return whether modfill wrote its outputs into a folder, by the table that it keeps there."""
    try:
        with (folder / "cohort.csv").open("rb") as table:
            return table.readline(64).startswith(_OWN_TABLE)
    except OSError:
        return False


def image_inside(folder: Path) -> Path | None:
    """The one NIfTI file in a folder, as Kaggle's copies of BraTS have folders named like files; None for others."""
    try:
        files = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return None
    return files[0] if len(files) == 1 and nifti_stem(files[0].name) is not None and not files[0].is_dir() else None


def unexplained_problem(case_id: str, names: Iterable[str], missing: Iterable[str]) -> str:
    """The problem of a case that lacks modalities and holds images that may be them."""
    return (
        f"case {case_id}: every image must be named after its modality, got {' and '.join(sorted(names))} beside a "
        f"case without {', '.join(missing)}; rename them (modfill prepare reads DICOM), move them away, or go on "
        "without them (ignore_unexplained=True)"
    )
