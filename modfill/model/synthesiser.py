"""ALDM, built from its parts: encode once, then predict any missing modality from whatever is there.

The rest of modfill knows this file only; it never sees a path, a file or a patient's grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modfill.model.autoencoder import Autoencoder
from modfill.model.brightness import Brightness
from modfill.model.config import Preset
from modfill.model.denoiser import Denoiser
from modfill.model.pyramid import upsampled
from modfill.model.refiner import SLAB, Refiner, Seen
from modfill.model.sampling import ddim
from modfill.model.translator import Translator
from modfill.model.unet import UNet


@dataclass(frozen=True)
class Encoded:
    """What has been computed of a case before any target is chosen.

    Attributes:
        sources: indices of the available modalities.
        latents: scaled source latents (S, C, x, y, z).
        seen: what the refiner says of every modality, None without a refiner.
        second: what the U-Net says of every modality, (M, X, Y, Z), None without one.
    """

    sources: tuple[int, ...]
    latents: Tensor
    seen: Seen | None
    second: Tensor | None = None


@dataclass(frozen=True)
class Prediction:
    """One synthesised modality.

    Attributes:
        volume: normalised, (X, Y, Z).
        spread: voxelwise standard deviation of several samples, in the same units; None with one, and where they are
            not needed: mode "mean" with a refiner.
        departure: how a sample differs from the mean estimate, (X, Y, Z); None in mode "mean".
        expected: the squared error that the refiner expects of the mean estimate, voxel by voxel, 0 outside the brain;
            None without one.
        error: the mean squared error to be expected of it over the brain, z-scored; None likewise.
        expected_psnr: PSNR over the brain, in dB, that `volume` is expected to have after the best linear fit of its
            intensities, calibrated; None likewise.
    """

    volume: Tensor
    spread: Tensor | None = None
    departure: Tensor | None = None
    expected: Tensor | None = None
    error: float | None = None
    expected_psnr: float | None = None

    @property
    def deviation(self) -> Tensor | None:
        """Standard deviation (X, Y, Z) to be expected of the truth from `volume`: where, the refiner says; how much,
        `error`; of a sample, its departure more. Without a refiner the samples' spread."""
        if self.expected is None or self.error is None:
            return self.spread
        brain = self.expected > 0
        squared = self.expected * (self.error / self.expected[brain].mean())
        return (squared if self.departure is None else squared + self.departure.square() * brain).sqrt()


