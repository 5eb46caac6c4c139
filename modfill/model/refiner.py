"""The guided pointwise network: what the latents lost is in the sources, at full resolution.

Compression caps the decoded volume; the sources hold the same anatomy voxel by voxel. So the last word is a small
pointwise network at full resolution. It corrects the answer of a voxelwise table, reads the z-scored sources and the
decoded volume, and is told what to do where by features at latent resolution and by a code of the whole case (which
modalities, which target, which kind of scanner).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modfill.config import RefinerConfig
from modfill.model.layers import ResidualBlock, group_norm
from modfill.model.table import VoxelwiseTable

CODE = 64  # width of the code of a case and target


class ContextUNet(nn.Module):
    """A small UNet over the whole volume at latent resolution: context that no crop can see."""

    def __init__(self, channels: int, widths: tuple[int, ...]):
        super().__init__()
        self.stem = nn.Conv3d(channels, widths[0], 3, padding=1)
        pairs = list(zip(widths, widths[1:], strict=False))
        self.encode = nn.ModuleList(ResidualBlock(w, w) for w in widths)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, stride=2) for a, b in pairs)
        self.decode = nn.ModuleList(ResidualBlock(a, a) for a, _ in pairs)
        self.out = nn.Sequential(group_norm(widths[0]), nn.SiLU())
        self.out_pooled = nn.LayerNorm(widths[-1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, channels, x, y, z) -> (B, widths[0], x, y, z) and the coarsest level pooled (B, widths[-1])."""
        h, skips = self.stem(x), []
        for level, block in enumerate(self.encode):
            h = block(h)
            if level < len(self.down):
                skips.append(h)
                h = self.down[level](h)
        pooled = self.out_pooled(h.mean((2, 3, 4)).float())
        for level in reversed(range(len(self.up))):
            h = self.decode[level](self.up[level](h) + skips[level])
        return self.out(h), pooled


class Modulated(nn.Module):
    """A convolution without padding whose output channels a code of the case scales and shifts (FiLM).

    All of a batch share one code, so that it is folded into the weights instead of touching every voxel.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int, code: int):
        super().__init__()
        self.convolution = nn.Conv3d(channels, out_channels, kernel)
        self.film = nn.Linear(code, 2 * out_channels)
        nn.init.normal_(self.film.weight, std=0.02)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        scale, shift = self.film(code)[0].float().chunk(2)
        weight = self.convolution.weight * (1 + scale).view(-1, 1, 1, 1, 1)
        assert self.convolution.bias is not None
        return nn.functional.conv3d(x, weight.to(x.dtype), (self.convolution.bias * (1 + scale) + shift).to(x.dtype))


class Refiner(nn.Module):
    """Context once per case (`look`), guidance once per target (`guide`), then any crop of the answer (`forward`)."""

    def __init__(self, config: RefinerConfig, latent_channels: int, modalities: int, factor: int):
        super().__init__()
        self.factor, self.modalities, widths = factor, modalities, config.context_widths
        self.context = ContextUNet(modalities * (latent_channels + 2), widths)
        self.code = nn.Sequential(nn.Linear(2 * modalities + widths[-1], CODE), nn.SiLU(), nn.Linear(CODE, CODE))
        width = config.pointwise_channels
        self.guidance = Modulated(widths[0] + 2 * latent_channels, width, 1, CODE)
        self.table = VoxelwiseTable(modalities)
        self.local = Modulated(modalities + 2, width, 3, CODE)
        self.pointwise = nn.ModuleList(Modulated(width, width, 1, CODE) for _ in range(config.pointwise_layers))
        self.head = nn.Conv3d(width, 1, 1)
        nn.init.zeros_(self.head.weight)

    def look(self, sources: Tensor, latents: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
        """See the whole case.

        Args:
            sources: normalised volumes (1, M, X, Y, Z), 0 where a modality is missing.
            latents: their scaled latents (1, M * C, x, y, z), 0 likewise.
            available: 1 where a modality is available (1, M).

        Returns:
            Features (1, W, x, y, z) and the pooled code (1, widths[-1]) for `guide`.
        """
        pooled = nn.functional.avg_pool3d(sources, self.factor)
        bits = available[:, :, None, None, None].expand(-1, -1, *pooled.shape[2:])
        return self.context(torch.cat([pooled, bits.to(pooled.dtype), latents.to(pooled.dtype)], dim=1))

    def guide(
        self, seen: tuple[Tensor, Tensor], latents: Tensor, available: Tensor, target: int
    ) -> tuple[Tensor, Tensor]:
        """Guidance for one target.

        Args:
            seen: what `look` returned.
            latents: target-like and denoised latent, (1, 2 * C, x, y, z).
            available: as in `look`.
            target: index of the target modality.

        Returns:
            Guidance (1, W, x, y, z) at latent resolution and the code (1, 64).
        """
        features, pooled = seen
        wanted = nn.functional.one_hot(torch.tensor([target], device=available.device), self.modalities)
        code = self.code(torch.cat([available, wanted.to(available.dtype), pooled.to(available.dtype)], dim=1))
        return self.guidance(torch.cat([features, latents.to(features.dtype)], dim=1), code), code

    def forward(
        self, volumes: Tensor, decoded: Tensor, guidance: Tensor, code: Tensor, sources: tuple[int, ...], target: int
    ) -> Tensor:
        """Refine a region.

        Args:
            volumes: z-scored (B, M, X + 2, Y + 2, Z + 2), with one voxel of surroundings on each side.
            decoded: the decoded volume of the same region and surroundings, (B, 1, X + 2, Y + 2, Z + 2).
            guidance: what `guide` returned, (B, W, x + 2, y + 2, z + 2) of the region with one latent voxel of
                surroundings on each side; x = X / factor.
            code: (1, 64), of the case.
            sources: indices of the available modalities.
            target: index of the target modality.

        Returns:
            The refined volume (B, 1, X, Y, Z).
        """
        looked_up = self.table(volumes, sources, target)
        f = self.factor
        wide = nn.functional.interpolate(guidance, scale_factor=f, mode="trilinear", align_corners=False)
        wide = wide[(slice(None), slice(None), *(slice(f, -f),) * 3)]
        inputs = torch.cat([volumes, decoded, looked_up], dim=1)
        h = nn.functional.silu(self.local(inputs.to(wide.dtype), code) + wide)
        for layer in self.pointwise:
            h = nn.functional.silu(layer(h, code))
        return looked_up[(slice(None), slice(None), *(slice(1, -1),) * 3)] + self.head(h)
