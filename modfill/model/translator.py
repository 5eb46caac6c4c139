"""MS-SPADE translation (paper, section 3.1): all available sources at once become features of the target.

The paper translates the latents of one source. Here the sources themselves are folded into channels and seen as a whole
volume, down to a sixteenth of the resolution; MS-SPADE then switches the features on the latent grid to the target.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from modfill.model.config import FOLD, TranslatorConfig
from modfill.model.decoder import GuidedDecoder
from modfill.model.layers import ModulatedBlock, VoxelNorm, fold, scatter, unfold
from modfill.model.situation import PLACES, of_available, statistics_length


class Inputs(NamedTuple):
    """The inputs of the translator.

    Attributes:
        volumes: normalised sources, 0 where a modality is missing and outside the brain, (B, M, X, Y, Z).
        brain: (B, 1, X, Y, Z), 1 inside.
        available: 1 for the modalities in `volumes`, (B, M).
        place: see `situation.place`, (B, PLACES, x, y, z) on the latent grid.
        statistics: see `situation.statistics`, (B, length).
    """

    volumes: Tensor
    brain: Tensor
    available: Tensor
    place: Tensor
    statistics: Tensor


class Features(NamedTuple):
    """Features that do not depend on the target.

    Attributes:
        half: at half the resolution, (B, C, X / 2, Y / 2, Z / 2).
        latent: on the latent grid, (B, C, X / 4, Y / 4, Z / 4).
    """

    half: Tensor
    latent: Tensor


class MSSpade(nn.Module):
    """norm(h) * (1 + gamma(h)) + beta(h), with one (gamma, beta) per target modality, both read from h itself."""

    def __init__(self, channels: int, targets: int):
        super().__init__()
        hidden = channels // 2
        self.norm = VoxelNorm(channels, affine=False)
        self.hidden_weight = nn.Parameter(torch.empty(targets, channels, hidden))
        self.hidden_bias = nn.Parameter(torch.zeros(targets, 1, hidden))
        self.weight = nn.Parameter(torch.zeros(targets, hidden, 2 * channels))
        self.bias = nn.Parameter(torch.empty(targets, 1, 2 * channels))
        scatter(self.hidden_weight, channels**-0.5)
        scatter(self.bias, 0.1)

    def forward(self, h: Tensor, target: Tensor) -> Tensor:
        """Modulate features (B, C, x, y, z) for the targets with these indices (B,)."""
        voxels = h.movedim(1, -1)
        hidden = _linear(voxels.flatten(1, 3), self.hidden_weight[target], self.hidden_bias[target])
        out = _linear(nn.functional.silu(hidden, inplace=True), self.weight[target], self.bias[target])
        gamma, beta = out.unflatten(1, voxels.shape[1:4]).movedim(-1, 1).chunk(2, dim=1)
        return self.norm(h) * (1 + gamma) + beta


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """X (B, N, C) times a weight of its own for each row (B, C, D), plus bias (B, 1, D)."""
    return torch.baddbmm(bias.to(x.dtype), x, weight.to(x.dtype))


class SpadeBlock(nn.Module):
    """MS-SPADE, SiLU, conv 3 twice, around an identity."""

    def __init__(self, channels: int, targets: int):
        super().__init__()
        self.spades = nn.ModuleList([MSSpade(channels, targets) for _ in range(2)])
        first, second = (nn.Conv3d(channels, channels, 3, padding=1) for _ in range(2))
        for parameter in second.parameters():
            scatter(parameter, 1e-3)
        self.convolutions = nn.ModuleList([first, second])

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """(B, C, x, y, z) -> the same shape, for the targets with these indices (B,)."""
        h = x
        for spade, convolution in zip(self.spades, self.convolutions, strict=True):
            h = convolution(nn.functional.silu(spade(h, target), inplace=True))
        return x + h


class Translator(nn.Module):
    """Sources -> any target and the logarithm of its expected squared error, normalised."""

    def __init__(self, config: TranslatorConfig, modalities: int):
        super().__init__()
        half, latent, eighth, lowest = config.channels
        token, drop = config.token, config.dropout
        self.stem = nn.Conv3d((modalities + 1) * FOLD**3, half, 3, padding=1)
        self.available = nn.Linear(modalities, half)
        self.half_in = ModulatedBlock(half)
        self.to_latent = nn.Conv3d(half, latent, 2, stride=2)
        self.place = nn.Sequential(nn.Conv3d(PLACES, 32, 1), nn.SiLU(), nn.Conv3d(32, latent, 1))
        self.latent_in = ModulatedBlock(latent)
        self.to_eighth = nn.Conv3d(latent, eighth, 2, stride=2)
        self.token = nn.Sequential(
            nn.Linear(statistics_length(modalities) + modalities, token), nn.SiLU(), nn.Linear(token, token), nn.SiLU()
        )
        self.eighth_in = ModulatedBlock(eighth, token, drop)
        self.to_lowest = nn.Conv3d(eighth, lowest, 2, stride=2)
        self.lowest = nn.ModuleList([ModulatedBlock(lowest, token, drop) for _ in range(2)])
        self.up_eighth = nn.Conv3d(lowest, eighth * FOLD**3, 1)
        self.eighth_out = ModulatedBlock(eighth, token, drop)
        self.up_latent = nn.Conv3d(eighth, latent * FOLD**3, 1)
        self.spades = nn.ModuleList([SpadeBlock(latent, modalities) for _ in range(2)])
        self.decoder = GuidedDecoder(config, modalities)

    def encode(self, inputs: Inputs) -> Features:
        """Read the sources, once for all targets."""
        h = self.stem(fold(torch.cat([inputs.volumes, inputs.brain], dim=1), FOLD))
        h += self.available(inputs.available)[:, :, None, None, None].to(h.dtype)
        half = self.half_in(h)
        latent = self.latent_in(self.to_latent(half) + self.place(inputs.place))
        known = of_available(inputs.statistics, inputs.available)
        token = self.token(torch.cat([known, inputs.available], dim=1))
        eighth = self.eighth_in(self.to_eighth(latent), token)
        h = self.to_lowest(eighth)
        for block in self.lowest:
            h = block(h, token)
        h = self.eighth_out(eighth + unfold(self.up_eighth(h), FOLD), token)
        return Features(half, latent + unfold(self.up_latent(h), FOLD))

    def translate(self, features: Features, target: Tensor) -> Tensor:
        """Switch the features on the latent grid to targets (B,): (B, C, x, y, z)."""
        h = features.latent
        for block in self.spades:
            h = block(h, target)
        return h

    def forward(self, inputs: Inputs, target: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate one target for each row.

        Args:
            inputs: the sources.
            target: indices of the targets, (B,).

        Returns:
            The mean and the logarithm of its expected squared error, each (B, 1, X, Y, Z).
        """
        features = self.encode(inputs)
        h = self.decoder.at_half(self.translate(features, target), features.half)
        return self.decoder(h, inputs.volumes, target)
