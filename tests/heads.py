"""Heads with skull and scalp around the MNI template's brain at 2 mm, small enough to register in seconds."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from benchmarks.preparation import acquire
from modfill.prepare.scan import Scan

_OUTER = {"t1n": (200, 80, 1100), "t1c": (220, 90, 1200), "t2w": (1300, 100, 600), "t2f": (150, 90, 500)}
GRIDS = {"t1n": (2.0, 2.0, 2, 0.0), "t1c": (2.0, 4.0, 2, 0.0), "t2w": (1.5, 5.0, 2, 0.0), "t2f": (2.0, 5.0, 0, 0.0)}


@cache
def head() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Four modalities (X, Y, Z), the brain, and the affine, centred on 0."""
    from nilearn import datasets

    t1 = np.pad(np.asarray(datasets.load_mni152_template(resolution=2).dataobj, np.float32), 12)
    brain = ndimage.binary_fill_holes(t1 > 0.05)
    depth = ndimage.distance_transform_edt(~brain, 2.0)
    depth[..., : int(0.2 * t1.shape[2])] += 6  # a lopsided scalp: no rotation looks like another
    rng = np.random.default_rng(0)
    lesion = ndimage.gaussian_filter(rng.normal(size=t1.shape), 4)
    lesion = (lesion > np.quantile(lesion[brain], 0.97)) & brain
    inside = {"t1n": 800 * t1, "t1c": 800 * t1 + 500 * lesion, "t2w": 1300 - 1100 * t1,
              "t2f": 200 + 700 * np.exp(-(((t1 - 0.65) / 0.2) ** 2)) + 400 * lesion}  # fmt: skip
    whole = {}
    for modality, (csf, skull, scalp) in _OUTER.items():
        voxels = np.where(brain, inside[modality], 0).astype(np.float32)
        for low, high, value in ((0, 3, csf), (3, 8, skull), (8, 17, scalp)):
            voxels[(depth > low) & (depth <= high)] = value
        whole[modality] = ndimage.gaussian_filter(voxels, 0.5)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -(np.array(t1.shape) - 1.0)
    return whole, brain, affine


def scanned(modality: str, moved: np.ndarray, seed: int = 0) -> Scan:
    """A scan of the head after it was moved."""
    voxels, _, affine = head()
    return acquire(np.random.default_rng(seed), voxels[modality], affine, moved, GRIDS[modality])


def written(scan: Scan, path: Path) -> Path:
    """The scan as a NIfTI file of integers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(scan.voxels.astype(np.int16), scan.affine), path)
    return path


def brain_on(scan: Scan, moved: np.ndarray) -> np.ndarray:
    """The brain on a scan's own grid."""
    _, brain, affine = head()
    way = np.linalg.inv(affine) @ np.linalg.inv(moved) @ scan.affine
    share = ndimage.affine_transform(
        brain.astype(np.float32), way[:3, :3], way[:3, 3], output_shape=scan.voxels.shape, order=1
    )
    return np.asarray(share > 0.5)


def brain_points() -> np.ndarray:
    """Some points of the brain in mm, (N, 3)."""
    _, brain, affine = head()
    return np.argwhere(brain)[::301] @ affine[:3, :3].T + affine[:3, 3]
