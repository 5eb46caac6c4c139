"""Stages 2 to 4, all on the frozen autoencoder's latents: translator, denoiser, refiner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modfill.model.aldm import ALDM, Encoded, place
from modfill.training.data import TrainingCase, random_box, unit_psnr, validation_tasks
from modfill.training.latents import Draw, LatentBank, draw
from modfill.training.loop import Stage

Batch = Mapping[str, Any]
Box = tuple[slice, ...]


class TranslationStage(Stage):
    """What the three stages share: the model around the part in training, the bank, and the validation tasks."""

    model: ALDM
    part: Any

    def __init__(self, model: ALDM, part: nn.Module, bank: LatentBank, held_out: list[TrainingCase]):
        super().__init__()
        self.part = part
        # the whole model is kept out of the module tree: only `part` is trained and saved
        self.__dict__["model"] = model
        self.bank, self.held_out = bank, held_out
        self.config = model.preset.training[self.name]

    def drawn(self, rng: np.random.Generator) -> Draw:
        return draw(rng, len(self.bank.cases), len(self.model.preset.modalities))

    def validate(self) -> float:
        """Mean PSNR over the validation tasks."""
        preset, values = self.model.preset, []
        self.model.eval()
        device = self.model.latent_std.device
        for case, sources, target in validation_tasks(self.held_out):
            volumes = {
                preset.modalities[m]: torch.from_numpy(case.volumes[m].astype(np.float32)).to(device) for m in sources
            }
            predicted = self.answer(self.model.see(volumes), target).float().cpu().numpy()
            values.append(unit_psnr(case, target, predicted, preset.normalisation))
        return float(np.mean(values))

    def answer(self, encoded: Encoded, target: int) -> Tensor:
        """The volume (X, Y, Z) that the model gives with the parts trained so far."""
        return self.model.predict(encoded, target, zero_noise(encoded), 1, "mean").volume


class TranslatorStage(TranslationStage):
    """Latent L1 of each translation and of their fusion, decoded L1, and cycle consistency back to a source."""

    name = "translator"

    def batch(self, rng: np.random.Generator) -> Batch:
        example = self.drawn(rng)
        target = int(rng.choice(example.targets))
        factor = self.model.preset.autoencoder.factor
        box = random_box(rng, self.bank.cases[example.case], (8 * factor,) * 3, factor)
        return {"example": example, "target": target, "box": box}

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        example, target, box = batch["example"], batch["target"], batch["box"]
        latents, wanted = self.bank.sources(example), self.bank.clean(example, (target,))
        back = example.sources[0]
        fused, translated = self.part.fuse(latents, example.sources, target)
        cycled, _ = self.part.fuse(fused, (target,), back)
        power = self.model.preset.translator.power
        parts = {
            "translated": (translated - wanted).abs().pow(power).mean(),
            "fused": (fused - wanted).abs().pow(power).mean(),
            "cycle": (cycled - self.bank.clean(example, (back,))).abs().pow(power).mean(),
            "decoded": self._decoded(example, target, box, fused),
        }
        return parts["translated"] + parts["fused"] + 0.5 * parts["cycle"] + parts["decoded"], parts

    def _decoded(self, example: Draw, target: int, box: tuple[slice, ...], fused: Tensor) -> Tensor:
        factor = self.model.preset.autoencoder.factor
        low = tuple(slice(b.start // factor, b.stop // factor) for b in box)
        decoded = self.model.decode(fused[(slice(None), slice(None), *low)])[0, 0]
        wanted = self.bank.volume(example.case, target, example.mirrored, False)[box].to(decoded.device)
        return (decoded - wanted).abs().pow(self.model.preset.translator.power).mean()

    def answer(self, encoded: Encoded, target: int) -> Tensor:
        return self.model.decode(self.part.fuse(encoded.latents, encoded.sources, target)[0])[0, 0]


class DenoiserStage(TranslationStage):
    """The diffusion loss (paper, equation 4): squared error of the noise, or of the clean latent."""

    name = "denoiser"

    def batch(self, rng: np.random.Generator) -> Batch:
        example, config = self.drawn(rng), self.model.preset.denoiser
        steps = rng.integers(0, config.steps, len(example.targets))
        blank = rng.random(len(steps)) < config.mean_share
        steps[blank] = config.steps - 1
        return {"example": example, "steps": torch.from_numpy(steps), "blank": torch.from_numpy(blank)}

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        example, clean = batch["example"], self.bank.clean(batch["example"], batch["example"].targets)
        steps = batch["steps"].to(clean.device)
        with torch.no_grad():
            latents = self.bank.sources(example)
            target_like = torch.cat(
                [self.model.translator.fuse(latents, example.sources, t)[0] for t in example.targets]
            )
        context = torch.cat([self.part.context(t, list(example.sources)) for t in example.targets])
        noise = (torch.randn(clean.shape) * ~batch["blank"].view(-1, 1, 1, 1, 1)).to(clean.device)
        out = self.part(self.part.noised(clean, noise, steps), steps, target_like, context).float()
        loss = (out - (clean if self.part.prediction == "sample" else noise)).square().mean()
        return loss, {}

    def answer(self, encoded: Encoded, target: int) -> Tensor:
        steps = 1 if self.model.single_step_mean else self.model.preset.denoiser.sampling_steps
        return self.model.decode(self.model.estimate(encoded, target, zero_noise(encoded), steps)[1])[0, 0]


class RefinerStage(TranslationStage):
    """Squared error at full resolution on random cubes, with everything before the refiner frozen."""

    name = "refiner"

    def batch(self, rng: np.random.Generator) -> Batch:
        example = self.drawn(rng)
        factor = self.model.preset.autoencoder.factor
        case = self.bank.cases[example.case]
        boxes = [random_box(rng, case, (self.config.crop,) * 3, factor) for _ in range(self.config.crops)]
        return {"example": example, "boxes": boxes}

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        example, boxes, model = batch["example"], batch["boxes"], self.model
        latents = self.bank.sources(example)
        stacked = [
            self.bank.volume(example.case, m, example.mirrored, changed)
            for m, changed in zip(example.sources, example.recontrasted, strict=True)
        ]
        volumes = place(torch.stack(stacked).to(latents.device), example.sources, len(model.preset.modalities))
        brain = self.bank.brain(example.case, example.mirrored).to(latents.device)
        encoded = model.looked(self.part, example.sources, volumes, latents)
        errors = [self._errors(example, target, boxes, encoded, brain) for target in example.targets]
        refined, decoded = torch.stack(errors).mean(0)
        return refined, {"decoded": decoded}

    def _errors(self, example: Draw, target: int, boxes: list[Box], encoded: Encoded, brain: Tensor) -> Tensor:
        """Mean squared error over the brain, refined and merely decoded, (2,)."""
        model = self.model
        with torch.no_grad():
            target_like, latent = model.estimate(encoded, target, zero_noise(encoded), 1)
        latents = torch.cat([target_like, latent.to(target_like.dtype)], dim=1)
        guidance, code = self.part.guide(encoded.seen, latents, encoded.available, target)
        regions = [self._region(encoded.volumes, latent, guidance, box) for box in boxes]
        sources, decoded, guided = (torch.cat(parts) for parts in zip(*regions, strict=True))
        refined = self.part(sources, decoded, guided, code, example.sources, target).float()[:, 0]
        truth = self.bank.volume(example.case, target, example.mirrored, False).to(brain.device)
        wanted = torch.stack([truth[box] for box in boxes])
        inside = torch.stack([brain[box] for box in boxes])
        answers = torch.stack([refined, decoded[:, 0, 1:-1, 1:-1, 1:-1]])
        return ((answers - wanted).square() * inside).sum((1, 2, 3, 4)) / inside.sum().clamp(min=1)

    def _region(self, volumes: Tensor, latent: Tensor, guidance: Tensor, box: Box) -> tuple[Tensor, Tensor, Tensor]:
        """A region's inputs; its piece of the decoded volume is decoded with two latent voxels of surroundings."""
        factor, margin = self.model.preset.autoencoder.factor, 2
        low = [
            slice(max(b.start // factor - margin, 0), min(b.stop // factor + margin, edge))
            for b, edge in zip(box, latent.shape[2:], strict=True)
        ]
        with torch.no_grad():
            piece = self.model.decode(latent[(slice(None), slice(None), *low)]).float()
        decoded = volumes.new_zeros(1, 1, *volumes.shape[2:])
        decoded[(slice(None), slice(None), *(slice(b.start * factor, b.stop * factor) for b in low))] = piece
        return self.model.refiner_region(volumes, decoded, guidance, box)


def zero_noise(encoded: Encoded) -> Tensor:
    """What the mean is asked with: no noise."""
    return torch.zeros_like(encoded.latents[:1])
