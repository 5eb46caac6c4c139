"""The voxelwise answer: what the target is on average where the sources have these values, without any context.

Fitted in seconds and never trained, it beats a plain U-Net that learned for half an hour: the refiner starts from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

REACH = 4.0  # z-scores beyond are clipped to it
BINS = {1: 64, 2: 40, 3: 24}  # per source, by number of sources; a table of more than three would be too sparse


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


def _name(sources: Sequence[int]) -> str:
    return "table_" + "_".join(map(str, sources))
