"""Stage 1: the autoencoder alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from modfill.model.autoencoder import Autoencoder
from modfill.model.config import Preset
from modfill.training.augmentation import autoencoder_batch
from modfill.training.data import TrainingCase, unit_psnr
from modfill.training.loop import Stage
from modfill.training.losses import fine_detail, hinge, multiscale_gradient


class AutoencoderStage(Stage):
    """Reconstruction L1, regularisation, multi-scale gradients, fine detail, and a patch-GAN after a warm-up."""

    name = "autoencoder"
    steps_done: Tensor

    def __init__(
        self, autoencoder: Autoencoder, preset: Preset, cases: list[TrainingCase], held_out: list[TrainingCase]
    ):
        super().__init__()
        self.autoencoder, self.losses = autoencoder, preset.losses
        self.config = preset.training["autoencoder"]
        self.cases, self.held_out = cases, held_out
        self.discriminator = _discriminator() if preset.losses.adversarial else None
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.long))

    def batch(self, rng: np.random.Generator) -> Mapping[str, Tensor]:
        """Draw the inputs of one step."""
        return {"volume": autoencoder_batch(rng, self.cases, self.config.crop, self.config.crops)}

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and its parts for the curves."""
        volume = batch["volume"].to(next(self.autoencoder.parameters()).device)
        reconstruction, regularisation, _ = self.autoencoder(volume)
        reconstruction = reconstruction.float()
        weight = 1.0 if self.autoencoder.codes else self.losses.kl
        parts = {
            "l1": (reconstruction - volume).abs().mean(),
            "l2": (reconstruction - volume).square().mean(),
            "regularisation": regularisation,
            "perceptual": multiscale_gradient(reconstruction, volume),
        }
        loss = parts["l1"] + weight * regularisation + self.losses.perceptual * parts["perceptual"]
        if self.losses.detail:
            parts["detail"] = fine_detail(reconstruction, volume)
            loss = loss + self.losses.detail * parts["detail"]
        self.steps_done += 1
        if self.discriminator is not None and int(self.steps_done) > self.losses.adversarial_from:
            parts["adversarial"], parts["discriminator"] = self._adversarial(volume, reconstruction)
            loss = loss + self.losses.adversarial * parts["adversarial"] + parts["discriminator"]
        return loss, parts

    def _adversarial(self, volume: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
        """The generator's loss by a frozen copy of the discriminator, and the discriminator's own."""
        assert self.discriminator is not None
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        fooled = functional_call(self.discriminator, frozen, (reconstruction,))[-1]
        real, fake = self.discriminator(volume)[-1], self.discriminator(reconstruction.detach())[-1]
        return -fooled.mean(), hinge(real, fake)

    def validate(self) -> float:
        """Mean reconstruction PSNR, one modality of each held-out case in turn."""
        values = []
        device = next(self.autoencoder.parameters()).device
        for index, case in enumerate(self.held_out):
            modality = case.available[index % len(case.available)]
            volume = np.array(case.volumes[modality], np.float32)
            out = self.autoencoder(torch.from_numpy(volume)[None, None].to(device))[0][0, 0].float().cpu().numpy()
            values.append(unit_psnr(case, modality, out))
        return float(np.mean(values))


def _discriminator() -> nn.Module:
    from monai.networks.nets import PatchDiscriminator

    return PatchDiscriminator(spatial_dims=3, channels=32, in_channels=1, num_layers_d=3, norm="INSTANCE")
