"""The rival that several papers find ahead of diffusion: a plain 3D U-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from benchmarks.baselines.network import NetworkStage, wanted_voxels, with_bits
from benchmarks.baselines.table import VoxelwiseTable, fit_tables
from modfill.modalities import MODALITIES
from modfill.model.config import StageConfig
from modfill.model.layers import fold, unfold
from modfill.training.data import TrainingCase


class UNetStage(NetworkStage):
    """Squared or absolute error over the brain.

    Args:
        cases, held_out, modalities: as in `NetworkStage`.
        power: of the error in the loss, 2 or 1.
        residual: learn what a voxelwise table leaves, instead of the whole.
    """

    name = "unet"
    window = (96, 96, 96)  # halved five times: an edge of 2 is not safe in bfloat16 (see modfill.training.run)
    config = StageConfig(steps=8_000, share=1.0, learning_rate=1e-3, crops=1)

    def __init__(
        self,
        cases: list[TrainingCase],
        held_out: list[TrainingCase],
        modalities: tuple[str, ...] = MODALITIES,
        *,
        power: int = 2,
        residual: bool = True,
    ):
        super().__init__(cases, held_out, modalities)
        self.power, self.net = power, FoldedUNet(len(modalities))
        self.table = VoxelwiseTable(len(modalities)) if residual else None
        if self.table is not None:  # starts as the table itself
            nn.init.zeros_(self.net.net.final_conv.weight)
            nn.init.zeros_(self.net.net.final_conv.bias)
            fit_tables(self.table, (case.volumes[:, case.brain].astype(np.float32) for case in cases))

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and its parts for the curves."""
        losses = []
        for example in batch["examples"]:
            error = (self.predict(example.volumes, example.sources) - example.wanted).abs() ** self.power
            weight = wanted_voxels(example)
            losses.append((error * weight).sum() / weight.sum().clamp(min=1))
        return torch.stack(losses).mean(), {}

    def predict(self, volumes: Tensor, sources: Sequence[int]) -> Tensor:
        """As in `NetworkStage`."""
        given = self.net(with_bits(volumes, sources))[0].float()
        if self.table is None:
            return given
        known = [
            torch.zeros_like(volumes[0]) if m in sources else self.table(volumes[None], sources, m)[0, 0]
            for m in range(len(volumes))
        ]
        return given + torch.stack(known)


class FoldedUNet(nn.Module):
    """MONAI's 3D U-Net on 2x2x2 voxels folded into channels, 2.9 M parameters.

    On a CPU it learns from more crops in the same time than at full resolution.
    """

    def __init__(self, modalities: int) -> None:
        super().__init__()
        self.net = unet(3, 8 * 2 * modalities, 8 * modalities, (32, 48, 64, 96, 128, 32))

    def forward(self, x: Tensor) -> Tensor:
        """Volumes and availability bits (B, 2 * M, X, Y, Z), even edges -> all modalities (B, M, X, Y, Z)."""
        return unfold(self.net(fold(x, 2)), 2)


def unet(dimensions: int, channels: int, out_channels: int, widths: tuple[int, ...]) -> BasicUNet:
    """MONAI's U-Net with four halvings."""
    return BasicUNet(dimensions, channels, out_channels, features=widths, norm=("instance", {"affine": True}),
                     act=("LeakyReLU", {"negative_slope": 0.1, "inplace": True}))  # fmt: skip
