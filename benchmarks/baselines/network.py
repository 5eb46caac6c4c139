"""Common parts of the trained rivals: any subset in, all modalities out, by modfill's normalisation and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from modfill.modalities import MODALITIES
from modfill.model.config import PRESETS
from modfill.training.augmentation import jitter, random_box, random_flips
from modfill.training.data import TrainingCase, brightness_of, unit_psnr, validation_tasks
from modfill.training.loop import Stage

PRESET = PRESETS["small"]  # whose normalisation and grid are taken


class Example(NamedTuple):
    """One crop: indices of the sources, the network's input and its target (M, X, Y, Z), the brain."""

    sources: tuple[int, ...]
    volumes: Tensor
    wanted: Tensor
    brain: Tensor


class NetworkStage(Stage):
    """Crops of random cases with random subsets, half of the sources under another contrast and bias field.

    Args:
        cases: to learn from; none to use what has been trained.
        held_out: to validate on.
        modalities: names, in the order of the channels.
    """

    unit: Tensor  # (M, 2) mean and standard deviation of each modality in unit range over the training cases
    window: tuple[int, int, int]  # voxels of a training crop, and of the window that slides over a whole volume
    kept = ("net", "table", "unit")  # names of what `predict` needs

    def __init__(
        self, cases: list[TrainingCase], held_out: list[TrainingCase], modalities: tuple[str, ...] = MODALITIES
    ):
        super().__init__()
        self.cases, self.held_out, self.modalities = cases, held_out, modalities
        unit = [[figures[:2] for figures in brightness_of(case)] for case in cases]
        self.register_buffer("unit", torch.tensor(unit).mean(0) if cases else torch.zeros(len(modalities), 2))

    def batch(self, rng: np.random.Generator) -> Mapping[str, Any]:
        """Draw the inputs of one step."""
        return {"examples": [self._example(rng) for _ in range(self.config.crops)]}

    def _example(self, rng: np.random.Generator) -> Example:
        case = self.cases[int(rng.integers(len(self.cases)))]
        box = random_box(rng, case, self.window)
        brain = torch.from_numpy(np.array(case.brain[box])).to(self.unit.device)
        wanted = torch.from_numpy(case.volumes[(slice(None), *box)].astype(np.float32)).to(self.unit.device)
        count = len(self.modalities)
        sources = tuple(np.flatnonzero(rng.permutation(count) < rng.integers(1, count)).tolist())
        volumes = torch.zeros_like(wanted)
        for m in sources:
            volumes[m] = biased(rng, jitter(rng, wanted[m], brain)) if rng.random() < 0.5 else wanted[m]
        missing = [n for edge, size in zip(reversed(self.window), reversed(brain.shape), strict=True)
                   for n in (0, edge - size)]  # fmt: skip
        flips = [axis - 3 for axis in random_flips(rng, (0,))]
        return Example(sources, *(nn.functional.pad(v.flip(flips), missing) for v in (volumes, wanted, brain)))

    def predict(self, volumes: Tensor, sources: Sequence[int]) -> Tensor:
        """Z-scored sources (M, X, Y, Z), 0 where missing -> all modalities (M, X, Y, Z), z-scored."""
        raise TypeError(f"{type(self).__name__} must define predict()")

    def whole(self, volumes: Tensor, sources: Sequence[int]) -> Tensor:
        """`predict` over a whole volume, in windows of the training crops' size, as normalisation layers need it."""
        from monai.inferers import sliding_window_inference

        def windows(crops: Tensor) -> Tensor:
            return torch.stack([self.predict(crop, sources) for crop in crops])

        return sliding_window_inference(volumes[None], self.window, 1, windows, 0.3, "gaussian")[0]

    def validate(self) -> float:
        """Mean PSNR over the validation tasks, as in modfill's own stages."""
        values = []
        for case, sources, target in validation_tasks(self.held_out):
            volumes = torch.zeros(case.volumes.shape, device=self.unit.device)
            volumes[list(sources)] = torch.from_numpy(case.volumes[list(sources)].astype(np.float32)).to(volumes)
            predicted = self.whole(volumes, sources)[target].float().cpu().numpy()
            values.append(unit_psnr(case, target, predicted))
        return float(np.mean(values))


def biased(rng: np.random.Generator, volume: Tensor) -> Tensor:
    """A z-scored volume (X, Y, Z) under a smooth random gain of up to a tenth, as another coil would give."""
    coarse = torch.from_numpy(rng.uniform(-0.1, 0.1, (1, 1, 3, 3, 3)).astype(np.float32)).to(volume.device)
    gain = nn.functional.interpolate(coarse, volume.shape, mode="trilinear", align_corners=True)[0, 0]
    return volume + gain * (volume + 3) * (volume != 0)  # z + 3: no intensity lies far below three deviations


def with_bits(volumes: Tensor, sources: Sequence[int]) -> Tensor:
    """Sources (M, X, Y, Z) -> sources and availability (1, 2 M, X, Y, Z)."""
    bits = torch.zeros_like(volumes)
    bits[list(sources)] = 1
    return torch.cat([volumes, bits])[None]


def wanted_voxels(example: Example) -> Tensor:
    """The voxels of an example's loss: the brain in the modalities that were not given, (M, X, Y, Z) bool."""
    missing = torch.tensor([m not in example.sources for m in range(len(example.wanted))], device=example.brain.device)
    return missing[:, None, None, None] & example.brain
