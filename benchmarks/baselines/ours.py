"""modfill itself, as one of the methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from modfill.cases.reading import Case
from modfill.completer import ModalityCompleter
from modfill.results import Completed
from modfill.settings import Settings


class Modfill:
    """The shipped weights, or others, in one of the two modes."""

    def __init__(self, weights: Path | None = None, settings: Settings | None = None):
        self.completer = ModalityCompleter(weights, settings=settings)
        self.name = "modfill" if self.completer.settings.mode == "mean" else "modfill-sample"

    def fit(self, cases: Sequence[Case]) -> None:
        """Trained already: `modfill train`."""

    def complete(self, case: Case, targets: Sequence[str]) -> dict[str, np.ndarray]:
        """Complete, and map back to unit range by the scale in the sidecar."""
        return in_unit_range(self.completer.complete(case, targets=targets))


def in_unit_range(done: Completed) -> dict[str, np.ndarray]:
    """The synthetic volumes (X, Y, Z) in unit range, by modality."""
    return {target: _unit(done, target, image) for target, image in done.images.items()}


def deviation_in_unit_range(done: Completed, target: str) -> np.ndarray:
    """The standard deviation to be expected of a synthetic modality, (X, Y, Z), as a difference in unit range."""
    low, high = done.provenance[target]["UnitRange"]
    return np.asarray(done.uncertainty[target].dataobj, dtype=np.float64) / (high - low)


def _unit(done: Completed, target: str, image: nib.Nifti1Image) -> np.ndarray:
    low, high = done.provenance[target]["UnitRange"]
    volume = np.asarray(image.dataobj, dtype=np.float64)
    return np.clip((volume - low) / (high - low), 0, 1) * (volume != 0)
