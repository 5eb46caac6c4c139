"""Calibration of the uncertainty map, of samples and of the expected PSNR: a comparison with the true error.

    python -m benchmarks.uncertainty --cases DIR --out DIR [--samples 8]

For every case each modality is synthesised once from the one after it and once from all others, and sampled. Writes
`uncertainty.csv` and `uncertainty.md`, four tables:

- for the map of `--uncertainty` and for the spread of the samples, the rank correlation with the true absolute error of
  the mean over the brain's voxels, the mean error in the tenth of the voxels where the map is highest, as a multiple of
  the mean elsewhere, and the share of voxels whose error is within one and two of it;
- for the mean, one sample and the mean of the samples, the PSNR after the best linear fit of intensities, and the fine
  detail as a share of the acquired image's;
- scale by scale, the power of the mean and of a sample as a share of the acquired image's, and that of a sample minus
  the mean as a share of the acquired image minus the mean, all after the mean's linear fit; where samples are right,
  both shares of a sample are 1;
- the expected PSNR of the mean beside the observed PSNR over the brain, after the fit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from benchmarks.cases import brain_of, in_unit_range
from benchmarks.ladder import Task
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.metrics import brain_box, match, psnr, sharpness, unit_range
from modfill.modalities import MODALITIES
from modfill.model.device import best_device, fast_precision
from modfill.model.inference import Inference
from modfill.weights import checkpoint
from modfill.weights.file import SHIPPED

VOXELS = 200_000  # enough for a rank correlation
SCALES = (0.7, 1.4, 2.8, 5.6)  # gaussian sigmas in voxels, between which a scale lies
IMAGES = {"mean": "the mean", "sample": "one sample", "average": "the mean of the samples"}
POWERS = ("acquired", "mean", "sample", "error", "residual")  # whose scales are told apart


def tasks() -> Iterator[tuple[tuple[str, ...], str]]:
    """Each modality from the one after it and from all others."""
    for index, target in enumerate(MODALITIES):
        yield (MODALITIES[(index + 1) % len(MODALITIES)],), target
        yield tuple(m for m in MODALITIES if m != target), target


@torch.inference_mode()
def measure(networks: Inference, case: Case, sources: tuple[str, ...], target: str, samples: int) -> dict[str, Any]:
    """One row of the table."""
    task, model = Task(networks, case, sources, target, samples), networks.model
    with fast_precision(networks.device):
        prediction = model.predict(task.encoded, task.index)
        mean, squared_error = prediction.volume, prediction.squared_error
        residuals = model.residuals(task.encoded, task.index, mean, squared_error, task.noise)
    whole = brain_of(case)
    box = brain_box(whole)
    brain, acquired = whole[box], case.volume(target)[box]
    truth = unit_range(acquired, brain)
    row: dict[str, Any] = {"case_id": case.case_id, "sources": "+".join(sources), "target": target}

    def restored(volume: torch.Tensor) -> np.ndarray:
        return task.prepared.restore(volume.float().cpu().numpy())[box]

    images = {"mean": mean, "sample": mean + residuals[0], "average": mean + residuals.mean(0)}
    matched = {}
    for name, image in images.items():
        given = in_unit_range(task.prepared, image.float().cpu().numpy(), task.unit)[box]
        matched[name] = match(truth, given, brain)
        row |= {f"psnr_{name}": psnr(truth, matched[name]), f"detail_{name}": sharpness(acquired, given, brain)}
    error = np.abs(truth - matched["mean"])[brain] / truth[brain].std()  # z-scored, as the maps are
    for name, volume in (("map", prediction.deviation), ("spread", residuals.std(0))):
        row |= {f"{name}_{key}": value for key, value in agreement(restored(volume)[brain], error).items()}
    row |= powers(truth, restored(mean), restored(images["sample"]), brain)
    return row | {"expected_psnr": prediction.expected_psnr, "observed": psnr(truth, matched["mean"], brain)}


def powers(truth: np.ndarray, mean: np.ndarray, sample: np.ndarray, brain: np.ndarray) -> dict[str, float]:
    """Power at every scale of what `POWERS` names, the truth z-scored, mean and sample after the mean's linear fit."""
    truth = (truth - truth[brain].mean()) / truth[brain].std()
    slope, shift = np.polyfit(mean[brain], truth[brain], 1)
    mean, sample = (slope * image + shift for image in (mean, sample))
    volumes = (truth, mean, sample, truth - mean, sample - mean)
    return {
        f"{name}_{number}": power
        for name, volume in zip(POWERS, volumes, strict=True)
        for number, power in enumerate(by_scale(volume, brain))
    }


