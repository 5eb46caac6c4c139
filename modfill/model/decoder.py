"""The guided decoder: translated features and the sources' own voxels give the target at full resolution.

The paper decodes latents, whose compression loses the fine detail that the sources show at full resolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modfill.model.config import FOLD, TranslatorConfig
from modfill.model.layers import ModulatedBlock, tokens, unfold

SLAB = 16  # planes that are decoded at once, to bound memory
LOG_ERRORS = (-8.0, 4.0)
CHANNELS_LAST = torch.channels_last_3d  # the fast path of a CPU's convolutions


class GuidedDecoder(nn.Module):
    """Context at half the resolution, then a network on single voxels."""

    def __init__(self, config: TranslatorConfig, modalities: int):
        super().__init__()
        half, latent = config.channels[:2]
        self.up_half = nn.Conv3d(latent, half * FOLD**3, 1)
        self.half_out = ModulatedBlock(half)
        self.context = nn.Conv3d(half, config.context * FOLD**3, 1)
        self.near = nn.Conv3d(modalities, config.near, 3, padding=1)
        inputs, hidden = config.context + config.near + modalities, config.hidden
        self.target = tokens(modalities, hidden)
        self.layers = nn.ModuleList([nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)])
        self.mean = nn.Linear(hidden, 1)
        self.shortcut = nn.Linear(modalities, modalities)
        nn.init.zeros_(self.shortcut.weight)
        nn.init.zeros_(self.shortcut.bias)
        self.log_error = nn.Sequential(nn.Linear(hidden, 16), nn.SiLU(), nn.Linear(16, 1))

    def at_half(self, translated: Tensor, half: Tensor) -> Tensor:
        """Features of the target on the latent grid, and the sources' at half the resolution -> (B, C, X / 2, ...)."""
        return self.half_out(half + unfold(self.up_half(translated), FOLD))

    def forward(self, half: Tensor, volumes: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Decode every voxel.

        Args:
            half: what `at_half` gives.
            volumes: the sources, (B, M, X, Y, Z).
            target: indices (B,).

        Returns:
            The mean and the logarithm of its expected squared error, each (B, 1, X, Y, Z).
        """
        volumes = volumes.to(half.dtype)
        near = nn.functional.silu(self.near(volumes))
        inputs = torch.cat([unfold(self.context(half), FOLD), near, volumes], dim=1).movedim(1, -1)
        return self._voxels(inputs, target)

    def inside(self, half: Tensor, volumes: Tensor, brain: Tensor, target: int) -> tuple[Tensor, Tensor]:
        """Decode the voxels of one brain, slab by slab.

        Args:
            half: what `at_half` gives for one case, (1, C, X / 2, Y / 2, Z / 2).
            volumes: the sources, (1, M, X, Y, Z).
            brain: (X, Y, Z) bool.
            target: index.

        Returns:
            As `forward`, each (X, Y, Z), 0 outside the brain.
        """
        out = torch.zeros(2, *brain.shape, device=brain.device)
        which = torch.tensor([target], device=brain.device)
        planes = nn.functional.pad(volumes[0].movedim(1, 0).to(half.dtype), (0, 0, 0, 0, 0, 0, 1, 1))
        for start in range(0, len(brain), SLAB):
            stop = min(start + SLAB, len(brain))
            local = brain[start:stop]
            if not local.any():
                continue
            folded = self.context(half[:, :, start // FOLD : stop // FOLD].contiguous(memory_format=CHANNELS_LAST))
            context = unfold(folded, FOLD)[0].movedim(0, 1)
            near = self._near(planes[start : stop + 2])
            parts = (
                part.movedim(1, -1)[local].to(context.dtype) for part in (context, near, planes[start + 1 : stop + 1])
            )
            inputs = torch.cat(list(parts), dim=1)
            mean, log_error = self._voxels(inputs[None], which)
            out[0, start:stop][local], out[1, start:stop][local] = mean[0, 0], log_error[0, 0]
        return out[0], out[1]

    def _near(self, planes: Tensor) -> Tensor:
        """Convolve planes with their neighbours by `near`: (n + 2, M, Y, Z) -> (n, C, Y, Z), without the outer two.

        A convolution of planes with the ones before and after as channels, which a CPU does five times faster than one
        of a volume with few channels.
        """
        stacked = torch.cat([planes[:-2], planes[1:-1], planes[2:]], dim=1)
        stacked = stacked.to(memory_format=torch.channels_last)
        weight = self.near.weight.movedim(2, 1).flatten(1, 2)
        return nn.functional.silu(nn.functional.conv2d(stacked, weight, self.near.bias, padding=1), inplace=True)

    def _voxels(self, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The network on single voxels: inputs (B, ..., C) -> mean and logarithm of the error, (B, 1, ...)."""
        rows = (len(target), *[1] * (inputs.ndim - 2), -1)
        h = self.layers[0](inputs)
        h = nn.functional.silu(h + self.target(target).to(h.dtype).view(rows), inplace=True)
        h = nn.functional.silu(self.layers[1](h), inplace=True)
        sources = inputs[..., -self.shortcut.in_features :]
        linear = (sources * self.shortcut.weight[target].to(sources.dtype).view(rows)).sum(-1, keepdim=True)
        mean = self.mean(h) + linear + self.shortcut.bias[target].to(sources.dtype).view(rows)
        log_error = self.log_error(h.detach()).clamp(*LOG_ERRORS)
        return mean.float().movedim(-1, 1), log_error.float().movedim(-1, 1)
