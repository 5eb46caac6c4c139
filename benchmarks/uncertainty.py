"""Calibration of modfill's two uncertainty maps and of its expected PSNR: a comparison with the true error.

    python -m benchmarks.uncertainty --cases DIR --out DIR [--samples 8]

For every case each modality is synthesised once from the one after it and once from all others. Writes
`uncertainty.csv` and `uncertainty.md`: for the spread of the samples and for the map of `--uncertainty`, the rank
correlation with the true absolute error over the brain's voxels, the mean error in the tenth of the voxels where the
map is highest, as a multiple of the mean elsewhere, and the share of voxels whose error is within one and two of it;
the deviation of a sample from the mean, scale by scale, beside the mean's own error; and the expected PSNR beside the
observed PSNR over the brain. Every error is the residual of the best linear fit of intensities, because no map contains
information about a scan's brightness.
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

from benchmarks.cases import brain_of, in_unit_range, reduced
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.metrics import match, psnr, unit_range
from modfill.modalities import MODALITIES
from modfill.model.device import fast_precision
from modfill.model.inference import Inference, draw_noise
from modfill.model.synthesiser import Synthesiser
from modfill.preprocessing.prepare import prepare
from modfill.weights import checkpoint
from modfill.weights.file import SHIPPED

VOXELS = 200_000  # enough for a rank correlation
SCALES = (1, 2, 4, 8, 16)  # gaussian sigmas in voxels, between which a scale lies


def tasks() -> Iterator[tuple[tuple[str, ...], str]]:
    """Each modality from the one after it and from all others."""
    for index, target in enumerate(MODALITIES):
        yield (MODALITIES[(index + 1) % len(MODALITIES)],), target
        yield tuple(m for m in MODALITIES if m != target), target


@torch.inference_mode()
def measure(model: Synthesiser, case: Case, sources: tuple[str, ...], target: str, samples: int) -> dict[str, Any]:
    """One row of the table."""
    part = prepare(reduced(case, sources), model.preset.multiple, model.preset.normalisation)
    index = MODALITIES.index(target)
    with fast_precision(torch.device("cpu")):
        encoded = model.encode({m: torch.from_numpy(v) for m, v in part.volumes.items()})
        noise = draw_noise(encoded.latents.shape[1:], case.case_id, target, 0, samples)
        prediction = model.predict(encoded, index, noise[:1], None, "mean")
        sample = model.predict(encoded, index, noise, None, "sample")
    assert sample.sample_std is not None and prediction.deviation is not None
    unit = Inference(model, torch.device("cpu")).brightness(part.brightness(), target)
    given, strayed = (in_unit_range(part, volume.numpy(), unit) for volume in (prediction.volume, sample.volume))
    brain = brain_of(case)
    truth = unit_range(case.volume(target), brain)
    matched = match(truth, given, brain)
    error = np.abs(truth - matched)[brain] / truth[brain].std()  # z-scored, as the maps are
    row: dict[str, Any] = {"case_id": case.case_id, "sources": "+".join(sources), "target": target}
    for name, volume in (("spread", sample.sample_std), ("map", prediction.deviation)):
        values = part.restore(volume.float().numpy())[brain]
        row |= {f"{name}_{key}": value for key, value in agreement(values, error).items()}
    row |= {f"error_{n}": value for n, value in enumerate(by_scale(truth - matched, brain))}
    row |= {f"sample_{n}": value for n, value in enumerate(by_scale(strayed - given, brain))}
    return row | {"expected_psnr": prediction.expected_psnr, "observed": psnr(truth, matched, brain)}


def by_scale(difference: np.ndarray, brain: np.ndarray) -> Iterator[float]:
    """Root mean square over the brain of what lies between one gaussian of `SCALES` and the next, finest first."""
    left = difference * brain
    for sigma in (*SCALES, None):
        smooth = np.zeros_like(left)
        if sigma is not None:
            smooth = gaussian_filter(difference * brain, sigma) / np.maximum(gaussian_filter(brain * 1.0, sigma), 1e-3)
        yield float(np.sqrt(((left - smooth)[brain] ** 2).mean()))
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
    """Markdown: the maps' average figures, the deviation of samples, and the error of the expected PSNR."""
    off = frame.expected_psnr - frame.observed
    means = frame.mean(numeric_only=True)
    lines = ["| map | rank correlation with the error | error in the top tenth / elsewhere | within one | within two |"]
    lines.append("|---" * 5 + "|")
    for name, title in (("spread", "spread of the samples"), ("map", "`--uncertainty`")):
        known = [f"{means[f'{name}_{key}']:.2f}" for key in ("correlation", "decile")]
        known += [f"{means[f'{name}_within_{count}']:.0%}" for count in (1, 2)]
        lines.append("| " + " | ".join([title, *known]) + " |")
    lines += ["", "| scale, sigma in voxels | error of the mean, matched | a sample, from the mean |", "|---|---|---|"]
    for number, sigmas in enumerate(zip((0, *SCALES), (*SCALES, "the whole brain"), strict=True)):
        rms = (f"{np.sqrt((frame[f'{name}_{number}'] ** 2).mean()):.3f}" for name in ("error", "sample"))
        lines.append("| " + " | ".join([f"{sigmas[0]} to {sigmas[1]}", *rms]) + " |")
    correlation = frame.expected_psnr.corr(frame.observed)
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
    model, _ = checkpoint.load(options.weights)
    if options.samples < 2 or model.refiner is None:
        parser.error("--samples must be 2 or more, and --weights of a model with a refiner")
    rows = []
    for files in find_cases(options.cases):
        case = read_case(files)
        for sources, target in tasks():
            rows.append(measure(model, case, sources, target, options.samples))
            print(case.case_id, "+".join(sources), target, flush=True)
    frame = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(options.out / "uncertainty.csv", index=False)
    (options.out / "uncertainty.md").write_text(summary(frame), encoding="utf8")


if __name__ == "__main__":
    main()
