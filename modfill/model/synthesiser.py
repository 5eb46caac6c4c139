"""The whole model (ALDM) built from its parts: encode a case once, then predict any missing modality from the sources.

The rest of modfill knows the networks through this file only. No network knows a path, a file or a case's own grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from modfill.model.autoencoder import Autoencoder
from modfill.model.brightness import Brightness
from modfill.model.config import Preset
from modfill.model.denoiser import Condition, Denoiser
from modfill.model.sampling import sample
from modfill.model.situation import place, statistics
from modfill.model.translator import Features, Inputs, Translator

LEAST_ERROR = -8.0  # logarithm of the least squared error that the translator predicts
COARSE_GAIN = 2.0  # for what a sample adds at coarse scales; chosen on validation cases
COARSE_EDGE = 5  # of the averages that tell coarse from fine, in latent voxels


@dataclass(frozen=True)
class Encoded:
    """A case's inputs and features that do not depend on the target.

    Attributes:
        inputs: of one case, B = 1.
        features: likewise.
    """

    inputs: Inputs
    features: Features

    @property
    def brain(self) -> Tensor:
        """(X, Y, Z) bool."""
        return self.inputs.brain[0, 0] > 0

    @property
    def sources(self) -> list[int]:
        """Indices of the available modalities."""
        return torch.nonzero(self.inputs.available[0]).flatten().tolist()


@dataclass(frozen=True)
class Prediction:
    """One synthesised modality.

    Attributes:
        volume: normalised, (X, Y, Z), 0 outside the brain.
        squared_error: expected squared error of the mean at each voxel, (X, Y, Z), 0 outside the brain.
        expected_mse: expected mean squared error of the mean over the brain, z-scored.
        added_mse: what the residual adds to it, after the best linear fit of intensities; 0 for the mean.
        residual: what a sample adds to the mean, (X, Y, Z); None for the mean.
    """

    volume: Tensor
    squared_error: Tensor
    expected_mse: float
    added_mse: float = 0.0
    residual: Tensor | None = None

    def deviation(self, mse: float) -> Tensor:
        """Expected standard deviation (X, Y, Z) of the truth from `volume`.

        It is the root of `squared_error`, scaled so that its mean over the brain is `mse`, plus the squared residual.

        Args:
            mse: mean squared error of the mean over the brain, z-scored; `expected_mse` or better, calibrated.
        """
        brain = self.squared_error > 0
        squared = self.squared_error * (mse / self.squared_error[brain].mean())
        return (squared if self.residual is None else squared + self.residual.square() * brain).sqrt()


class Synthesiser(nn.Module):
    """Translator with guided decoder for the mean; autoencoder and denoiser for samples.

    Attributes:
        calibration: (2,) intercept in dB and slope of `expected_psnr`.
    """

    calibration: Tensor

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        channels, modalities = preset.autoencoder.latent_channels, len(preset.modalities)
        self.autoencoder = Autoencoder(preset.autoencoder)
        self.translator = Translator(preset.translator, modalities)
        self.denoiser = Denoiser(preset.denoiser, channels, modalities)
        self.brightness = Brightness(modalities)
        self.register_buffer("calibration", torch.tensor([0.0, 1.0]))

    def encode(self, volumes: dict[str, Tensor], brain: Tensor | None = None) -> Encoded:
        """Encode a case, once for all targets.

        Args:
            volumes: normalised volume (X, Y, Z) by modality; edges are multiples of `preset.multiple`.
            brain: (X, Y, Z) bool, not empty; None takes the voxels where a volume is not 0.
        """
        first = next(iter(volumes.values()))
        stacked = torch.stack([volumes.get(m, torch.zeros_like(first)) for m in self.preset.modalities])
        brain = (stacked != 0).any(0) if brain is None else brain
        stacked = stacked * brain
        inputs = Inputs(
            stacked[None],
            brain[None, None].to(stacked.dtype),
            torch.tensor([[float(m in volumes) for m in self.preset.modalities]], device=stacked.device),
            place(brain, self.preset.autoencoder.factor)[None],
            statistics(stacked, brain)[None],
        )
        return Encoded(inputs, self.translator.encode(inputs))

    def mean(self, encoded: Encoded, target: int) -> tuple[Tensor, Tensor]:
        """Translate and decode: the mean and its expected squared error, each (X, Y, Z) and 0 outside the brain."""
        which, decoder = torch.tensor([target], device=encoded.brain.device), self.translator.decoder
        half = decoder.at_half(self.translator.translate(encoded.features, which), encoded.features.half)
        volume, log_error = decoder.inside(half, encoded.inputs.volumes, encoded.brain, target)
        return volume, log_error.exp() * encoded.brain

    def predict(self, encoded: Encoded, target: int) -> Prediction:
        """Synthesise one modality: the translator's mean.

        Args:
            encoded: what `encode` returned.
            target: index of the modality to synthesise.
        """
        mean, squared_error = self.mean(encoded, target)
        voxels = mean[encoded.brain], squared_error[encoded.brain]
        return Prediction(mean, squared_error, expected_mse(voxels[0], float(voxels[1].mean())))

    def sampled(
        self, encoded: Encoded, target: int, mean: Prediction, noise: Tensor, mse: float, *, steps: int | None = None
    ) -> Prediction:
        """One sample of a modality; arguments as of `residuals`, with the noise of one, (C, x, y, z)."""
        residual = self.residuals(encoded, target, mean, noise[None], mse, steps=steps)[0]
        added = unexplained_variance(residual[encoded.brain], mean.volume[encoded.brain])
        return replace(mean, volume=mean.volume + residual, added_mse=added, residual=residual)

    def residuals(
        self, encoded: Encoded, target: int, mean: Prediction, noise: Tensor, mse: float, *, steps: int | None = None
    ) -> Tensor:
        """Sample what the truth may add to the mean: diffuse, decode (paper, section 3.3), and scale.

        A sample deviates from the mean by as much as the mean is expected to deviate from the truth. The denoiser alone
        does not know how much that is: it learned from cases that the translator has seen, whose errors are smaller,
        above all at coarse scales. So coarse deviations get a gain before all are scaled.

        Args:
            encoded: a case.
            target: index of the target modality.
            mean: what `predict` returned.
            noise: standard normal (N, C, x, y, z).
            mse: mean square of a residual over the brain, z-scored: the mean's `expected_mse` or better, calibrated.
            steps: evaluations of the denoiser; None takes the preset's.

        Returns:
            (N, X, Y, Z), 0 outside the brain.
        """
        condition = self.condition(encoded, target, mean.volume, mean.squared_error)
        scale = self.denoiser.residual[:, None, None, None]
        decoded = self.autoencoder.decode(condition.mean).float()[0, 0]
        inside = condition.extra[:, :1]

        def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
            return self.denoiser(noisy, sigma, condition)

        found = []
        for one in noise:
            latent = sample(denoise, one[None], steps or self.preset.denoiser.sampling_steps)
            latent = latent + (COARSE_GAIN - 1) * coarse(latent, inside)
            moved = self.autoencoder.decode(condition.mean + scale * latent).float()[0, 0]
            residual = (moved - decoded) * encoded.brain
            power = residual[encoded.brain].square().mean().clamp(min=1e-12)
            found.append(residual * (mse / power).sqrt())
        return torch.stack(found)

    def condition(self, encoded: Encoded, target: int, mean: Tensor, squared_error: Tensor) -> Condition:
        """The denoiser's condition of one case and target; see `residuals`."""
        inputs, sources = encoded.inputs, encoded.sources
        latents = self.encode_latents(torch.stack([mean, *inputs.volumes[0, sources]])[:, None])
        known = latents.new_zeros(inputs.available.shape[1], *latents.shape[1:])
        known[sources] = latents[1:]
        pool, factor = nn.functional.avg_pool3d, self.preset.autoencoder.factor
        log_error = squared_error.clamp(min=math.exp(LEAST_ERROR)).log() * encoded.brain
        share = pool(inputs.brain.float(), factor)
        inside = (share > 0).float()
        deviation = 0.5 * pool(log_error[None, None], factor) / share.clamp(min=1e-3) * inside
        extra = torch.cat([inside, deviation, inputs.place.float()], dim=1)
        which = torch.tensor([target], device=mean.device)
        return Condition(latents[:1], known[None], extra, inputs.available, which)

    def encode_latents(self, volumes: Tensor) -> Tensor:
        """Encode volumes one at a time, to bound memory: normalised (B, 1, X, Y, Z) -> latents (B, C, x, y, z)."""
        encode, regularise = self.autoencoder.encode, self.autoencoder.regularise
        return torch.cat([regularise(encode(volume[None]))[0].float() for volume in volumes])

    def expected_psnr(self, mse: float, unit_std: float) -> float:
        """Expected PSNR of an image over the brain, in dB, in unit range.

        Args:
            mse: mean squared error of z-scores.
            unit_std: standard deviation that the image has in unit range.
        """
        intercept, slope = self.calibration.tolist()
        return intercept + slope * in_decibels(mse, unit_std)

    def calibrated_mse(self, mse: float, unit_std: float) -> float:
        """The mean squared error of z-scores that the expected PSNR stands for; arguments as of `expected_psnr`."""
        return 10 ** (-self.expected_psnr(mse, unit_std) / 10) / unit_std**2


