"""ALDM, built from its parts: encode once, then predict any missing modality from whatever is there.

The rest of modfill knows this file only; it never sees a path, a file or a patient's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modfill.config import Preset
from modfill.model.autoencoder import Autoencoder
from modfill.model.denoiser import Denoiser
from modfill.model.refiner import Refiner
from modfill.model.translator import Translator
from modfill.sampling import ddim

SLAB = 32  # voxels: the refiner works through the volume in slabs of this thickness to bound memory


@dataclass(frozen=True)
class Encoded:
    """What has been computed of a case before any target is chosen.

    Attributes:
        sources: indices of the available modalities.
        volumes: normalised volumes (1, M, X, Y, Z), 0 where a modality is missing.
        latents: scaled source latents (S, C, x, y, z).
        available: 1 where a modality is available (1, M).
        seen: the refiner's view of the case, None without a refiner.
    """

    sources: tuple[int, ...]
    volumes: Tensor
    latents: Tensor
    available: Tensor
    seen: tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Prediction:
    """One synthesised modality: normalised `volume` (X, Y, Z), and with several samples their voxelwise standard
    deviation `spread`, in the same units."""

    volume: Tensor
    spread: Tensor | None


class ALDM(nn.Module):
    """Autoencoder, MS-SPADE translator, denoiser, and (not in the paper) a refiner.

    Attributes:
        latent_std: latents are divided by it before translation and diffusion.
        unit_statistics: (M, 2) mean and standard deviation of each modality in unit range over the training cases.
    """

    latent_std: Tensor
    unit_statistics: Tensor

    def __init__(self, preset: Preset):
        super().__init__()
        self.preset = preset
        channels, modalities = preset.autoencoder.latent_channels, len(preset.modalities)
        self.autoencoder = Autoencoder(preset.autoencoder)
        self.translator = Translator(preset.translator, channels, modalities)
        self.denoiser = Denoiser(preset.denoiser, channels, modalities)
        self.refiner = (
            Refiner(preset.refiner, channels, modalities, preset.autoencoder.factor) if preset.refiner else None
        )
        self.register_buffer("latent_std", torch.ones(()))
        self.register_buffer("unit_statistics", torch.tensor([[0.5, 0.2]] * modalities))

    def encode(self, volumes: Tensor) -> Tensor:
        """Normalised volumes (B, 1, X, Y, Z) -> scaled latents (B, C, x, y, z), regularised, one at a time."""
        latents = [self.autoencoder.regularise(self.autoencoder.encode(volume[None]))[0] for volume in volumes]
        return torch.cat(latents) / self.latent_std

    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latents (B, C, x, y, z) -> normalised volumes (B, 1, X, Y, Z)."""
        return self.autoencoder.decode(latent * self.latent_std)

    def see(self, volumes: dict[str, Tensor]) -> Encoded:
        """Encode a case.

        Args:
            volumes: normalised volume (X, Y, Z) by modality; edges are multiples of `preset.multiple`.
        """
        order = [(index, volumes[m]) for index, m in enumerate(self.preset.modalities) if m in volumes]
        sources = tuple(index for index, _ in order)
        stacked = torch.stack([volume for _, volume in order])
        latents = self.encode(stacked[:, None])
        whole = place(stacked, sources, len(self.preset.modalities))
        return self.looked(self.refiner, sources, whole, latents)

    def looked(self, refiner: Refiner | None, sources: tuple[int, ...], volumes: Tensor, latents: Tensor) -> Encoded:
        """What is known of a case, with the refiner's view of it, from volumes (1, M, X, Y, Z) and scaled latents."""
        modalities = len(self.preset.modalities)
        available = volumes.new_zeros(1, modalities)
        available[0, list(sources)] = 1
        placed = place(latents, sources, modalities).flatten(1, 2)
        seen = refiner.look(volumes, placed, available) if refiner else None
        return Encoded(sources, volumes, latents, available, seen)

    def estimate(self, encoded: Encoded, target: int, noise: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """The target-like latent (1, C, x, y, z) and the clean latents (B, C, x, y, z) that diffusion makes of it.

        Args:
            noise: standard normal (B, C, x, y, z), one entry per sample.
            steps: DDIM steps.
        """
        target_like, _ = self.translator.fuse(encoded.latents, encoded.sources, target)
        context = self.denoiser.context(target, list(encoded.sources))

        def predict(x: Tensor, step: Tensor) -> Tensor:
            return self.denoiser(x, step, target_like.expand_as(x).to(x.dtype), context.expand(len(x), -1, -1))

        samples = [ddim(predict, one[None], self.denoiser.alphas_bar, steps, self.denoiser.prediction) for one in noise]
        return target_like, torch.cat(samples)

    def predict(self, encoded: Encoded, target: int, noise: Tensor, steps: int | None, mode: str) -> Prediction:
        """Synthesise one modality.

        Mode "mean" decodes the mean latent: the network's own one-step estimate where it predicts the clean latent,
        otherwise, or with `steps` given, the average over the samples. Mode "sample" is the first sample: the refined
        mean plus what that sample's decoding differs by from the decoded mean, so that it keeps the full resolution.

        Args:
            encoded: what `see` returned.
            target: index of the modality to synthesise.
            noise: standard normal (N, C, x, y, z), one entry per sample.
            steps: DDIM steps of each sample; None takes the preset's.
            mode: "mean" or "sample".
        """
        direct = self.single_step_mean and (steps is None or mode == "sample")
        sampled = len(noise) > 1 or mode == "sample"
        if direct:
            target_like, mean = self.estimate(encoded, target, torch.zeros_like(noise[:1]), 1)
        if sampled or not direct:
            target_like, latents = self.estimate(encoded, target, noise, steps or self.preset.denoiser.sampling_steps)
        if not direct:
            mean = latents.mean(0, keepdim=True)
        decoded = self.decode(mean).float()
        samples = [self.decode(one[None]).float() for one in latents] if sampled else []
        volume = self.refine(encoded, target, target_like, mean, decoded)
        if mode == "sample":
            volume = volume + (samples[0] - decoded)
        spread = torch.stack(samples).std(0)[0, 0] if len(samples) > 1 else None
        return Prediction(volume[0, 0].float(), spread)

    @property
    def single_step_mean(self) -> bool:
        """Whether one diffusion step gives the mean: a network that predicts the clean latent does."""
        return self.denoiser.prediction == "sample"

    def refine(self, encoded: Encoded, target: int, target_like: Tensor, latent: Tensor, decoded: Tensor) -> Tensor:
        """The refined volume (1, 1, X, Y, Z) in slabs, or `decoded` itself without a refiner."""
        if self.refiner is None:
            return decoded
        assert encoded.seen is not None
        latents = torch.cat([target_like, latent.to(target_like.dtype)], dim=1)
        guidance, code = self.refiner.guide(encoded.seen, latents, encoded.available, target)
        slabs, (x, y, z) = [], decoded.shape[2:]
        for start in range(0, x, SLAB):
            box = (slice(start, min(start + SLAB, x)), slice(0, y), slice(0, z))
            region = self.refiner_region(encoded.volumes, decoded, guidance, box)
            slabs.append(self.refiner(*region, code, encoded.sources, target))
        return torch.cat(slabs, dim=2).float()

    def refiner_region(
        self, volumes: Tensor, decoded: Tensor, guidance: Tensor, box: tuple[slice, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sources, decoded volume and guidance of a region with the surroundings that the refiner wants: zeros beyond
        the volume's border, the outermost guidance repeated. `box` lies on multiples of the factor."""
        factor = self.preset.autoencoder.factor
        low = tuple(slice(b.start // factor, b.stop // factor) for b in box)
        return widened(volumes, box, "constant"), widened(decoded, box, "constant"), widened(guidance, low, "replicate")


def place(values: Tensor, sources: Sequence[int], modalities: int) -> Tensor:
    """Values per source (S, ...) -> values per modality (1, modalities, ...), 0 where a modality is missing."""
    whole = values.new_zeros(1, modalities, *values.shape[1:])
    whole[0, list(sources)] = values
    return whole


def widened(x: Tensor, box: tuple[slice, ...], mode: str) -> Tensor:
    """The region `box` of x (B, C, X, Y, Z) with one voxel of surroundings on each side, padded at the volume's end."""
    inner, padding = [], []
    for b, edge in zip(box, x.shape[2:], strict=True):
        inner.append(slice(max(b.start - 1, 0), min(b.stop + 1, edge)))
        padding.append((int(b.start == 0), int(b.stop == edge)))
    flat = [n for pair in reversed(padding) for n in pair]
    return nn.functional.pad(x[(slice(None), slice(None), *inner)], flat, mode=mode)
