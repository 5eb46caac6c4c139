"""The measures of translation and segmentation; pure functions of numpy arrays, computed in float64.

Translation is measured in unit range: a modality's 0.5 and 99.5 percentiles over the brain are 0 and 1, and everything
outside the brain is 0. A prediction is compared as predicted and again after its best affine fit to the reference
("matched"): which intensities stand for 0 and 1 no source tells, and networks that normalise their input do not care.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

__all__ = ["brain_box", "dice", "hd95", "match", "nmse", "psnr", "score", "sharpness", "ssim", "ssim_map", "unit_range"]

Volume = NDArray[np.float64]
Mask = NDArray[np.bool_]

PAPER_VOXELS = 192 * 192 * 144  # of BraTS; the paper averages errors over its whole volume, background included
SMALLEST = 1e-12  # keeps logarithms and quotients finite; a perfect prediction has 120 dB
HD95_ONE_EMPTY = 373.13  # mm: BraTS' penalty, the diagonal of its grid

# Wang et al. 2004: gaussian window of 11 voxels, constants for values in [0, 1]
WINDOW_SIGMA, WINDOW_RADIUS = 1.5, 5
C1, C2 = 0.01**2, 0.03**2


def brain_box(brain: Mask) -> tuple[slice, ...]:
    """The bounding box of a mask (X, Y, Z) that is not empty, one slice per axis."""
    return ndimage.find_objects(brain.astype(np.uint8))[0]


def unit_range(volume: np.ndarray, brain: Mask) -> Volume:
    """An acquired volume in unit range: clipped to its own 0.5-99.5 percentiles over the brain, mapped to [0, 1].

    Args:
        volume: (X, Y, Z), any intensities.
        brain: (X, Y, Z), not empty.

    Returns:
        (X, Y, Z), range [0, 1], 0 outside the brain.
    """
    values = np.asarray(volume, np.float64)
    low, high = np.percentile(values[brain], (0.5, 99.5))
    return np.clip((values - low) / max(high - low, SMALLEST), 0, 1) * brain


def psnr(reference: np.ndarray, prediction: np.ndarray, brain: Mask | None = None, voxels: int = PAPER_VOXELS) -> float:
    """Peak signal-to-noise ratio in dB of unit-range volumes, both 0 outside the brain.

    Args:
        reference: (X, Y, Z), range [0, 1].
        prediction: likewise.
        brain: average over this mask; None averages over `voxels`.
        voxels: of the paper's volume, background included.
    """
    error = (np.asarray(reference, np.float64) - prediction) ** 2
    mean = error.sum() / voxels if brain is None else error[brain].mean()
    return float(-10 * np.log10(max(mean, SMALLEST)))


def nmse(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Sum of squared errors over the reference's sum of squares; (X, Y, Z), range [0, 1]; 0 is perfect."""
    reference = np.asarray(reference, np.float64)
    return float(((reference - prediction) ** 2).sum() / max((reference**2).sum(), SMALLEST))


def ssim_map(reference: np.ndarray, prediction: np.ndarray) -> Volume:
    """Structural similarity around each voxel (Wang et al. 2004) in 3D, with population covariance.

    Args:
        reference: (X, Y, Z), range [0, 1].
        prediction: likewise.

    Returns:
        (X, Y, Z), range [-1, 1]; beyond the volume's border it is mirrored.
    """
    r, p = np.asarray(reference, np.float64), np.asarray(prediction, np.float64)
    mean_r, mean_p = _windowed(r), _windowed(p)
    variance_r, variance_p = _windowed(r * r) - mean_r**2, _windowed(p * p) - mean_p**2
    covariance = _windowed(r * p) - mean_r * mean_p
    similar = (2 * mean_r * mean_p + C1) * (2 * covariance + C2)
    return similar / ((mean_r**2 + mean_p**2 + C1) * (variance_r + variance_p + C2))


def _windowed(volume: Volume) -> Volume:
    return ndimage.gaussian_filter(volume, WINDOW_SIGMA, mode="reflect", radius=WINDOW_RADIUS)


def ssim(reference: np.ndarray, prediction: np.ndarray, brain: Mask) -> float:
    """The mean over `brain` of `ssim_map`; volumes (X, Y, Z), range [0, 1]; 1 is perfect."""
    return float(ssim_map(reference, prediction)[brain].mean())


