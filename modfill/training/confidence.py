"""What the refiner expects of its own error, held against its error in cases from which it has not learned."""

from __future__ import annotations

import numpy as np
import torch

from modfill.metrics import psnr
from modfill.model.aldm import ALDM
from modfill.precision import fast_precision
from modfill.preprocess import IntensityScale
from modfill.training.data import TrainingCase
from modfill.training.points import tasks

EVERY = 4  # a held-out case answers a quarter of the tasks, the next one the next quarter


@torch.inference_mode()
def fit_confidence(model: ALDM, held_out: list[TrainingCase]) -> None:
    """Set the model's `calibration`: the straight line from expected to observed PSNR over the brain of held-out cases,
    every task being shared out among them."""
    model.eval()
    model.calibration.copy_(torch.tensor([0.0, 1.0]))
    pairs = [
        (case, *task)
        for index, case in enumerate(held_out)
        for task in tasks(len(case.volumes))[index % EVERY :: EVERY]
    ]
    found = np.array([_expected_and_observed(model, *pair) for pair in pairs])
    slope, intercept = np.polyfit(found[:, 0], found[:, 1], 1)
    model.calibration.copy_(torch.tensor([intercept, slope]))


def _expected_and_observed(
    model: ALDM, case: TrainingCase, sources: tuple[int, ...], target: int
) -> tuple[float, float]:
    """PSNR in dB over the brain: the model's confidence, and the truth."""
    preset, device = model.preset, model.latent_std.device
    volumes = {preset.modalities[m]: torch.from_numpy(case.volumes[m].astype(np.float32)).to(device) for m in sources}
    with fast_precision(device):
        encoded = model.see(volumes)
        prediction = model.predict(encoded, target, torch.zeros_like(encoded.latents[:1]), None, "mean")
    scale = IntensityScale(0, 1, *model.unit_statistics[target].tolist())
    given = scale.to_unit(prediction.volume.cpu().numpy(), preset.normalisation)
    acquired = case.scales[target].to_unit(case.volumes[target].astype(np.float32), preset.normalisation)
    assert prediction.confidence is not None
    return prediction.confidence, psnr(acquired, given, case.brain)
