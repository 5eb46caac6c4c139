"""The point bank: voxels drawn from every training case, with all that the refiner reads of them, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from modfill.model.config import GRAIN
from modfill.model.device import fast_precision
from modfill.model.pyramid import Pyramid
from modfill.model.synthesiser import Encoded
from modfill.training.data import save_array, save_json
from modfill.training.latents import LatentBank, digest

POINTS = 2**22  # of the whole cohort
MOST = 60_000  # of one case in one variant
VARIANTS = ((False, False), (True, True))  # mirrored, re-contrasted


class PointBank:
    """Files of points on disk, one per case and variant, read as memory maps.

    Each holds `features` (N, M, FEATURES), `place` (N, PLACE), `wanted` (N, M): the z-scored truth without change of
    contrast, and `latents` (N, K, 2 * C): target-like and denoised latent for the K pairs in `tasks`.

    Attributes:
        files: a mapping of those four arrays, float16, for each case and variant.
        tasks: sources and target of every column of `latents`.
    """

    def __init__(self, bank: LatentBank, folder: Path):
        self.bank, self.model = bank, bank.model
        self.tasks = tasks(len(self.model.preset.modalities))
        networks = digest(self.model.autoencoder, self.model.translator, self.model.denoiser)
        self.folder = folder / f"{networks}-{float(self.model.latent_std):.7g}"  # their outputs depend on the scale
        self.points = min(MOST, POINTS // (len(bank.cases) * len(VARIANTS)) + 1)

    def fill(self, rank: int = 0, ranks: int = 1) -> None:
        """Draw one rank's share of the files, unless that has been done before."""
        named = [(index, variant) for index in range(len(self.bank.cases)) for variant in range(len(VARIANTS))]
        for index, variant in named[rank::ranks]:
            self._write(index, variant)

    def open(self) -> list[Mapping[str, np.ndarray]]:
        """All files, once every rank has filled in its share."""
        return [
            {name: np.load(self._path(index, variant) / f"{name}.npy", mmap_mode="r") for name in NAMES}
            for index in range(len(self.bank.cases))
            for variant in range(len(VARIANTS))
        ]

    def _path(self, index: int, variant: int) -> Path:
        return self.folder / f"{self.bank.cases[index].key}-{variant}"

    def _write(self, index: int, variant: int) -> None:
        path = self._path(index, variant)
        if (path / "points.json").exists():
            return
        for name, values in zip(NAMES, self._drawn(index, *VARIANTS[variant]), strict=True):
            save_array(path / f"{name}.npy", values.cpu().numpy().astype(np.float16))
        save_json(path / "points.json", {"points": self.points})  # last: all arrays are there

    @torch.no_grad()
    def _drawn(self, index: int, mirrored: bool, recontrasted: bool) -> tuple[Tensor, ...]:
        self.model.eval()
        every, device = range(len(self.model.preset.modalities)), self.model.latent_std.device
        volumes, truth = (
            torch.stack([self.bank.volume(index, m, mirrored, changed) for m in every]).to(device)
            for changed in (recontrasted, False)
        )
        brain = self.bank.brain(index, mirrored).to(device)
        share = torch.rand(brain.shape, generator=torch.Generator().manual_seed(index)).to(device)
        drawn = brain & (share < self.points / brain.sum())
        pyramid, parts = Pyramid(volumes, brain), []
        for start in range(0, len(brain), GRAIN):
            inside = drawn[start : start + GRAIN]
            parts.append(pyramid.at(inside, start, start + len(inside)))
        features, place = (torch.cat(part) for part in zip(*parts, strict=True))
        latents = at_points(self._latents(volumes), torch.nonzero(drawn), brain.shape)
        return features, place, truth.movedim(0, -1)[drawn], latents.unflatten(1, (len(self.tasks), -1))

    def _latents(self, volumes: Tensor) -> Tensor:
        """Target-like and denoised latent of every task, (1, K * 2 * C, x, y, z), of volumes (M, X, Y, Z)."""
        with fast_precision(volumes.device):
            stored, latents = self.model.encode_latents(volumes[:, None]), []
            nothing = torch.zeros_like(stored[:1])
            for sources, target in self.tasks:
                encoded = Encoded(sources, stored[list(sources)], None)
                latents += [z.float() for z in self.model.estimate(encoded, target, nothing, 1)]
        return torch.cat(latents, dim=1)


def at_points(features: Tensor, points: Tensor, shape: Sequence[int]) -> Tensor:
    """The values of `upsampled` features (1, C, x, y, z) in a volume of `shape` at voxels (N, 3): (N, C)."""
    centres = (points.flip(1) + 0.5) / points.new_tensor(shape).flip(0) * 2 - 1
    found = nn.functional.grid_sample(features, centres[None, None, None], align_corners=False, padding_mode="border")
    return found[0, :, 0, 0].T


NAMES = ("features", "place", "wanted", "latents")


def tasks(modalities: int) -> list[tuple[tuple[int, ...], int]]:
    """Every non-empty proper subset of the modalities with every modality that it lacks."""
    subsets = [s for size in range(1, modalities) for s in combinations(range(modalities), size)]
    return [(sources, target) for sources in subsets for target in range(modalities) if target not in sources]
