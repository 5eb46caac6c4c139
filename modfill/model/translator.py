"""MS-SPADE: a source latent becomes a target-like latent (paper, section 3.1, equation 1 and Table B)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modfill.model.config import TranslatorConfig
from modfill.model.layers import fold, unfold
from modfill.model.shortcut import LatentShortcut


class MSSpade(nn.Module):
    """norm(h) * (1 + gamma(h)) + beta(h), with one (gamma, beta) per target modality, both read from h itself."""

    def __init__(self, channels: int, targets: int):
        super().__init__()
        hidden = channels // 2  # 128 at the paper's width of 256, as in SPADE (Park et al. 2019)
        self.norm = nn.InstanceNorm3d(channels)
        self.modulations = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(channels, hidden, 3, padding=1), nn.ReLU(), nn.Conv3d(hidden, 2 * channels, 3, padding=1)
            )
            for _ in range(targets)
        )

    def forward(self, h: Tensor, target: int) -> Tensor:
        """Modulate features (S, C, x, y, z) for the target with this index."""
        gamma, beta = self.modulations[target](h).chunk(2, dim=1)
        return self.norm(h) * (1 + gamma) + beta


class SpadeBlock(nn.Module):
    """conv 3, ReLU, MS-SPADE twice, around an identity (a 1x1x1 convolution where the width changes)."""

    def __init__(self, channels: int, out_channels: int, targets: int):
        super().__init__()
        self.convolutions = nn.ModuleList(
            [nn.Conv3d(channels, out_channels, 3, padding=1), nn.Conv3d(out_channels, out_channels, 3, padding=1)]
        )
        self.spades = nn.ModuleList([MSSpade(out_channels, targets), MSSpade(out_channels, targets)])
        self.skip = nn.Conv3d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, target: int) -> Tensor:
        """(S, channels, x, y, z) -> (S, out_channels, x, y, z) for the target with this index."""
        h = x
        for convolution, spade in zip(self.convolutions, self.spades, strict=True):
            h = spade(torch.relu(convolution(h)), target)
        return self.skip(x) + h


class InstanceBlock(nn.Module):
    """conv 3, ReLU, instance norm twice, around an identity."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(channels, out_channels, 3, padding=1), nn.ReLU(), nn.InstanceNorm3d(out_channels),
            nn.Conv3d(out_channels, out_channels, 3, padding=1), nn.ReLU(), nn.InstanceNorm3d(out_channels),
        )  # fmt: skip
        self.skip = nn.Conv3d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(S, channels, x, y, z) -> (S, out_channels, x, y, z)."""
        return self.skip(x) + self.body(x)


class Translator(nn.Module):
    """One network for every source and target; a second output is the logit of its fusion weight at each voxel."""

    def __init__(self, config: TranslatorConfig, latent_channels: int, targets: int):
        super().__init__()
        self.fold, self.latent_channels = config.fold, latent_channels
        kernel, widths = config.outer_kernel, (config.stem_channels, *config.residual_channels)
        folded = config.fold**3
        self.stem = nn.Sequential(
            nn.Conv3d(latent_channels * folded, widths[0], kernel, padding=kernel // 2),
            nn.InstanceNorm3d(widths[0]), nn.ReLU(),
        )  # fmt: skip
        self.residual = nn.Sequential(*(InstanceBlock(a, b) for a, b in zip(widths, widths[1:], strict=False)))
        widths = (widths[-1], *config.spade_channels)
        self.spade = nn.ModuleList(SpadeBlock(a, b, targets) for a, b in zip(widths, widths[1:], strict=False))
        out = (latent_channels + 1) * folded  # the latent, and the logit of its fusion weight
        self.head = nn.Conv3d(widths[-1], out, kernel, padding=kernel // 2)
        self.shortcut = LatentShortcut(latent_channels, targets) if config.shortcut else None
        if self.shortcut is not None:  # the network starts at 0, so the shortcut alone is the first estimate
            nn.init.zeros_(self.head.weight)

    def forward(self, latents: Tensor, target: int) -> tuple[Tensor, Tensor]:
        """Translate each source without the shortcut.

        Args:
            latents: source latents (S, C, x, y, z), scaled; one source per batch entry.
            target: index of the target modality.

        Returns:
            Latents (S, C, x, y, z) and fusion logits (S, 1, x, y, z).
        """
        h = self.residual(self.stem(fold(latents, self.fold)))
        for block in self.spade:
            h = block(h, target)
        out = unfold(self.head(h), self.fold)
        return out[:, : self.latent_channels], out[:, self.latent_channels :]

    def fuse(self, latents: Tensor, sources: Sequence[int], target: int) -> tuple[Tensor, Tensor]:
        """Translate every source and fuse voxel by voxel with softmax weights; a shortcut is added to both.

        Args:
            latents: scaled source latents (S, C, x, y, z).
            sources: their indices, ascending.
            target: index of the target modality.

        Returns:
            The fused target-like latent (1, C, x, y, z), and each source's translation (S, C, x, y, z). With one source
            the two are the same: the paper's translator.
        """
        own, logits = self(latents, target)
        weights = torch.softmax(logits.float(), dim=0).to(own.dtype)
        fused = (weights * own).sum(0, keepdim=True)
        if self.shortcut is None:
            return fused, own
        each = [self.shortcut(one[None], (m,), target) for one, m in zip(latents, sources, strict=True)]
        return fused + self.shortcut(latents, sources, target), own + torch.cat(each)
