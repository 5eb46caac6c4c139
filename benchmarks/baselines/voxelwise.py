"""A lookup table from the sources' z-scored intensities to the target's: what a method without any context can do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from modfill.case import Case
from modfill.modalities import MODALITIES
from modfill.preprocess import IntensityScale

BINS = {1: 64, 2: 40, 3: 24}  # per source, by number of sources
REACH = 4.0  # z-scores beyond are clipped to it
SMOOTHING = {1: 1.0, 2: 1.0, 3: 0.8}  # gaussian sigma in bins
PRIOR = 3.0  # voxels' worth of the global mean in every cell


class Voxelwise:
    """One smoothed, linearly interpolated table per source set and target."""

    name = "voxelwise"

    def __init__(self) -> None:
        self.tables: dict[tuple[tuple[str, ...], str], np.ndarray] = {}
        self.unit: dict[str, tuple[float, float]] = {}

    def fit(self, cases: Sequence[Case]) -> None:
        """Average the target over the training cases, cell by cell of the sources' joint histogram."""
        prepared = [_z_scored(case) for case in cases]
        for m in MODALITIES:
            statistics = [(scales[m].unit_mean, scales[m].unit_std) for _, scales, _ in prepared]
            mean, std = np.mean(statistics, axis=0)
            self.unit[m] = (float(mean), float(std))
        values = [{m: v[brain] for m, v in volumes.items()} for volumes, _, brain in prepared]
        for count in (1, 2, 3):
            for sources in combinations(MODALITIES, count):
                self._fit_tables(sources, values)

    def _fit_tables(self, sources: tuple[str, ...], values: list[dict[str, np.ndarray]]) -> None:
        bins, targets = BINS[len(sources)], [m for m in MODALITIES if m not in sources]
        shape = (bins,) * len(sources)
        total, sums = np.zeros(shape), {t: np.zeros(shape) for t in targets}
        for case in values:
            cells = np.rint(_coordinates([case[m] for m in sources], bins)).astype(np.int64)
            flat = np.ravel_multi_index(tuple(cells), shape)
            size = bins ** len(sources)
            total += np.bincount(flat, minlength=size).reshape(shape)
            for t in targets:
                sums[t] += np.bincount(flat, weights=case[t], minlength=size).reshape(shape)
        sigma = SMOOTHING[len(sources)]
        weight = gaussian_filter(total, sigma)
        wide = gaussian_filter(total, 4 * sigma)
        for t in targets:
            coarse = gaussian_filter(sums[t], 4 * sigma) / np.maximum(wide, 1e-9)
            self.tables[sources, t] = (gaussian_filter(sums[t], sigma) + PRIOR * coarse) / (weight + PRIOR)

    def complete(self, case: Case, targets: Sequence[str]) -> dict[str, np.ndarray]:
        """Look up."""
        volumes, _, brain = _z_scored(case)
        done = {}
        for t in targets:
            table = self.tables[case.available, t]
            coordinates = _coordinates([volumes[m][brain] for m in case.available], table.shape[0])
            mean, std = self.unit[t]
            done[t] = np.zeros(brain.shape)
            done[t][brain] = np.clip(mean + std * map_coordinates(table, coordinates, order=1, mode="nearest"), 0, 1)
        return done


def _coordinates(volumes: Sequence[np.ndarray], bins: int) -> np.ndarray:
    """z-scores (sources, N) -> fractional cell coordinates."""
    return (np.clip(np.stack(volumes), -REACH, REACH) + REACH) / (2 * REACH) * (bins - 1)


def _z_scored(case: Case) -> tuple[dict[str, np.ndarray], dict[str, IntensityScale], np.ndarray]:
    brain = np.logical_or.reduce([case.volume(m) != 0 for m in case.available])
    scales = {m: IntensityScale.of(case.volume(m), brain) for m in case.available}
    return {m: scales[m].normalise(case.volume(m), "zscore") for m in case.available}, scales, brain
