"""Training cases: normalised once, cached as memory-mapped arrays, drawn by a generator that only the step decides."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from modfill.case import find_cases, read_case, require_usable
from modfill.config import Preset
from modfill.errors import ModfillError
from modfill.metrics import psnr
from modfill.preprocess import IntensityScale, prepare


@dataclass(frozen=True)
class TrainingCase:
    """One complete case.

    Attributes:
        volumes: (modalities, X, Y, Z) float16, normalised, memory-mapped.
        brain: (X, Y, Z) bool, memory-mapped.
        scales: one per modality.
    """

    case_id: str
    volumes: np.ndarray
    brain: np.ndarray
    scales: tuple[IntensityScale, ...]


def load_cohort(folder: Path, cache: Path, preset: Preset) -> list[TrainingCase]:
    """Every complete case below `folder`, normalised into `cache` once.

    Raises:
        ModfillError: no case has all of the preset's modalities, or one has an unusable image.
    """
    key = f"{preset.normalisation}-{preset.multiple}"
    cache = cache / key
    cache.mkdir(parents=True, exist_ok=True)
    cases = []
    for files in find_cases(folder):
        if set(preset.modalities) <= set(files.paths):
            stem = cache / files.case_id
            if not stem.with_name(stem.name + ".json").exists():
                case = read_case(files)
                require_usable(case)
                if not set(preset.modalities) <= set(case.available):
                    continue  # zeros in a 4D file: a missing modality that only reading shows
                _write_cached(stem, case, preset)
            cases.append(_read_cached(stem))
    if not cases:
        raise ModfillError(f"{folder}: training needs cases with all of {', '.join(preset.modalities)}, found none; "
                           "give a folder of case folders")  # fmt: skip
    return cases


def _write_cached(stem: Path, case, preset: Preset) -> None:
    prepared = prepare(case, preset.multiple, preset.normalisation)
    _save(f"{stem}-volumes.npy", np.stack([prepared.volumes[m] for m in preset.modalities]).astype(np.float16))
    _save(f"{stem}-brain.npy", prepared.brain)
    scales = [asdict(prepared.scales[m]) for m in preset.modalities]
    stem.with_name(stem.name + ".json").write_text(json.dumps(scales))  # last: its presence says that all is there


def _save(path: str, array: np.ndarray) -> None:
    """Under a name of its own first: another process may be reading what it wrote itself."""
    temporary = f"{path}.{os.getpid()}.npy"
    np.save(temporary, array)
    os.replace(temporary, path)


def _read_cached(stem: Path) -> TrainingCase:
    scales = json.loads(stem.with_name(stem.name + ".json").read_text())
    return TrainingCase(
        case_id=stem.name,
        volumes=np.load(f"{stem}-volumes.npy", mmap_mode="r"),
        brain=np.load(f"{stem}-brain.npy", mmap_mode="r"),
        scales=tuple(IntensityScale(**scale) for scale in scales),
    )


def unit_statistics(cases: list[TrainingCase]) -> Tensor:
    """Mean over the cases of each modality's unit-range mean and standard deviation, (modalities, 2)."""
    values = [[(s.unit_mean, s.unit_std) for s in case.scales] for case in cases]
    return torch.tensor(np.mean(values, axis=0), dtype=torch.float32)


def validation_tasks(cases: list[TrainingCase]) -> list[tuple[TrainingCase, tuple[int, ...], int]]:
    """For each held-out case one target, in turn, from one source and from all others: (case, sources, target)."""
    tasks: list[tuple[TrainingCase, tuple[int, ...], int]] = []
    for index, case in enumerate(cases):
        m = len(case.volumes)
        tasks.append((case, ((index + 1) % m,), index % m))
        tasks.append((case, tuple(k for k in range(m) if k != index % m), index % m))
    return tasks


def unit_psnr(case: TrainingCase, target: int, predicted: np.ndarray, normalisation: str) -> float:
    """PSNR in dB of a normalised prediction (X, Y, Z), in unit range by the target's own scale."""
    acquired = case.volumes[target].astype(np.float32)
    return psnr(*(case.scales[target].to_unit(v, normalisation) * case.brain for v in (acquired, predicted)))


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
        volumes: normalised, (M, X, Y, Z), 0 outside the brain.
        brain: (X, Y, Z) bool.
        box: of the volume.

    Returns:
        Volumes (M, *box) float32 and brain (*box).
    """
    shape, size = brain.shape, [part.stop - part.start for part in box]
    turn = np.eye(3) + rng.normal(0, 0.08, (3, 3))  # radians off the diagonal, scales on it
    bend = rng.normal(0, 3.0, (1, 3, 4, 4, 4)).astype(np.float32)  # mm, every third of the box
    bent = nn.functional.interpolate(
        torch.from_numpy(bend).to(volumes.device), size, mode="trilinear", align_corners=True
    )
    axes = [
        torch.arange(part.start, part.stop, device=volumes.device) - n / 2 for part, n in zip(box, shape, strict=True)
    ]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).float()
    places = places @ torch.from_numpy(turn.astype(np.float32)).to(volumes.device) + bent[0].movedim(0, -1)
    grid = (places + 0.5) / places.new_tensor(shape) * 2
    sampled = nn.functional.grid_sample(
        torch.cat([volumes, brain[None].to(volumes)])[None].float(), grid.flip(-1)[None], align_corners=False
    )[0]
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
