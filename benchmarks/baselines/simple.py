"""The two methods that need no training: copy the nearest modality, average all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modfill.cases.reading import Case
from modfill.metrics import unit_range


def in_unit_range(case: Case) -> dict[str, np.ndarray]:
    """Each available modality in unit range over the case's foreground."""
    brain = np.logical_or.reduce([case.volume(m) > 0 for m in case.available])
    return {m: unit_range(case.volume(m), brain) for m in case.available}


class CopyNearest:
    """The modality most like the target (t1n and t1c, t2w and t2f), or the first available one."""

    name = "copy"

    def fit(self, cases: Sequence[Case]) -> None:
        """Nothing to learn."""

    def complete(self, case: Case, targets: Sequence[str]) -> dict[str, np.ndarray]:
        """Copy, in unit range."""
        volumes = in_unit_range(case)
        return {t: volumes[case.modality_set.nearest_source(t, case.available)] for t in targets}


class MeanAvailable:
    """The mean of the available modalities, each in unit range."""

    name = "mean"

    def fit(self, cases: Sequence[Case]) -> None:
        """Nothing to learn."""

    def complete(self, case: Case, targets: Sequence[str]) -> dict[str, np.ndarray]:
        """Average."""
        mean = np.mean(list(in_unit_range(case).values()), axis=0)
        return {t: mean for t in targets}
