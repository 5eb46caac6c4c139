"""Augmentation: random crops, mirrored, deformed, as if from another scanner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from modfill.model.situation import statistics
from modfill.training.data import TrainingCase

CHANGED = 0.75  # share of the sources under another scanner
NOISY, THICK = 0.4, 0.3  # shares of examples in which some sources are noisier, or of thicker slices
DEFORMED = 0.6  # share of examples that are turned, scaled and bent: interpolation blurs, so not all


def random_box(rng: np.random.Generator, case: TrainingCase, size: Sequence[int], grain: int = 1) -> tuple[slice, ...]:
    """A random box of `size` voxels (less where the volume is smaller) with brain in it, on multiples of `grain`."""
    shape = case.brain.shape
    edges = [min(edge, n) for edge, n in zip(size, shape, strict=True)]
    for _ in range(10):
        corner = [int(rng.integers(0, (n - e) // grain + 1)) * grain for n, e in zip(shape, edges, strict=True)]
        box = tuple(slice(c, c + e) for c, e in zip(corner, edges, strict=True))
        if case.brain[box].mean() > 0.2:
            break
    return box


def random_flips(rng: np.random.Generator, axes: tuple[int, ...]) -> list[int]:
    """Each of `axes` with probability one half."""
    return [axis for axis in axes if rng.random() < 0.5]


def jitter(rng: np.random.Generator, volume: Tensor, brain: Tensor) -> Tensor:
    """A random smooth change of contrast of a z-scored volume, as scanners differ: scale, shift and curvature."""
    scale, shift = 1 + 0.05 * rng.uniform(-1, 1), 0.05 * rng.uniform(-1, 1)
    square, cube = 0.1 * rng.uniform(-1, 1), 0.03 * rng.uniform(-1, 1)
    changed = scale * volume + shift + square * (volume.square() - 1) + cube * (volume**3 - 3 * volume)
    return torch.where(brain, changed, volume)


def other_scanner(rng: np.random.Generator, volumes: Tensor, brain: Tensor) -> Tensor:
    """Change volumes as another scanner would: contrast, coil and, at times, noise and slice thickness.

    Args:
        rng: of all that is random.
        volumes: z-scored, (M, X, Y, Z); each is changed with probability `CHANGED`.
        brain: (X, Y, Z) bool.

    Returns:
        (M, X, Y, Z), 0 outside the brain.
    """
    count = len(volumes)
    changed = rng.random(count) < CHANGED

    def drawn(size: float) -> Tensor:
        return _column(size * rng.uniform(-1, 1, count) * changed, volumes)

    scale, shift, square, cube = drawn(0.08), drawn(0.08), drawn(0.12), drawn(0.035)
    clipped = volumes.clamp(-4, 4)
    curved = square * (clipped.square() - 1) + cube * (clipped**3 - 3 * clipped)
    out = volumes * (1 + scale) + shift + curved
    drift = rng.uniform(-0.1, 0.1, (count, 1, 3, 3, 3)) * changed[:, None, None, None, None]
    coarse = torch.from_numpy(drift.astype(np.float32)).to(volumes.device)
    gain = nn.functional.interpolate(coarse, volumes.shape[1:], mode="trilinear", align_corners=True)[:, 0]
    out = out + gain * (out + 3)  # z + 3: no intensity lies far below three deviations
    if rng.random() < NOISY:
        level = rng.uniform(0, 0.12, count) * (rng.random(count) < 0.5) * changed
        noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**63))))
        out = out + _column(level, out) * noise.to(out.device)
    if rng.random() < THICK:
        axis, share = int(rng.integers(1, 4)), rng.uniform(0.1, 0.33, count) * (rng.random(count) < 0.5) * changed
        neighbours = out.roll(1, axis) + out.roll(-1, axis)
        out = out + _column(share, out) * (neighbours - 2 * out)
    return out * brain


def _column(values: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(like.device).view(-1, 1, 1, 1)


class Example(NamedTuple):
    """A crop of a case under another scanner, deformed or not.

    Attributes:
        sources: all modalities under another scanner, (M, X, Y, Z).
        wanted: all modalities as acquired, (M, X, Y, Z).
        brain: (X, Y, Z) bool.
        place: see `modfill.model.situation.place`.
        statistics: of the whole case under the other scanner, see `modfill.model.situation.statistics`.
    """

    sources: Tensor
    wanted: Tensor
    brain: Tensor
    place: Tensor
    statistics: Tensor


def example(rng: np.random.Generator, volumes: Tensor, brain: Tensor, edge: int, factor: int) -> Example:
    """Draw an example of a case.

    Args:
        rng: of all that is random.
        volumes: normalised, (M, X, Y, Z), 0 outside the brain.
        brain: (X, Y, Z) bool.
        edge: of the crop in voxels, filled up with 0 where the volume is smaller; 0 takes the whole volume.
        factor: voxels along the edge of a latent voxel.
    """
    wanted = volumes.float()
    sources = other_scanner(rng, wanted, brain)
    known = statistics(sources, brain)
    size = [edge or n for n in brain.shape]
    corner = [
        int(rng.integers(0, n - e + 1)) if n > e else (n - e) // 2 for n, e in zip(brain.shape, size, strict=True)
    ]
    grid = _places(rng, corner, size, brain)
    stacked = torch.cat([sources, wanted, brain[None].float()])[None]
    normed = (grid / grid.new_tensor(brain.shape) * 2 - 1).flip(-1)[None]
    drawn = nn.functional.grid_sample(stacked, normed, align_corners=False)[0]
    inside = drawn[-1] > 0.5
    where = _in_box(grid[factor // 2 :: factor, factor // 2 :: factor, factor // 2 :: factor] - 0.5, brain)
    found = Example(drawn[: len(wanted)] * inside, drawn[len(wanted) : -1] * inside, inside, where, known)
    return _mirrored(found) if rng.random() < 0.5 else found


def _mirrored(drawn: Example) -> Example:
    """Left and right exchanged."""
    where = drawn.place.flip(-3)
    where[0] *= -1
    return drawn._replace(
        sources=drawn.sources.flip(-3), wanted=drawn.wanted.flip(-3), brain=drawn.brain.flip(-3), place=where
    )


def _places(rng: np.random.Generator, corner: Sequence[int], size: Sequence[int], brain: Tensor) -> Tensor:
    """Where in a volume the voxels of a crop come from, in voxels, (*size, 3): turned, scaled and bent at times."""
    axes = [torch.arange(c, c + e, device=brain.device) + 0.5 for c, e in zip(corner, size, strict=True)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    if rng.random() >= DEFORMED:
        return grid
    turn: Any = np.eye(3) + rng.normal(0, 0.08, (3, 3))  # radians off the diagonal, scales on it
    coarse: Any = rng.normal(0, 3.0, (1, 3, 5, 5, 5))  # mm, at every quarter of the crop
    turn, coarse = (torch.from_numpy(x.astype(np.float32)).to(brain.device) for x in (turn, coarse))
    bend = nn.functional.interpolate(coarse, tuple(size), mode="trilinear", align_corners=True)[0].movedim(0, -1)
    centre = grid.new_tensor(brain.shape) / 2
    return (grid - centre) @ turn + bend + centre


def _in_box(grid: Tensor, brain: Tensor) -> Tensor:
    """Voxels (x, y, z, 3) as places, (PLACES, x, y, z): -1 to 1 in the brain's box, and a 1."""
    inside = torch.nonzero(brain)
    first, last = inside.min(0).values, inside.max(0).values + 1
    where = ((grid - first) / (last - first) * 2 - 1).movedim(-1, 0)
    return torch.cat([where, torch.ones_like(where[:1])])


