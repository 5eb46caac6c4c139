"""From a case to normalised volumes on the model's grid; `Prepared` holds what the inverse needs."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import scipy

from modfill.cases.brain import brain_mask, partial_coverage
from modfill.cases.reading import Case
from modfill.errors import CaseError
from modfill.modalities import ModalitySet
from modfill.preprocessing.geometry import Geometry
from modfill.preprocessing.intensity import IntensityScale

_LOG = logging.getLogger("modfill")

MINIMUM_BRAIN = 64  # voxels: fewer give no percentiles
MOST_VOXELS = 2**25  # of the model's grid, 33 litres at 1 mm: a brain's box has about 6, obliquely in its grid 16


@dataclass(frozen=True)
class Prepared:
    """A case as input of the model.

    Attributes:
        volumes: normalised volume (X, Y, Z) float32 on the model's grid by modality.
        brain: the brain on the model's grid, bool; `own_brain` the same on the case's own grid.
        scales: the intensity scale of each modality.
        geometry: the transform between the grids.
        modality_set: the modalities that the case may have.
    """

    volumes: dict[str, np.ndarray]
    brain: np.ndarray
    own_brain: np.ndarray
    scales: dict[str, IntensityScale]
    geometry: Geometry
    modality_set: ModalitySet

    @property
    def sources(self) -> tuple[str, ...]:
        """The modalities that the model reads."""
        return tuple(self.volumes)

    def brightness(self) -> dict[str, tuple[float, float, float]]:
        """Mean, standard deviation and skewness of each source, as `IntensityScale.brightness` gives them."""
        return {m: self.scales[m].brightness(volume, self.brain) for m, volume in self.volumes.items()}

    def nearest(self, target: str) -> str:
        """The source whose intensities and data type a synthetic image takes."""
        return self.modality_set.nearest_source(target, self.sources)

    def restore(self, volume: np.ndarray) -> np.ndarray:
        """A volume (X, Y, Z) on the model's grid -> the case's own grid, 0 outside the brain.

        Values outside the brain have no effect: before interpolation they are replaced by the nearest ones inside.
        """
        if self.geometry.resamples:
            nearest = scipy.ndimage.distance_transform_edt(~self.brain, return_distances=False, return_indices=True)
            volume = volume[tuple(nearest)]
        return self.geometry.restore(volume) * self.own_brain


def partial_sources(case: Case) -> tuple[str, ...]:
    """Available modalities that cover only part of the brain, with a logged warning each.

    The model would take the zeros of such a source for tissue.
    """
    partial = partial_coverage({modality: case.volume(modality) for modality in case.available})
    for modality, share in partial.items():
        _LOG.warning("case %s: %s covers only %.0f%% of the brain; left out", case.case_id, modality, 100 * share)
    return tuple(partial)


def prepare(case: Case, multiple: int, leave_out: Collection[str] = ()) -> Prepared:
    """Normalise the available modalities of `case` over their common foreground and bring them to the model's grid.

    Args:
        case: at least one modality available.
        multiple: every edge of the model's grid is a multiple of this.
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
    share = geometry.apply(own_brain.astype(np.float32), average=True)  # of brain in each voxel; the outside is 0
    if not brain.any():
        raise CaseError(f"case {case.case_id}: the brain must be thick enough for voxels of 1 mm, got "
                        f"{int(own_brain.sum())} voxels far apart; check the voxel sizes")  # fmt: skip
    scales = {modality: IntensityScale.of(volume, own_brain) for modality, volume in volumes.items()}
    normalised = {}
    for modality, volume in volumes.items():
        inside = geometry.apply(volume * own_brain, average=True) / share.clip(1e-6)
        normalised[modality] = scales[modality].normalise(inside) * brain
    return Prepared(normalised, brain, own_brain, scales, geometry, case.modality_set)