def sharpness(reference: np.ndarray, prediction: np.ndarray, brain: Mask) -> float:
    """Fine detail of a prediction as a share of the reference's: 1 is as sharp, less is smoother.

    Detail is what a gaussian of one voxel removes inside the brain; its standard deviation over that of the whole
    brain's intensities, so that neither brightness nor contrast counts. It need not be the reference's own detail.

    Args:
        reference: (X, Y, Z), any intensities.
        prediction: likewise.
        brain: (X, Y, Z), not empty.
    """
    weight = ndimage.gaussian_filter(brain.astype(np.float64), 1)[brain]

    def detail(volume: np.ndarray) -> float:
        values = volume * brain.astype(np.float64)
        fine = values[brain] - ndimage.gaussian_filter(values, 1)[brain] / weight
        return float(fine.std() / max(values[brain].std(), SMALLEST))

    return detail(prediction) / max(detail(reference), SMALLEST)


def match(reference: np.ndarray, prediction: np.ndarray, brain: Mask) -> Volume:
    """The prediction after the least-squares affine fit of its intensities to the reference's over the brain.

    Args:
        reference: (X, Y, Z), range [0, 1].
        prediction: likewise.
        brain: (X, Y, Z), not empty.

    Returns:
        (X, Y, Z), range [0, 1], 0 outside the brain. The slope is never below 0: no fit turns contrast around.
    """
    reference, prediction = np.asarray(reference, np.float64), np.asarray(prediction, np.float64)
    r, p = reference[brain], prediction[brain]
    centred = p - p.mean()
    slope = max(float((centred * (r - r.mean())).mean() / max((centred**2).mean(), SMALLEST)), 0.0)
    return np.clip(slope * (prediction - p.mean()) + r.mean(), 0, 1) * brain


def score(
    reference: np.ndarray,
    prediction: np.ndarray,
    brain: Mask,
    tumour: Mask | None = None,
    voxels: int = PAPER_VOXELS,
) -> dict[str, float]:
    """Every figure of translation, plain and matched. Crop to `brain_box` first: only the brain counts.

    Args:
        reference: the acquired volume (X, Y, Z), any intensities.
        prediction: the synthetic one (X, Y, Z) in unit range as predicted, not rescaled to its own percentiles.
        brain: (X, Y, Z), not empty.
        tumour: (X, Y, Z), inside the brain; None or empty leaves out the figures over it.
        voxels: of the paper's volume, over which `psnr` and `ssim` are averaged.

    Returns:
        `psnr`, `psnr_brain`, `psnr_tumour` (dB), `nmse`, `ssim`, `ssim_brain`, `ssim_tumour`, and each again with the
        suffix `_matched`.
    """
    r, p = unit_range(reference, brain), np.clip(np.asarray(prediction, np.float64), 0, 1) * brain
    matched = _figures(r, match(r, p, brain), brain, tumour, voxels)
    return _figures(r, p, brain, tumour, voxels) | {f"{name}_matched": value for name, value in matched.items()}


def _figures(r: Volume, p: Volume, brain: Mask, tumour: Mask | None, voxels: int) -> dict[str, float]:
    similarity = ssim_map(r, p)
    figures = {
        "psnr": psnr(r, p, voxels=voxels),
        "psnr_brain": psnr(r, p, brain),
        "nmse": nmse(r, p),
        "ssim_brain": float(similarity[brain].mean()),
        # outside the brain both volumes are 0, where the similarity is 1
        "ssim": float(1 + (similarity[brain] - 1).sum() / voxels),
    }
    if tumour is not None and tumour.any():
        figures["psnr_tumour"] = psnr(r, p, tumour)
        figures["ssim_tumour"] = float(similarity[tumour].mean())
    return figures


def dice(a: ArrayLike, b: ArrayLike) -> float:
    """Overlap of two masks (X, Y, Z), from 0 to 1; 1 if both are empty, 0 if one is (BraTS)."""
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def hd95(a: ArrayLike, b: ArrayLike, spacing: Sequence[float]) -> float:
    """Robust Hausdorff distance in mm: how far 95 % of each mask's surface is from the other's, the worse direction.

    Args:
        a: mask (X, Y, Z).
        b: likewise.
        spacing: edge lengths of a voxel in mm, one per axis.

    Returns:
        The distance; 0 if both masks are empty, 373.13 if one is (BraTS).
    """
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if not a.any() or not b.any():
        return HD95_ONE_EMPTY if a.any() or b.any() else 0.0
    box = brain_box(a | b)  # no surface lies beyond it, and the distance transform costs by the voxel
    surfaces = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (a, b)]
    to_a, to_b = (ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces)
    return float(max(np.percentile(to_b[surfaces[0]], 95), np.percentile(to_a[surfaces[1]], 95)))
