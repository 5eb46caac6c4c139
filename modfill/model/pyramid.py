"""Features of a voxel's surroundings and of its place in the brain.

The surroundings are the sources smoothed at five scales, with local standard deviation, gradient and neighbours. The
filters are fixed and run once per case; nothing here is learned.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from modfill.model.config import GRAIN

LEVELS = GRAIN.bit_length()  # level k is sampled every 2 ** k voxels
EDGED = 3  # the finer levels also have the gradient's length
FEATURES = 1 + LEVELS * 8 + EDGED  # of a source: intensity; mean, deviation, six neighbours a level; gradients
DENSITIES = (2, 3, 4)  # levels of the share of brain around a voxel, which measures the distance of the border
WAVES = 4  # frequencies of the sines and cosines: 1 to 4 half periods over the brain's box
PLACE = 4 + len(DENSITIES) + 6 * WAVES
_TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


class Pyramid:
    """The five levels of a case's sources.

    Args:
        volumes: z-scored sources (S, X, Y, Z), edges multiples of `GRAIN`.
        brain: (X, Y, Z) bool; what lies outside does not enter the means.
    """

    def __init__(self, volumes: Tensor, brain: Tensor):
        self.volumes, self.brain = volumes, brain
        self.levels: list[Tensor] = []  # (1, S * features, x, y, z)
        self.densities: list[Tensor] = []  # (1, 1, x, y, z)
        with torch.autocast(volumes.device.type, enabled=False):  # deviations are differences of squares
            self._build(volumes[:, None].float() * brain, brain[None, None].float())

    def _build(self, volumes: Tensor, weight: Tensor) -> None:
        values, squares = volumes, volumes.square()
        for level in range(LEVELS):
            values, squares, weight = (_smoothed(x) for x in (values, squares, weight))
            mean = values / weight.clamp(min=1e-3)
            deviation = (squares / weight.clamp(min=1e-3) - mean.square()).clamp(min=0).sqrt()
            features = [mean, deviation] + ([_gradient(mean)] if level < EDGED else [])
            if level:  # the finest neighbours are voxels themselves, and `at` finds them without a copy of all
                features += [_shifted(mean, axis, step) for axis in (2, 3, 4) for step in (1, -1)]
            self.levels.append(torch.cat(features, dim=1).flatten(0, 1)[None])
            if level in DENSITIES:
                self.densities.append(weight)
            if level + 1 < LEVELS:
                values, squares, weight = (nn.functional.avg_pool3d(x, 2) for x in (values, squares, weight))

    def at(self, mask: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Describe voxels.

        Args:
            mask: the voxels to describe, (stop - start, Y, Z) bool.
            start: the first plane of the first axis that `mask` covers, a multiple of `GRAIN`.
            stop: the plane after the last, likewise.

        Returns:
            Features (N, S, FEATURES) of the N voxels and their place (N, PLACE), both float32.
        """
        sources = len(self.volumes)
        parts = [self.volumes[:, start:stop].movedim(0, -1)[mask][:, :, None].float()]
        for level, features in enumerate(self.levels):
            parts.append(upsampled(features, 2**level, start, stop)[mask].unflatten(1, (sources, -1)))
            if level == 0:
                parts.append(self._neighbours(mask, start))
        densities = [
            upsampled(weight, 2**level, start, stop)[mask] * 2 - 1
            for level, weight in zip(DENSITIES, self.densities, strict=True)
        ]
        return torch.cat(parts, dim=2), torch.cat([self._place(mask, start), *densities], dim=1)

    def _neighbours(self, mask: Tensor, start: int) -> Tensor:
        """The six nearest voxels (N, S, 6) of each voxel, 0 outside the brain, at the border the voxel itself."""
        indices, edges = torch.nonzero(mask).T, self.brain.shape
        found = []
        for axis, edge in enumerate(edges):
            for step in (1, -1):
                moved = [index + (start if other == 0 else 0) for other, index in enumerate(indices)]
                moved[axis] = (moved[axis] - step).clamp(0, edge - 1)
                found.append((self.volumes[:, *moved] * self.brain[*moved]).T.float())
        return torch.stack(found, dim=2)

    def _place(self, mask: Tensor, start: int) -> Tensor:
        """Coordinates in the brain's box, from -1 to 1, encoded by `place_features`."""
        coordinates = []
        for axis, index in enumerate(torch.nonzero(mask).T):
            others = [other for other in range(3) if other != axis]
            inside = torch.nonzero(self.brain.any(others[1]).any(others[0])).flatten()
            first, last = int(inside[0]), int(inside[-1])
            coordinates.append((index + (start if axis == 0 else 0) - first) / max(last - first, 1) * 2 - 1)
        return place_features(torch.stack(coordinates, dim=1).float())


def place_features(coordinates: Tensor) -> Tensor:
    """Encode coordinates in the brain's box (N, 3): themselves, the distance from the middle plane, sines and cosines.

    These are the columns of a place (N, PLACE) before the densities.
    """
    phases = torch.cat([coordinates * (math.pi * (wave + 1)) for wave in range(WAVES)], dim=1)
    return torch.cat([coordinates, coordinates[:, :1].abs(), phases.sin(), phases.cos()], dim=1)


def upsampled(features: Tensor, factor: int, start: int, stop: int) -> Tensor:
    """Some planes of features that are sampled every `factor` voxels, linearly interpolated.

    Args:
        features: (1, C, x, y, z).
        factor: voxels between two samples.
        start: the first plane, a multiple of `factor`.
        stop: the plane after the last, likewise.

    Returns:
        (stop - start, Y, Z, C), float32.
    """
    inner = slice(max(start // factor - 1, 0), min(stop // factor + 1, features.shape[2]))
    padding = (0, 0, 0, 0, int(start == 0), int(stop == factor * features.shape[2]))
    slab = nn.functional.pad(features[:, :, inner].float(), padding, mode="replicate")
    if factor > 1:
        slab = slab.contiguous(memory_format=torch.channels_last_3d)
        slab = nn.functional.interpolate(slab, scale_factor=factor, mode="trilinear", align_corners=False)
    return slab[0].movedim(0, -1)[factor : factor + stop - start]


def _smoothed(x: Tensor) -> Tensor:
    """(S, 1, X, Y, Z) convolved with a binomial kernel along each axis, zeros beyond the border."""
    for axis in range(3):
        shape, padding = [1] * 5, [0] * 3
        shape[2 + axis], padding[axis] = len(_TAPS), len(_TAPS) // 2
        x = nn.functional.conv3d(x, x.new_tensor(_TAPS).view(shape), padding=padding)
    return x


def _gradient(x: Tensor) -> Tensor:
    """Length of the gradient of (S, 1, X, Y, Z) by central differences, per two voxels; 0 at the border."""
    squared = torch.zeros_like(x)
    for axis in (2, 3, 4):
        inner = x.shape[axis] - 2
        if inner > 0:
            difference = x.narrow(axis, 2, inner) - x.narrow(axis, 0, inner)
            squared.narrow(axis, 1, inner).add_(difference.square())
    return squared.sqrt()


def _shifted(x: Tensor, axis: int, step: int) -> Tensor:
    """Each voxel's neighbour `step` before it along an axis; at the border the voxel itself."""
    moved = x.roll(step, axis)
    border = 0 if step > 0 else x.shape[axis] - 1
    moved.narrow(axis, border, 1).copy_(x.narrow(axis, border, 1))
    return moved
