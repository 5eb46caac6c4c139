"""Stage 6: the U-Net, on crops of whole cases and, where there are any, tumour regions of more patients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from modfill.model.synthesiser import Synthesiser
from modfill.training.augmentation import biased, deformed, jitter, random_box, random_flips
from modfill.training.data import TrainingCase, unit_psnr, validation_tasks
from modfill.training.loop import Stage
from modfill.training.regions import Regions
from modfill.training.stages.refiner import CONTRAST, PLAIN_WEIGHT

DEFORMED = 0.5  # share of crops that are turned, scaled and bent: interpolation blurs, so not all
BIASED = 0.7  # share of sources under another contrast and coil
REGIONS = 8  # tumour regions a step
REGION_WEIGHT = 0.5
HELD = 400  # cases kept on a GPU, some 35 MB each; the rest are read at every draw


class Crops(NamedTuple):
    """A batch of crops.

    Attributes:
        sources: z-scored, 0 where missing, (B, M, X, Y, Z).
        wanted: all modalities, likewise.
        brain: (B, X, Y, Z) bool.
        available: 1 for the modalities in `sources`, (B, M).
    """

    sources: Tensor
    wanted: Tensor
    brain: Tensor
    available: Tensor


class UNetStage(Stage):
    """Trains the U-Net on the squared error after a linear fit and, with a small weight, the squared error itself.

    The fit is the refiner's. Tumour regions are too small for a fit; there the loss is the squared error.
    """

    name = "unet"

    def __init__(
        self,
        model: Synthesiser,
        cases: list[TrainingCase],
        held_out: list[TrainingCase],
        regions: Regions | None = None,
    ):
        super().__init__()
        assert model.unet is not None
        self.part, self.cases, self.held_out, self.regions = model.unet, cases, held_out, regions
        self.modalities, self.normalisation = len(model.preset.modalities), model.preset.normalisation
        self.config = model.preset.training[self.name]
        self.held: dict[int, tuple[Tensor, Tensor]] = {}

    def batch(self, rng: np.random.Generator) -> Mapping[str, Any]:
        """Draw the inputs of one step."""
        drawn = [self._crop(rng) for _ in range(self.config.crops)]
        batch = {"crops": self._hidden(rng, torch.stack([v for v, _ in drawn]), torch.stack([b for _, b in drawn]))}
        if self.regions is not None:
            batch["regions"] = self._hidden(rng, *self.regions.drawn(rng, REGIONS, self._device))
        return batch

    @property
    def _device(self) -> torch.device:
        return next(self.part.parameters()).device

    def _case(self, index: int) -> tuple[Tensor, Tensor]:
        """Volumes (M, X, Y, Z) float16 and brain (X, Y, Z) of a case, on the device."""
        if index in self.held:
            return self.held[index]
        case, device = self.cases[index], self._device
        found = torch.from_numpy(np.array(case.volumes)).to(device), torch.from_numpy(np.array(case.brain)).to(device)
        if device.type == "cuda" and len(self.held) < HELD:
            self.held[index] = found
        return found

    def _crop(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Volumes (M, edge, edge, edge) and brain (edge, edge, edge) of a random cube of a random case."""
        index, edge = int(rng.integers(len(self.cases))), self.config.crop
        box = random_box(rng, self.cases[index], (edge,) * 3)
        volumes, brain = self._case(index)
        if rng.random() < DEFORMED:
            volumes, brain = deformed(rng, volumes, brain, box)
        else:
            volumes, brain = volumes[:, *box].float(), brain[box]
        missing = [n for size in reversed(brain.shape) for n in (0, edge - size)]
        return nn.functional.pad(volumes, missing), nn.functional.pad(brain, missing)

    def _hidden(self, rng: np.random.Generator, volumes: Tensor, brain: Tensor) -> Crops:
        """Mirror, hide a random subset of the modalities, and vary the contrast and the coil of the rest."""
        sources, available = torch.zeros_like(volumes), torch.zeros(volumes.shape[:2])
        for index in range(len(volumes)):
            axes = random_flips(rng, (0,))
            volumes[index], brain[index] = volumes[index].flip([a + 1 for a in axes]), brain[index].flip(axes)
            for m in np.flatnonzero(rng.permutation(self.modalities) < rng.integers(1, self.modalities)).tolist():
                available[index, m], sources[index, m] = 1, volumes[index, m]
                if rng.random() < BIASED:
                    changed = biased(rng, jitter(rng, volumes[index, m], brain[index]))
                    sources[index, m] = changed * (1 + CONTRAST * float(rng.standard_normal()))
        return Crops(sources, volumes, brain, available.to(volumes.device))

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and its parts for the curves."""
        fitted, error = self._errors(batch["crops"])
        parts, loss = {"fitted": fitted, "error": error}, fitted + PLAIN_WEIGHT * error
        if "regions" in batch:
            _, parts["regions"] = self._errors(batch["regions"])
            loss = loss + REGION_WEIGHT * parts["regions"]
        return loss, parts

    def _errors(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """Squared error of the hidden modalities over the brain, after a linear fit of each crop and before."""
        given, brain = self.part(crops.sources, crops.brain, crops.available), crops.brain[:, None].float()
        voxels, hidden = brain.sum((2, 3, 4)).clamp(min=1), 1 - crops.available

        def mean(x: Tensor) -> Tensor:
            return (x * brain).sum((2, 3, 4)) / voxels

        def about(x: Tensor) -> Tensor:
            return x - mean(x)[:, :, None, None, None]

        estimate, truth = about(given), about(crops.wanted)
        slope = (mean(estimate * truth) / mean(estimate.square()).clamp(min=1e-6)).clamp(min=0)
        fitted = mean((truth - slope[:, :, None, None, None] * estimate).square())
        error = mean((given - crops.wanted).square())
        return (fitted * hidden).sum() / hidden.sum(), (error * hidden).sum() / hidden.sum()

    def validate(self) -> float:
        """Mean PSNR of the U-Net alone over the validation tasks."""
        values = []
        for case, sources, target in validation_tasks(self.held_out):
            volumes = torch.from_numpy(case.volumes[list(sources)].astype(np.float32)).to(self._device)
            brain = torch.from_numpy(np.array(case.brain)).to(self._device)
            predicted = self.part.predict(volumes, brain, sources)[target].cpu().numpy()
            values.append(unit_psnr(case, target, predicted, self.normalisation))
        return float(np.mean(values))
