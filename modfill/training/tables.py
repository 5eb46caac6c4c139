"""Fitting the voxelwise tables: an average over all training voxels, cell by cell of the sources' joint histogram."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from modfill.model.table import REACH, VoxelwiseTable

SMOOTHING = {1: 1.0, 2: 1.0, 3: 0.8}  # gaussian sigma in bins, by number of sources
PRIOR = 3.0  # voxels' worth of the neighbourhood's mean in every cell


def fit_tables(table: VoxelwiseTable, values: Iterable[np.ndarray]) -> None:
    """Fill `table`.

    Args:
        table: for as many modalities as `values` have.
        values: of each training case the z-scored brain voxels, (modalities, voxels).
    """
    counts: dict[tuple[int, ...], np.ndarray] = {}
    sums: dict[tuple[int, ...], np.ndarray] = {}
    for case in values:
        for sources in table.sets:
            shape = tuple(table.of(sources).shape)
            bins, size = shape[1], int(np.prod(shape[1:]))
            cells = np.rint((np.clip(case[list(sources)], -REACH, REACH) / REACH + 1) / 2 * (bins - 1)).astype(np.int64)
            flat = np.ravel_multi_index(tuple(cells), shape[1:])
            here = np.stack([np.bincount(flat, weights=modality, minlength=size) for modality in case])
            counts[sources] = counts.get(sources, np.zeros(size)) + np.bincount(flat, minlength=size)
            sums[sources] = sums.get(sources, np.zeros_like(here)) + here
    for sources, count in counts.items():
        shape = tuple(table.of(sources).shape)
        sigma = SMOOTHING[len(sources)]
        count = count.reshape(shape[1:])
        near, wide = gaussian_filter(count, sigma), gaussian_filter(count, 4 * sigma)
        for modality, total in enumerate(sums[sources].reshape(shape)):
            prior = gaussian_filter(total, 4 * sigma) / np.maximum(wide, 1e-9)
            mean = (gaussian_filter(total, sigma) + PRIOR * prior) / (near + PRIOR)
            table.of(sources)[modality] = torch.from_numpy(mean).float()
