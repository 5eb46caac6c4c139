"""From a volume on the model's grid to an image on the case's own grid: the inverse of `prepare`."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import numpy.typing as npt

from modfill.cases.nifti import PLACE
from modfill.cases.reading import Case
from modfill.preprocessing.intensity import IntensityScale
from modfill.preprocessing.prepare import Prepared

__all__ = ["restore_deviation", "restore_image"]


def restore_image(
    case: Case, prepared: Prepared, target: str, volume: npt.NDArray[np.float32], scale: IntensityScale
) -> nib.Nifti1Image:
    """Restore a synthesised volume.

    Args:
        case: the sources.
        prepared: the same on the model's grid.
        target: the synthesised modality.
        volume: (X, Y, Z) on the model's grid, normalised.
        scale: of the synthetic image.

    Returns:
        The image on the case's grid in the data type of the nearest source, float32 unless that is integer. It is 0
        outside the brain and only there.
    """
    intensities = np.clip(scale.restore(volume), scale.low, scale.high)
    own = prepared.restore(intensities.astype(np.float32))
    dtype = case.images[prepared.nearest(target)].get_data_dtype()
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        own = np.clip(np.rint(own.astype(np.float64)), bounds.min, bounds.max)
        smallest = 1.0  # 0 is the background
    else:
        dtype, smallest = np.dtype(np.float32), float(np.finfo(np.float32).tiny)
    own[prepared.own_brain & (own == 0)] = smallest
    return _image(case, own, dtype)


def restore_deviation(
    case: Case, prepared: Prepared, deviation: npt.NDArray[np.float32], scale: IntensityScale
) -> nib.Nifti1Image:
    """Restore a standard deviation, normalised, (X, Y, Z): a float32 image in the synthetic image's intensities."""
    own = prepared.restore((deviation * scale.std).astype(np.float32))
    return _image(case, own, np.dtype(np.float32))


def _image(case: Case, volume: npt.NDArray[np.floating], dtype: np.dtype) -> nib.Nifti1Image:
    """A volume with the affine and orientation codes of the case's first image, and nothing else of that header.

    Headers of one grid may differ in qform and sform. All synthetic images of a case have the same.
    """
    source = next(iter(case.images.values()))
    image = nib.Nifti1Image(volume.astype(dtype), source.affine, dtype=dtype)
    with np.errstate(over="ignore"):  # NIfTI-2 has a larger range than NIfTI-1
        for name in PLACE:
            image.header[name] = source.header[name]
        image.header["pixdim"][:4] = source.header["pixdim"][:4]
    return image
