"""Pix2Pix (Isola et al. 2017) in 3D, the baseline of the BraSyn challenge, and in 2D with its slices stacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.baselines.network import Example, NetworkStage, wanted_voxels, with_bits
from benchmarks.baselines.unet import FoldedUNet, unet
from modfill.modalities import MODALITIES
from modfill.model.config import StageConfig
from modfill.training.data import TrainingCase
from modfill.training.losses import hinge

L1_WEIGHT = 100.0  # the paper's


class Pix2Pix3D(NetworkStage):
    """L1 loss, and a patch discriminator that is given the sources too."""

    name = "pix2pix3d"
    window = (96, 96, 96)  # halved five times: an edge of 2 is not safe in bfloat16 (see modfill.training.run)
    dimensions = 3
    config = StageConfig(steps=8_000, share=1.0, learning_rate=2e-4, crops=1)

    def __init__(
        self, cases: list[TrainingCase], held_out: list[TrainingCase], modalities: tuple[str, ...] = MODALITIES
    ):
        super().__init__(cases, held_out, modalities)
        self.net, self.discriminator = self._generator(), discriminator(self.dimensions, len(modalities))

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and its parts for the curves."""
        losses = [self._losses(example) for example in batch["examples"]]
        l1, fooled, own = torch.stack(losses).mean(0)
        return L1_WEIGHT * l1 + fooled + own, {"l1": l1, "adversarial": fooled, "discriminator": own}

    def _losses(self, example: Example) -> Tensor:
        """L1 over the brain, the generator's adversarial loss, the discriminator's own, (3,)."""
        given, weight = self.predict(example.volumes, example.sources), wanted_voxels(example)
        l1 = ((given - example.wanted).abs() * weight).sum() / weight.sum().clamp(min=1)
        sources = self._flat(with_bits(example.volumes, example.sources))
        real, fake = (self._flat((volumes * weight)[None]) for volumes in (example.wanted, given))
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        fooled = functional_call(self.discriminator, frozen, (torch.cat([sources, fake], dim=1),))[-1]
        judged = [self.discriminator(torch.cat([sources, v], dim=1))[-1] for v in (real, fake.detach())]
        return torch.stack([l1, -fooled.float().mean(), hinge(*judged)])

    def predict(self, volumes: Tensor, sources: Sequence[int]) -> Tensor:
        """As in `NetworkStage`."""
        return self.net(self._flat(with_bits(volumes, sources))).float().reshape(volumes.shape)

    def _flat(self, volumes: Tensor) -> Tensor:
        return volumes

    def _generator(self) -> nn.Module:
        return FoldedUNet(len(self.modalities))


class Pix2Pix2D(Pix2Pix3D):
    """The same on axial slices."""

    name = "pix2pix2d"
    window = (192, 192, 1)
    dimensions = 2
    config = StageConfig(steps=20_000, share=1.0, learning_rate=2e-4, crops=8)

    def _flat(self, volumes: Tensor) -> Tensor:
        return volumes[..., 0]

    def _generator(self) -> nn.Module:
        count = len(self.modalities)
        return unet(2, 2 * count, count, (32, 64, 128, 256, 256, 32))


def discriminator(dimensions: int, modalities: int) -> nn.Module:
    """Judges patches of sources, availability bits and the missing modalities, of so many modalities in all."""
    from monai.networks.nets import PatchDiscriminator

    return PatchDiscriminator(dimensions, channels=32, in_channels=3 * modalities, num_layers_d=3, norm="INSTANCE")
