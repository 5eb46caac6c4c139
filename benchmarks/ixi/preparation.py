"""From IXI's archive to cases: read -> register T2 and PD to T1 -> find the head -> crop and pad -> write.

T1 keeps its own voxels (0.94 x 0.94 x 1.2 mm): its axes are ordered, and its border is cut or padded. T2 and PD are
resampled once. All three are 0 outside the head and outside of any scan's field of view: T2 and PD end above the neck
that T1 shows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.ixi.archive import MODALITIES
from modfill import __version__
from modfill.atomic import replacing, writable
from modfill.errors import CaseError
from modfill.prepare.grid import Grid, resample
from modfill.prepare.images import save_image, stored
from modfill.prepare.picture import draw
from modfill.prepare.record import SUFFIX, grid_to, package_versions, read_record, scan_to
from modfill.prepare.registration import Registration, head_mask, isotropic, register, sitk_array
from modfill.prepare.scan import Matrix, Scan, as_sitk, read_scan

__all__ = ["SHAPE", "Result", "prepare_archive", "prepare_subject"]

SHAPE = (160, 256, 224)
"""Voxels from left to right, from back to front and from bottom to top, of T1's own size.

The paper crops and pads to 256x160x224 and states T1's size as 256x150x256: front to back, left to right, bottom to
top. Its axial slices are 256x160. So the 150 sagittal slices are padded to 160, and of the 256 voxels from bottom to
top 32 are cut. Prepared cases are stored in the order of RAS.
"""

REFERENCE, MOVING = MODALITIES[0], MODALITIES[1:]
_HEAD_SPACING = 2.0  # mm, at which the head is found
_SAME_GRID = 1e-3  # of the affines' entries, in mm

Result = tuple[str, CaseError | None]
"""A subject, and why it has no case."""


def prepare_archive(subjects: Mapping[str, Mapping[str, Path]], out: Path, jobs: int = 1) -> Iterator[Result]:
    """Prepare every subject that is not finished yet; one that fails does not stop the others.

    Args:
        subjects: the files by modality of each subject, as `read_archive` gives them.
        out: the folder of the cases' folders.
        jobs: processes, each with its share of the cores.

    Yields:
        Each subject when it is done.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_use_threads, initargs=(threads,)
    ) as pool:
        futures = {pool.submit(prepare_subject, name, files, out): name for name, files in subjects.items()}
        for future in as_completed(futures):
            try:
                future.result()
                yield futures[future], None
            except CaseError as error:
                yield futures[future], error


def prepare_subject(subject: str, files: Mapping[str, Path], out: Path) -> Path:
    """Prepare one subject, unless that was done from the same files.

    Args:
        subject: the name of the case.
        files: by modality.
        out: the case's folder is made in this folder.

    Returns:
        The case's folder.

    Raises:
        CaseError: a file is unusable, a registration is doubtful (the message names the picture), or nothing can be
            written.
    """
    folder = out / subject
    if _finished(folder, files):
        return folder
    scans = {m: read_scan(path) for m, path in files.items()}
    t1 = _in_ras(scans[REFERENCE])
    registrations = _register(t1, scans)
    matrices = {m: registrations[m].matrix if m in registrations else np.eye(4) for m in scans}
    head = _head(t1)
    for modality in MOVING:
        head &= _covered(Grid.of(scans[modality]), Grid.of(t1), matrices[modality])
    if not head.any():
        raise CaseError(f"case {subject}: T1, T2 and PD must show one head, got none that all of them show; check them")
    grid, low, cut = window(Grid.of(t1), head)
    shown = _moved(head, low)
    heads = {REFERENCE: _moved(t1.voxels, low)}
    heads |= {m: _resampled(scans[m], grid, shown, matrices[m]) for m in MOVING}
    picture = folder / f"{subject}-prepared.png"
    with writable(picture, CaseError, subject), replacing(picture) as temporary:
        draw(heads, shown, grid.affine, {m: m.upper() for m in MODALITIES}, temporary, mask="head")
    doubts = [f"{m.upper()}: {doubt}" for m, found in registrations.items() for doubt in found.doubts]
    if doubts:
        raise CaseError(f"case {subject}: the registration is doubtful ({'; '.join(doubts)}); look at {picture}")
    images = {m: stored(np.where(shown, np.maximum(voxels, 1), 0).astype(np.float32), scans[m].integer)
              for m, voxels in heads.items()}  # fmt: skip
    note = {
        "CaseID": subject,
        "GeneratedBy": [{"Name": "modfill", "Version": __version__}, *package_versions()],
        "Reference": REFERENCE,
        "Grid": grid_to(grid),
        "Scans": [scan_to(m, scan, matrices[m], images[m], registrations.get(m)) for m, scan in scans.items()],
        "HeadVoxelsCut": cut,
    }
    _write(folder, subject, images, grid, note)
    return folder