def draw_sources(rng: np.random.Generator, modalities: Sequence[int]) -> tuple[list[int], list[int]]:
    """Sources and targets among the modalities of a case: each number of sources alike, from one to all but one."""
    order = rng.permutation(modalities)
    count = int(rng.integers(1, len(modalities)))
    return sorted(order[:count].tolist()), sorted(order[count:].tolist())


def autoencoder_batch(rng: np.random.Generator, cases: list[TrainingCase], edge: int, crops: int) -> Tensor:
    """Random cubes of random modalities, flipped and jittered: (crops, 1, edge, edge, edge); edge 0: whole volumes."""
    batch = []
    for _ in range(crops):
        case = cases[int(rng.integers(len(cases)))]
        box = random_box(rng, case, (edge,) * 3) if edge else (slice(None),) * 3
        modality = case.available[int(rng.integers(len(case.available)))]
        volume = torch.from_numpy(case.volumes[modality][box].astype(np.float32))
        brain = torch.from_numpy(np.array(case.brain[box]))
        volume = jitter(rng, volume, brain).flip(random_flips(rng, (0, 1, 2)))
        missing = [max(edge - n, 0) for n in reversed(volume.shape)]  # where the volume is smaller than the cube
        batch.append(nn.functional.pad(volume, [m for n in missing for m in (0, n)]))
    return torch.stack(batch)[:, None]
