"""Layers that more than one network is made of."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

EPSILON = 1e-6  # of norms


class VoxelNorm(nn.Module):
    """Divides each voxel's channels by their root mean square: no statistic of the volume, so a crop gives the same."""

    def __init__(self, channels: int, affine: bool = True):
        super().__init__()
        self.channels = channels
        self.scale = nn.Parameter(torch.ones(channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, X, Y, Z)."""
        voxels = x.movedim(1, -1)
        scale = None if self.scale is None else self.scale.to(x.dtype)
        if x.is_cuda:
            return nn.functional.rms_norm(voxels, (self.channels,), scale, EPSILON).movedim(-1, 1)
        # PyTorch's own takes two to ten times as long on a CPU
        size = torch.linalg.vector_norm(voxels, dim=-1, keepdim=True, dtype=torch.float32)
        normalised = voxels * (size.square() / self.channels + EPSILON).rsqrt().to(x.dtype)
        return (normalised if scale is None else normalised * scale).movedim(-1, 1)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with up to 32 groups, as in VQGAN."""
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps=EPSILON)


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


class ModulatedBlock(nn.Module):
    """VoxelNorm, SiLU, conv 3 twice, around an identity; an embedding may scale and shift between the two.

    Args:
        channels: of input and output.
        embedding: dimensions of the embedding; 0 for none.
        dropout: share of channels that are set to 0 in training.
    """

    def __init__(self, channels: int, embedding: int = 0, dropout: float = 0.0):
        super().__init__()
        self.norms = nn.ModuleList([VoxelNorm(channels), VoxelNorm(channels)])
        self.convolutions = nn.ModuleList([nn.Conv3d(channels, channels, 3, padding=1) for _ in range(2)])
        for parameter in self.convolutions[1].parameters():
            nn.init.zeros_(parameter)
        self.modulation = nn.Linear(embedding, 2 * channels) if embedding else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)
        self.dropout = nn.Dropout3d(dropout)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """(B, C, x, y, z) -> the same shape; embedding (B, E) where the block has one."""
        h = self.norms[1](self.convolutions[0](nn.functional.silu(self.norms[0](x), inplace=True)))
        if self.modulation is not None:
            scale, shift = self.modulation(embedding)[:, :, None, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return x + self.convolutions[1](self.dropout(nn.functional.silu(h, inplace=True)))


def scatter(parameter: Tensor, deviation: float) -> Tensor:
    """Fill with uniform random numbers of this standard deviation around 0.

    Normal ones on the meta device, on which weights files are checked, would import PyTorch's compiler for seconds.
    """
    return nn.init.uniform_(parameter, -(3**0.5) * deviation, 3**0.5 * deviation)


def tokens(count: int, width: int) -> nn.Embedding:
    """Learned vectors (count, width), random at first."""
    return nn.Embedding.from_pretrained(scatter(torch.empty(count, width), 1.0), freeze=False)


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
