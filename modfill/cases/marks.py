"""Marks of a synthetic image: in its NIfTI header, and the hash of its voxels in the sidecar beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from modfill.cases.filenames import nifti_stem

__all__ = [
    "SYNTHETIC_MARK",
    "expected_psnr",
    "has_mark",
    "mark_synthetic",
    "matches_sidecar",
    "read_sidecar",
    "sidecar_path",
    "voxel_hash",
]

SYNTHETIC_MARK = "modfill synthetic"
"""The beginning of the NIfTI field ``descrip`` of every synthesised image."""

_MOST_DECIBELS = 1e6  # any PSNR is lower; NaN fails the comparison too


def has_mark(header: nib.Nifti1Header) -> bool:
    """Return whether a header marks the image as made by modfill. The mark outlives renaming and a lost sidecar."""
    return bool(header["descrip"].item().startswith(SYNTHETIC_MARK.encode()))


def mark_synthetic(image: nib.Nifti1Image, content: str, sources: Sequence[str]) -> nib.Nifti1Image:
    """Write the mark into the header's description, which outlives renaming and a lost sidecar.

    Args:
        image: Changed in place.
        content: What the image shows: a modality, or the uncertainty of one.
        sources: The modalities that it was synthesised from.

    Returns:
        The same image.
    """
    image.header["descrip"] = f"{SYNTHETIC_MARK} {content} from {'+'.join(sources)}"[:79]
    return image


def matches_sidecar(path: Path, voxels: npt.NDArray[np.generic]) -> bool:
    """Return whether the sidecar beside an image describes these voxels. It does even if the header was rewritten.

    An acquired image that took the place of a synthetic one does not match the sidecar that stayed behind.
    """
    note = read_sidecar(sidecar_path(path))
    return note is not None and note.get("VoxelSHA256") == voxel_hash(voxels)


def sidecar_path(image_path: Path) -> Path:
    """The sidecar beside an image."""
    return image_path.with_name((nifti_stem(image_path.name) or image_path.name) + ".json")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Read a sidecar that modfill wrote; None if there is none, or another file."""
    try:
        note = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(note, dict) and note.get("Synthetic") is True and "UnitRange" in note
    return note if ours else None


def expected_psnr(note: Mapping[str, Any]) -> float | None:
    """The expected PSNR in dB that a sidecar states; None if it states none, or no finite number."""
    found = note.get("ExpectedPSNR")
    return float(found) if isinstance(found, int | float) and abs(found) < _MOST_DECIBELS else None


def voxel_hash(voxels: npt.NDArray[np.generic]) -> str:
    """SHA-256 of the voxels as little-endian float32 in C order; independent of data type, compression and header."""
    return hashlib.sha256(np.asarray(voxels, dtype="<f4").tobytes("C")).hexdigest()
