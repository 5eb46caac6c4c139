"""Two fits to held-out cases: the calibration of expected PSNR, and how much more their residuals deviate."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from modfill.metrics import match, psnr
from modfill.model.device import fast_precision
from modfill.model.synthesiser import Synthesiser
from modfill.training.data import TrainingCase, encoded, tasks

EVERY = 4  # each held-out case takes a quarter of the tasks, the next case the next quarter
LEAST = 4  # tasks that determine a line; of fewer, only the intercept is fitted


@torch.inference_mode()
def fit_to_held_out(model: Synthesiser, held_out: list[TrainingCase]) -> None:
    """Set the model's `calibration` and, once the denoiser is trained, its `inflation`.

    The calibration is intercept in dB and slope of the regression of observed on expected PSNR, both over the brain and
    after the best linear fit of intensities. The inflation is the deviation of the held-out cases' residual latents
    over that of the training cases, which the translator has seen.
    """
    model.eval()
    model.calibration.copy_(torch.tensor([0.0, 1.0]))
    expected, observed, ratios = [], [], []
    for index, case in enumerate(held_out):
        found = tasks(case.available)
        every = EVERY if len(found) >= EVERY * LEAST else 1
        for sources, target in found[index % every :: every]:
            predicted, matched, residual = _estimate(model, case, sources, target)
            expected.append(predicted)
            observed.append(matched)
            ratios.append((residual / model.denoiser.residual.cpu()).square().mean())
    slope, intercept = 1.0, float(np.mean(np.subtract(observed, expected)))
    if len(expected) >= LEAST:
        slope, intercept = np.polyfit(expected, observed, 1)
    model.calibration.copy_(torch.tensor([float(intercept), float(slope)]))
    model.denoiser.inflation.copy_(torch.stack(ratios).mean().sqrt())


def _estimate(
    model: Synthesiser, case: TrainingCase, sources: tuple[int, ...], target: int
) -> tuple[float, float, Tensor]:
    """Expected and observed PSNR of one task, and the deviation (C,) of the residual latent over the brain."""
    device = model.calibration.device
    truth = torch.from_numpy(case.volumes[target].astype(np.float32) * case.brain).to(device)
    with fast_precision(device):
        known = encoded(model, case, sources)
        prediction = model.predict(known, target, torch.empty(0), None, "mean")
        latents = model.encode_latents(torch.stack([truth, prediction.volume])[:, None])
    scale = case.scale(target)
    acquired, given = (scale.to_unit(v.cpu().numpy()[case.brain]) for v in (truth, prediction.volume))
    every = np.ones(len(acquired), bool)
    factor = model.preset.autoencoder.factor
    inside = torch.nn.functional.max_pool3d(known.inputs.brain.float(), factor)[0, 0] > 0
    residual = (latents[0] - latents[1])[:, inside].square().mean(1).sqrt().cpu()
    return prediction.expected_psnr, psnr(acquired, match(acquired, given, every), every), residual