def by_scale(volume: np.ndarray, brain: np.ndarray) -> Iterator[float]:
    """Mean square over the brain of what lies between one gaussian of `SCALES` and the next, finest first."""
    inside = brain.astype(np.float32)
    whole = left = (volume * inside).astype(np.float32)
    for sigma in (*SCALES, None):
        smooth = np.zeros_like(left)
        if sigma is not None:
            smooth = gaussian_filter(whole, sigma) / np.maximum(gaussian_filter(inside, sigma), 1e-3)
        yield float(((left - smooth)[brain] ** 2).mean(dtype=np.float64))
        left = smooth


def agreement(values: np.ndarray, error: np.ndarray) -> dict[str, float]:
    """Agreement of an uncertainty map with the error.

    Rank correlation; mean error in the top tenth of the map over the mean elsewhere; and the share of voxels whose
    error is within one and two of the map.
    """
    few = np.random.default_rng(0).choice(len(values), min(VOXELS, len(values)), replace=False)
    high = values >= np.quantile(values, 0.9)
    return {
        "correlation": float(spearmanr(values[few], error[few]).statistic),
        "decile": float(error[high].mean() / error[~high].mean()),
        "within_1": float((error <= values).mean()),
        "within_2": float((error <= 2 * values).mean()),
    }


def summary(frame: pd.DataFrame) -> str:
    """Markdown: the four tables, averaged over all rows."""
    means = frame.mean(numeric_only=True)
    lines = ["| map | rank correlation with the error | error in the top tenth / elsewhere | within one | within two |"]
    lines.append("|---" * 5 + "|")
    for name, title in (("map", "`--uncertainty`"), ("spread", "spread of the samples")):
        known = [f"{means[f'{name}_{key}']:.2f}" for key in ("correlation", "decile")]
        known += [f"{means[f'{name}_within_{count}']:.0%}" for count in (1, 2)]
        lines.append("| " + " | ".join([title, *known]) + " |")
    lines += ["", "| image | PSNR, matched | fine detail / acquired |", "|---|---|---|"]
    lines += [f"| {title} | {means[f'psnr_{n}']:.2f} | {means[f'detail_{n}']:.2f} |" for n, title in IMAGES.items()]
    lines += ["", "| scale, sigma in voxels | mean / acquired | sample / acquired | "
              "(sample - mean) / (acquired - mean) |", "|---|---|---|---|"]  # fmt: skip
    for number, sigmas in enumerate(zip((0, *SCALES), (*SCALES, "the whole brain"), strict=True)):
        pairs = (("mean", "acquired"), ("sample", "acquired"), ("residual", "error"))
        shares = (f"{means[f'{a}_{number}'] / means[f'{b}_{number}']:.2f}" for a, b in pairs)
        lines.append("| " + " | ".join([f"{sigmas[0]} to {sigmas[1]}", *shares]) + " |")
    off, correlation = frame.expected_psnr - frame.observed, frame.expected_psnr.corr(frame.observed)
    lines += [
        "",
        f"Expected against observed PSNR over the brain, matched, {len(frame)} images: correlation "
        f"{correlation:.2f}, mean difference {off.mean():+.2f} dB, mean absolute difference {off.abs().mean():.2f} dB.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR")
    parser.add_argument("--weights", type=Path, default=SHIPPED, metavar="FILE")
    parser.add_argument("--samples", type=int, default=8, metavar="N")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    if options.samples < 2:
        parser.error("--samples must be 2 or more")
    networks, rows = Inference(checkpoint.load(options.weights)[0], best_device()), []
    for files in find_cases(options.cases):
        case = read_case(files)
        for sources, target in tasks():
            rows.append(measure(networks, case, sources, target, options.samples))
            print(case.case_id, "+".join(sources), target, flush=True)
    frame = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(options.out / "uncertainty.csv", index=False)
    (options.out / "uncertainty.md").write_text(summary(frame), encoding="utf8")


if __name__ == "__main__":
    main()
