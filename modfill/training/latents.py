"""The latent bank: deformed and re-contrasted cases encoded once, on disk, for the denoiser's stage."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from modfill.model.device import fast_precision
from modfill.model.synthesiser import Encoded, Synthesiser
from modfill.model.translator import Inputs
from modfill.training.augmentation import draw_sources, example
from modfill.training.data import HeldCases, TrainingCase, save_array


class LatentBank:
    """Variants of a cohort: each is a case, deformed and under another scanner, with a random set of sources.

    Args:
        model: with a trained autoencoder and translator.
        cases: of the cohort.
        folder: of the files.
        variants: how many.
    """

    def __init__(self, model: Synthesiser, cases: list[TrainingCase], folder: Path, variants: int):
        self.model, self.cases, self.variants = model, HeldCases(cases), variants
        keys = " ".join(case.key for case in cases)
        name = hashlib.sha256(f"{digest(model.autoencoder, model.translator)} {keys}".encode()).hexdigest()[:12]
        self.folder = folder / name

    def fill(self, rank: int = 0, ranks: int = 1) -> None:
        """Encode one rank's share of the variants, unless that has been done before."""
        for index in range(rank, self.variants, ranks):
            path = self.folder / f"{index}.npy"
            if not path.exists():
                save_array(path, self._encoded(index))

    @cached_property
    def _files(self) -> list[np.ndarray]:
        """Memory maps, once every rank has filled in its share."""
        return [np.load(self.folder / f"{index}.npy", mmap_mode="r") for index in range(self.variants)]

    def _task(self, index: int) -> tuple[np.random.Generator, list[int], list[int]]:
        """The generator of a variant, its sources and its targets."""
        rng = np.random.default_rng(index)
        return rng, *draw_sources(rng, self.cases.cases[index % len(self.cases)].available)

    @torch.no_grad()
    def _encoded(self, index: int) -> np.ndarray:
        """Of each target its mean's latent and its own, of each source its latent, then the condition's extra channels.

        Everything is (channels, x, y, z) float16.
        """
        self.model.eval()
        preset, device = self.model.preset, self.model.calibration.device
        rng, sources, targets = self._task(index)
        volumes, brain = self.cases.on(device, index % len(self.cases))
        drawn = example(rng, volumes, brain, 0, preset.autoencoder.factor)
        available = torch.zeros(len(preset.modalities), device=device)
        available[sources] = 1
        inputs = Inputs(drawn.sources * available[:, None, None, None], drawn.brain[None].float(), available,
                        drawn.place, drawn.statistics)  # fmt: skip
        with fast_precision(device):
            inputs = Inputs(*(part[None] for part in inputs))
            encoded = Encoded(inputs, self.model.translator.encode(inputs))
            conditions = [self.model.condition(encoded, t, *self.model.mean(encoded, t)) for t in targets]
            wanted = self.model.encode_latents(drawn.wanted[targets][:, None])
        parts = [part for c, own in zip(conditions, wanted, strict=True) for part in (c.mean[0], own, c.extra[0])]
        return torch.cat([conditions[0].sources[0].flatten(0, 1), *parts]).float().cpu().numpy().astype(np.float16)

    def row(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A random variant and one of its targets: the parts of a `Condition`, and the target's latent."""
        index = int(rng.integers(self.variants))
        _, sources, targets = self._task(index)
        return self._row(index, sources, targets, int(rng.integers(len(targets))))

    def _row(
        self, index: int, sources: list[int], targets: list[int], which: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        modalities, channels = len(self.model.preset.modalities), self.model.preset.autoencoder.latent_channels
        stored = torch.from_numpy(self._files[index].astype(np.float32))
        known, rest = stored[: modalities * channels], stored[modalities * channels :]
        mean, own, extra = rest.chunk(len(targets))[which].tensor_split([channels, 2 * channels])
        available = torch.zeros(modalities)
        available[sources] = 1
        target = torch.tensor(targets[which])
        return mean, known.unflatten(0, (modalities, channels)), extra, available, target, own

    def figures(self) -> dict[str, Tensor]:
        """Mean and deviation of the targets' latents over the brain, and deviation of their residuals, (C,) each."""
        sums, voxels = torch.zeros(3, self.model.preset.autoencoder.latent_channels, dtype=torch.float64), 0.0
        for index in range(self.variants):
            _, sources, targets = self._task(index)
            mean, _, extra, _, _, own = self._row(index, sources, targets, 0)
            inside = extra[0] > 0
            latents, residual = own[:, inside], (own - mean)[:, inside]
            sums += torch.stack([latents.sum(1), latents.square().sum(1), residual.square().sum(1)]).double()
            voxels += float(inside.sum())
        first, second, third = sums / voxels
        deviation = (second - first.square()).clamp(min=1e-8).sqrt()
        return {"centre": first.float(), "spread": deviation.float(), "residual": third.clamp(min=1e-8).sqrt().float()}


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
