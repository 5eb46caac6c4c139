"""Two fits to held-out cases: what a synthetic image tells of its brightness, and the expected PSNR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from modfill.metrics import match, psnr
from modfill.model.brightness import own_brightness
from modfill.model.device import fast_precision
from modfill.model.synthesiser import Synthesiser
from modfill.training.data import TrainingCase, brightness_of, encoded, tasks

EVERY = 4  # each held-out case takes a quarter of the tasks, the next case the next quarter
LEAST = 4  # tasks that determine a line; of fewer, only the intercept is fitted


@dataclass(frozen=True)
class _Found:
    """Figures of one task.

    Attributes:
        units: (3, 2) mean and standard deviation in unit range: expected from the sources, the synthetic image's own,
            the acquired image's.
        mse: expected mean squared error of z-scores, after the linear fit.
        psnr: observed over the brain, in dB, after the linear fit.
    """

    units: np.ndarray
    mse: float
    psnr: float


@torch.inference_mode()
def fit_to_held_out(model: Synthesiser, held_out: list[TrainingCase]) -> None:
    """Set the brightness's `share` and the model's `calibration`.

    The share is that of the least squared error of the brightness. The calibration is intercept in dB and slope of the
    regression of observed on expected PSNR, both over the brain and after the best linear fit of intensities.
    """
    model.eval()
    found = []
    for index, case in enumerate(held_out):
        there = tasks(case.available)
        every = EVERY if len(there) >= EVERY * LEAST else 1
        found += [_found(model, case, sources, target) for sources, target in there[index % every :: every]]
    expected, own, acquired = np.stack([one.units for one in found], axis=1)
    share = share_of_own(expected, own, acquired)
    model.brightness.share.copy_(torch.from_numpy(share))
    model.calibration.copy_(torch.tensor([0.0, 1.0]))
    stds = (expected + share * (own - expected))[:, 1]
    predicted = [model.expected_psnr(one.mse, float(std)) for one, std in zip(found, stds, strict=True)]
    observed = [one.psnr for one in found]
    slope, intercept = 1.0, float(np.mean(np.subtract(observed, predicted)))
    if len(found) >= LEAST:
        slope, intercept = np.polyfit(predicted, observed, 1)
    model.calibration.copy_(torch.tensor([float(intercept), float(slope)]))


def share_of_own(expected: np.ndarray, own: np.ndarray, acquired: np.ndarray) -> np.ndarray:
    """Least-squares share (2,), 0 to 1, of the way from `expected` to `own`, towards `acquired`; each (N, 2)."""
    apart = own - expected
    return np.clip((apart * (acquired - expected)).sum(0) / np.maximum((apart**2).sum(0), 1e-12), 0, 1)


def _found(model: Synthesiser, case: TrainingCase, sources: tuple[int, ...], target: int) -> _Found:
    """Synthesise one target of a case and compare it with the acquired modality."""
    device = model.calibration.device
    truth = case.volumes[target].astype(np.float32) * case.brain
    with fast_precision(device):
        known = encoded(model, case, sources)
        prediction = model.predict(known, target)
    scale, volume = case.scale(target), prediction.volume.cpu().numpy()
    figures = brightness_of(case)
    expected = model.brightness.expected([figures[source] for source in sources], sources, target)
    own = own_brightness(volume, case.brain) or expected
    acquired, given = (scale.to_unit(v[case.brain]) for v in (truth, volume))
    every = np.ones(len(acquired), bool)
    return _Found(
        np.array([expected, own, figures[target][:2]]),
        prediction.expected_mse,
        psnr(acquired, match(acquired, given, every), every),
    )
