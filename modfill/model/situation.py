"""Two inputs of the translator that no crop can tell: a voxel's place in the brain, and the sources' statistics."""

from __future__ import annotations

import torch
from torch import Tensor

PLACES = 4  # three coordinates, and a 1 where they are known
BINS = 16
LOWEST, HIGHEST = -3.0, 4.0  # z-scores of the first and last bin
SHARPNESS = 2.5  # of a bin's Gaussian
CLIPPED = 4.0  # z-scores beyond it do not count in the moments


def place(brain: Tensor, factor: int, box: tuple[slice, ...] | None = None) -> Tensor:
    """Coordinates in the brain's box, -1 to 1, on the latent grid.

    Args:
        brain: (X, Y, Z) bool, of the whole volume, not empty.
        factor: voxels along the edge of a latent voxel.
        box: the part of the volume that is wanted; None takes all.

    Returns:
        (PLACES, x, y, z); the last channel is 1.
    """
    axes = []
    for axis, edge in enumerate(brain.shape):
        others = tuple(a for a in range(3) if a != axis)
        inside = torch.nonzero(brain.any(others[1]).any(others[0])).flatten()
        first, last = int(inside[0]), int(inside[-1]) + 1
        start, stop = (0, edge) if box is None else (box[axis].start, box[axis].stop)
        centres = start + factor * torch.arange((stop - start) // factor, device=brain.device) + factor / 2
        axes.append((centres - first) / (last - first) * 2 - 1)
    coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return torch.cat([coordinates, torch.ones_like(coordinates[:1])])


def statistics_length(modalities: int) -> int:
    """Dimensions of `statistics`."""
    return modalities * BINS + 3 * (modalities * (modalities - 1) // 2) + 1


def statistics(volumes: Tensor, brain: Tensor) -> Tensor:
    """Histogram of every modality and joint moments of every pair over the brain, as if all were available.

    Args:
        volumes: normalised, (M, X, Y, Z).
        brain: (X, Y, Z) bool.

    Returns:
        (statistics_length(M),); the last is a 1, which tells that they are known.
    """
    voxels = volumes[:, ::2, ::2, ::2][:, brain[::2, ::2, ::2]].float()
    count = max(voxels.shape[1], 1)
    centres = torch.linspace(LOWEST, HIGHEST, BINS, device=voxels.device)
    bins = [torch.exp(-SHARPNESS * (voxels - centre).square()).sum(1) / count for centre in centres]
    clipped = voxels.clamp(-CLIPPED, CLIPPED)
    first = clipped @ clipped.T / count
    second = clipped.square() @ clipped.T / (2 * count)
    pairs = [m for i, j in _pairs(len(volumes)) for m in (first[i, j], second[i, j], second[j, i])]
    return torch.cat([2 * torch.stack(bins, 1).flatten(), torch.stack([*pairs, first.new_ones(())])])


def of_available(statistics: Tensor, available: Tensor) -> Tensor:
    """Set the statistics (B, length) of modalities to 0 that are not available, (B, M) of 0 and 1."""
    both = [available[:, i] * available[:, j] for i, j in _pairs(available.shape[1])]
    pairs = torch.stack(both, 1).repeat_interleave(3, 1)
    return statistics * torch.cat([available.repeat_interleave(BINS, 1), pairs, torch.ones_like(pairs[:, :1])], 1)


def _pairs(modalities: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(modalities) for j in range(i + 1, modalities)]
