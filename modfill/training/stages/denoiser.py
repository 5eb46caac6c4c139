"""Stage 3: the denoiser, on residual latents of cases that are deformed and re-contrasted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modfill.model.denoiser import Condition
from modfill.model.synthesiser import Synthesiser
from modfill.training.data import TrainingCase, encoded, unit_psnr, validation_tasks
from modfill.training.latents import LatentBank
from modfill.training.loop import Stage
from modfill.training.muon import with_adamw

LOG_SIGMA = (-0.3, 1.5)  # mean and deviation of the logarithm of the noise levels in training
SIGMAS = (0.01, 120.0)


class DenoiserStage(Stage):
    """The diffusion loss of EDM: squared error of the clean residual, weighed so that all noise levels count alike."""

    name = "denoiser"

    def __init__(self, model: Synthesiser, bank: LatentBank, held_out: list[TrainingCase]):
        super().__init__()
        self.part, self.bank, self.held_out = model.denoiser, bank, held_out
        self.__dict__["model"] = model  # out of the module tree: only `part` is trained and saved
        self.config = model.preset.training[self.name]
        for name, value in bank.figures().items():
            getattr(self.part, name).copy_(value)

    def optimisers(self, parameters: Mapping[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
        """Muon for the convolutions inside, AdamW for the rest."""
        heavy = {n for n, p in parameters.items() if p.ndim == 5 and ".stem." not in n and ".head." not in n}
        return with_adamw(parameters, heavy, self.config)

    def batch(self, rng: np.random.Generator) -> Mapping[str, Any]:
        """Draw the inputs of one step."""
        rows = [self.bank.row(rng) for _ in range(self.config.crops)]
        mean, sources, extra, available, target, clean = (_stacked(parts) for parts in zip(*rows, strict=True))
        sigma = np.exp(rng.normal(*LOG_SIGMA, len(rows))).clip(*SIGMAS).astype(np.float32)
        device = self.part.residual.device
        condition = Condition(*(x.to(device) for x in (mean, sources, extra, available, target)))
        return {"condition": condition, "clean": clean.to(device), "sigma": torch.from_numpy(sigma).to(device)}

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and its parts for the curves."""
        condition, sigma = batch["condition"], batch["sigma"]
        clean = (batch["clean"] - condition.mean) / self.part.residual[:, None, None, None]
        level = sigma.view(-1, 1, 1, 1, 1)
        noise = torch.randn(clean.shape).to(clean.device)
        error = (self.part(clean + level * noise, sigma, condition) - clean).square()
        inside = condition.extra[:, :1]
        voxels = (inside.sum((1, 2, 3, 4)) * clean.shape[1]).clamp(min=1)
        return ((error * inside).sum((1, 2, 3, 4)) / voxels * (1 + sigma.square().reciprocal())).mean(), {}

    def validate(self) -> float:
        """Mean PSNR of one sample over the validation tasks."""
        values, model = [], self.__dict__["model"]
        for case, sources, target in validation_tasks(self.held_out):
            known, device = encoded(model, case, sources), self.part.residual.device
            channels = model.preset.autoencoder.latent_channels
            noise = torch.randn(channels, *known.inputs.place.shape[2:], generator=torch.Generator().manual_seed(0))
            mean = model.predict(known, target)
            sample = model.sampled(known, target, mean, noise.to(device), mean.expected_mse)
            values.append(unit_psnr(case, target, sample.volume.cpu().numpy()))
        return float(np.mean(values))


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Stack the same part of cases, those with smaller grids filled up with 0, which is outside the brain."""
    grid = [max(edges) for edges in zip(*(part.shape[-3:] for part in parts), strict=True)] if parts[0].ndim > 3 else []
    missing = [[n for edge, now in zip(reversed(grid), reversed(part.shape), strict=False) for n in (0, edge - now)]
               for part in parts]  # fmt: skip
    return torch.stack([nn.functional.pad(part, pads) for part, pads in zip(parts, missing, strict=True)])
