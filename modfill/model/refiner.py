"""The refiner: a network on single voxels that estimates every modality there, and the error of the estimate.

The autoencoder's compression limits the resolution of a decoded volume; the sources show the same anatomy at full
resolution. The refiner reads a voxel's pyramid features (the sources at five scales, the place in the brain) and mixes
in the target-like and the denoised latent. Its training voxels are drawn at random from all cases, so it learns much
faster than a network that convolves whole volumes. It is not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modfill.model.config import GRAIN, RefinerConfig
from modfill.model.pyramid import FEATURES, PLACE, Pyramid

DROPOUT = 0.1
BATCH = 2**12  # voxels that pass the network together: few enough to stay in a core's cache
SLAB = GRAIN  # planes that are computed together, to bound memory; a multiple of GRAIN


class VoxelOutputs(NamedTuple):
    """The refiner's outputs for N voxels and all M modalities.

    Attributes:
        mean: z-scored estimate without the latents, (N, M) float32.
        log_variance: logarithm of the expected squared error, (N, M) float32.
        latent_weights: mixing weights of the channels of the target-like and the denoised latent, (N, M, 2 * C).
    """

    mean: Tensor
    log_variance: Tensor
    latent_weights: Tensor


@dataclass(frozen=True)
class RefinerOutputs:
    """Outputs that do not depend on the target, cached per slab.

    Attributes:
        brain: (X, Y, Z) bool.
        slabs: the outputs for the brain's voxels in each `SLAB` planes.
    """

    brain: Tensor
    slabs: tuple[VoxelOutputs, ...]


class Refiner(nn.Module):
    """Estimates all modalities at once from the sources; the latents of each target are mixed in afterwards."""

    def __init__(self, config: RefinerConfig, latent_channels: int, modalities: int) -> None:
        super().__init__()
        self.modalities = modalities
        inputs, width = modalities * (FEATURES + 1) + PLACE, config.width
        self.first = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.Dropout(DROPOUT)
            )
            for _ in range(config.layers)
        )
        self.linear = nn.Linear(inputs, modalities)
        # the weights file calls the layers of mean, latent_weights and log_variance so
        self.answer = nn.Linear(width, modalities)
        self.trust = nn.Linear(width, modalities * 2 * latent_channels)
        self.doubt = nn.Linear(width, modalities)

    def encode(
        self,
        volumes: Tensor,
        brain: Tensor,
        sources: Sequence[int],
        *,
        progress: Callable[[float], None] | None = None,
    ) -> RefinerOutputs:
        """Compute a case's outputs for all modalities: nearly all of the refiner's work.

        Args:
            volumes: z-scored sources (S, X, Y, Z), edges multiples of `GRAIN`.
            brain: (X, Y, Z) bool.
            sources: indices of the modalities of `volumes`.
            progress: called with the fraction of the brain's voxels done.
        """
        pyramid, slabs, voxels = Pyramid(volumes, brain), [], brain.sum().clamp(min=1)
        for start in range(0, len(brain), SLAB):
            inside = brain[start : start + SLAB]
            slabs.append(self(self.input_features(*pyramid.at(inside, start, start + len(inside)), sources)))
            if progress:
                progress(float(brain[: start + SLAB].sum() / voxels))
        return RefinerOutputs(brain, tuple(slabs))

    def input_features(self, features: Tensor, place: Tensor, sources: Sequence[int]) -> Tensor:
        """Put pyramid features in the order in which `forward` reads them, zeros for missing modalities.

        Args:
            features: of the sources, (N, S, FEATURES), as `Pyramid.at` returns them.
            place: (N, PLACE), likewise.
            sources: indices of the available modalities.

        Returns:
            (N, M * (FEATURES + 1) + PLACE), in half precision under autocast.
        """
        device = features.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
        whole = torch.zeros(len(features), self.modalities, FEATURES + 1, dtype=dtype, device=features.device)
        whole[:, list(sources), :FEATURES] = features.to(dtype)
        whole[:, list(sources), FEATURES] = 1
        return torch.cat([whole.flatten(1), place.to(dtype)], dim=1)

    def forward(self, inputs: Tensor) -> VoxelOutputs:
        """Estimate all modalities at N voxels.

        Args:
            inputs: (N, M * (FEATURES + 1) + PLACE), as `input_features` returns them.
        """
        batches = [self._forward_batch(batch) for batch in inputs.split(BATCH)]
        return VoxelOutputs(*(torch.cat(output) for output in zip(*batches, strict=True)))

    def _forward_batch(self, inputs: Tensor) -> VoxelOutputs:
        h = nn.functional.silu(self.first(inputs))
        for layer in self.layers:
            h = h + layer(h)
        h = nn.functional.silu(h)
        mean = (self.answer(h) + self.linear(inputs)).float()
        log_variance = self.doubt(h.detach()).float().clamp(-8, 4)
        return VoxelOutputs(mean, log_variance, self.trust(h).unflatten(1, (self.modalities, -1)))

    @staticmethod
    def mix_latents(outputs: VoxelOutputs, latents: Tensor, targets: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Add the weighted latents of some targets to their means.

        Args:
            outputs: of N voxels.
            latents: target-like and denoised latent of each target at these voxels, (N, T, 2 * C).
            targets: indices of the target modalities.

        Returns:
            The z-scored estimate and the logarithm of its expected squared error, each (N, T) float32.
        """
        mean, log_variance, weights = (output[:, list(targets)] for output in outputs)
        return mean + (weights * latents).float().sum(2), log_variance
