"""Agreement of uncertainty with the error, voxel by voxel, and of images with the acquired one, scale by scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

VOXELS = 200_000  # enough for a rank correlation
SCALES = (0.7, 1.4, 2.8, 5.6)  # gaussian sigmas in voxels, between which a scale lies
AGREEMENT = ("correlation", "decile", "within_1", "within_2")  # what `agreement` finds


def agreement(values: np.ndarray, error: np.ndarray) -> dict[str, float]:
    """Agreement of an uncertainty map with the error.

    Rank correlation; mean error in the top tenth of the map over the mean elsewhere; and the share of voxels whose
    error is within one and two of the map.

    Args:
        values: the map's voxels in a region, (N,).
        error: the absolute error there, in the same unit.
    """
    high = values >= np.quantile(values, 0.9)
    return {
        "correlation": rank_correlation(values, error),
        "decile": float(error[high].mean() / error[~high].mean()),
        "within_1": float((error <= values).mean()),
        "within_2": float((error <= 2 * values).mean()),
    }


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, of at most `VOXELS` of the voxels (N,), always the same ones."""
    few = np.random.default_rng(0).choice(len(one), min(VOXELS, len(one)), replace=False)
    return float(spearmanr(one[few], other[few]).statistic)


def powers(truth: np.ndarray, mean: np.ndarray, sample: np.ndarray | None, brain: np.ndarray) -> dict[str, float]:
    """Power at every scale, the truth z-scored, mean and sample after the mean's linear fit; keys `NAME_NUMBER`.

    The names are acquired, mean, error (acquired - mean) and, with a sample, sample and residual (sample - mean).
    """
    truth, fit = fitted(truth, mean, brain)
    volumes = {"acquired": truth, "mean": fit(mean), "error": truth - fit(mean)}
    if sample is not None:
        volumes |= {"sample": fit(sample), "residual": fit(sample) - fit(mean)}
    return {
        f"{name}_{number}": power
        for name, volume in volumes.items()
        for number, power in enumerate(by_scale(volume, brain))
    }


def spread_by_scale(
    truth: np.ndarray, mean: np.ndarray, samples: Sequence[np.ndarray], brain: np.ndarray
) -> Iterator[float]:
    """Rank correlation over the brain of the samples' deviation at each scale and the mean's error there."""
    truth, fit = fitted(truth, mean, brain)
    scales = zip(*(bands(fit(sample), brain) for sample in samples), strict=True)
    for error, drawn in zip(bands(truth - fit(mean), brain), scales, strict=True):
        yield rank_correlation(np.std(drawn, axis=0), np.abs(error))


def fitted(truth: np.ndarray, mean: np.ndarray, brain: np.ndarray) -> tuple[np.ndarray, np.poly1d]:
    """The z-scored truth, and the least-squares linear function over the brain that takes the mean to it."""
    truth = (truth - truth[brain].mean()) / truth[brain].std()
    return truth, np.poly1d(np.polyfit(mean[brain], truth[brain], 1))


def by_scale(volume: np.ndarray, brain: np.ndarray) -> Iterator[float]:
    """Mean square over the brain at each scale."""
    return (float((band**2).mean(dtype=np.float64)) for band in bands(volume, brain))


def bands(volume: np.ndarray, brain: np.ndarray) -> Iterator[np.ndarray]:
    """Differences of successive gaussians of `SCALES` at the brain's voxels, each (N,), finest first."""
    inside = brain.astype(np.float32)
    whole = left = (volume * inside).astype(np.float32)
    for sigma in (*SCALES, None):
        smooth = np.zeros_like(left)
        if sigma is not None:
            smooth = gaussian_filter(whole, sigma) / np.maximum(gaussian_filter(inside, sigma), 1e-3)
        yield (left - smooth)[brain]
        left = smooth
