"""Operations on cases for benchmarks: hide modalities, read the segmentation beside the images, score an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.scales import COLUMNS as SCALES
from benchmarks.scales import scales
from modfill.cases.reading import Case
from modfill.metrics import PAPER_VOXELS, brain_box, score, sharpness
from modfill.modalities import BRATS
from modfill.preprocessing.intensity import IntensityScale
from modfill.preprocessing.prepare import Prepared

PAPER_VOLUMES = {frozenset(("t1", "t2", "pd")): 256 * 160 * 224}
"""Voxels of the volumes over which the paper averages, of the sets of modalities for which it is not 192x192x144."""


def reduced(case: Case, sources: tuple[str, ...]) -> Case:
    """The case with only these modalities."""
    images, paths = {m: case.images[m] for m in sources}, {m: case.paths[m] for m in sources}
    return Case(case.case_id, images, paths, {}, modality_set=case.modality_set)


def segmentation_path(case: Case) -> Path:
    """The path of a case's segmentation, or None."""
    return next(iter(case.paths.values())).parent / f"{case.case_id}-seg.nii.gz"


def segmentation_of(case: Case) -> np.ndarray | None:
    """The segmentation (X, Y, Z) beside the images, or None."""
    path = segmentation_path(case)
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj) if path.exists() else None


def brain_of(case: Case) -> np.ndarray:
    """The protocol's brain (X, Y, Z) of a complete case: where at least two modalities are not 0."""
    return np.sum([case.volume(m) > 0 for m in case.images], axis=0) >= 2


def in_unit_range(prepared: Prepared, volume: np.ndarray, unit: Sequence[float]) -> np.ndarray:
    """A z-scored volume on the model's grid -> unit range on the case's own grid, 0 outside the brain.

    Args:
        prepared: the case.
        volume: (X, Y, Z).
        unit: mean and standard deviation that the modality is taken to have in unit range.
    """
    scaled = IntensityScale(0, 1, *unit).to_unit(volume).astype(np.float32)
    return prepared.restore(scaled)


def figures(case: Case, target: str, predicted: np.ndarray) -> dict[str, float]:
    """Every figure of `modfill.metrics.score`, and `sharpness`, of a predicted modality.

    The prediction is in unit range, on the grid of a complete case.
    """
    brain, segmentation = brain_of(case), segmentation_of(case)
    box = brain_box(brain)
    tumour = None if segmentation is None else (segmentation > 0)[box] & brain[box]
    compared = case.volume(target)[box], predicted[box], brain[box]
    voxels = PAPER_VOLUMES.get(frozenset(case.images), PAPER_VOXELS)
    return score(*compared, tumour, voxels) | {"sharpness": sharpness(*compared)}


def others_figures(case: Case, target: str, predicted: np.ndarray) -> dict[str, float]:
    """The figures of other papers, `benchmarks.scales`, of a predicted modality; arguments as of `figures`.

    All are of the BraTS set: other sets have NaN.
    """
    if case.modality_set.names != BRATS.names:
        return dict.fromkeys(SCALES, float("nan"))
    segmentation = segmentation_of(case)
    tumour = None if segmentation is None else segmentation > 0
    return scales(case.volume(target), predicted, brain_of(case), tumour, case.images[target].affine)
