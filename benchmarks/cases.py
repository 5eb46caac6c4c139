"""What benchmarks do to cases: hide modalities, and read the segmentation beside the images."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from modfill.case import Case
from modfill.preprocess import IntensityScale, Prepared


def reduced(case: Case, sources: tuple[str, ...]) -> Case:
    """The case with only these modalities."""
    return Case(case.case_id, {m: case.images[m] for m in sources}, {m: case.paths[m] for m in sources}, {})


def segmentation_path(case: Case) -> Path:
    """Where a case's segmentation lies, if it has one."""
    return next(iter(case.paths.values())).parent / f"{case.case_id}-seg.nii.gz"


def segmentation_of(case: Case) -> np.ndarray | None:
    """The segmentation (X, Y, Z) beside the images, or None."""
    path = segmentation_path(case)
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj) if path.exists() else None


def in_unit_range(prepared: Prepared, volume: np.ndarray, unit: tuple[float, float]) -> np.ndarray:
    """A z-scored volume on the model's grid -> unit range on the case's own grid, 0 outside the brain.

    Args:
        prepared: the case.
        volume: (X, Y, Z).
        unit: mean and standard deviation that the modality has in unit range, on average over the training cases.
    """
    scaled = IntensityScale(0, 1, *unit).to_unit(volume, "zscore").astype(np.float32)
    return prepared.geometry.restore(scaled) * prepared.own_brain
