"""The latent bank: every training case encoded once, as it is and as augmented, so that later stages never encode."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from modfill.model.device import fast_precision
from modfill.model.synthesiser import Synthesiser
from modfill.training.augmentation import jitter
from modfill.training.data import TrainingCase, save_array


@dataclass(frozen=True)
class Draw:
    """One training example: which case, mirrored or not, from which sources (re-contrasted or not) to which targets."""

    case: int
    mirrored: bool
    sources: tuple[int, ...]
    recontrasted: tuple[bool, ...]
    targets: tuple[int, ...]


def draw(rng: np.random.Generator, cases: int, modalities: int) -> Draw:
    """A random case with a random non-empty proper subset of its modalities as sources, all others as targets."""
    sources = tuple(np.flatnonzero(rng.permutation(modalities) < rng.integers(1, modalities)).tolist())
    return Draw(
        case=int(rng.integers(cases)),
        mirrored=bool(rng.random() < 0.5),
        sources=sources,
        recontrasted=tuple(bool(rng.random() < 0.5) for _ in sources),
        targets=tuple(m for m in range(modalities) if m not in sources),
    )


class LatentBank:
    """Latents of a cohort on disk, in four variants of each modality: plain or mirrored, plain or re-contrasted."""

    def __init__(self, model: Synthesiser, cases: list[TrainingCase], folder: Path):
        self.cases, self.model = cases, model
        self.folder = folder / digest(model.autoencoder)

    def fill(self, rank: int = 0, ranks: int = 1) -> None:
        """Encode one rank's share of the cases, unless that has been done before."""
        for index, case in list(enumerate(self.cases))[rank::ranks]:
            path = self.folder / f"{case.key}.npy"
            if not path.exists():
                save_array(path, self._encoded(index, self.model.latent_std.device))

    @cached_property
    def latents(self) -> list[np.ndarray]:
        """Memory maps, once every rank has filled in its share."""
        return [np.load(self.folder / f"{case.key}.npy", mmap_mode="r") for case in self.cases]

    @torch.no_grad()
    def _encoded(self, index: int, device: torch.device) -> np.ndarray:
        """(mirrored 2, re-contrasted 2, M, C, x, y, z) float16, not scaled."""
        self.model.eval()
        variants = []
        with fast_precision(device):
            for mirrored in (False, True):
                for recontrasted in (False, True):
                    modalities = range(len(self.cases[index].volumes))
                    volumes = [self.volume(index, m, mirrored, recontrasted) for m in modalities]
                    stacked = torch.stack(volumes)[:, None].to(device)
                    latents = self.model.encode_latents(stacked) * self.model.latent_std
                    variants.append(latents.float().cpu().numpy().astype(np.float16))
        return np.stack(variants).reshape(2, 2, *variants[0].shape)

    def volume(self, index: int, modality: int, mirrored: bool, recontrasted: bool) -> Tensor:
        """The normalised volume (X, Y, Z) that a latent stands for, float32."""
        case = self.cases[index]
        volume = torch.from_numpy(case.volumes[modality].astype(np.float32))
        if recontrasted:
            brain = torch.from_numpy(np.array(case.brain))
            volume = jitter(np.random.default_rng([index, modality, int(mirrored)]), volume, brain)
        return volume.flip(0) if mirrored else volume

    def brain(self, index: int, mirrored: bool) -> Tensor:
        """The brain (X, Y, Z), bool."""
        brain = torch.from_numpy(np.array(self.cases[index].brain))
        return brain.flip(0) if mirrored else brain

    def sources(self, example: Draw) -> Tensor:
        """Scaled latents (S, C, x, y, z) of an example's sources."""
        latents = [
            self.latents[example.case][int(example.mirrored), int(changed), m]
            for m, changed in zip(example.sources, example.recontrasted, strict=True)
        ]
        return self.scaled(np.stack(latents))

    def clean(self, example: Draw, modalities: tuple[int, ...]) -> Tensor:
        """Scaled latents (len(modalities), C, x, y, z) without change of contrast."""
        return self.scaled(self.latents[example.case][int(example.mirrored), 0][list(modalities)])

    def scaled(self, latents: np.ndarray) -> Tensor:
        """Stored latents -> scaled ones on the model's device."""
        return torch.from_numpy(latents.astype(np.float32)).to(self.model.latent_std.device) / self.model.latent_std

    def std(self) -> float:
        """Standard deviation of all plain latents, by which they are scaled."""
        return float(np.sqrt(np.mean([np.square(z[0, 0].astype(np.float32)).mean() for z in self.latents])))


def digest(*parts: nn.Module) -> str:
    """Identify networks, so that their cached outputs are never used with others.

    `unused_for` is excluded: it differs between ranks.
    """
    digest = hashlib.sha256()
    for part in parts:
        for name, value in part.state_dict().items():
            if name.endswith("unused_for"):
                continue
            digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
