"""Prepared images as files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from modfill.prepare.grid import Grid

__all__ = ["save_image", "stored"]


def stored(voxels: NDArray[np.float32], integer: bool) -> NDArray[np.generic]:
    """The voxels in the type of the file, integers where the scan has them."""
    return np.round(voxels).astype(np.int32 if voxels.max() > 32767 else np.int16) if integer else voxels


def save_image(voxels: NDArray[np.generic], grid: Grid, path: Path) -> None:
    """Write voxels (X, Y, Z) on a grid as NIfTI. Raises OSError if that fails."""
    image = nib.Nifti1Image(voxels, grid.affine)
    image.set_sform(grid.affine, 1)
    image.set_qform(grid.affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
