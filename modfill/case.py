"""A case: its images by modality, read and checked."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError

from modfill.checks import check_affine, check_background, check_grids, check_shape, content_problem, same_voxels, times
from modfill.errors import CaseError
from modfill.finding import CaseFiles, find_cases
from modfill.modalities import MODALITIES

__all__ = [
    "SYNTHETIC_MARK",
    "Case",
    "CaseFiles",
    "case_from_arrays",
    "find_cases",
    "read_case",
    "require_usable",
]

SYNTHETIC_MARK = "modfill synthetic"
"""How the NIfTI field ``descrip`` of every synthesised image begins."""

_READ_ERRORS = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, OverflowError, zlib.error)


class _Unusable(Exception):
    """Carries the reason why one image cannot serve, while its case may."""


@dataclass(frozen=True, eq=False)
class Case:
    """The images of one case, all on the same grid.

    Attributes:
        case_id: Name of the case.
        images: Usable acquired image by modality, in the order of ``MODALITIES``: float32 voxels in memory,
            scaling applied, with the file's affine and header (which keeps the data type on disk and the
            orientation codes).
        paths: File by modality of those images; empty for a case from arrays.
        unusable: Reason by modality, of those that are there but cannot serve; it begins with the file's name.
        synthetic: Modalities whose file is marked synthetic; never a source.
    """

    case_id: str
    images: dict[str, nib.Nifti1Image]
    paths: dict[str, Path]
    unusable: dict[str, str]
    synthetic: tuple[str, ...] = ()

    @property
    def available(self) -> tuple[str, ...]:
        """Modalities with a usable acquired image, in the order of ``MODALITIES``."""
        return tuple(self.images)

    @property
    def missing(self) -> tuple[str, ...]:
        """All other modalities: absent, unusable or synthetic."""
        return tuple(modality for modality in MODALITIES if modality not in self.images)

    def volume(self, modality: str) -> npt.NDArray[np.float32]:
        """Return the voxels of an available modality, float32, in the file's shape and intensities.

        The array is the case's own, not a copy.

        Raises:
            KeyError: If the modality is not available.
        """
        return np.asanyarray(self.images[modality].dataobj)


def read_case(files: CaseFiles) -> Case:
    """Read and check the images of a case.

    An image that is truncated, not NIfTI, all zero, constant over its non-zero voxels, not finite, or an exact
    copy of an earlier modality goes to ``unusable``.

    Args:
        files: A case as ``find_cases`` returns it.

    Returns:
        The case, with at least one available modality.

    Raises:
        CaseError: If ``files`` has a problem, no image is usable, an image is not 3D or claims more voxels than
            the environment variable ``MODFILL_MAX_VOXELS`` allows (2**28 by default), the images are on different
            grids, an affine cannot be inverted, or one has no background of 0 (skull not stripped).
    """
    if files.problem:
        raise CaseError(files.problem)
    images: dict[str, nib.Nifti1Image] = {}
    unusable: dict[str, str] = {}
    synthetic: list[str] = []
    for modality, path in files.paths.items():
        try:
            image = _open(path)
            if image.header["descrip"].item().startswith(SYNTHETIC_MARK.encode()):
                synthetic.append(modality)
                continue
            where = f"case {files.case_id}: {path.name}"
            check_shape(where, image.shape)
            check_affine(where, np.asarray(image.affine))
            images[modality] = _in_memory(image, path)
        except _Unusable as reason:
            unusable[modality] = f"{path.name} {reason}"
    labels = {modality: path.name for modality, path in files.paths.items()}
    images = _check(files.case_id, images, labels, unusable)
    paths = {modality: files.paths[modality] for modality in images}
    return Case(files.case_id, images, paths, unusable, tuple(synthetic))


def case_from_arrays(
    arrays: Mapping[str, npt.NDArray[np.generic]], affine: npt.ArrayLike, case_id: str = "case"
) -> Case:
    """Make a case of arrays on one grid, with the checks of ``read_case``.

    Args:
        arrays: 3D array by modality, any real type, 0 outside the brain; copied.
        affine: 4x4, from voxel indices to mm, as in nibabel.
        case_id: Name of the case.

    Returns:
        The case, with at least one available modality.

    Raises:
        CaseError: As ``read_case``; also if a key is no modality.
    """
    affine = np.asarray(affine, dtype=np.float64)
    unknown = [name for name in arrays if name not in MODALITIES]
    if unknown:
        raise CaseError(f"case {case_id}: modality must be one of {', '.join(MODALITIES)}, got {unknown[0]!r}")
    images: dict[str, nib.Nifti1Image] = {}
    for modality in (modality for modality in MODALITIES if modality in arrays):
        array = np.asarray(arrays[modality])
        check_shape(f"case {case_id}: {modality}", array.shape)
        check_affine(f"case {case_id}: {modality}", affine)
        with np.errstate(over="ignore"):  # what overflows is infinite then, and reported as that
            images[modality] = nib.Nifti1Image(np.array(array, dtype=np.float32), affine)
        if array.dtype.kind in "iu":
            images[modality].set_data_dtype(array.dtype)
    unusable: dict[str, str] = {}
    images = _check(case_id, images, {modality: modality for modality in images}, unusable)
    return Case(case_id, images, {}, unusable)


def require_usable(case: Case) -> None:
    """Refuse a case with an unusable image, rather than quietly replace what the user believes to be there.

    Raises:
        CaseError: If any image is unusable; names the first one.
    """
    for modality, reason in case.unusable.items():
        raise CaseError(
            f"case {case.case_id}: {reason}; replace it, or delete or rename it to have {modality} synthesised"
        )


def _open(path: Path) -> nib.Nifti1Image:
    """Read a NIfTI header; voxels are left on disk."""
    try:
        image = nib.load(path)
    except _READ_ERRORS as error:
        raise _Unusable(f"must be a NIfTI image, got something else ({type(error).__name__})") from error
    if not isinstance(image, nib.Nifti1Image):
        raise _Unusable(f"must be a NIfTI image, got {type(image).__name__}")
    kind = image.get_data_dtype()
    if kind.kind not in "iuf":
        raise _Unusable(f"must hold one real number per voxel, got {kind}")
    return image


def _in_memory(image: nib.Nifti1Image, path: Path) -> nib.Nifti1Image:
    """Read the voxels once, checksum included, and keep them with affine and header."""
    stored = image.dataobj
    assert isinstance(stored, ArrayProxy)
    spec = (stored.shape, stored.dtype, stored.offset, stored.slope, stored.inter)
    try:
        with ImageOpener(str(path)) as stream, np.errstate(over="ignore"):
            voxels = np.asanyarray(ArrayProxy(stream, spec, mmap=False), dtype=np.float32)
            stream.read(1)  # gzip compares its checksum only when asked to read past the end
    except _READ_ERRORS as error:
        raise _Unusable(
            f"must hold {times(image.shape)} voxels, got a truncated or corrupt file ({type(error).__name__})"
        ) from error
    held = type(image)(voxels, image.affine, image.header)
    if (stored.slope, stored.inter) != (1.0, 0.0):
        held.set_data_dtype(np.float32)  # scaled integers stand for real numbers
    return held


def _check(
    case_id: str, images: dict[str, nib.Nifti1Image], labels: dict[str, str], unusable: dict[str, str]
) -> dict[str, nib.Nifti1Image]:
    """Return the usable images and add the others to ``unusable``, unless the whole case must be refused."""
    for modality in images:
        reason = content_problem(np.asanyarray(images[modality].dataobj))
        if reason:
            unusable[modality] = f"{labels[modality]} {reason}"
    for first, second in combinations(images, 2):
        if not {first, second} & set(unusable) and same_voxels(images[first], images[second]):
            unusable[second] = f"{labels[second]} must differ from {labels[first]}, got an exact copy of it"
    usable = {modality: image for modality, image in images.items() if modality not in unusable}
    if not usable:
        got = "; ".join(unusable.values()) or "none that is acquired"
        raise CaseError(f"case {case_id}: at least one modality must be usable, got {got}; replace or add files")
    check_grids(case_id, usable, labels)
    for modality, image in usable.items():
        check_background(f"case {case_id}: {labels[modality]}", image)
    return usable
