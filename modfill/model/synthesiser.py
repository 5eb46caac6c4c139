"""The whole model (ALDM) built from its parts: encode a case once, then predict any missing modality from the sources.

The rest of modfill knows the networks through this file only. No network knows a path, a file or a case's own grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from modfill.model.autoencoder import Autoencoder
from modfill.model.brightness import Brightness
from modfill.model.config import Preset
from modfill.model.denoiser import Denoiser
from modfill.model.pyramid import upsampled
from modfill.model.refiner import SLAB, Refiner, RefinerOutputs
from modfill.model.sampling import ddim
from modfill.model.translator import Translator
from modfill.model.unet import UNet

# relative seconds of preset small on a CPU, float32: per brain voxel, per voxel, and per voxel of each source
_REFINER, _UNET, _LATENTS = 36.0, 3.5, 3.2


@dataclass(frozen=True)
class Encoded:
    """A case's outputs that do not depend on the target.

    Attributes:
        sources: indices of the available modalities.
        latents: scaled source latents (S, C, x, y, z).
        refiner_outputs: the refiner's outputs for every modality; None without a refiner.
        unet_output: the U-Net's estimate of every modality, z-scored (M, X, Y, Z); None without a U-Net.
    """

    sources: tuple[int, ...]
    latents: Tensor
    refiner_outputs: RefinerOutputs | None
    unet_output: Tensor | None = None


@dataclass(frozen=True)
class Prediction:
    """One synthesised modality.

    Attributes:
        volume: normalised, (X, Y, Z).
        sample_std: voxelwise standard deviation of several samples, (X, Y, Z) in the units of `volume`; None with one
            sample, and in mode "mean" with a refiner, which needs no samples.
        residual: the sample minus the mean estimate, (X, Y, Z); None in mode "mean".
        expected_squared_error: of the mean estimate at each voxel, as the refiner predicts it, (X, Y, Z), 0 outside the
            brain; None without a refiner.
        expected_mse: expected mean squared error of the mean estimate over the brain, z-scored; None without a refiner.
        expected_psnr: expected PSNR of `volume` over the brain, in dB, after the best linear fit of intensities,
            calibrated; None without a refiner.
    """

    volume: Tensor
    sample_std: Tensor | None = None
    residual: Tensor | None = None
    expected_squared_error: Tensor | None = None
    expected_mse: float | None = None
    expected_psnr: float | None = None

    @property
    def deviation(self) -> Tensor | None:
        """Expected standard deviation (X, Y, Z) of the truth from `volume`.

        It is the root of `expected_squared_error`, scaled so that its mean over the brain is `expected_mse`, plus the
        squared residual of a sample. Without a refiner it is `sample_std`.
        """
        if self.expected_squared_error is None or self.expected_mse is None:
            return self.sample_std
        brain = self.expected_squared_error > 0
        squared = self.expected_squared_error * (self.expected_mse / self.expected_squared_error[brain].mean())
        return (squared if self.residual is None else squared + self.residual.square() * brain).sqrt()


class Synthesiser(nn.Module):
    """Autoencoder, MS-SPADE translator, denoiser, and (not in the paper) a refiner with a U-Net beside it.

    Attributes:
        latent_std: latents are divided by it before translation and diffusion, a scalar.
        calibration: (2,) intercept in dB and slope that turn `psnr_of` into `Prediction.expected_psnr`.
        unet_share: (M,) weight of the U-Net in its weighted mean with the refiner; only with a U-Net.
    """

    latent_std: Tensor
    calibration: Tensor
    unet_share: Tensor

    def __init__(self, preset: Preset) -> None:
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

    def encode_latents(self, volumes: Tensor, *, progress: Callable[[float], None] | None = None) -> Tensor:
        """Encode volumes one at a time, to bound memory.

        Args:
            volumes: normalised (B, 1, X, Y, Z).
            progress: called with the fraction of the volumes done.

        Returns:
            Scaled and regularised latents (B, C, x, y, z).
        """
        latents = []
        for volume in volumes:
            latents.append(self.autoencoder.regularise(self.autoencoder.encode(volume[None]))[0])
            if progress:
                progress(len(latents) / len(volumes))
        return torch.cat(latents) / self.latent_std

    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latents (B, C, x, y, z) -> normalised volumes (B, 1, X, Y, Z)."""
        return self.autoencoder.decode(latent * self.latent_std)

    def encode(
        self,
        volumes: dict[str, Tensor],
        brain: Tensor | None = None,
        *,
        progress: Callable[[float], None] | None = None,
    ) -> Encoded:
        """Encode a case, once for all targets.

        Args:
            volumes: normalised volume (X, Y, Z) by modality; edges are multiples of `preset.multiple`.
            brain: (X, Y, Z) bool, not empty; None takes the voxels where a volume is not 0.
            progress: called with the fraction done, ascending to 1, after each part of the work.
        """
        order = [(index, volumes[m]) for index, m in enumerate(self.preset.modalities) if m in volumes]
        sources = tuple(index for index, _ in order)
        stacked = torch.stack([volume for _, volume in order])
        brain = (stacked != 0).any(0) if brain is None else brain
        costs = (
            _REFINER * float(brain.float().mean()) if self.refiner else 0,
            _UNET if self.unet else 0,
            _LATENTS * len(sources),
        )
        for_refiner, for_unet, for_latents = _share(progress, costs)
        refined = self.refiner.encode(stacked, brain, sources, progress=for_refiner) if self.refiner else None
        unet = self.unet.predict(stacked, brain, sources, progress=for_unet) if self.unet else None
        return Encoded(sources, self.encode_latents(stacked[:, None], progress=for_latents), refined, unet)

    def estimate(self, encoded: Encoded, target: int, noise: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Translate and denoise (paper, sections 3.1 to 3.3).

        Args:
            encoded: a case.
            target: index of the target modality.
            noise: standard normal (B, C, x, y, z), one entry per sample.
            steps: DDIM steps.

        Returns:
            The target-like latent (1, C, x, y, z), and one clean latent per sample (B, C, x, y, z).
        """
        target_like, _ = self.translator.fuse(encoded.latents, encoded.sources, target)
        context = self.denoiser.context(target, list(encoded.sources))

        def predict(x: Tensor, step: Tensor) -> Tensor:
            return self.denoiser(x, step, target_like.expand_as(x).to(x.dtype), context.expand(len(x), -1, -1))

        samples = [ddim(predict, one[None], self.denoiser.alphas_bar, steps, self.denoiser.prediction) for one in noise]
        return target_like, torch.cat(samples)

    def predict(self, encoded: Encoded, target: int, noise: Tensor, steps: int | None, mode: str) -> Prediction:
        """Synthesise one modality.

        Mode "mean" refines the mean latent. The mean latent is the network's one-step estimate if the network predicts
        the clean latent and `steps` is None, and else the average of the samples. Mode "sample" is the first sample at
        full resolution: the refined mean plus the sample's residual (its decoding minus the decoded mean latent).

        Args:
            encoded: what `encode` returned.
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
        volume, squared_error = self.refine(encoded, target, target_like, mean)
        samples = [self.decode(one[None]).float()[0, 0] for one in latents] if sampled else []
        residual = samples[0] - self.decode(mean).float()[0, 0] if mode == "sample" else None
        mse = psnr = None
        if squared_error is not None and encoded.refiner_outputs is not None:
            brain, (intercept, slope) = encoded.refiner_outputs.brain, self.calibration.tolist()
            mse = expected_mse(volume[brain], float(squared_error[brain].mean()))
            more = 0.0 if residual is None else unexplained_variance(residual[brain], volume[brain])
            psnr = intercept + slope * self.psnr_of(target, mse + more)
        return Prediction(
            volume=volume if residual is None else volume + residual,
            sample_std=torch.stack(samples).std(0) if len(samples) > 1 else None,
            residual=residual,
            expected_squared_error=squared_error,
            expected_mse=mse,
            expected_psnr=psnr,
        )

    def refine(
        self, encoded: Encoded, target: int, target_like: Tensor, latent: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Estimate a modality at full resolution.

        Args:
            encoded: a case.
            target: index of the target modality.
            target_like: the translator's latent (1, C, x, y, z).
            latent: the denoised latent (1, C, x, y, z).

        Returns:
            The weighted mean of refiner and U-Net, and its expected squared error, each (X, Y, Z) and 0 outside the
            brain. Without a refiner the decoded latent and None.
        """
        if self.refiner is None:
            return self.decode(latent).float()[0, 0], None
        assert encoded.refiner_outputs is not None
        latents, factor = torch.cat([target_like, latent.to(target_like.dtype)], dim=1), self.preset.autoencoder.factor
        brain = encoded.refiner_outputs.brain
        volume, squared_error = torch.zeros(2, *brain.shape, device=brain.device)
        for start, outputs in zip(range(0, len(brain), SLAB), encoded.refiner_outputs.slabs, strict=True):
            stop = min(start + SLAB, len(brain))
            inside = brain[start:stop]
            local = upsampled(latents, factor, start, stop)[inside]
            mean, log_variance = self.refiner.mix_latents(outputs, local[:, None], (target,))
            volume[start:stop][inside], squared_error[start:stop][inside] = mean[:, 0], log_variance[:, 0].exp()
        if encoded.unet_output is not None:
            volume = torch.where(brain, volume.lerp(encoded.unet_output[target], self.unet_share[target]), 0)
        return volume, squared_error

    def psnr_of(self, target: int, mse: float) -> float:
        """Convert a mean squared error of z-scores into a PSNR in dB in unit range, not calibrated."""
        return -10 * math.log10(max(float(self.brightness.mean[target, 1]) ** 2 * mse, 1e-12))


def expected_mse(voxels: Tensor, predicted: float) -> float:
    """Expected mean squared error of an estimate over the brain.

    It is the average of two estimates of the error: the refiner's own, and 1 - Var(estimate), which follows from the
    law of total variance if the truth is z-scored and the estimate is its conditional mean. The average correlated
    better with the true error than either alone.

    Args:
        voxels: the estimate's z-scored voxels of the brain (N,).
        predicted: mean of the squared error that the refiner predicts over the brain.
    """
    return (max(1 - float(voxels.var(correction=0)), 0) + predicted) / 2


def _share(progress: Callable[[float], None] | None, costs: Sequence[float]) -> list[Callable[[float], None] | None]:
    """One callback for each of several consecutive parts, which maps the part's fraction to the whole's."""
    if progress is None:
        return [None] * len(costs)

    def part(index: int, fraction: float) -> None:
        progress((sum(costs[:index]) + fraction * costs[index]) / sum(costs))

    return [partial(part, index) for index in range(len(costs))]


def unexplained_variance(residual: Tensor, voxels: Tensor) -> float:
    """Mean square of a residual (N,) after the best linear fit to it by `voxels` (N,)."""
    own, other = residual - residual.mean(), voxels - voxels.mean()
    slope = (own @ other) / (other @ other).clamp(min=1e-12)
    return float((own - slope * other).square().mean())
