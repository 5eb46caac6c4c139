"""From an image's own grid to the model's and back, exactly: orientation, crop box, resampling, padding.

The model works on right-anterior-superior volumes of about 1 mm voxels, cropped to the brain and padded to a multiple
that its networks need. Everything but the resampling (only for grids that are not 1 mm) is a permutation of voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import scipy
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

MODEL_SPACING = 1.0  # mm, the grid of BraTS, on which the weights are trained
SPACING_TOLERANCE = 0.05  # spacings this near to 1 mm are taken for it: resampling would only blur


@dataclass(frozen=True)
class Geometry:
    """The transform from one grid to the model's grid and back; built by `Geometry.of`.

    Attributes:
        shape: voxels of the image's own grid.
        orientation: nibabel orientation (3, 2) that takes the own grid to RAS.
        box: crop in the RAS grid, start and stop per axis.
        zoom: own spacing / model spacing per RAS axis; 1 where nothing is resampled.
        model_shape: voxels of the model's grid, multiples of what the networks need.
    """

    shape: tuple[int, ...]
    orientation: np.ndarray
    box: tuple[tuple[int, int], ...]
    zoom: tuple[float, ...]
    model_shape: tuple[int, ...]

    @classmethod
    def of(cls, affine: np.ndarray, brain: np.ndarray, multiple: int) -> Geometry:
        """The geometry of a grid with this affine whose brain voxels are `brain` (X, Y, Z), bool, not empty."""
        to_ras = ornt_transform(io_orientation(affine), axcodes2ornt("RAS"))
        ras_affine = affine @ inv_ornt_aff(to_ras, brain.shape)
        spacing = np.asarray(nib.affines.voxel_sizes(ras_affine))
        zoom = np.where(abs(spacing / MODEL_SPACING - 1) > SPACING_TOLERANCE, spacing / MODEL_SPACING, 1.0)
        ras = apply_orientation(brain, to_ras)
        box = tuple(_extent(ras.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3))
        edges = [_resampled(stop - start, z) for (start, stop), z in zip(box, zoom, strict=True)]
        model_shape = tuple(-(-edge // multiple) * multiple for edge in edges)
        return cls(tuple(brain.shape), to_ras, box, tuple(float(z) for z in zoom), model_shape)

    def apply(self, volume: np.ndarray, linear: bool = True, average: bool = False) -> np.ndarray:
        """Volume on the own grid -> the model's grid, 0 in the padding.

        Args:
            volume: (X, Y, Z), 0 outside the brain.
            linear: False for labels, which take the nearest voxel.
            average: where the own grid is finer, first average over about a voxel of the model's grid, so that noise
                is not merely sampled. Outside of the crop box counts as 0.
        """
        cropped = apply_orientation(volume, self.orientation)[self._slices]
        if average and min(self.zoom) < 1:
            # Gaussian with FWHM^2 = (model spacing / own spacing)^2 - 1; FWHM = 2.355 standard deviations.
            sigma = [np.sqrt(max(z**-2 - 1, 0)) / 2.355 for z in self.zoom]
            cropped = scipy.ndimage.gaussian_filter(cropped.astype(np.float32), sigma, mode="constant")
        return self._pad(_resample(cropped, self.zoom, self._edges, linear))

    def restore(self, volume: np.ndarray) -> np.ndarray:
        """Volume on the model's grid -> the own grid, 0 outside the crop box: the inverse of `apply`."""
        unpadded = volume[tuple(slice(0, edge) for edge in self._edges)]
        box_shape = tuple(stop - start for start, stop in self.box)
        cropped = _resample(unpadded, tuple(1 / z for z in self.zoom), box_shape, linear=True)
        ras_shape = apply_orientation(np.empty(self.shape, bool), self.orientation).shape
        whole = np.zeros(ras_shape, volume.dtype)
        whole[self._slices] = cropped
        own = self.orientation  # in RAS axes: where each own axis went, and whether it was flipped
        back = ornt_transform(axcodes2ornt("RAS"), own)
        return np.ascontiguousarray(apply_orientation(whole, back))

    @property
    def resamples(self) -> bool:
        """True if voxels are interpolated, not only moved."""
        return any(z != 1.0 for z in self.zoom)

    @property
    def _slices(self) -> tuple[slice, ...]:
        return tuple(slice(start, stop) for start, stop in self.box)

    @property
    def _edges(self) -> tuple[int, ...]:
        return tuple(_resampled(stop - start, z) for (start, stop), z in zip(self.box, self.zoom, strict=True))

    def _pad(self, volume: np.ndarray) -> np.ndarray:
        width = [(0, model - edge) for model, edge in zip(self.model_shape, volume.shape, strict=True)]
        return np.pad(volume, width)


def _extent(occupied: np.ndarray) -> tuple[int, int]:
    index = np.flatnonzero(occupied)
    return int(index[0]), int(index[-1]) + 1


def _resampled(edge: int, zoom: float) -> int:
    return edge if zoom == 1.0 else max(int(round((edge - 1) * zoom)) + 1, 1)


def _resample(volume: np.ndarray, zoom: tuple[float, ...], shape: tuple[int, ...], linear: bool) -> np.ndarray:
    """Linear (or nearest) resampling in which the first voxel keeps its place."""
    if all(z == 1.0 for z in zoom):
        return volume
    return scipy.ndimage.affine_transform(
        volume, 1 / np.asarray(zoom), output_shape=shape, order=int(linear), mode="nearest"
    )
