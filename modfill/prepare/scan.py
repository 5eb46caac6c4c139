"""A scan as it left the scanner, in memory, and as an image of SimpleITK."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modfill.cases.nifti import Unusable, read_header, read_image
from modfill.errors import CaseError

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["Matrix", "Scan", "as_sitk", "inverse", "read_scan", "world"]

Matrix = NDArray[np.float64]
"""(4, 4), between voxel indices or worlds; worlds are RAS, in mm."""

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SKEW = 0.01  # cosine between two axes of a grid: SimpleITK takes no more


@dataclass(frozen=True, eq=False)
class Scan:
    """One acquired image.

    Attributes:
        path: the file, or the folder of the DICOM series.
        voxels: (X, Y, Z) float32, finite.
        affine: voxel indices -> world.
        sha256: of the file that was read.
        integer: whether the file stores integers.
    """

    path: Path
    voxels: NDArray[np.float32]
    affine: Matrix
    sha256: str = ""
    integer: bool = True

    @property
    def spacing(self) -> tuple[float, ...]:
        """Edges of a voxel in mm."""
        return tuple(float(n) for n in np.linalg.norm(self.affine[:3, :3], axis=0))


def read_scan(path: Path, source: Path | None = None) -> Scan:
    """Read a 3D NIfTI image.

    Args:
        path: the file.
        source: what messages and records name, if the file was converted from it.

    Raises:
        CaseError: the file is no usable 3D image, or its axes are not perpendicular.
    """
    where = source or path
    try:
        image, sha256 = read_image(path.name, path, read_header(path))
    except Unusable as problem:
        raise CaseError(f"{where} {problem}") from problem
    voxels = np.nan_to_num(np.asarray(image.dataobj, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    affine = np.asarray(image.affine, dtype=np.float64)
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if abs(axes.T @ axes - np.eye(3)).max() > _SKEW:
        raise CaseError(f"{where} must have perpendicular axes, got a sheared grid; resample it first")
    return Scan(where, voxels, affine, sha256, image.get_data_dtype().kind in "iu")


def as_sitk(scan: Scan) -> sitk.Image:
    """The same image for SimpleITK, whose world is LPS."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(scan.voxels.T))
    affine = _LPS @ scan.affine
    image.SetSpacing(scan.spacing)
    image.SetDirection((affine[:3, :3] / scan.spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def inverse(matrix: Matrix) -> Matrix:
    """The way back."""
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def world(matrix: Matrix) -> Matrix:
    """A matrix between LPS worlds as one between RAS worlds, and back."""
    return _LPS @ matrix @ _LPS
