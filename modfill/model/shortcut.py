"""The affine map of the sources' latents to the target's latent with the least squared error.

It is fitted in closed form in seconds, and the translator's network learns the residual. Without it every intensity has
to pass the instance norms of MS-SPADE, and hours of training end with a larger error than the fit alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn


class LatentShortcut(nn.Module):
    """One affine map of a latent voxel for each proper subset of sources and each target."""

    def __init__(self, channels: int, modalities: int):
        super().__init__()
        self.channels, self.most = channels, modalities - 1
        self.sets = [s for count in range(1, modalities) for s in combinations(range(modalities), count)]
        for sources in self.sets:
            shape = (modalities, channels, len(sources) * channels + 1)
            self.register_buffer(_name(sources), torch.zeros(shape))

    def of(self, sources: Sequence[int]) -> Tensor:
        """The maps of a source set, (modalities, C, S * C + 1), the constant last; written to when they are fitted."""
        return getattr(self, _name(sources))

    def forward(self, latents: Tensor, sources: Sequence[int], target: int) -> Tensor:
        """Apply the affine map of a set of sources.

        Args:
            latents: scaled latents (S, C, x, y, z) of the sources.
            sources: their indices, ascending; of all modalities the last is left out.
            target: index of the target modality.

        Returns:
            The linear estimate of the target's latent, (1, C, x, y, z).
        """
        maps = self.of(sources[: self.most])[target].to(latents.dtype)
        estimate = torch.einsum("oc,cxyz->oxyz", maps[:, :-1], latents[: self.most].flatten(0, 1))
        return (estimate + maps[:, -1, None, None, None])[None]


def _name(sources: Sequence[int]) -> str:
    return "maps_" + "_".join(map(str, sources))
