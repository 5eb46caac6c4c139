"""A case becomes normalised volumes on the model's grid; each step stands beside its inverse."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from modfill.cases.brain import brain_mask
from modfill.cases.reading import Case
from modfill.errors import CaseError
from modfill.preprocessing.geometry import Geometry

PERCENTILES = (0.5, 99.5)
MINIMUM_BRAIN = 64  # voxels: fewer give no percentiles
MOST_VOXELS = 2**25  # of the model's grid, 33 litres at 1 mm: a brain's box has about 6, obliquely in its grid 16


@dataclass(frozen=True)
class IntensityScale:
    """What takes a modality's intensities to the model's and back.

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

    def normalise(self, volume: np.ndarray, kind: str) -> np.ndarray:
        """Intensities -> normalised: clipped, then z-scored ("zscore") or mapped to [-1, 1] ("range")."""
        clipped = np.clip(volume.astype(np.float32), self.low, self.high)
        if kind == "zscore":
            return ((clipped - self.mean) / self.std).astype(np.float32)
        return (2 * (clipped - self.low) / max(self.high - self.low, 1e-12) - 1).astype(np.float32)

    def restore(self, normalised: np.ndarray, kind: str) -> np.ndarray:
        """Normalised -> intensities: the inverse of `normalise` for everything between the percentiles."""
        if kind == "zscore":
            return normalised * self.std + self.mean
        return (normalised + 1) / 2 * (self.high - self.low) + self.low

    def to_unit(self, normalised: np.ndarray, kind: str) -> np.ndarray:
        """Normalised -> unit range, clipped to [0, 1]."""
        return np.clip((self.restore(normalised, kind) - self.low) / max(self.high - self.low, 1e-12), 0, 1)


BACKGROUND = {"zscore": 0.0, "range": -1.0}  # what stands outside the brain in normalised volumes


@dataclass(frozen=True)
class Prepared:
    """A case as the model takes it.

    Attributes:
        volumes: normalised volume (X, Y, Z) float32 on the model's grid by modality.
        brain: the brain on the model's grid, bool; `own_brain` the same on the case's own grid.
        scales: the intensity scale of each modality.
        geometry: the way back.
    """

    volumes: dict[str, np.ndarray]
    brain: np.ndarray
    own_brain: np.ndarray
    scales: dict[str, IntensityScale]
    geometry: Geometry

    def restore(self, volume: np.ndarray) -> np.ndarray:
        """A volume (X, Y, Z) on the model's grid -> the case's own grid, 0 outside the brain.

        What the volume has outside the brain does not matter: where voxels are interpolated, the nearest ones of the
        brain stand there.
        """
        if self.geometry.resamples:
            nearest = distance_transform_edt(~self.brain, return_distances=False, return_indices=True)
            volume = volume[tuple(nearest)]
        return self.geometry.restore(volume) * self.own_brain


def prepare(case: Case, multiple: int, normalisation: str, leave_out: Collection[str] = ()) -> Prepared:
    """Normalise the available modalities of `case` over their common foreground and bring them to the model's grid.

    Args:
        case: at least one modality available.
        multiple: every edge of the model's grid is a multiple of this.
        normalisation: "zscore" or "range".
        leave_out: available modalities that only help to find the brain.

    Raises:
        CaseError: the foreground is too small, too thin or lies too far apart to be a brain.
    """
    volumes = {modality: case.volume(modality) for modality in case.available}
    own_brain = brain_mask(volumes)
    volumes = {modality: volume for modality, volume in volumes.items() if modality not in leave_out}
    if own_brain.sum() < MINIMUM_BRAIN:
        raise CaseError(f"case {case.case_id}: the brain must have at least {MINIMUM_BRAIN} voxels above 0, "
                        f"got {int(own_brain.sum())}; check the images")  # fmt: skip
    affine = next(iter(case.images.values())).affine
    geometry = Geometry.of(affine, own_brain, multiple)
    if math.prod(geometry.model_shape) > MOST_VOXELS:
        raise CaseError(
            f"case {case.case_id}: the brain must lie in a box of at most {MOST_VOXELS / 1e6:.0f} litres, got "
            f"{math.prod(geometry.model_shape) / 1e6:.0f}; check the voxel sizes, and set stray voxels to 0"
        )
    brain = geometry.apply(own_brain.astype(np.float32)) > 0.5
    share = geometry.apply(own_brain.astype(np.float32), average=True)  # of brain in each value: what lies outside is 0
    if not brain.any():
        raise CaseError(f"case {case.case_id}: the brain must be thick enough to be seen at 1 mm, got "
                        f"{int(own_brain.sum())} voxels far apart; check the voxel sizes")  # fmt: skip
    scales = {modality: IntensityScale.of(volume, own_brain) for modality, volume in volumes.items()}
    background = np.float32(BACKGROUND[normalisation])
    normalised = {}
    for modality, volume in volumes.items():
        inside = geometry.apply(volume * own_brain, average=True) / share.clip(1e-6)
        normalised[modality] = np.where(brain, scales[modality].normalise(inside, normalisation), background)
    return Prepared(normalised, brain, own_brain, scales, geometry)
