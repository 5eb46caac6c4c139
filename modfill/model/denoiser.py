"""The denoiser of latent diffusion (paper, sections 3.2 and 3.3): a UNet with attention to tokens of the modalities.

It diffuses the residual: the target's latent minus the latent of the mean, divided by the residual's deviation. Inputs
and outputs are scaled as Karras et al. (2022, EDM, arXiv 2206.00364) do, so that it works at every noise level alike.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modfill.model.config import FOLD, DenoiserConfig
from modfill.model.layers import ModulatedBlock, VoxelNorm, tokens, unfold
from modfill.model.situation import PLACES

FREQUENCIES = 32
LOG_FREQUENCIES = (math.log(0.25), math.log(16))
HEAD = 32  # channels of an attention head
EXTRA = 2 + PLACES  # brain, logarithm of the expected deviation, place


class Condition(NamedTuple):
    """All that the denoiser knows of a case and a target.

    Attributes:
        mean: latent of the mean, (B, C, x, y, z).
        sources: latents of the sources, 0 where one is missing, (B, M, C, x, y, z).
        extra: brain, logarithm of the expected deviation, and place, (B, EXTRA, x, y, z).
        available: 1 for the sources, (B, M).
        target: index (B,).
    """

    mean: Tensor
    sources: Tensor
    extra: Tensor
    available: Tensor
    target: Tensor


class Denoiser(nn.Module):
    """Noisy residual and condition -> clean residual.

    Attributes:
        centre: mean of the training cases' latents, (C,).
        spread: their standard deviation, (C,).
        residual: standard deviation of the residuals, (C,).
    """

    centre: Tensor
    spread: Tensor
    residual: Tensor

    def __init__(self, config: DenoiserConfig, latent_channels: int, modalities: int):
        super().__init__()
        fine, middle, lowest = config.channels
        width = config.embedding
        for name in ("spread", "residual"):
            self.register_buffer(name, torch.ones(latent_channels))
        self.register_buffer("centre", torch.zeros(latent_channels))
        self.noise = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.target_token, self.source_token = tokens(modalities, width), tokens(modalities, width)
        self.stem = nn.Conv3d(latent_channels * (2 + modalities) + EXTRA, fine, 3, padding=1)
        self.fine = ModulatedBlock(fine, width)
        self.to_middle = nn.Conv3d(fine, middle, 2, stride=2)
        self.middle = ModulatedBlock(middle, width)
        self.to_lowest = nn.Conv3d(middle, lowest, 2, stride=2)
        self.lowest = nn.ModuleList([ModulatedBlock(lowest, width), ModulatedBlock(lowest, width)])
        self.attention = Attention(lowest, width)
        self.up_middle = nn.Conv3d(lowest, middle * FOLD**3, 1)
        self.middle_up = ModulatedBlock(middle, width)
        self.up_fine = nn.Conv3d(middle, fine * FOLD**3, 1)
        self.fine_up = nn.ModuleList([ModulatedBlock(fine, width), ModulatedBlock(fine, width)])
        self.norm = VoxelNorm(fine)
        self.head = nn.Conv3d(fine, latent_channels, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Estimate the clean residual.

        Args:
            noisy: residual of unit variance plus `sigma` times standard normal noise, (B, C, x, y, z).
            sigma: noise levels (B,).
            condition: of the same B rows.

        Returns:
            The residual, (B, C, x, y, z), of unit variance over the training cases.
        """
        level = sigma.view(-1, 1, 1, 1, 1)
        scale = (level.square() + 1).rsqrt()
        out = self._network(scale * noisy, sigma.log() / 4, condition).float()
        return scale.square() * noisy + level * scale * out

    def _network(self, noisy: Tensor, level: Tensor, condition: Condition) -> Tensor:
        angles = level[:, None] * torch.linspace(*LOG_FREQUENCIES, FREQUENCIES, device=level.device).exp()
        available = condition.available[:, :, None]
        sources = self.source_token.weight * available
        target = self.target_token(condition.target)
        embedding = self.noise(torch.cat([angles.sin(), angles.cos()], dim=1)) + target
        embedding = nn.functional.silu(embedding + sources.sum(1))
        known = self.normalised(condition.sources) * available[..., None, None, None]
        inputs = [noisy, self.normalised(condition.mean), known.flatten(1, 2), condition.extra]
        fine = self.fine(self.stem(torch.cat(inputs, dim=1)), embedding)
        middle = self.middle(self.to_middle(fine), embedding)
        h = self.lowest[0](self.to_lowest(middle), embedding)
        h = self.lowest[1](self.attention(h, torch.cat([target[:, None], sources], dim=1)), embedding)
        h = self.middle_up(middle + unfold(self.up_middle(h), FOLD), embedding)
        h = fine + unfold(self.up_fine(h), FOLD)
        for block in self.fine_up:
            h = block(h, embedding)
        return self.head(nn.functional.silu(self.norm(h)))

    def normalised(self, latents: Tensor) -> Tensor:
        """Latents (..., C, x, y, z) with the training cases' mean at 0 and their deviation at 1."""
        return (latents - self.centre[:, None, None, None]) / self.spread[:, None, None, None]


class Attention(nn.Module):
    """Of every voxel to every voxel and to the tokens."""

    def __init__(self, channels: int, token: int):
        super().__init__()
        self.heads = max(channels // HEAD, 1)
        self.norm = VoxelNorm(channels)
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.token_key, self.token_value = nn.Linear(token, channels), nn.Linear(token, channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """(B, C, x, y, z) and tokens (B, T, width) -> (B, C, x, y, z)."""
        h = self.norm(x).flatten(2).transpose(1, 2)
        key = torch.cat([self.key(h), self.token_key(tokens)], dim=1)
        value = torch.cat([self.value(h), self.token_value(tokens)], dim=1)
        query, key, value = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in (self.query(h), key, value))
        found = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return x + self.out(found).transpose(1, 2).unflatten(2, x.shape[2:])
