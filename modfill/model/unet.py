"""A plain 3D U-Net beside the refiner: any subset of the modalities in, all of them out.

The refiner knows a voxel's surroundings through fixed filters only; this network learns its own. The two err
differently, so that their mean is better than either. It works on blocks of 2x2x2 voxels, with a small network on
single voxels at the end, and on whole volumes: its norms use no statistic of the volume, so crops match wholes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modfill.model.config import FOLD, UNetConfig
from modfill.model.layers import ResidualBlock, fold, unfold

CONTEXT = 8  # channels that the blocks hand to the network on single voxels
WIDTH = 32  # of that network
SLAB = 16  # planes that it answers together where no gradient is asked for, to bound memory


class UNet(nn.Module):
    """Encoder and decoder with additive skips, and a network on single voxels."""

    def __init__(self, config: UNetConfig, modalities: int):
        super().__init__()
        widths, inputs = config.channels, 2 * modalities + 1
        pairs = list(zip(widths, widths[1:], strict=False))
        self.modalities = modalities
        self.stem = nn.Conv3d(inputs * FOLD**3, widths[0], 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(width, width, True) for width in widths)
        self.shrink = nn.ModuleList(nn.Conv3d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose3d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(ResidualBlock(width, width, True) for width in widths[:-1])
        self.context = nn.Conv3d(widths[0], CONTEXT * FOLD**3, 1)
        self.head = nn.Sequential(
            nn.Linear(CONTEXT + inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(),
            nn.Linear(WIDTH, modalities),
        )  # fmt: skip
        self.linear = nn.Linear(CONTEXT + inputs, modalities)

    def look(self, volumes: Tensor, brain: Tensor, sources: Sequence[int]) -> Tensor:
        """All modalities of a case.

        Args:
            volumes: z-scored sources (S, X, Y, Z), 0 outside the brain.
            brain: (X, Y, Z) bool.
            sources: indices of the modalities that `volumes` are.

        Returns:
            Z-scored (M, X, Y, Z), float32.
        """
        whole = volumes.new_zeros(1, self.modalities, *brain.shape)
        whole[0, list(sources)] = volumes
        available = torch.zeros(1, self.modalities, device=volumes.device)
        available[0, list(sources)] = 1
        return self(whole, brain[None], available)[0]

    def forward(self, volumes: Tensor, brain: Tensor, available: Tensor) -> Tensor:
        """Answer.

        Args:
            volumes: z-scored (B, M, X, Y, Z), 0 where missing and outside the brain.
            brain: (B, X, Y, Z) bool.
            available: (B, M), 1 for the modalities that are given.

        Returns:
            All modalities, z-scored (B, M, X, Y, Z), float32.
        """
        step = volumes.shape[2] if torch.is_grad_enabled() else SLAB
        slabs = [slice(start, start + step) for start in range(0, volumes.shape[2], step)]

        def inputs(slab: slice) -> Tensor:
            inside = brain[:, None, slab].to(volumes)
            return torch.cat(
                [volumes[:, :, slab], available.to(volumes)[:, :, None, None, None] * inside, inside], dim=1
            )

        context = self._context(torch.cat([fold(inputs(slab), FOLD) for slab in slabs], dim=2))
        answers = [self._answer(context[:, :, slab.start // FOLD : slab.stop // FOLD], inputs(slab)) for slab in slabs]
        return torch.cat(answers, dim=2)

    def _context(self, folded: Tensor) -> Tensor:
        h, skips = self.stem(folded), []
        for block, shrink in zip(self.down, self.shrink, strict=False):
            h = block(h)
            skips.append(h)
            h = shrink(h)
        h = self.down[-1](h)
        for block, grow, skip in zip(reversed(self.up), reversed(self.grow), reversed(skips), strict=True):
            h = block(grow(h) + skip)
        return self.context(h)

    def _answer(self, context: Tensor, inputs: Tensor) -> Tensor:
        """What single voxels make of their blocks' context."""
        seen = torch.cat([unfold(context, FOLD), inputs.to(context.dtype)], dim=1).movedim(1, -1)
        return (self.head(seen) + self.linear(seen)).float().movedim(-1, 1)