def coarse(latent: Tensor, inside: Tensor) -> Tensor:
    """The coarse part of a latent (1, C, x, y, z), smoothed over the voxels where `inside` (1, 1, x, y, z) is 1."""
    total, weight = latent * inside, inside
    for _ in range(2):
        padded = (nn.functional.pad(x, (COARSE_EDGE // 2,) * 6) for x in (total, weight))
        total, weight = (nn.functional.avg_pool3d(x, COARSE_EDGE, stride=1) for x in padded)
    return total / weight.clamp(min=1e-6) * inside


def in_decibels(mse: float, unit_std: float) -> float:
    """PSNR in unit range of an image whose z-scores have this mean squared error and this deviation in unit range."""
    return -10 * math.log10(max(unit_std**2 * mse, 1e-12))


def expected_mse(voxels: Tensor, predicted: float) -> float:
    """Expected mean squared error of an estimate over the brain.

    It is the average of two estimates of the error: the translator's own, and 1 - Var(estimate), which follows from the
    law of total variance if the truth is z-scored and the estimate is its conditional mean. The average correlated
    better with the true error than either alone.

    Args:
        voxels: the estimate's z-scored voxels of the brain (N,).
        predicted: mean of the squared error that the translator predicts over the brain.
    """
    return (max(1 - float(voxels.var(correction=0)), 0) + predicted) / 2


def unexplained_variance(residual: Tensor, voxels: Tensor) -> float:
    """Mean square of a residual (N,) after the best linear fit to it by `voxels` (N,)."""
    own, other = residual - residual.mean(), voxels - voxels.mean()
    slope = (own @ other) / (other @ other).clamp(min=1e-12)
    return float((own - slope * other).square().mean())
