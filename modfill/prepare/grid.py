"""The grid of a prepared case, and resampling between grids in both directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from modfill.prepare.scan import Matrix, Scan

__all__ = ["Grid", "grid_around", "grid_of_reference", "resample"]

SPACING = 1.0  # mm
MARGIN = 8  # voxels around the brain
FWHM = 2.355  # of a gaussian, in its standard deviations


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxels (X, Y, Z) in space.

    Attributes:
        shape: voxels along each axis.
        affine: voxel indices -> world.
    """

    shape: tuple[int, ...]
    affine: Matrix

    @classmethod
    def of(cls, scan: Scan) -> Grid:
        """The own grid of a scan."""
        return cls(scan.voxels.shape, scan.affine)

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Edges of a voxel in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


def grid_of_reference(reference: Scan) -> Grid:
    """The reference's field of view in voxels of 1 mm, along the reference's own axes."""
    extent = np.array(reference.voxels.shape) * reference.spacing
    shape = np.maximum(np.round(extent / SPACING), 1).astype(int)
    affine = reference.affine.copy()
    affine[:3, :3] *= SPACING / np.array(reference.spacing)
    first = (SPACING / np.array(reference.spacing) - 1) / 2  # centre of the first voxel, in the reference's voxels
    affine[:3, 3] = reference.affine[:3, :3] @ first + reference.affine[:3, 3]
    return Grid(tuple(int(n) for n in shape), affine)


def grid_around(grid: Grid, brain: NDArray[np.bool_]) -> tuple[Grid, tuple[slice, ...]]:
    """The part of a grid around the brain, and where it lies in the grid."""
    index = np.argwhere(brain)
    low = np.maximum(index.min(0) - MARGIN, 0)
    high = np.minimum(index.max(0) + 1 + MARGIN, grid.shape)
    affine = grid.affine.copy()
    affine[:3, 3] = grid.affine[:3, :3] @ low + grid.affine[:3, 3]
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return Grid(tuple(int(n) for n in high - low), affine), box


def resample(
    voxels: NDArray[np.floating], own: Grid, to: Grid, matrix: Matrix | None = None, *, order: int = 3
) -> NDArray[np.float32]:
    """Voxels on another grid; 0 outside of the own field of view.

    Where the new voxels are larger than the own ones, the image is smoothed first, so that noise is averaged and not
    merely sampled. Splines do not overshoot the range of the own values.

    Args:
        voxels: (X, Y, Z).
        own: the grid of `voxels`.
        to: the new grid.
        matrix: world of `to` -> world of `own`; None is the identity.
        order: of the spline: 3 for images, 1 for masks, 0 for labels.
    """
    way = np.linalg.inv(own.affine) @ (np.eye(4) if matrix is None else matrix) @ to.affine
    values = np.asarray(voxels, dtype=np.float32)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)  # 0 is outside
    if order:
        step = np.sqrt((way[:3, :3] ** 2).sum(1))  # own voxels that a step along each of the new axes spans
        sigma = np.sqrt(np.maximum(step**2 - 1, 0)) / FWHM
        values = ndimage.gaussian_filter(values, np.where(sigma > 0.2, sigma, 0), mode="nearest")
    out = ndimage.affine_transform(
        values,
        way[:3, :3],
        way[:3, 3],
        output_shape=to.shape,
        order=order,
        mode="grid-constant" if order else "constant",
    )
    return np.clip(out, low, high).astype(np.float32)