def window(t1: Grid, head: NDArray[np.bool_]) -> tuple[Grid, NDArray[np.int_], int]:
    """The grid of `SHAPE` around a head, of T1's own voxels.

    Args:
        t1: the grid of T1 in the order of RAS.
        head: the mask on it, not empty.

    Returns:
        The grid, centred on the head; its first voxel in T1's voxels, which may lie outside; and how many voxels of the
        head it cuts. From a head that is too long, the lower end is cut.
    """
    index = np.argwhere(head)
    start, stop = index.min(0), index.max(0) + 1
    low = np.maximum((start + stop - SHAPE) // 2, stop - SHAPE)
    cut = int((index < low).any(axis=1).sum())
    affine = t1.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return Grid(SHAPE, affine), low, cut


def _in_ras(scan: Scan) -> Scan:
    """The same scan with its axes in the order and direction of RAS."""
    order = nib.io_orientation(scan.affine)
    affine = scan.affine @ nib.orientations.inv_ornt_aff(order, scan.voxels.shape)
    return Scan(scan.path, nib.apply_orientation(scan.voxels, order), affine, scan.sha256, scan.integer)


def _moved(voxels: NDArray[Any], low: NDArray[np.int_]) -> NDArray[Any]:
    """The window of `SHAPE` that begins at voxel `low`; 0 in its padding."""
    own = tuple(slice(max(a, 0), a + n) for a, n in zip(low.tolist(), SHAPE, strict=True))
    part = voxels[own]
    out = np.zeros(SHAPE, voxels.dtype)
    out[tuple(slice(max(-a, 0), max(-a, 0) + n) for a, n in zip(low.tolist(), part.shape, strict=True))] = part
    return out


def _resampled(scan: Scan, grid: Grid, shown: NDArray[np.bool_], matrix: Matrix) -> NDArray[np.float32]:
    """A scan on a grid, in the box of a mask."""
    (box,) = ndimage.find_objects(shown.astype(np.uint8))
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    out = np.zeros(grid.shape, np.float32)
    out[box] = resample(scan.voxels, Grid.of(scan), Grid(shown[box].shape, affine), matrix)
    return out


def _register(t1: Scan, scans: Mapping[str, Scan]) -> dict[str, Registration]:
    """T2's and PD's positions relative to T1. They come from one acquisition: on the same grid, one serves both."""
    found: dict[str, Registration] = {}
    for modality in MOVING:
        scan = scans[modality]
        same = [m for m in found if scans[m].voxels.shape == scan.voxels.shape
                and np.allclose(scans[m].affine, scan.affine, rtol=0, atol=_SAME_GRID)]  # fmt: skip
        try:
            found[modality] = found[same[0]] if same else register(t1, scan)
        except RuntimeError as error:  # of SimpleITK
            raise CaseError(f"{scan.path} cannot be registered: {str(error).splitlines()[-1]}") from error
    return found


def _head(t1: Scan) -> NDArray[np.bool_]:
    """The head on T1's grid."""
    small = head_mask(isotropic(as_sitk(t1), _HEAD_SPACING))
    affine = np.eye(4)
    affine[:3, :3] = np.array(small.GetDirection()).reshape(3, 3) * small.GetSpacing()
    affine[:3, 3] = small.GetOrigin()
    affine[:2] *= -1  # LPS -> RAS
    voxels = sitk_array(small).T.astype(np.float32)
    return np.asarray(resample(voxels, Grid(voxels.shape, affine), Grid.of(t1), order=1) > 0.5)


def _covered(own: Grid, to: Grid, matrix: Matrix) -> NDArray[np.bool_]:
    """Where a field of view reaches on another grid, from the latter's world by a matrix."""
    way = np.linalg.inv(own.affine) @ matrix @ to.affine
    steps = np.ogrid[tuple(slice(n) for n in to.shape)]
    inside = np.ones(to.shape, bool)
    for row, size in zip(way[:3], own.shape, strict=True):
        place = sum(row[k] * steps[k] for k in range(3)) + row[3]
        inside &= (place >= 0) & (place <= size - 1)
    return inside


def _write(
    folder: Path, subject: str, images: Mapping[str, NDArray[np.generic]], grid: Grid, note: dict[str, Any]
) -> None:
    """The images, and last the record: with it the case is finished."""
    record = folder / f"{subject}{SUFFIX}"
    with writable(folder, CaseError, subject), ExitStack() as stack:  # left in reverse order: the record appears last
        text = json.dumps(note, indent=1) + "\n"
        stack.enter_context(replacing(record)).write_text(text, encoding="utf8")
        for modality, voxels in images.items():
            save_image(voxels, grid, stack.enter_context(replacing(folder / f"{subject}-{modality}.nii.gz")))


def _finished(folder: Path, files: Mapping[str, Path]) -> bool:
    """Whether a case was made from these files."""
    try:
        note = read_record(folder / f"{folder.name}{SUFFIX}")
    except CaseError:
        return False
    made = {scan["Modality"]: scan["SHA256"] for scan in note["Scans"]}
    there = all((folder / f"{folder.name}-{m}.nii.gz").exists() for m in files)
    return there and made == {m: _digest(path) for m, path in files.items()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _use_threads(number: int) -> None:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(number)