class Synthesiser(nn.Module):
    """Autoencoder, MS-SPADE translator, denoiser, and (not in the paper) a refiner with a U-Net beside it.

    Attributes:
        latent_std: latents are divided by it before translation and diffusion.
        calibration: (2,) intercept in dB and slope that turn `psnr_of` into `Prediction.expected_psnr`.
        unet_share: (M,) weight of the U-Net's answer in its mean with the refiner's; only with a U-Net.
    """

    latent_std: Tensor
    calibration: Tensor
    unet_share: Tensor

    def __init__(self, preset: Preset):
        super().__init__()
        self.preset = preset
        channels, modalities = preset.autoencoder.latent_channels, len(preset.modalities)
        self.autoencoder = Autoencoder(preset.autoencoder)
        self.translator = Translator(preset.translator, channels, modalities)
        self.denoiser = Denoiser(preset.denoiser, channels, modalities)
        self.refiner = Refiner(preset.refiner, channels, modalities) if preset.refiner else None
        self.unet = UNet(preset.unet, modalities) if preset.unet else None
        if self.unet is not None:
            self.register_buffer("unet_share", torch.zeros(modalities))
        self.brightness = Brightness(modalities)
        self.register_buffer("latent_std", torch.ones(()))
        self.register_buffer("calibration", torch.tensor([0.0, 1.0]))

    def encode(self, volumes: Tensor) -> Tensor:
        """Normalised volumes (B, 1, X, Y, Z) -> scaled latents (B, C, x, y, z), regularised, one at a time."""
        latents = [self.autoencoder.regularise(self.autoencoder.encode(volume[None]))[0] for volume in volumes]
        return torch.cat(latents) / self.latent_std

    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latents (B, C, x, y, z) -> normalised volumes (B, 1, X, Y, Z)."""
        return self.autoencoder.decode(latent * self.latent_std)

    def see(self, volumes: dict[str, Tensor], brain: Tensor | None = None) -> Encoded:
        """Encode a case.

        Args:
            volumes: normalised volume (X, Y, Z) by modality; edges are multiples of `preset.multiple`.
            brain: (X, Y, Z) bool, not empty; None takes the voxels where a volume is not 0.
        """
        order = [(index, volumes[m]) for index, m in enumerate(self.preset.modalities) if m in volumes]
        sources = tuple(index for index, _ in order)
        stacked = torch.stack([volume for _, volume in order])
        brain = (stacked != 0).any(0) if brain is None else brain
        seen = self.refiner.look(stacked, brain, sources) if self.refiner else None
        second = self.unet.look(stacked, brain, sources) if self.unet else None
        return Encoded(sources, self.encode(stacked[:, None]), seen, second)

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

        Mode "mean" refines the mean latent: the network's own one-step estimate where it predicts the clean latent,
        otherwise, or with `steps` given, the average over the samples. Mode "sample" is the first sample: the refined
        mean plus what that sample's decoding differs by from the decoded mean, so that it keeps the full resolution.

        Args:
            encoded: what `see` returned.
            target: index of the modality to synthesise.
            noise: standard normal (N, C, x, y, z), one entry per sample.
            steps: DDIM steps of each sample; None takes the preset's.
            mode: "mean" or "sample".
        """
        direct = self.preset.single_step_mean and (steps is None or mode == "sample")
        sampled = mode == "sample" or (len(noise) > 1 and self.refiner is None)
        if direct:
            target_like, mean = self.estimate(encoded, target, torch.zeros_like(noise[:1]), 1)
        if sampled or not direct:
            target_like, latents = self.estimate(encoded, target, noise, steps or self.preset.denoiser.sampling_steps)
        if not direct:
            mean = latents.mean(0, keepdim=True)
        volume, expected = self.refine(encoded, target, target_like, mean)
        samples = [self.decode(one[None]).float()[0, 0] for one in latents] if sampled else []
        departure = samples[0] - self.decode(mean).float()[0, 0] if mode == "sample" else None
        error = expected_psnr = None
        if expected is not None and encoded.seen is not None:
            brain, (intercept, slope) = encoded.seen.brain, self.calibration.tolist()
            error = expected_error(volume[brain], float(expected[brain].mean()))
            more = 0.0 if departure is None else left_by_fit(departure[brain], volume[brain])
            expected_psnr = intercept + slope * self.psnr_of(target, error + more)
        given = volume if departure is None else volume + departure
        spread = torch.stack(samples).std(0) if len(samples) > 1 else None
        return Prediction(given, spread, departure, expected, error, expected_psnr)

    def refine(
        self, encoded: Encoded, target: int, target_like: Tensor, latent: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The refined volume, the U-Net's answer mixed in, and the squared error to be expected, both (X, Y, Z) and 0
        outside the brain; without a refiner the decoded volume and None."""
        if self.refiner is None:
            return self.decode(latent).float()[0, 0], None
        assert encoded.seen is not None
        latents, factor = torch.cat([target_like, latent.to(target_like.dtype)], dim=1), self.preset.autoencoder.factor
        brain = encoded.seen.brain
        volume, expected = torch.zeros(2, *brain.shape, device=brain.device)
        for start, said in zip(range(0, len(brain), SLAB), encoded.seen.slabs, strict=True):
            stop = min(start + SLAB, len(brain))
            inside = brain[start:stop]
            there = upsampled(latents, factor, start, stop)[inside]
            answer, doubt = self.refiner.chosen(said, there[:, None], (target,))
            volume[start:stop][inside], expected[start:stop][inside] = answer[:, 0], doubt[:, 0].exp()
        if encoded.second is not None:
            volume = torch.where(brain, volume.lerp(encoded.second[target], self.unet_share[target]), 0)
        return volume, expected

    def psnr_of(self, target: int, error: float) -> float:
        """PSNR in dB in unit range, not calibrated, that a mean squared error of z-scores stands for."""
        return -10 * math.log10(max(float(self.brightness.mean[target, 1]) ** 2 * error, 1e-12))


def expected_error(voxels: Tensor, said: float) -> float:
    """Mean squared error to be expected of an estimate: the average of two opinions, which knew more than either.

    By the law of total variance, what is z-scored varies by 1, an estimate of its mean by less, and by as much as it
    falls short it is wrong.

    Args:
        voxels: the estimate's z-scored voxels of the brain (N,).
        said: what the refiner expects of itself, on average over the brain.
    """
    return (max(1 - float(voxels.var(correction=0)), 0) + said) / 2


def left_by_fit(departure: Tensor, voxels: Tensor) -> float:
    """Mean square of what the best linear fit of `voxels` (N,) leaves of a departure from them (N,)."""
    own, other = departure - departure.mean(), voxels - voxels.mean()
    slope = (own @ other) / (other @ other).clamp(min=1e-12)
    return float((own - slope * other).square().mean())
