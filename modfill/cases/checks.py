"""Checks of the images of a case. Each message is one line: the requirement, the finding, and what to do."""

from __future__ import annotations

import math
import os

import nibabel as nib
import numpy as np
import numpy.typing as npt
import scipy  # its parts are loaded when they are used: a finished case needs none

from modfill.cases.brain import foreground, ring_darkness
from modfill.errors import CaseError, ModfillError

__all__ = [
    "check_affine",
    "check_background",
    "check_grids",
    "check_shape",
    "clear_background",
    "content_problem",
    "describe_grid",
    "has_codes",
    "nothing_usable",
    "same_voxels",
    "spacing_of",
    "times",
]

_MAX_VOXELS = 2**28
_GRID_TOLERANCE = 1e-3  # of the affines' entries, in mm: writing an affine as float32 costs less
_VOXEL_SIZES = (0.01, 100.0)  # mm; microscopes and headers in metres are beyond
_FARTHEST = 1e5  # mm from the origin: beyond, float32 no longer separates neighbouring voxels
_LEAST_VOLUME = 1e-3  # volume of a voxel as a share of the box with the same edges; less is flat
_MOST_A_SIDE = 32767  # voxels: the limit of NIfTI-1
_LARGEST_INTENSITY = 1e15  # its square fits in float32, and the value in every 64-bit integer
_EDGE_LIMIT = 0.05  # share of non-zero voxels along the volume's edges; brains cropped to their box have 0.000
_HEAD_ML = 300.0  # less is no whole head
_RING_LIMIT = 0.5  # a skull is darker beside scalp and brain; in 108 images of real stripped brains, none is below 0.78
_BRAIN_LIMIT_ML = 2500.0  # a stripped brain is at most about 1900 ml, a head at least 3000


def check_shape(where: str, shape: tuple[int, ...]) -> None:
    """Refuse a shape that is not 3D, or too large to be read.

    Args:
        where: Case and file, with which the message begins.
        shape: By the header; no voxel need be read yet.

    Raises:
        CaseError: If it is not 3D, a side is less than 2 or more than 32767, or it has more voxels than the
            environment variable ``MODFILL_MAX_VOXELS`` allows (2**28 by default).
        ModfillError: If that variable is no whole number.
    """
    if len(shape) != 3:
        raise CaseError(f"{where} must be 3D, got {len(shape)}D with shape {shape}; give one 3D file per modality")
    if min(shape) < 2:
        raise CaseError(f"{where} must have at least 2 voxels a side, got shape {shape}; give a whole volume")
    if max(shape) > _MOST_A_SIDE:
        raise CaseError(f"{where} must have at most {_MOST_A_SIDE} voxels a side, got shape {shape}; check the file")
    setting = os.environ.get("MODFILL_MAX_VOXELS", str(_MAX_VOXELS))
    if not setting.isdecimal():
        raise ModfillError(f"MODFILL_MAX_VOXELS must be a whole number, got {setting!r}")
    voxels = math.prod(shape)
    if voxels > int(setting):
        raise CaseError(
            f"{where} must have at most {setting} voxels, got {voxels} by its header; "
            "check the file, or set MODFILL_MAX_VOXELS higher"
        )


def check_affine(where: str, affine: npt.NDArray[np.float64]) -> None:
    """Refuse an affine (4, 4) that does not place the voxels.

    Args:
        where: Case and file, with which the message begins.
        affine: From voxel indices to mm.

    Raises:
        CaseError: If it has another shape, is not finite, cannot be inverted, or gives voxel sizes or
            positions that no scanner produces.
    """
    if affine.shape != (4, 4):
        raise CaseError(f"{where} must have a 4x4 affine, got shape {affine.shape}; give nibabel's image.affine")
    rows = np.array2string(affine[:3], precision=3).replace("\n", "")
    with np.errstate(all="ignore"):
        sizes = nib.affines.voxel_sizes(affine)
        volume = abs(np.linalg.det(affine[:3, :3] / sizes))  # NaN where a size is 0
    if not (np.isfinite(affine).all() and volume >= _LEAST_VOLUME):
        raise CaseError(f"{where} must have an invertible affine, got {rows}; convert the scan anew")
    smallest, largest = _VOXEL_SIZES
    if min(sizes) < smallest or max(sizes) > largest or abs(affine[:3, 3]).max() > _FARTHEST:
        raise CaseError(
            f"{where} must have voxels of {smallest} to {largest:g} mm within {_FARTHEST / 1000:g} m of the origin, "
            f"got the affine {rows}; convert the scan anew"
        )


def clear_background(voxels: npt.NDArray[np.float32]) -> None:
    """Set a background of NaN or infinity to 0, in place.

    Some tools write NaN outside the brain. It is background only if every such voxel (X, Y, Z) is connected, through
    others or through zeros, to the volume's border. Otherwise nothing is changed: voxels inside the brain are missing.
    """
    beyond = ~np.isfinite(voxels)
    if not beyond.any():
        return
    if np.count_nonzero(voxels == 0) > np.count_nonzero(beyond):
        return  # the background is 0: these are missing voxels, e.g. slices
    components, _ = scipy.ndimage.label(np.pad(beyond | (voxels == 0), 1, constant_values=True))
    outside = (components == components[0, 0, 0])[1:-1, 1:-1, 1:-1]
    if outside[beyond].all() and not outside.all():
        voxels[beyond] = 0


