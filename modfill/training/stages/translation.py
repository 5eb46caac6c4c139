"""Stages 2 and 3, on the frozen autoencoder's latents: translator and denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modfill.model.synthesiser import Encoded, Synthesiser
from modfill.training.augmentation import random_box
from modfill.training.data import TrainingCase, unit_psnr, validation_tasks
from modfill.training.latents import Draw, LatentBank, draw
from modfill.training.loop import Stage

Batch = Mapping[str, Any]


class TranslationStage(Stage):
    """Base of three stages: the model around the part in training, the bank, and the validation tasks."""

    model: Synthesiser
    part: Any

    def __init__(self, model: Synthesiser, part: nn.Module, bank: LatentBank, held_out: list[TrainingCase]):
        super().__init__()
        self.part = part
        # the whole model is kept out of the module tree: only `part` is trained and saved
        self.__dict__["model"] = model
        self.bank, self.held_out = bank, held_out
        self.config = model.preset.training[self.name]

    def drawn(self, rng: np.random.Generator) -> Draw:
        """Draw a training example."""
        return draw(rng, len(self.bank.cases), len(self.model.preset.modalities))

    def validate(self) -> float:
        """Mean PSNR over the validation tasks."""
        preset, values = self.model.preset, []
        self.model.eval()
        device = self.model.latent_std.device
        for case, sources, target in validation_tasks(self.held_out):
            volumes = torch.from_numpy(case.volumes[list(sources)].astype(np.float32)).to(device)
            predicted = self.predict(self.encode(volumes, sources), target).float().cpu().numpy()
            values.append(unit_psnr(case, target, predicted, preset.normalisation))
        return float(np.mean(values))

    def encode(self, volumes: Tensor, sources: tuple[int, ...]) -> Encoded:
        """Encode sources (S, X, Y, Z) with the networks of this stage; later ones, not trained yet, do not run."""
        return Encoded(sources, self.model.encode_latents(volumes[:, None]), None)

    def predict(self, encoded: Encoded, target: int) -> Tensor:
        """Synthesise a volume (X, Y, Z) with the networks trained so far."""
        raise TypeError(f"{type(self).__name__} must define predict()")


class TranslatorStage(TranslationStage):
    """Latent L1 of each translation and of their fusion, decoded L1, and cycle consistency back to a source."""

    name = "translator"

    def batch(self, rng: np.random.Generator) -> Batch:
        """Draw the inputs of one step."""
        example = self.drawn(rng)
        target = int(rng.choice(example.targets))
        factor = self.model.preset.autoencoder.factor
        box = random_box(rng, self.bank.cases[example.case], (8 * factor,) * 3, factor)
        return {"example": example, "target": target, "box": box}

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and its parts for the curves."""
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

    def predict(self, encoded: Encoded, target: int) -> Tensor:
        """Synthesise a volume (X, Y, Z) with the networks trained so far."""
        return self.model.decode(self.part.fuse(encoded.latents, encoded.sources, target)[0])[0, 0]


class DenoiserStage(TranslationStage):
    """The diffusion loss (paper, equation 4): squared error of the noise, or of the clean latent."""

    name = "denoiser"

    def batch(self, rng: np.random.Generator) -> Batch:
        """Draw the inputs of one step."""
        example, config = self.drawn(rng), self.model.preset.denoiser
        steps = rng.integers(0, config.steps, len(example.targets))
        blank = rng.random(len(steps)) < config.mean_share
        steps[blank] = config.steps - 1
        return {"example": example, "steps": torch.from_numpy(steps), "blank": torch.from_numpy(blank)}

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and its parts for the curves."""
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

    def predict(self, encoded: Encoded, target: int) -> Tensor:
        """Synthesise a volume (X, Y, Z) with the networks trained so far."""
        steps = 1 if self.model.preset.single_step_mean else self.model.preset.denoiser.sampling_steps
        return self.model.decode(self.model.estimate(encoded, target, zero_noise(encoded), steps)[1])[0, 0]


def zero_noise(encoded: Encoded) -> Tensor:
    """Noise 0, the input of the one-step mean estimate."""
    return torch.zeros_like(encoded.latents[:1])
