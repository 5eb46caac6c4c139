"""Voxelwise prediction: the mean of the target over all voxels with the same source values, without context.

Fitted in seconds and never trained, it beats a plain U-Net that learned for half an hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

REACH = 4.0  # z-scores are clipped to +-REACH
BINS = {1: 64, 2: 40, 3: 24}  # per source, by number of sources; a table of more than three would be too sparse
SMOOTHING = {1: 1.0, 2: 1.0, 3: 0.8}  # gaussian sigma in bins, by number of sources
PRIOR = 3.0  # voxels' worth of the neighbourhood's mean in every cell


class VoxelwiseTable(nn.Module):
    """One smoothed, linearly interpolated table for each set of at most three sources and each target."""

    def __init__(self, modalities: int):
        super().__init__()
        self.sets: list[tuple[int, ...]] = [
            sources for count in BINS if count < modalities for sources in combinations(range(modalities), count)
        ]
        for sources in self.sets:
            bins = BINS[len(sources)]
            self.register_buffer(_name(sources), torch.zeros(modalities, *(bins,) * len(sources)))

    def of(self, sources: Sequence[int]) -> Tensor:
        """The tables of a source set, (modalities, bins, ...), one axis per source; written to when they are fitted."""
        return getattr(self, _name(sources))

    def forward(self, volumes: Tensor, sources: Sequence[int], target: int) -> Tensor:
        """Look up.

        Args:
            volumes: z-scored volumes (B, M, X, Y, Z).
            sources: indices of the available modalities, ascending; of more than three the first three are used.
            target: index of the modality wanted.

        Returns:
            The z-scored estimate (B, 1, X, Y, Z), float32.
        """
        sources = tuple(sources)[: max(BINS)]
        table = self.of(sources)[target]
        table = table.reshape((1,) * (3 - table.ndim) + tuple(table.shape))[None, None]
        axes = [volumes[:, m].float() / REACH for m in reversed(sources)]  # grid_sample names the last axis first
        axes += [torch.zeros_like(axes[0])] * (3 - len(axes))
        grid = torch.stack(axes, dim=-1).clamp(-1, 1)
        table = table.expand(len(volumes), -1, -1, -1, -1)
        return nn.functional.grid_sample(table, grid, align_corners=True)


def fit_tables(table: VoxelwiseTable, values: Iterable[np.ndarray]) -> None:
    """Fill `table`: averages over all voxels, cell by cell of the sources' joint histogram.

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


def _name(sources: Sequence[int]) -> str:
    return "table_" + "_".join(map(str, sources))
