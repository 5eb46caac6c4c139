"""A case: its images by modality, read and checked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from modfill.cases.checks import (
    check_affine,
    check_background,
    check_grids,
    check_shape,
    clear_background,
    content_problem,
    describe_grid,
    has_codes,
    nothing_usable,
    same_voxels,
)
from modfill.cases.files import CaseFiles
from modfill.cases.finding import case_of_files, find_case
from modfill.cases.layouts.dataset_json import ChannelCase
from modfill.cases.marks import has_mark, matches_sidecar, read_sidecar, sidecar_path
from modfill.cases.nifti import Unusable, placed_like, read_header, read_image
from modfill.errors import CaseError, within_memory
from modfill.modalities import BRATS, ModalitySet

__all__ = [
    "Case",
    "case_from_arrays",
    "image_labels",
    "inspect",
    "read_case",
    "require_usable",
    "synthetic_file",
    "warn_of_zeros",
]

_LOG = logging.getLogger("modfill")


@dataclass(frozen=True, eq=False)
class Case:
    """The images of one case, all on the same grid.

    Attributes:
        case_id: Name of the case.
        images: Usable acquired image by modality, in the order of ``modality_set``: float32 voxels in memory,
            scaling applied, with the file's affine and header (which keeps the data type on disk and the
            orientation codes).
        paths: File by modality of those images; empty for a case from arrays.
        unusable: Reason by modality, of images that cannot be used; it begins with the file's name.
        synthetic: Modalities whose file is synthetic; also in ``images`` only where that was allowed.
        hashes: SHA-256 by modality of the files as they were read; empty for a case from arrays.
        volume_index: Place along the fourth axis by modality, of those images that share a 4D file.
        overrides: Options by which the user ignored a problem of the files; recorded in the sidecars.
        modality_set: The modalities that a case may have.
    """

    case_id: str
    images: dict[str, nib.Nifti1Image]
    paths: dict[str, Path]
    unusable: dict[str, str]
    synthetic: tuple[str, ...] = ()
    hashes: dict[str, str] = field(default_factory=dict)
    volume_index: dict[str, int] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    modality_set: ModalitySet = BRATS

    def __repr__(self) -> str:
        parts = [f"available {', '.join(self.available)}", f"missing {', '.join(self.missing) or 'none'}"]
        parts += [f"unusable {', '.join(self.unusable)}"] if self.unusable else []
        parts += [f"synthetic {', '.join(self.synthetic)}"] if self.synthetic else []
        grid = describe_grid(next(iter(self.images.values())))
        return f"<Case {self.case_id}: {'; '.join(parts)}; {grid}>"

    @property
    def available(self) -> tuple[str, ...]:
        """Modalities with a usable acquired image, in the order of ``modality_set``."""
        return tuple(self.images)

    @property
    def missing(self) -> tuple[str, ...]:
        """All other modalities: absent, unusable or synthetic."""
        return self.modality_set.without(self.images)

    def volume(self, modality: str) -> npt.NDArray[np.float32]:
        """Return the voxels of an available modality, float32, in the file's shape and intensities.

        The array is the case's own, not a copy.

        Raises:
            KeyError: If the modality is not available.
        """
        return np.asanyarray(self.images[modality].dataobj)


def inspect(
    case: str | Path | Mapping[str, str | Path],
    *,
    modality_set: ModalitySet | str | Path | None = None,
    allow_synthetic: bool = False,
    assume_aligned: bool = False,
    ignore_unexplained: bool = False,
) -> Case:
    """Read and check one case: ``.available``, ``.missing``, ``.unusable``. No weights are needed.

    Args:
        case: A folder with one case, or files by modality, or by any name of it such as ``flair``.
        modality_set: A set, the name of a built-in one, or a TOML file; None is the BraTS set. That of trained weights
            is ``ModalityCompleter.modality_set``.
        allow_synthetic: Use synthetic images as sources too; recorded in the sidecars.
        assume_aligned: Place images without orientation codes like those with them, as ``read_case`` does.
        ignore_unexplained: Accept a case that lacks a modality although it holds images with unknown names.

    Raises:
        CaseError: There is no case or more than one, or the case cannot be used at all.
    """

    def files() -> CaseFiles:
        if isinstance(case, Mapping):
            return case_of_files(case, modality_set=modality_set)
        return find_case(case, modality_set=modality_set, ignore_unexplained=ignore_unexplained)

    return read_case(files(), allow_synthetic=allow_synthetic, assume_aligned=assume_aligned)


def read_case(files: CaseFiles, *, allow_synthetic: bool = False, assume_aligned: bool = False) -> Case:
    """Read and check the images of a case.

    An image that is truncated, not NIfTI, all zero, constant over its non-zero voxels, not finite, or an exact
    copy of an earlier modality goes to ``unusable``. A volume of zeros in a 4D file is a missing modality, since a
    4D file cannot leave it out. So is a channel of zeros in nnU-Net's layout, with a logged warning. Memory is bounded
    by the number of voxels that is allowed, not by what a header claims.

    Args:
        files: A case as ``find_cases`` returns it.
        allow_synthetic: Use synthetic images as sources, instead of treating them as missing.
        assume_aligned: Take an image whose header has no orientation codes to lie where the first image of the same
            shape that has them lies; ``Case.overrides`` then has ``assume-aligned``.

    Returns:
        The case, with at least one available modality.

    Raises:
        CaseError: If ``files`` has a problem, no image is usable, an image is not 3D (or 4D with as many volumes as
            ``files.volume_index``) or claims more voxels than the environment variable ``MODFILL_MAX_VOXELS`` allows
            (2**28 by default), the images are on different grids, an affine cannot be used, or one has no
            background of 0 (skull not stripped).
        ModfillError: If memory does not suffice.
    """
    if files.problem:
        raise CaseError(files.problem)
    images: dict[str, nib.Nifti1Image] = {}
    hashes: dict[str, str] = {}
    unusable: dict[str, str] = {}
    synthetic: list[str] = []
    stacks: dict[Path, tuple[nib.Nifti1Image, str]] = {}  # 4D files, each read once
    with within_memory(f"case {files.case_id}"):
        for modality, path in files.paths.items():
            try:
                header = read_header(path)
                if has_mark(header) and not allow_synthetic:
                    synthetic.append(modality)
                    continue
                image, digest = _read(files, modality, header, stacks)
                voxels = np.asanyarray(image.dataobj)
                marked = has_mark(header) or matches_sidecar(path, voxels)
                if marked:
                    synthetic.append(modality)
                absent = (modality in files.volume_index or isinstance(files, ChannelCase)) and not voxels.any()
                if absent and modality not in files.volume_index:
                    warn_of_zeros(files.case_id, path.name, modality)
                if (allow_synthetic or not marked) and not absent:
                    images[modality], hashes[modality] = image, digest
            except Unusable as reason:
                unusable[modality] = f"{path.name} {reason}"
        overrides = files.overrides
        if assume_aligned and _align(images):
            overrides += ("assume-aligned",)
        images = _check(files.case_id, images, image_labels(files), unusable, files.modality_set)
    paths = {modality: files.paths[modality] for modality in images}
    volume_index = {modality: index for modality, index in files.volume_index.items() if modality in images}
    read = {modality: hashes[modality] for modality in images}
    made = tuple(synthetic)
    return Case(files.case_id, images, paths, unusable, made, read, volume_index, overrides, files.modality_set)


def _align(images: dict[str, nib.Nifti1Image]) -> bool:
    """Place images without orientation codes like the first of the same shape with them. True if any was placed."""
    moved = False
    coded = [image for image in images.values() if has_codes(image)]
    for modality, image in images.items():
        like = next((other for other in coded if other.shape == image.shape), None)
        if like is not None and not has_codes(image):
            images[modality], moved = placed_like(image, like), True
    return moved


def _read(
    files: CaseFiles, modality: str, header: nib.Nifti1Header, stacks: dict[Path, tuple[nib.Nifti1Image, str]]
) -> tuple[nib.Nifti1Image, str]:
    """One modality's image and its file's SHA-256; a 4D file is kept in `stacks` for the modalities to come."""
    path = files.paths[modality]
    index = files.volume_index.get(modality)
    if index is None:
        return read_image(files.case_id, path, header)
    if path not in stacks:
        stacks[path] = read_image(files.case_id, path, header, len(files.volume_index))
    image, digest = stacks[path]
    return image.slicer[..., index], digest


def warn_of_zeros(case_id: str, name: str, modality: str) -> None:
    """Log that a channel of zeros is taken for a missing one."""
    _LOG.warning("case %s: %s holds only zeros; %s counts as missing", case_id, name, modality)


def synthetic_file(path: Path) -> bool:
    """Return whether modfill made an image file, by its header or the sidecar beside it.

    Voxels are read only if there is a sidecar and the header has no mark. A file that cannot be read does not count.
    """
    try:
        header = read_header(path)
        if has_mark(header) or read_sidecar(sidecar_path(path)) is None:
            return has_mark(header)
        image, _ = read_image(path.name, path, header)
    except CaseError:
        return False
    return matches_sidecar(path, np.asanyarray(image.dataobj))


def image_labels(files: CaseFiles) -> dict[str, str]:
    """The name of each image in messages: its file, and its modality where the file holds several."""
    return {m: f"{path.name} ({m})" if m in files.volume_index else path.name for m, path in files.paths.items()}


def case_from_arrays(
    arrays: Mapping[str, npt.NDArray[np.generic]],
    affine: npt.ArrayLike,
    case_id: str = "case",
    modality_set: ModalitySet | str | Path | None = None,
) -> Case:
    """Make a case of arrays on one grid, with the checks of ``read_case``.

    Args:
        arrays: 3D array by modality, or a name of it such as ``flair``, any real type, 0 outside the brain; copied.
        affine: 4x4, from voxel indices to mm, as in nibabel.
        case_id: Name of the case.
        modality_set: As for ``inspect``.

    Returns:
        The case, with at least one available modality.

    Raises:
        CaseError: As ``read_case``; also if a key is no modality.
    """
    affine = np.asarray(affine, dtype=np.float64)
    known = ModalitySet.of(modality_set)
    arrays = known.by_modality(arrays, f"case {case_id}: modality")
    images: dict[str, nib.Nifti1Image] = {}
    for modality in known.in_order(arrays):
        array = np.asarray(arrays[modality])
        check_shape(f"case {case_id}: {modality}", array.shape)
        check_affine(f"case {case_id}: {modality}", affine)
        if array.dtype.kind not in "biuf":
            raise CaseError(f"case {case_id}: {modality} must hold real numbers, got {array.dtype}; convert it")
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused
            images[modality] = nib.Nifti1Image(np.array(array, dtype=np.float32), affine)
        if array.dtype.kind in "iu":
            images[modality].set_data_dtype(array.dtype)
    unusable: dict[str, str] = {}
    images = _check(case_id, images, {modality: modality for modality in images}, unusable, known)
    return Case(case_id, images, {}, unusable, modality_set=known)


def require_usable(case: Case) -> None:
    """Refuse a case with an unusable image, rather than replace the image without notice.

    Raises:
        CaseError: If any image is unusable; names the first one.
    """
    for modality, reason in case.unusable.items():
        raise CaseError(
            f"case {case.case_id}: {reason}; replace it, or delete or rename it to have {modality} synthesised"
        )


def _check(
    case_id: str,
    images: dict[str, nib.Nifti1Image],
    labels: dict[str, str],
    unusable: dict[str, str],
    known: ModalitySet,
) -> dict[str, nib.Nifti1Image]:
    """Return the usable images and add the others to ``unusable``, unless the whole case must be refused."""
    for modality in images:
        clear_background(np.asanyarray(images[modality].dataobj))
        reason = content_problem(np.asanyarray(images[modality].dataobj))
        if reason:
            unusable[modality] = f"{labels[modality]} {reason}"
    for first, second in combinations(images, 2):
        if not {first, second} & set(unusable) and same_voxels(images[first], images[second]):
            unusable[second] = f"{labels[second]} must differ from {labels[first]}, got an exact copy of it"
    usable = {modality: image for modality, image in images.items() if modality not in unusable}
    if not usable:
        raise CaseError(nothing_usable(case_id, unusable))
    check_grids(case_id, usable, labels)
    for modality, image in usable.items():
        check_background(f"case {case_id}: {labels[modality]}", image, stripped=known.skull_stripped)
    return usable
