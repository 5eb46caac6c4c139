"""A plain 3D U-Net beside the refiner: any subset of the modalities in, all of them out.

The refiner's features are fixed filters; the U-Net learns its filters. The errors of the two networks differ, so a
weighted mean of both estimates is better than either. The U-Net works on blocks of 2x2x2 voxels, followed by a small
network on single voxels. It takes whole volumes: its norms use no statistic of the volume, so that a crop and the whole
volume give the same estimate. It is not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from modfill.model.config import FOLD, UNetConfig
from modfill.model.layers import ResidualBlock, fold, unfold

CONTEXT = 8  # channels of the blocks' features that the network on single voxels reads
WIDTH = 32  # of the network on single voxels
SLAB = 16  # planes that the network on single voxels works on together without gradients, to bound memory
# shares of the network's time on a CPU, by which it reports progress; a coarser block takes a fifth of the finer one
STEM_SHARE, BLOCK_SHARE, COARSER = 0.17, 0.25, 5


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

    def predict(
        self,
        volumes: Tensor,
        brain: Tensor,
        sources: Sequence[int],
        *,
        progress: Callable[[float], None] | None = None,
    ) -> Tensor:
        """Estimate all modalities of a case.

        Args:
            volumes: z-scored sources (S, X, Y, Z), 0 outside the brain.
            brain: (X, Y, Z) bool.
            sources: indices of the modalities of `volumes`.
            progress: called with the fraction of the time done.

        Returns:
            Z-scored (M, X, Y, Z), float32.
        """
        whole = volumes.new_zeros(1, self.modalities, *brain.shape)
        whole[0, list(sources)] = volumes
        available = torch.zeros(1, self.modalities, device=volumes.device)
        available[0, list(sources)] = 1
        return self(whole, brain[None], available, progress=progress)[0]

    def forward(
        self,
        volumes: Tensor,
        brain: Tensor,
        available: Tensor,
        *,
        progress: Callable[[float], None] | None = None,
    ) -> Tensor:
        """Estimate all modalities of a batch.

        Args:
            volumes: z-scored (B, M, X, Y, Z), 0 where missing and outside the brain.
            brain: (B, X, Y, Z) bool.
            available: (B, M), 1 for the available modalities.
            progress: called with the fraction of the time done, after each block and slab.

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

        done, estimates = 0.0, []

        def report(share: float) -> None:
            nonlocal done
            done += share
            if progress:
                progress(min(done, 1.0))

        context = self._context(torch.cat([fold(inputs(slab), FOLD) for slab in slabs], dim=2), report)
        share = (1 - done) / len(slabs)
        for slab in slabs:
            estimates.append(self._voxelwise(context[:, :, slab.start // FOLD : slab.stop // FOLD], inputs(slab)))
            report(share)
        return torch.cat(estimates, dim=2)

    def _context(self, folded: Tensor, report: Callable[[float], None]) -> Tensor:
        """Encoder and decoder on blocks of voxels; reports each part's share of the network's time."""
        h, skips = self.stem(folded), []
        report(STEM_SHARE)
        for level, (block, shrink) in enumerate(zip(self.down, self.shrink, strict=False)):
            h = block(h)
            report(BLOCK_SHARE / COARSER**level)
            skips.append(h)
            h = shrink(h)
        h = self.down[-1](h)
        for level, (block, grow) in reversed(list(enumerate(zip(self.up, self.grow, strict=True)))):
            h = block(grow(h) + skips[level])
            report(BLOCK_SHARE / COARSER**level)
        return self.context(h)

    def _voxelwise(self, context: Tensor, inputs: Tensor) -> Tensor:
        """Estimate single voxels from the features of their blocks and their own intensities."""
        features = torch.cat([unfold(context, FOLD), inputs.to(context.dtype)], dim=1).movedim(1, -1)
        return (self.head(features) + self.linear(features)).float().movedim(-1, 1)
