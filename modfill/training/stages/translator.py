"""Stage 2: the translator with its guided decoder, on crops of whole cases and tumour regions of more patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modfill.model.situation import PLACES, statistics_length
from modfill.model.synthesiser import Synthesiser
from modfill.model.translator import Inputs
from modfill.training.augmentation import draw_sources, example, other_scanner
from modfill.training.data import HeldCases, TrainingCase, encoded, unit_psnr, validation_tasks
from modfill.training.lesions import LesionNetwork, feature_distance
from modfill.training.loop import Stage
from modfill.training.losses import brain_mean, linear_fit, log_likelihood, ssim
from modfill.training.muon import with_adamw
from modfill.training.regions import Regions

REGIONS = 6  # tumour regions a step
STATISTICS_KNOWN, PLACE_KNOWN = 0.8, 0.95  # shares of examples whose statistics and place are known
PLAIN, SIMILARITY, ERROR = 0.1, 0.4, 0.05  # weights of the squared error itself, of SSIM and of the expected error
REGION, REGION_ERROR = 0.3, 0.02  # weights of the regions
FLOOR, REGION_FLOOR = 1e-3, 0.1  # added to squared errors before the logarithm
LEAST_VOXELS = 2_000  # of brain in a crop that counts


class TranslatorStage(Stage):
    """Trains on the logarithm of the squared error after a linear fit, which the protocol calls matched, and on SSIM.

    The logarithm lets easy and hard tasks count alike. Tumour regions are too small for a fit.

    Args:
        model: its translator learns.
        cases: training cases.
        held_out: validation cases.
        regions: tumour regions of more patients.
        lesions: a frozen segmentation network, and the weight of its features' distance in the loss.
    """

    name = "translator"
    unit: Tensor
    lesions: tuple[LesionNetwork, float] | None

    def __init__(
        self,
        model: Synthesiser,
        cases: list[TrainingCase],
        held_out: list[TrainingCase],
        regions: Regions | None = None,
        lesions: tuple[LesionNetwork, float] | None = None,
    ):
        super().__init__()
        self.part, self.held_out, self.regions = model.translator, held_out, regions
        self.__dict__.update(model=model, lesions=lesions)  # out of the module tree: only `part` is trained and saved
        self.cases = HeldCases(cases)
        self.config = model.preset.training[self.name]
        self.modalities, self.factor = len(model.preset.modalities), model.preset.autoencoder.factor
        unknown = [math.nan] * 2
        scales = [[unknown if s is None else [s.unit_mean, s.unit_std] for s in case.scales] for case in cases]
        self.register_buffer("unit", torch.tensor(scales).nanmean(0), persistent=False)

    def optimisers(self, parameters: Mapping[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
        """Muon for the convolutions and matrices below the first layer, AdamW for the rest."""
        outer = ("stem", "place", "context", "near")
        heavy = {n for n, p in parameters.items() if p.ndim in (3, 5) and not n.endswith("bias")
                 and not any(f".{name}." in n for name in outer)}  # fmt: skip
        return with_adamw(parameters, heavy, self.config)

    def batch(self, rng: np.random.Generator) -> Mapping[str, Any]:
        """Draw the inputs of one step."""
        batch = {"crops": self._crops(rng)}
        if self.regions is not None:
            batch["regions"] = self._regions(rng, self.regions)
        return batch

    def _crops(self, rng: np.random.Generator) -> tuple[Inputs, Tensor, Tensor]:
        """Inputs, targets (B,) and all modalities as acquired (B, M, X, Y, Z)."""
        device, rows = self.unit.device, []
        for _ in range(self.config.crops):
            index = int(rng.integers(len(self.cases)))
            volumes, brain = self.cases.on(device, index)
            drawn = example(rng, volumes, brain, self.config.crop, self.factor)
            sources, target = self._task(rng, self.cases.cases[index].available, device)
            known = torch.tensor(rng.random(2) < (STATISTICS_KNOWN, PLACE_KNOWN), device=device)
            inputs = Inputs(drawn.sources * sources[:, None, None, None], drawn.brain[None].float(), sources,
                            drawn.place * known[1], drawn.statistics * known[0])  # fmt: skip
            rows.append((inputs, target, drawn.wanted))
        return _stacked(rows)

    def _regions(self, rng: np.random.Generator, regions: Regions) -> tuple[Inputs, Tensor, Tensor]:
        """As `_crops`; neither place nor statistics of a region's patient are known."""
        device, rows = self.unit.device, []
        volumes, brains = regions.drawn(rng, REGIONS, device)
        for volume, brain in zip(volumes, brains, strict=True):
            if rng.random() < 0.5:
                volume, brain = volume.flip(1), brain.flip(0)
            sources, target = self._task(rng, range(self.modalities), device)
            place = torch.zeros(PLACES, *(n // self.factor for n in brain.shape), device=device)
            inputs = Inputs(other_scanner(rng, volume, brain) * sources[:, None, None, None], brain[None].float(),
                            sources, place, torch.zeros(statistics_length(self.modalities), device=device))  # fmt: skip
            rows.append((inputs, target, volume))
        return _stacked(rows)

    def _task(self, rng: np.random.Generator, modalities: Sequence[int], device: torch.device) -> tuple[Tensor, int]:
        """1 for the sources (M,) among the modalities of a case, and one target of the others."""
        available, missing = draw_sources(rng, modalities)
        sources = torch.zeros(self.modalities)
        sources[available] = 1
        return sources.to(device), int(rng.choice(missing))

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and its parts for the curves."""
        inputs, target, acquired = batch["crops"]
        wanted = _of_target(acquired, target)
        mean, log_error = self.part(inputs, target)
        brain = inputs.brain
        counts = (brain.sum((2, 3, 4)) > LEAST_VOXELS).float()
        fit, matched = linear_fit(mean, wanted, brain)
        plain = brain_mean((mean - wanted).square(), brain)
        unit_mean, unit_std = self.unit[target].view(-1, 2, 1, 1, 1, 1).unbind(1)
        ranged = [(x * unit_std + unit_mean).clamp(0, 1.2) * brain for x in (fit, wanted)]
        similarity = brain_mean(ssim(*ranged), brain)
        expected = log_likelihood(log_error, (fit - wanted).detach().square(), brain)
        loss = (matched + FLOOR).log() + PLAIN * plain - SIMILARITY * similarity + ERROR * expected
        parts = {"matched": matched.mean(), "plain": plain.mean(), "ssim": similarity.mean()}
        total = (loss * counts).mean()
        if self.lesions is not None:
            network, weight = self.lesions
            parts["lesions"] = (feature_distance(network, acquired, target, fit * brain) * counts[:, 0]).mean()
            total = total + weight * parts["lesions"]
        if "regions" in batch:
            total = total + self._regions_loss(batch["regions"], parts)
        return total, parts

    def _regions_loss(self, rows: tuple[Inputs, Tensor, Tensor], parts: dict[str, Tensor]) -> Tensor:
        """The loss of tumour regions, a scalar; adds its parts."""
        inputs, target, acquired = rows
        wanted = _of_target(acquired, target)
        mean, log_error = self.part(inputs, target)
        error = (mean - wanted).square()
        errors = brain_mean(error, inputs.brain)
        parts["regions"] = errors.mean()
        total = REGION * (errors + REGION_FLOOR).log().mean()
        total = total + REGION_ERROR * log_likelihood(log_error, error.detach(), inputs.brain).mean()
        if self.lesions is not None:
            network, weight = self.lesions
            parts["lesions in regions"] = feature_distance(network, acquired, target, mean * inputs.brain).mean()
            total = total + weight * parts["lesions in regions"]
        return total

    def validate(self) -> float:
        """Mean PSNR over the validation tasks."""
        values, model = [], self.__dict__["model"]
        for case, sources, target in validation_tasks(self.held_out):
            predicted = model.mean(encoded(model, case, sources), target)[0].cpu().numpy()
            values.append(unit_psnr(case, target, predicted))
        return float(np.mean(values))


def _stacked(rows: list[tuple[Inputs, int, Tensor]]) -> tuple[Inputs, Tensor, Tensor]:
    inputs = Inputs(*(torch.stack(parts) for parts in zip(*(row[0] for row in rows), strict=True)))
    target = torch.tensor([row[1] for row in rows], device=inputs.brain.device)
    return inputs, target, torch.stack([row[2] for row in rows])


def _of_target(acquired: Tensor, target: Tensor) -> Tensor:
    """The volume (B, 1, X, Y, Z) of each row's target among all modalities (B, M, X, Y, Z)."""
    return acquired[torch.arange(len(target), device=target.device), target][:, None]
