"""The refiner: a network on single voxels that says what the target is there, and how wrong it may be.

Compression caps the decoded volume; the sources hold the same anatomy voxel by voxel. So the last word at full
resolution has a small network that sees of each voxel what the pyramid tells (the sources at five scales, the place in
the brain) and the target-like and denoised latents there. Voxels can be drawn at random from all cases, so that it
learns far faster than a network that convolves whole volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modfill.model.config import GRAIN, RefinerConfig
from modfill.model.pyramid import FEATURES, PLACE, Pyramid

DROPOUT = 0.1
PIECE = 2**12  # voxels that pass the network together: few enough to stay in a core's cache
SLAB = GRAIN  # planes: the refiner works through a volume in slabs to bound memory; a multiple of GRAIN


Said = tuple[Tensor, Tensor, Tensor]  # answer (N, M), doubt (N, M), trust in the latents (N, M, 2 * C)


@dataclass(frozen=True)
class Seen:
    """What the refiner has to say of a case, for any target: `brain` (X, Y, Z) bool, and slab by slab what `Refiner`
    returned for the brain's voxels."""

    brain: Tensor
    slabs: tuple[Said, ...]


class Refiner(nn.Module):
    """Answers for all modalities at once from the sources, to which the latents of each add their share."""

    def __init__(self, config: RefinerConfig, latent_channels: int, modalities: int):
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
        self.answer = nn.Linear(width, modalities)
        self.trust = nn.Linear(width, modalities * 2 * latent_channels)
        self.doubt = nn.Linear(width, modalities)

    def look(self, volumes: Tensor, brain: Tensor, sources: Sequence[int]) -> Seen:
        """Read a case once: z-scored volumes (S, X, Y, Z), the brain (X, Y, Z), and the indices of their modalities.

        Nearly all of the work is here, and none of it depends on the target.
        """
        pyramid, slabs = Pyramid(volumes, brain), []
        for start in range(0, len(brain), SLAB):
            inside = brain[start : start + SLAB]
            slabs.append(self(self.inputs(*pyramid.at(inside, start, start + len(inside)), sources)))
        return Seen(brain, tuple(slabs))

    def inputs(self, features: Tensor, place: Tensor, sources: Sequence[int]) -> Tensor:
        """What `forward` reads, (N, modalities * (FEATURES + 1) + PLACE), in half precision under autocast.

        Args:
            features: of the sources, (N, S, FEATURES).
            place: (N, PLACE), both as `Pyramid.at` gives them.
            sources: indices of the available modalities.
        """
        device = features.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
        whole = torch.zeros(len(features), self.modalities, FEATURES + 1, dtype=dtype, device=features.device)
        whole[:, list(sources), :FEATURES] = features.to(dtype)
        whole[:, list(sources), FEATURES] = 1
        return torch.cat([whole.flatten(1), place.to(dtype)], dim=1)

    def forward(self, inputs: Tensor) -> Said:
        """What the sources say of every modality.

        Args:
            inputs: what `inputs` returned for N voxels.

        Returns:
            The z-scored answer without latents (N, M) and the logarithm of its expected squared error (N, M), both
            float32, and what each channel of the latents is worth, (N, M, 2 * C).
        """
        pieces = [self._piece(some) for some in inputs.split(PIECE)]
        answer, doubt, trust = (torch.cat(part) for part in zip(*pieces, strict=True))
        return answer, doubt, trust

    def _piece(self, inputs: Tensor) -> Said:
        h = nn.functional.silu(self.first(inputs))
        for layer in self.layers:
            h = h + layer(h)
        h = nn.functional.silu(h)
        answer = (self.answer(h) + self.linear(inputs)).float()
        return answer, self.doubt(h.detach()).float().clamp(-8, 4), self.trust(h).unflatten(1, (self.modalities, -1))

    @staticmethod
    def chosen(said: Said, latents: Tensor, targets: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The last word on some targets.

        Args:
            said: what `forward` returned for N voxels.
            latents: target-like and denoised latent of each target there, (N, T, 2 * C).
            targets: indices of the modalities wanted.

        Returns:
            The z-scored answer (N, T) and the logarithm of its expected squared error (N, T), both float32.
        """
        answer, doubt, trust = (part[:, list(targets)] for part in said)
        return answer + (trust * latents).float().sum(2), doubt
