"""From the prepared grid back to an original scan's own grid, by the inverse transforms."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from modfill import __version__
from modfill.atomic import replacing, writable
from modfill.cases.filenames import is_segmentation
from modfill.cases.files import nifti_files
from modfill.cases.marks import read_sidecar, sidecar_path, voxel_hash
from modfill.cases.nifti import read_header
from modfill.errors import CaseError
from modfill.outputs.sidecar import source_paths
from modfill.prepare.finding import find_series
from modfill.prepare.grid import Grid, resample
from modfill.prepare.record import find_record, grid_from, matrix_from, read_record
from modfill.prepare.scan import Scan, inverse, read_scan

__all__ = ["restore"]

_LOG = logging.getLogger("modfill")

_SAME = 1e-3  # mm, in which grids count as equal


def restore(
    image: str | Path,
    *,
    like: str | Path,
    out: str | Path,
    record: str | Path | None = None,
    labels: bool | None = None,
) -> list[Path]:
    """Put images of a prepared case on the exact grid of one of the original scans.

    Args:
        image: an image on the prepared grid, or a folder of such images (a completed case, or a folder of cases). In a
            folder, images of other cases than that of `like` are left alone; the log names them.
        like: the original scan: the NIfTI file or the folder of the DICOM series from which the case was prepared.
        out: folder for the results, which keep their names.
        record: the record of `modfill prepare`; None finds it beside the image or beside its sources.
        labels: take the nearest label instead of interpolating; None decides by the name.

    Returns:
        The written images. A synthetic image keeps its mark, and its sidecar comes with it.

    Raises:
        CaseError: there is no image or record, the image lies on another grid, or `like` is none of the case's scans.
    """
    ours: list[_Found] = []
    others: list[CaseError] = []
    with tempfile.TemporaryDirectory() as scratch:
        scans = _scans(Path(like), Path(scratch))
    for path in _images(Path(image)):
        try:
            ours.append(_original(path, Path(like), scans, Path(record) if record is not None else _record_of(path)))
        except CaseError as error:
            others.append(error)
    if not ours:
        raise others[0]
    if any(found.certain for found in ours):  # two patients may have files of one name on one grid
        others += [CaseError(f"{found.path} is of a case with a scan like {like}, not of that one's")
                   for found in ours if not found.certain]  # fmt: skip
        ours = [found for found in ours if found.certain]
    for other in others:
        _LOG.warning("left alone: %s", other)
    return [_restored(found, out=Path(out), labels=labels) for found in ours]


@dataclass(frozen=True, eq=False)
class _Found:
    """An image, its case's record, and the scan to restore to with its entry there; certain if it is that very scan."""

    path: Path
    note: dict[str, Any]
    original: Scan
    entry: dict[str, Any]
    certain: bool


def _images(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    folders = [place, *(entry for entry in sorted(place.iterdir()) if entry.is_dir())] if place.is_dir() else []
    found = [file for folder in folders for file in nifti_files(folder)]
    if not found:
        raise CaseError(f"{place} must be an image or a folder of images, got none; check the path")
    return found


def _record_of(path: Path) -> Path:
    """The record beside an image, or beside the sources of a synthetic one."""
    sidecar = read_sidecar(sidecar_path(path))
    folders = [path.parent, *(source.parent for source in source_paths(sidecar or {}, path).values())]
    for folder in folders:
        if found := find_record(folder):
            return found
    raise CaseError(f"{path} must come from a case that modfill prepare wrote, got no record; give it (record=FILE)")


def _scans(like: Path, scratch: Path) -> list[Scan]:
    """The scan to restore to; several if it is a folder."""
    files = [series.path for series in find_series(like, scratch)] if like.is_dir() else [like]
    return [read_scan(file, like) for file in files]


def _original(path: Path, like: Path, scans: list[Scan], record: Path) -> _Found:
    """The scan of an image's record to restore to. Raises CaseError if it is another case's."""
    note = read_record(record)
    pairs = [(scan, entry) for scan in scans for entry in note["Scans"]]
    for scan, entry in pairs:
        if scan.sha256 == entry["SHA256"] or (like.resolve() == Path(entry["Source"]) and _same(scan, entry)):
            return _Found(path, note, scan, entry, True)
    for scan, entry in pairs:  # another file on the same grid, e.g. a copy with another header
        if like.name == Path(entry["Source"]).name and _same(scan, entry):
            return _Found(path, note, scan, entry, False)
    known = ", ".join(entry["Source"] for entry in note["Scans"])
    raise CaseError(f"{path.name}: {like} must be one of the scans in {record.name}, got another; give one of {known}")


def _same(scan: Scan, entry: dict[str, Any]) -> bool:
    grid = grid_from(entry["Grid"])
    return scan.voxels.shape == grid.shape and bool(np.allclose(scan.affine, grid.affine, atol=_SAME))


def _restored(found: _Found, *, out: Path, labels: bool | None) -> Path:
    path, note, original, entry = found.path, found.note, found.original, found.entry
    own, grid = read_scan(path), grid_from(note["Grid"])
    if own.voxels.shape != grid.shape or not np.allclose(own.affine, grid.affine, atol=_SAME):
        raise CaseError(
            f"{path} must lie on the prepared grid of {grid.shape}, got {own.voxels.shape}; check the image"
        )
    to = Grid.of(original)
    way = inverse(matrix_from(entry))  # the scan's world -> the prepared world
    as_labels = is_segmentation(path.name) if labels is None else labels
    voxels = resample(own.voxels, grid, to, way, order=0 if as_labels else 3)
    if not as_labels:
        inside = resample((own.voxels != 0).astype(np.float32), grid, to, way, order=1) > 0.5
        voxels = np.where(inside, np.maximum(voxels, 1.0) if own.integer and own.voxels.min() >= 0 else voxels, 0)
    header = read_header(path)
    stored = np.round(voxels).astype(header.get_data_dtype()) if own.integer else voxels.astype(np.float32)
    image = nib.Nifti1Image(stored, original.affine)
    image.header["descrip"] = header["descrip"]  # a synthetic image stays marked
    image.set_sform(original.affine, 1)
    image.set_qform(original.affine, 1)
    image.header.set_xyzt_units("mm")
    place = out / note["CaseID"] / path.name
    if place.resolve() == path.resolve():
        raise CaseError(f"{place} is the image itself; choose another folder (out=DIR)")
    sidecar = read_sidecar(sidecar_path(path))
    with writable(place, CaseError, note["CaseID"]), ExitStack() as stack:
        if sidecar is not None:
            sidecar |= {
                "VoxelSHA256": voxel_hash(stored),
                "RestoredTo": {
                    "Scan": str(entry["Source"]), "SHA256": entry["SHA256"], "Modality": entry["Modality"],
                    "PreparedImageSHA256": hashlib.sha256(path.read_bytes()).hexdigest(), "Version": __version__,
                },
            }  # fmt: skip
            text = json.dumps(sidecar, indent=1) + "\n"
            stack.enter_context(replacing(sidecar_path(place))).write_text(text, encoding="utf8")
        nib.save(image, stack.enter_context(replacing(place)))
    return place