def content_problem(voxels: npt.NDArray[np.float32]) -> str | None:
    """Return why voxels cannot be an acquired brain image (not finite, all zero, constant, too large), or None."""
    finite = np.count_nonzero(np.isfinite(voxels))
    if finite < voxels.size:
        return f"must be finite everywhere, got NaN or infinity in {voxels.size - finite} of {voxels.size} voxels"
    nonzero = voxels[voxels != 0]
    if nonzero.size == 0:
        return "must show a brain, got all zero"
    if nonzero.min() == nonzero.max():
        return f"must show a brain, got the constant {nonzero[0]:g}"
    largest = max(-nonzero.min(), nonzero.max())
    if largest > _LARGEST_INTENSITY:
        return f"must have intensities of at most {_LARGEST_INTENSITY:g}, got {largest:g}"
    return None


def nothing_usable(case_id: str, unusable: dict[str, str]) -> str:
    """The message that a case has no usable image, with the reason for each unusable one."""
    got = "; ".join(unusable.values()) or "none that is acquired"
    return (
        f"case {case_id}: at least one modality must be usable, got {got}; replace or add files, "
        "or allow synthetic sources (allow_synthetic=True)"
    )


def same_voxels(image: nib.Nifti1Image, other: nib.Nifti1Image) -> bool:
    """Return whether two images are exact copies of one another."""
    return np.array_equal(np.asanyarray(image.dataobj), np.asanyarray(other.dataobj))


def check_grids(case_id: str, images: dict[str, nib.Nifti1Image], labels: dict[str, str]) -> None:
    """Refuse images on different grids.

    Args:
        case_id: Name of the case.
        images: Image by modality, at least one.
        labels: What the message calls each modality, e.g. its file's name.

    Raises:
        CaseError: If shapes or affines differ.
    """
    (first, reference), *others = images.items()
    for modality, image in others:
        same_shape = image.shape == reference.shape
        if same_shape and np.allclose(image.affine, reference.affine, rtol=0, atol=_GRID_TOLERANCE):
            continue
        if same_shape and has_codes(image) != has_codes(reference):
            without, coded = (first, modality) if has_codes(image) else (modality, first)
            raise CaseError(
                f"case {case_id}: all images must have orientation codes, got {labels[without]} without "
                f"orientation codes (qform_code = sform_code = 0) beside {labels[coded]} with them; convert it anew, "
                "or set assume_aligned=True if their voxels correspond"
            )
        apart = f" (affines differ by up to {np.abs(image.affine - reference.affine).max():.3g})" if same_shape else ""
        raise CaseError(
            f"case {case_id}: all images must be on one grid, got {labels[first]} with {describe_grid(reference)} "
            f"and {labels[modality]} with {describe_grid(image)}{apart}; "
            "register them first: modfill prepare does, from raw scans"
        )


def has_codes(image: nib.Nifti1Image) -> bool:
    """Return whether a header has orientation codes. Without them its affine is only a guess."""
    return bool(image.header["qform_code"] > 0 or image.header["sform_code"] > 0)


def describe_grid(image: nib.Nifti1Image) -> str:
    """Write the grid of an image as ``240x240x155 voxels of 1x1x1 mm``."""
    return f"{times(image.shape)} voxels of {spacing_of(image)} mm"


def spacing_of(image: nib.Nifti1Image) -> str:
    """Write the edges of an image's voxels in mm as ``1x1x1.2``."""
    sizes = nib.affines.voxel_sizes(np.asarray(image.affine))
    return "x".join(f"{float(f'{size:.5g}'):.3g}" for size in sizes)  # 0.93749997 and 0.93750003 are the same


def times(shape: tuple[int, ...]) -> str:
    """Write a shape as ``240x240x155``."""
    return "x".join(str(size) for size in shape)


def check_background(where: str, image: nib.Nifti1Image, stripped: bool = True) -> None:
    """Refuse an image with skull, air noise or another background than 0.

    A brain is round: even in a tightly cropped volume the twelve edges are background. With air noise, a neck or a
    shifted background they are not. A head whose air was set to 0 is recognised by its size, or by its skull: a dark
    ring between scalp and brain.

    Args:
        where: Case and file, with which the message begins.
        image: Image with the voxels in memory.
        stripped: False if the image may show a whole head. Its air must be 0 all the same.

    Raises:
        CaseError: If more than 5% of the edges' voxels are not 0, or more than 2500 ml of the whole, or
            a dark ring lies between a bright rim and the rest.
    """
    voxels = np.asanyarray(image.dataobj)
    shown = foreground(voxels)
    edges = [shown[x, y, :] for x in (0, -1) for y in (0, -1)]
    edges += [shown[x, :, z] for x in (0, -1) for z in (0, -1)]
    edges += [shown[:, y, z] for y in (0, -1) for z in (0, -1)]
    share = float(np.concatenate(edges).mean())
    if not stripped:
        if share > _EDGE_LIMIT:
            raise CaseError(
                f"{where} must have a background of 0, got {share:.0%} of the volume's edges not 0; set the air to 0"
            )
        return
    millilitres = np.count_nonzero(shown) * abs(np.linalg.det(image.affine[:3, :3])) / 1000
    if share > _EDGE_LIMIT:
        got = f"{share:.0%} of the volume's edges not 0"
    elif millilitres > _BRAIN_LIMIT_ML:
        got = f"{millilitres:.0f} ml that are not 0, more than a brain has"
    elif millilitres > _HEAD_ML and ring_darkness(voxels, shown, nib.affines.voxel_sizes(image.affine)) < _RING_LIMIT:
        got = "a dark ring, as of skull, between a bright rim and the brain"
    else:
        return
    raise CaseError(
        f"{where} must be skull-stripped with a background of 0, got {got}; "
        "modfill prepare strips raw scans, and so do HD-BET and SynthStrip; set the background to 0"
    )
