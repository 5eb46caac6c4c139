"""What is fitted to cases from which nothing has been learned: the U-Net's share of the answer, and how the PSNR to be
expected of an answer compares with the one it has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modfill.metrics import match, psnr
from modfill.model.device import fast_precision
from modfill.model.synthesiser import Synthesiser, expected_error
from modfill.preprocessing.intensity import IntensityScale
from modfill.training.data import TrainingCase
from modfill.training.points import tasks

EVERY = 4  # a held-out case answers a quarter of the tasks, the next one the next quarter
THINNED = 16  # every so manieth voxel of a brain says enough


@dataclass(frozen=True, eq=False)
class Answer:
    """One task of a held-out case.

    Attributes:
        target: index of the modality.
        refined, second, truth: z-scored voxels (N,) of the refiner, of the U-Net if there is one, and as acquired.
        said: the mean squared error that the refiner expects of itself.
        scale: the intensities of what was acquired.
    """

    target: int
    refined: Tensor
    second: Tensor | None
    truth: Tensor
    said: float
    scale: IntensityScale


def fit_to_held_out(model: Synthesiser, held_out: list[TrainingCase]) -> None:
    """Set the model's `unet_share`, if it has a U-Net, and its `calibration`."""
    answers = answered(model, held_out)
    if model.unet is not None:
        model.unet_share.copy_(share(answers, len(model.unet_share)))
    model.calibration.copy_(torch.tensor(calibration(model, answers)))


@torch.inference_mode()
def answered(model: Synthesiser, held_out: list[TrainingCase]) -> list[Answer]:
    """What refiner and U-Net say apart, every task being shared out among the held-out cases."""
    model.eval()
    if model.unet is not None:
        model.unet_share.zero_()
    return [
        _answer(model, case, *task)
        for index, case in enumerate(held_out)
        for task in tasks(len(case.volumes))[index % EVERY :: EVERY]
    ]


def _answer(model: Synthesiser, case: TrainingCase, sources: tuple[int, ...], target: int) -> Answer:
    device = model.latent_std.device
    names, brain = model.preset.modalities, torch.from_numpy(np.array(case.brain))
    volumes = {names[m]: torch.from_numpy(case.volumes[m].astype(np.float32)).to(device) for m in sources}
    with fast_precision(device):
        encoded = model.see(volumes, brain.to(device))
        prediction = model.predict(encoded, target, torch.zeros_like(encoded.latents[:1]), None, "mean")
    assert prediction.expected is not None

    def thinned(volume: Tensor) -> Tensor:
        return volume.cpu()[brain][::THINNED]

    second = None if encoded.second is None else thinned(encoded.second[target])
    truth = thinned(torch.from_numpy(case.volumes[target].astype(np.float32)))
    said = float(thinned(prediction.expected).mean())
    return Answer(target, thinned(prediction.volume), second, truth, said, case.scales[target])


def share(answers: list[Answer], modalities: int) -> Tensor:
    """For each target (M,) the weight of the U-Net, between 0 and 1, that leaves the least squared error, means
    aside."""
    products = torch.zeros(2, modalities)
    for answer in answers:
        assert answer.second is not None
        apart, error = (x - x.mean() for x in (answer.second - answer.refined, answer.truth - answer.refined))
        products[:, answer.target] += torch.stack([apart @ error, apart @ apart])
    return (products[0] / products[1].clamp(min=1e-12)).clamp(0, 1)


def calibration(model: Synthesiser, answers: list[Answer]) -> list[float]:
    """Intercept in dB and slope of the straight line from expected to observed PSNR over the brain, both after the best
    linear fit of intensities."""
    found = []
    for answer in answers:
        given = answer.refined
        if answer.second is not None:
            given = given.lerp(answer.second, model.unet_share[answer.target].cpu())
        acquired = answer.scale.to_unit(answer.truth.numpy(), model.preset.normalisation)
        every = np.ones(len(acquired), bool)
        matched = match(acquired, given.numpy(), every)
        own = model.psnr_of(answer.target, expected_error(given, answer.said))
        found.append((own, psnr(acquired, matched, every)))
    expected, observed = np.array(found).T
    slope, intercept = np.polyfit(expected, observed, 1)
    return [float(intercept), float(slope)]
