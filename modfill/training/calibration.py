"""Two fits to held-out cases: the U-Net's weight in its mean with the refiner, and the calibration of expected PSNR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modfill.metrics import match, psnr
from modfill.model.device import fast_precision
from modfill.model.synthesiser import Synthesiser, expected_mse
from modfill.preprocessing.intensity import IntensityScale
from modfill.training.data import TrainingCase
from modfill.training.points import tasks

EVERY = 4  # each held-out case takes a quarter of the tasks, the next case the next quarter
THINNED = 16  # every 16th voxel of a brain is enough


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Estimates of one task of a held-out case.

    Attributes:
        target: index of the modality.
        refined: the refiner's estimate, z-scored voxels (N,).
        unet: the U-Net's estimate (N,); None without a U-Net.
        truth: the acquired image (N,), z-scored.
        expected_mse: mean squared error that the refiner predicts for its own estimate.
        scale: the intensity scale of the acquired image.
    """

    target: int
    refined: Tensor
    unet: Tensor | None
    truth: Tensor
    expected_mse: float
    scale: IntensityScale


def fit_to_held_out(model: Synthesiser, held_out: list[TrainingCase]) -> None:
    """Set the model's `unet_share`, if it has a U-Net, and its `calibration`."""
    estimates = held_out_estimates(model, held_out)
    if model.unet is not None:
        model.unet_share.copy_(unet_shares(estimates, len(model.unet_share)))
    model.calibration.copy_(torch.tensor(fit_calibration(model, estimates)))


@torch.inference_mode()
def held_out_estimates(model: Synthesiser, held_out: list[TrainingCase]) -> list[HeldOut]:
    """Separate estimates of refiner and U-Net; the tasks are divided among the held-out cases."""
    model.eval()
    if model.unet is not None:
        model.unet_share.zero_()
    return [
        _estimate(model, case, *task)
        for index, case in enumerate(held_out)
        for task in tasks(len(case.volumes))[index % EVERY :: EVERY]
    ]


def _estimate(model: Synthesiser, case: TrainingCase, sources: tuple[int, ...], target: int) -> HeldOut:
    device = model.latent_std.device
    names, brain = model.preset.modalities, torch.from_numpy(np.array(case.brain))
    volumes = {names[m]: torch.from_numpy(case.volumes[m].astype(np.float32)).to(device) for m in sources}
    with fast_precision(device):
        encoded = model.encode(volumes, brain.to(device))
        prediction = model.predict(encoded, target, torch.zeros_like(encoded.latents[:1]), None, "mean")
    assert prediction.expected_squared_error is not None

    def thinned(volume: Tensor) -> Tensor:
        return volume.cpu()[brain][::THINNED]

    unet = None if encoded.unet_output is None else thinned(encoded.unet_output[target])
    truth = thinned(torch.from_numpy(case.volumes[target].astype(np.float32)))
    predicted = float(thinned(prediction.expected_squared_error).mean())
    return HeldOut(target, thinned(prediction.volume), unet, truth, predicted, case.scales[target])


def unet_shares(estimates: list[HeldOut], modalities: int) -> Tensor:
    """Weight of the U-Net for each target (M,), from 0 to 1, that minimises the squared error after removing means."""
    products = torch.zeros(2, modalities)
    for one in estimates:
        assert one.unet is not None
        apart, error = (x - x.mean() for x in (one.unet - one.refined, one.truth - one.refined))
        products[:, one.target] += torch.stack([apart @ error, apart @ apart])
    return (products[0] / products[1].clamp(min=1e-12)).clamp(0, 1)


def fit_calibration(model: Synthesiser, estimates: list[HeldOut]) -> list[float]:
    """Intercept in dB and slope of the regression of observed on expected PSNR.

    Both are over the brain, after the best linear fit of intensities.
    """
    found = []
    for one in estimates:
        given = one.refined
        if one.unet is not None:
            given = given.lerp(one.unet, model.unet_share[one.target].cpu())
        acquired = one.scale.to_unit(one.truth.numpy(), model.preset.normalisation)
        every = np.ones(len(acquired), bool)
        matched = match(acquired, given.numpy(), every)
        own = model.psnr_of(one.target, expected_mse(given, one.expected_mse))
        found.append((own, psnr(acquired, matched, every)))
    expected, observed = np.array(found).T
    slope, intercept = np.polyfit(expected, observed, 1)
    return [float(intercept), float(slope)]
