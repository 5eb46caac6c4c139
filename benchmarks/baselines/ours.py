"""modfill itself, as one of the methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modfill.cases.reading import Case
from modfill.completer import ModalityCompleter
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
        done = self.completer.complete(case, targets=targets)
        volumes = {}
        for t in targets:
            low, high = done.provenance[t]["UnitRange"]
            volume = np.asarray(done.images[t].dataobj, dtype=np.float64)
            volumes[t] = np.clip((volume - low) / (high - low), 0, 1) * (volume != 0)
        return volumes
