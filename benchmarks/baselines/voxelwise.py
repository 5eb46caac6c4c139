"""A lookup table from the sources' z-scored intensities to the target's, without any context.

It needs no training. A trained network must be better than this.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.baselines.table import VoxelwiseTable, fit_tables
from modfill.cases.reading import Case
from modfill.preprocessing.intensity import IntensityScale


class Voxelwise:
    """One smoothed, linearly interpolated table per source set and target."""

    name = "voxelwise"

    def __init__(self) -> None:
        self.modalities: tuple[str, ...] = ()
        self.table = VoxelwiseTable(0)
        self.unit = np.zeros((0, 2))

    def fit(self, cases: Sequence[Case]) -> None:
        """Average the target over the training cases, cell by cell of the sources' joint histogram."""
        self.modalities = cases[0].modality_set.names
        self.table = VoxelwiseTable(len(self.modalities))
        prepared = [_z_scored(case) for case in cases]
        self.unit = np.mean([[(s.unit_mean, s.unit_std) for s in scales] for _, scales, _ in prepared], axis=0)
        fit_tables(self.table, (volumes[:, brain] for volumes, _, brain in prepared))

    def complete(self, case: Case, targets: Sequence[str]) -> dict[str, np.ndarray]:
        """Look up."""
        available, _, brain = _z_scored(case)
        sources = [self.modalities.index(m) for m in case.available]
        volumes = torch.zeros(1, len(self.modalities), *brain.shape)
        volumes[0, sources] = torch.from_numpy(available)
        done = {}
        for t in targets:
            index = self.modalities.index(t)
            z = self.table(volumes, sources, index)[0, 0].numpy()
            mean, std = self.unit[index]
            done[t] = np.clip(mean + std * z, 0, 1) * brain
        return done


def _z_scored(case: Case) -> tuple[np.ndarray, list[IntensityScale], np.ndarray]:
    """The available modalities z-scored over the foreground (sources, X, Y, Z), their scales, the foreground."""
    brain = np.logical_or.reduce([case.volume(m) != 0 for m in case.available])
    scales = [IntensityScale.of(case.volume(m), brain) for m in case.available]
    volumes = [s.normalise(case.volume(m)) for s, m in zip(scales, case.available, strict=True)]
    return np.stack(volumes), scales, brain
