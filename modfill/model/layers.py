"""Layers that more than one network is made of."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn


class VoxelNorm(nn.Module):
    """Divides each voxel's channels by their root mean square: no statistic of the volume, so a crop gives the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, X, Y, Z)."""
        rms = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-6)
        return x * rms.to(x.dtype) * self.scale.to(x.dtype).view(-1, 1, 1, 1)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with up to 32 groups, as in VQGAN."""
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """norm, SiLU, conv 3 twice, around an identity (a 1x1x1 convolution where the width changes)."""

    def __init__(self, channels: int, out_channels: int, voxelwise_norm: bool = False):
        super().__init__()
        norm = VoxelNorm if voxelwise_norm else group_norm
        self.body = nn.Sequential(
            norm(channels), nn.SiLU(), nn.Conv3d(channels, out_channels, 3, padding=1),
            norm(out_channels), nn.SiLU(), nn.Conv3d(out_channels, out_channels, 3, padding=1),
        )  # fmt: skip
        self.skip = nn.Conv3d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, X, Y, Z) -> (B, out_channels, X, Y, Z)."""
        return self.skip(x) + self.body(x)


def fold(x: Tensor, factor: int) -> Tensor:
    """Space to depth: (B, C, X, Y, Z) -> (B, C * factor**3, X / factor, Y / factor, Z / factor)."""
    if factor == 1:
        return x
    return rearrange(x, "b c (x i) (y j) (z k) -> b (c i j k) x y z", i=factor, j=factor, k=factor)


def unfold(x: Tensor, factor: int) -> Tensor:
    """Depth to space: (B, C * factor**3, X, Y, Z) -> (B, C, X * factor, Y * factor, Z * factor)."""
    if factor == 1:
        return x
    return rearrange(x, "b (c i j k) x y z -> b c (x i) (y j) (z k)", i=factor, j=factor, k=factor)
