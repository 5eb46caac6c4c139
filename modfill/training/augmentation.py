"""Augmentation: random boxes, mirrored, deformed, with another scanner's contrast and coil."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modfill.training.data import TrainingCase


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


def biased(rng: np.random.Generator, volume: Tensor) -> Tensor:
    """A z-scored volume (X, Y, Z) under a smooth random gain of up to a tenth, as another coil would give."""
    coarse = torch.from_numpy(rng.uniform(-0.1, 0.1, (1, 1, 3, 3, 3)).astype(np.float32)).to(volume.device)
    gain = nn.functional.interpolate(coarse, volume.shape, mode="trilinear", align_corners=True)[0, 0]
    return volume + gain * (volume + 3) * (volume != 0)  # z + 3: no intensity lies far below three deviations


def deformed(rng: np.random.Generator, volumes: Tensor, brain: Tensor, box: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
    """A box of a case that is turned, scaled and bent at random, as other heads are.

    Args:
        rng: of the random transform.
        volumes: normalised, (M, X, Y, Z), 0 outside the brain.
        brain: (X, Y, Z) bool.
        box: of the volume.

    Returns:
        Volumes (M, *box) float32 and brain (*box).
    """
    shape, size = brain.shape, [part.stop - part.start for part in box]
    turn: Any = np.eye(3) + rng.normal(0, 0.08, (3, 3))  # radians off the diagonal, scales on it
    coarse: Any = rng.normal(0, 3.0, (1, 3, 4, 4, 4))  # mm, at every third of the box
    turn, coarse = (torch.from_numpy(x.astype(np.float32)).to(volumes.device) for x in (turn, coarse))
    bend = nn.functional.interpolate(coarse, size, mode="trilinear", align_corners=True)[0].movedim(0, -1)
    axes = [torch.arange(part.start, part.stop) + 0.5 - n / 2 for part, n in zip(box, shape, strict=True)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).to(volumes.device)
    grid = (places @ turn + bend) / turn.new_tensor(shape) * 2
    whole = torch.cat([volumes.float(), brain[None].float()])[None]
    sampled = nn.functional.grid_sample(whole, grid.flip(-1)[None], align_corners=False)[0]
    inside = sampled[-1] > 0.5
    return sampled[:-1] * inside, inside


def autoencoder_batch(rng: np.random.Generator, cases: list[TrainingCase], edge: int, crops: int) -> Tensor:
    """Random cubes of random modalities, flipped and jittered: (crops, 1, edge, edge, edge); edge 0: whole volumes."""
    batch = []
    for _ in range(crops):
        case = cases[int(rng.integers(len(cases)))]
        box = random_box(rng, case, (edge,) * 3) if edge else (slice(None),) * 3
        volume = torch.from_numpy(case.volumes[int(rng.integers(len(case.volumes)))][box].astype(np.float32))
        brain = torch.from_numpy(np.array(case.brain[box]))
        volume = jitter(rng, volume, brain).flip(random_flips(rng, (0, 1, 2)))
        missing = [max(edge - n, 0) for n in reversed(volume.shape)]  # where the volume is smaller than the cube
        batch.append(nn.functional.pad(volume, [m for n in missing for m in (0, n)]))
    return torch.stack(batch)[:, None]
