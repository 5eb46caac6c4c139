"""A yardstick that no method may use: the lookup table fitted in the same case, with its target known.

An upper bound for methods that use the sources' intensities alone: contrast and brightness of the target are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.cases import brain_of
from modfill.cases.reading import Case
from modfill.metrics import unit_range

BINS = 14  # of each source in unit range


class InCase:
    """The mean of the target where the sources fall into the same bins, each voxel's own value left out."""

    name = "voxelwise-in-case"

    def fit(self, cases: Sequence[Case]) -> None:
        """Keep the complete cases that will be scored: the targets are in them."""
        self.whole = {case.case_id: case for case in cases}

    def complete(self, case: Case, targets: Sequence[str]) -> dict[str, np.ndarray]:
        """Look up."""
        whole = self.whole[case.case_id]
        brain = brain_of(whole)
        bins = [np.minimum(unit_range(case.volume(m), brain)[brain] * BINS, BINS - 1) for m in case.available]
        cells = np.ravel_multi_index([each.astype(int) for each in bins], (BINS,) * len(bins))
        others = (np.bincount(cells) - 1)[cells]
        done = {}
        for target in targets:
            values = unit_range(whole.volume(target), brain)[brain]
            sums = np.bincount(cells, weights=values)[cells] - values
            done[target] = np.zeros(brain.shape)
            done[target][brain] = np.where(others > 0, sums / np.maximum(others, 1), values.mean())
        return done
