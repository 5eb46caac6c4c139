"""Stage 5: the refiner, on single voxels of all cases at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modfill.model.pyramid import DENSITIES, place_features
from modfill.model.refiner import VoxelOutputs
from modfill.model.synthesiser import Encoded, Synthesiser
from modfill.training.data import TrainingCase
from modfill.training.latents import LatentBank
from modfill.training.points import PointBank
from modfill.training.stages.translation import TranslationStage, zero_noise

VOXELS = 1024  # of one draw: one case, one set of sources
CONTRAST = 0.15  # standard deviation of a source's random change of scale
MOVE = 0.05  # standard deviation of a place's random change of scale and origin, in half edges of the brain's box
PLAIN_WEIGHT = 0.1  # of the error before the linear fit, beside the error after it
LIKELIHOOD_WEIGHT = 0.1

Draw = Mapping[str, Any]


class RefinerStage(TranslationStage):
    """Trains the refiner on three losses.

    They are the squared error after the best linear fit of intensities, with a small weight the squared error itself,
    and the negative log-likelihood of the error under the predicted log-variance. No source determines the target's
    brightness and contrast, which depend on the scanner; without the fit, cases with unusual ones would dominate.
    """

    name = "refiner"

    def __init__(self, model: Synthesiser, bank: LatentBank, held_out: list[TrainingCase], points: PointBank):
        assert model.refiner is not None
        super().__init__(model, model.refiner, bank, held_out)
        self.tasks, self.files = points.tasks, points.open()
        self.subsets = sorted({sources for sources, _ in self.tasks}, key=lambda s: (len(s), s))

    def batch(self, rng: np.random.Generator) -> Mapping[str, Any]:
        """Draw the inputs of one step."""
        return {"draws": [self._draw(rng) for _ in range(self.config.crops)]}

    def _draw(self, rng: np.random.Generator) -> Draw:
        """Random voxels of a random case with random sources, and everything else as targets."""
        file = self.files[int(rng.integers(len(self.files)))]
        sources = self.subsets[int(rng.integers(len(self.subsets)))]
        pairs = [k for k, task in enumerate(self.tasks) if task[0] == sources]
        targets = [self.tasks[k][1] for k in pairs]
        rows = np.sort(rng.integers(0, len(file["wanted"]), VOXELS))
        device = self.model.latent_std.device

        def read(name: str, columns: Any) -> Tensor:
            return torch.from_numpy(file[name][rows][:, columns].astype(np.float32)).to(device)

        read_columns = {"features": list(sources), "latents": pairs, "wanted": targets, "place": slice(None)}
        return {"sources": sources, "targets": targets} | {name: read(name, c) for name, c in read_columns.items()}

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and its parts for the curves."""
        draws = batch["draws"]
        inputs = []
        for draw in draws:
            changed = 1 + CONTRAST * torch.randn(1, len(draw["sources"]), 1).to(draw["place"].device)
            inputs.append(self.part.input_features(draw["features"] * changed, moved(draw["place"]), draw["sources"]))
        outputs = self.part(torch.cat(inputs))
        errors, left, likelihoods = [], [], []
        for index, draw in enumerate(draws):
            rows = slice(index * VOXELS, (index + 1) * VOXELS)
            own = VoxelOutputs(*(output[rows] for output in outputs))
            mean, log_variance = self.part.mix_latents(own, draw["latents"], draw["targets"])
            squared = (mean - draw["wanted"]).square()
            errors.append(squared.mean())
            left.append(after_fit(mean, draw["wanted"]).mean())
            likelihoods.append((squared.detach() * (-log_variance).exp() + log_variance).mean())
        error, fitted, likelihood = (torch.stack(each).mean() for each in (errors, left, likelihoods))
        parts = {"error": error, "fitted": fitted, "likelihood": likelihood}
        return fitted + PLAIN_WEIGHT * error + LIKELIHOOD_WEIGHT * likelihood, parts

    def encode(self, volumes: Tensor, sources: tuple[int, ...]) -> Encoded:
        """Encode sources (S, X, Y, Z) with the refiner too."""
        outputs = self.part.encode(volumes, (volumes != 0).any(0), sources)
        return replace(super().encode(volumes, sources), refiner_outputs=outputs)

    def predict(self, encoded: Encoded, target: int) -> Tensor:
        """Synthesise a volume (X, Y, Z) with the networks trained so far."""
        return self.model.predict(encoded, target, zero_noise(encoded), 1, "mean").volume


def moved(place: Tensor) -> Tensor:
    """Places (N, PLACE), randomly scaled and shifted, so that the network cannot memorise a patient's anatomy."""
    scale, shift = (MOVE * torch.randn(2, 1, 3)).to(place.device)
    coordinates = place[:, :3] * (1 + scale) + shift
    return torch.cat([place_features(coordinates), place[:, -len(DENSITIES) :]], dim=1)


def after_fit(given: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error (T,) of voxels (N, T) after the best linear fit of each target, with slope at least 0.

    It is the protocol's "matched" error.
    """
    given, wanted = given - given.mean(0), wanted - wanted.mean(0)
    slope = (given * wanted).sum(0) / given.square().sum(0).clamp(min=1e-6)
    return (wanted - slope.clamp(min=0) * given).square().mean(0)
