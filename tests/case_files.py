"""Small cases on disk for tests: brains with shared anatomy, different in each modality."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

MODALITIES = ("t1n", "t1c", "t2w", "t2f")

STYLES = {
    "brats2023": {m: f"{{id}}/{{id}}-{m}.nii.gz" for m in MODALITIES},
    "brats2021": dict(
        zip(MODALITIES, (f"{{id}}/{{id}}_{name}.nii.gz" for name in ("t1", "t1ce", "t2", "flair")), strict=True)
    ),
    "flat": {m: f"{{id}}-{m}.nii.gz" for m in MODALITIES},
    "bare": {m: f"{{id}}/{m}.nii.gz" for m in MODALITIES},
}

# Intensity = base + sum of weights times three shared smooth fields: no two modalities are the same.
_BASE = {"t1n": 500, "t1c": 550, "t2w": 400, "t2f": 450}
_WEIGHTS = {"t1n": (120, 40, 0), "t1c": (110, 30, 60), "t2w": (-110, 20, 30), "t2f": (-40, 60, 50)}


def oblique_affine() -> npt.NDArray[np.float64]:
    """4x4 affine: LPS, turned by 12 and 7 degrees, anisotropic, with its origin away from 0."""
    a, b = np.deg2rad((12.0, 7.0))
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag((-1.0, -1.1, 1.3))
    affine[:3, 3] = (83.5, 97.25, -61.0)
    return affine


def brain_volumes(shape: tuple[int, int, int] = (24, 28, 20), seed: int = 0) -> dict[str, npt.NDArray[np.int16]]:
    """All four modalities of one random brain: int16, positive in an ellipsoid, 0 outside."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1.15, 1.15, size) for size in shape), indexing="ij")
    brain = sum(axis**2 for axis in grid) < 1
    fields = [gaussian_filter(rng.standard_normal(shape), 2) for _ in range(3)]
    fields = [field / field.std() for field in fields]
    volumes = {}
    for modality in MODALITIES:
        values = _BASE[modality] + sum(w * field for w, field in zip(_WEIGHTS[modality], fields, strict=True))
        volumes[modality] = np.where(brain, np.clip(values, 1, 3000), 0).astype(np.int16)
    return volumes


def save(path: Path, volume: npt.NDArray[np.generic], affine: npt.NDArray[np.float64] | None = None) -> Path:
    """Write a volume as NIfTI with qform and sform code 1, in ``oblique_affine()`` unless told; make folders."""
    affine = oblique_affine() if affine is None else affine
    image = nib.Nifti1Image(volume, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_case(
    folder: Path,
    case_id: str,
    modalities: Sequence[str] = MODALITIES,
    shape: tuple[int, int, int] = (24, 28, 20),
    affine: npt.NDArray[np.float64] | None = None,
    seed: int = 0,
    style: str = "brats2023",
) -> Path:
    """Write a small case of int16 brains and return the folder that holds its files.

    Args:
        folder: Cohort folder; made if need be.
        case_id: Name of the case.
        modalities: Those to write; each one's voxels depend on shape and seed only.
        shape: Of the volumes.
        affine: 4x4; ``oblique_affine()`` unless told.
        seed: Another one gives another brain.
        style: ``brats2023``, ``brats2021``, ``bare`` (folder per case) or ``flat`` (files in ``folder``).
    """
    volumes = brain_volumes(shape, seed)
    paths = [
        save(folder / STYLES[style][modality].format(id=case_id), volumes[modality], affine) for modality in modalities
    ]
    return paths[0].parent
