"""Intensities of a modality to the model's and back: percentiles, z-scores, and the scale of a synthetic image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["PERCENTILES", "IntensityScale", "output_scale"]

PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class IntensityScale:
    """The mapping of a modality's intensities to the model's and back.

    Attributes:
        low, high: the 0.5 and 99.5 percentiles over the brain; the unit range [0, 1] in the modality's intensities.
        mean, std: of the clipped intensities over the brain.
    """

    low: float
    high: float
    mean: float
    std: float

    @classmethod
    def of(cls, volume: np.ndarray, brain: np.ndarray) -> IntensityScale:
        """Measure a volume (X, Y, Z) over its brain mask."""
        values = volume[brain].astype(np.float64)
        low, high = np.percentile(values, PERCENTILES)
        clipped = np.clip(values, low, high)
        return cls(
            float(low), float(high), float(clipped.mean()), float(max(clipped.std(), 1e-6 * max(abs(high), 1e-6)))
        )

    @property
    def unit_mean(self) -> float:
        """The mean over the brain in unit range."""
        return (self.mean - self.low) / max(self.high - self.low, 1e-12)

    @property
    def unit_std(self) -> float:
        """The standard deviation over the brain in unit range."""
        return self.std / max(self.high - self.low, 1e-12)

    def brightness(self, normalised: np.ndarray, brain: np.ndarray) -> tuple[float, float, float]:
        """Mean and standard deviation over the brain in unit range, and skewness, of a normalised volume (X, Y, Z)."""
        values = normalised[brain].astype(np.float64)
        values = (values - values.mean()) / max(values.std(), 1e-6)
        return self.unit_mean, self.unit_std, float((values**3).mean())

    def normalise(self, volume: np.ndarray) -> np.ndarray:
        """Intensities -> normalised: clipped, then z-scored."""
        clipped = np.clip(volume.astype(np.float32), self.low, self.high)
        return ((clipped - self.mean) / self.std).astype(np.float32)

    def restore(self, normalised: np.ndarray) -> np.ndarray:
        """Normalised -> intensities: the inverse of `normalise` for everything between the percentiles."""
        return normalised * self.std + self.mean

    def to_unit(self, normalised: np.ndarray) -> np.ndarray:
        """Normalised -> unit range, clipped to [0, 1]."""
        return np.clip((self.restore(normalised) - self.low) / max(self.high - self.low, 1e-12), 0, 1)


def output_scale(like: IntensityScale, unit: Sequence[float]) -> IntensityScale:
    """The intensity scale of a synthetic image: the percentiles of one source, and a mean and deviation within them.

    Scanners and converters use different scales, and the data type of a source fits its own scale only. Therefore the
    scale of one source is used, not the mean of all.

    Args:
        like: scale of the nearest source.
        unit: mean and standard deviation over the brain in unit range.
    """
    mean, std = unit
    width = like.high - like.low
    return IntensityScale(like.low, like.high, like.low + mean * width, std * width)
