"""The measures of translation and segmentation; pure functions of numpy arrays."""

from __future__ import annotations

import numpy as np

PAPER_VOXELS = 192 * 192 * 144  # the paper averages errors over its whole volume, background included


def psnr(reference: np.ndarray, prediction: np.ndarray, brain: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of unit-range volumes, both 0 outside the brain.

    Args:
        reference, prediction: (X, Y, Z), range [0, 1].
        brain: average over this mask; None averages over the paper's 192x192x144 voxels.
    """
    error = (np.asarray(reference, np.float64) - prediction) ** 2
    mean = error.sum() / PAPER_VOXELS if brain is None else error[brain].mean()
    return float(-10 * np.log10(max(mean, 1e-12)))
