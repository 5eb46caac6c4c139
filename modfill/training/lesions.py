"""A small segmentation network that is trained and then frozen: its features say what a segmenter sees of an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 4  # background, necrosis, oedema, enhancing tumour; higher labels count as the last
WIDTHS = (16, 32, 64)  # features at full, half and quarter resolution


class LesionNetwork(nn.Module):
    """A U-Net of three levels.

    Args:
        modalities: input channels M.
    """

    def __init__(self, modalities: int):
        super().__init__()
        inputs = (modalities, *WIDTHS[:-1])
        self.down = nn.ModuleList(_block(a, b) for a, b in zip(inputs, WIDTHS, strict=True))
        self.up = nn.ModuleList(_block(a + b, a) for a, b in zip(WIDTHS, WIDTHS[1:], strict=False))
        self.head = nn.Conv3d(WIDTHS[0], CLASSES, 1)

    def features(self, volumes: Tensor) -> list[Tensor]:
        """The encoder's features of z-scored volumes (B, M, X, Y, Z), a tensor per level, the finest first."""
        found: list[Tensor] = []
        for level, block in enumerate(self.down):
            found.append(block(nn.functional.max_pool3d(found[-1], 2, ceil_mode=True) if level else volumes))
        return found

    def forward(self, volumes: Tensor) -> Tensor:
        """Logits (B, CLASSES, X, Y, Z) for z-scored volumes (B, M, X, Y, Z), 0 outside the brain and where missing."""
        *skips, x = self.features(volumes)
        for skip, block in zip(reversed(skips), reversed(self.up), strict=True):
            x = block(torch.cat([skip, nn.functional.interpolate(x, skip.shape[2:], mode="nearest")], 1))
        return self.head(x)


def feature_distance(network: LesionNetwork, acquired: Tensor, target: Tensor, estimate: Tensor) -> Tensor:
    """Mean absolute difference of features between the acquired target and its estimate, by their size: (B,).

    Args:
        network: frozen.
        acquired: all modalities, z-scored, (B, M, X, Y, Z).
        target: the modality that was estimated, (B,).
        estimate: of it, (B, 1, X, Y, Z).
    """
    chosen = nn.functional.one_hot(target, acquired.shape[1])[:, :, None, None, None].bool()
    with torch.no_grad():
        wanted = network.features(acquired)
    given = network.features(torch.where(chosen, estimate, acquired))
    apart = [(g - w).abs().mean((1, 2, 3, 4)) / (w.abs().mean((1, 2, 3, 4)) + 1e-3)
             for g, w in zip(given, wanted, strict=True)]  # fmt: skip
    return torch.stack(apart).mean(0)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.SiLU(),
        nn.Conv3d(outputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.SiLU(),
    )  # fmt: skip
