"""Trained networks on a device, NumPy arrays in and out: all that completion knows of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from modfill.model.brightness import own_brightness
from modfill.model.config import Preset
from modfill.model.device import fast_precision, half_is_fast
from modfill.model.sampling import generator
from modfill.model.synthesiser import Encoded, Prediction, Synthesiser, in_decibels
from modfill.settings import Settings

__all__ = ["Estimate", "Inference"]

Volume = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Estimate:
    """One synthesised modality on the model's grid.

    Attributes:
        volume: (X, Y, Z), normalised.
        deviation: standard deviation to be expected, (X, Y, Z), in the same units; None unless it was asked for.
        unit: mean and standard deviation over the brain that the modality is expected to have in unit range.
        expected_psnr: in dB, over the brain and after a linear fit.
        finite: whether no value is NaN or infinite.
    """

    volume: Volume
    deviation: Volume | None
    unit: list[float]
    expected_psnr: float
    finite: bool


class Inference:
    """Networks in evaluation mode on a device.

    Args:
        model: moved to the device.
        device: where the networks run.
    """

    def __init__(self, model: Synthesiser, device: torch.device):
        # channels last, which a CPU's convolutions want; PyTorch's types do not know the argument
        model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.model, self.device = model.to(device).eval(), device

    @property
    def preset(self) -> Preset:
        """The configuration of the networks."""
        return self.model.preset

    @property
    def environment(self) -> dict[str, str | int]:
        """The keys of a sidecar that tell how the networks run: the type and, on a CPU, the threads.

        Another number of threads may change the last bit of a result.
        """
        precision = {"Precision": "bfloat16" if half_is_fast(self.device) else "float32"}
        return precision | ({"Threads": torch.get_num_threads()} if self.device.type == "cpu" else {})

    @torch.inference_mode()
    def encode(self, volumes: Mapping[str, Volume], brain: npt.NDArray[np.bool_]) -> Encoded:
        """Compute of a case all that does not depend on the target.

        Args:
            volumes: normalised volume (X, Y, Z) by modality; edges are multiples of `preset.multiple`.
            brain: (X, Y, Z).
        """
        on_device = {modality: torch.from_numpy(volume).to(self.device) for modality, volume in volumes.items()}
        with fast_precision(self.device):
            return self.model.encode(on_device, torch.from_numpy(brain).to(self.device))

    @torch.inference_mode()
    def predict(
        self,
        encoded: Encoded,
        target: str,
        *,
        brightness: Mapping[str, tuple[float, float, float]],
        case_id: str,
        settings: Settings,
    ) -> Estimate:
        """Synthesise one modality.

        Args:
            encoded: what `encode` returned.
            target: a modality that is none of the sources.
            brightness: mean, standard deviation and skewness of each source, as `Prepared.brightness` gives them.
            case_id: part of the seed.
            settings: mode, steps, seed, and whether the deviation is wanted.
        """
        index = self.preset.modalities.index(target)

        def in_numpy(prediction: Prediction) -> tuple[Volume, list[float]]:
            volume = prediction.volume.cpu().numpy()
            return volume, self.unit(brightness, target, volume, encoded.brain.cpu().numpy())

        with fast_precision(self.device):
            prediction = self.model.predict(encoded, index)
            volume, unit = in_numpy(prediction)
            mse = self.model.calibrated_mse(prediction.expected_mse, unit[1])
            if settings.mode == "sample":
                noise = self.noise(encoded, case_id, target, settings.seed)
                prediction = self.model.sampled(encoded, index, prediction, noise, mse, steps=settings.steps)
                volume, unit = in_numpy(prediction)
        deviation = prediction.deviation(mse).cpu().numpy() if settings.uncertainty else None
        psnr = in_decibels(mse + prediction.added_mse, unit[1])
        return Estimate(volume, deviation, unit, psnr, _is_finite(prediction) and math.isfinite(psnr))

    def noise(self, encoded: Encoded, case_id: str, target: str, seed: int) -> torch.Tensor:
        """Standard normal noise of a sample, (C, x, y, z), that depends on case, target, seed and grid only."""
        channels, factor = self.preset.autoencoder.latent_channels, self.preset.autoencoder.factor
        shape = (channels, *(edge // factor for edge in encoded.brain.shape))
        return torch.randn(*shape, generator=generator(case_id, target, seed)).to(self.device)

    def unit(
        self,
        brightness: Mapping[str, tuple[float, float, float]],
        target: str,
        volume: Volume,
        brain: npt.NDArray[np.bool_],
    ) -> list[float]:
        """Mean and standard deviation over the brain in unit range that a modality is expected to have.

        Args:
            brightness: mean, standard deviation and skewness of each source, as `Prepared.brightness` gives them.
            target: the modality wanted.
            volume: (X, Y, Z), as synthesised, normalised.
            brain: (X, Y, Z).
        """
        order = self.preset.modalities
        sources, own = [order.index(m) for m in brightness], own_brightness(volume, brain)
        return self.model.brightness(list(brightness.values()), sources, order.index(target), own)


def _is_finite(prediction: Prediction) -> bool:
    """Tell whether all that is given out of a prediction, or goes into it, is a number."""
    volumes = (prediction.volume, prediction.squared_error)
    return all(bool(volume.isfinite().all()) for volume in volumes)
