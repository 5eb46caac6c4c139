"""Calibration of the uncertainty map, of samples and of the expected PSNR: a comparison with the true error.

    python -m benchmarks.uncertainty --cases DIR --out DIR [--samples N]

For every case each modality is synthesised once from the one after it and once from all others, and sampled. Writes
`uncertainty.csv`, a row per task, and `uncertainty.md`. A stopped run is resumed. `--samples 0` draws none and leaves
out what is said of samples. The tables:

- for the map of `--uncertainty` and for the spread of the samples, the rank correlation with the true absolute error of
  the mean over the voxels of the brain and of the tumour, the mean error in the tenth of the voxels where the map is
  highest, as a multiple of the mean elsewhere, and the share of voxels whose error is within one and two of it; the
  same for the spread of as many Gaussian draws from the map, which tells what so few draws of what it knows can reach;
- for the mean, one sample and the mean of the samples, the PSNR after the best linear fit of intensities, and the fine
  detail as a share of the acquired image's;
- scale by scale, the power of the mean and of a sample as a share of the acquired image's, and that of a sample minus
  the mean as a share of the acquired image minus the mean, all after the mean's linear fit; where samples are right,
  both shares of a sample are 1; and the rank correlation of the spread at that scale with the error at that scale;
- the expected PSNR of the mean beside the observed PSNR over the brain, after the fit; and whether it tells more than
  the mean of the other cases' observed PSNR in the same task, each case being left out in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.agreement import AGREEMENT, SCALES, agreement, powers, spread_by_scale
from benchmarks.cases import brain_of, segmentation_of
from benchmarks.ladder import Task, parsed
from benchmarks.tables import append, read, scored
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.metrics import brain_box, match, psnr, sharpness, unit_range
from modfill.modalities import ModalitySet
from modfill.model.device import best_device, fast_precision
from modfill.model.inference import Inference
from modfill.weights import checkpoint

IMAGES = {"mean": "the mean", "sample": "one sample", "average": "the mean of the samples"}
MAPS = {"map": "`--uncertainty`", "spread": "spread of the samples",
        "draws": "spread of as many Gaussian draws from `--uncertainty`"}  # fmt: skip
POWERS = ("acquired", "mean", "sample", "error", "residual")  # whose scales are told apart
NUMBERS = range(len(SCALES) + 1)
COLUMNS = (
    "case_id", "sources", "target", "samples",
    *(f"{kind}_{name}" for name in IMAGES for kind in ("psnr", "detail")),
    *(f"{name}{region}_{key}" for name in MAPS for region in ("", "_tumour") for key in AGREEMENT),
    *(f"{name}_{number}" for name in POWERS for number in NUMBERS),
    *(f"spread_correlation_{number}" for number in NUMBERS),
    "expected_psnr", "observed",
)  # fmt: skip


def tasks(modality_set: ModalitySet) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each modality from the one after it and from all others."""
    for index, target in enumerate(modality_set.names):
        yield (modality_set.names[(index + 1) % len(modality_set.names)],), target
        yield modality_set.without([target]), target


@torch.inference_mode()
def measure(networks: Inference, case: Case, sources: tuple[str, ...], target: str, samples: int) -> dict[str, Any]:
    """One row of the table; without samples it lacks what is said of them, and without a segmentation the tumour."""
    task = Task(networks, case, sources, target, samples)
    mean, deviation, drawn = task.mean.volume, task.mean.deviation(task.mse), torch.zeros(0)
    if samples:
        with fast_precision(networks.device):
            drawn = mean + task.residuals(samples)
    whole, labels = brain_of(case), segmentation_of(case)
    box = brain_box(whole)
    brain, acquired = whole[box], case.volume(target)[box]
    truth = unit_range(acquired, brain)

    def restored(volume: torch.Tensor) -> np.ndarray:
        return task.prepared.restore(volume.float().cpu().numpy())[box]

    images = {"mean": mean, **({"sample": drawn[0], "average": drawn.mean(0)} if samples else {})}
    row: dict[str, Any] = {"case_id": case.case_id, "sources": "+".join(sources), "target": target, "samples": samples}
    matched = {}
    for name, image in images.items():
        given = task.in_unit_range(image)[box]
        matched[name] = match(truth, given, brain)
        row |= {f"psnr_{name}": psnr(truth, matched[name]), f"detail_{name}": sharpness(acquired, given, brain)}
    error = np.abs(truth - matched["mean"]) / truth[brain].std()  # z-scored, as the maps are
    tumour = np.zeros_like(brain) if labels is None else brain & (labels[box] > 0)
    regions = {"": brain, **({"_tumour": tumour} if tumour.any() else {})}
    maps = {"map": deviation}
    if samples:
        noise = torch.randn(samples, *mean.shape, generator=torch.Generator().manual_seed(0)).to(mean.device)
        maps |= {"spread": drawn.std(0), "draws": deviation * noise.std(0)}
    for name, volume in maps.items():
        values = restored(volume)
        for region, inside in regions.items():
            found = agreement(values[inside], error[inside])
            row |= {f"{name}{region}_{key}": value for key, value in found.items()}
    restored_samples = [restored(one) for one in drawn]
    row |= powers(truth, restored(mean), restored_samples[0] if samples else None, brain)
    if samples:
        correlations = spread_by_scale(truth, restored(mean), restored_samples, brain)
        row |= {f"spread_correlation_{number}": value for number, value in enumerate(correlations)}
    expected = networks.model.expected_psnr(task.mean.expected_mse, task.unit_std)
    return row | {"expected_psnr": expected, "observed": psnr(truth, matched["mean"], brain)}


def summary(frame: pd.DataFrame) -> str:
    """Markdown: the tables, averaged over all rows that have the figures."""
    means, sampled = frame.mean(numeric_only=True), bool(frame.samples.any())
    lines = ["| map, region | rank correlation with the error | error in the top tenth / elsewhere | within one | "
             "within two |", "|---" * 5 + "|"]  # fmt: skip
    for name, title in MAPS.items():
        for region, where in (("", "brain"), ("_tumour", "tumour")):
            figures = [means[f"{name}{region}_{key}"] for key in AGREEMENT]
            if np.isfinite(figures).all():
                known = [f"{value:.2f}" for value in figures[:2]] + [f"{value:.0%}" for value in figures[2:]]
                lines.append("| " + " | ".join([f"{title}, {where}", *known]) + " |")
    lines += ["", "| image | PSNR, matched | fine detail / acquired |", "|---|---|---|"]
    lines += [
        f"| {title} | {means[f'psnr_{name}']:.2f} | {means[f'detail_{name}']:.2f} |"
        for name, title in IMAGES.items()
        if sampled or name == "mean"
    ]
    pairs = {"mean / acquired": ("mean", "acquired")}
    if sampled:
        pairs |= {"sample / acquired": ("sample", "acquired"),
                  "(sample - mean) / (acquired - mean)": ("residual", "error")}  # fmt: skip
    titles = [*pairs, *(["rank correlation of spread and error"] if sampled else [])]
    lines += ["", "| scale, sigma in voxels | " + " | ".join(titles) + " |", "|---" * (1 + len(titles)) + "|"]
    for number, sigmas in enumerate(zip((0, *SCALES), (*SCALES, "the whole brain"), strict=True)):
        cells = [f"{means[f'{a}_{number}'] / means[f'{b}_{number}']:.2f}" for a, b in pairs.values()]
        cells += [f"{means[f'spread_correlation_{number}']:.2f}"] if sampled else []
        lines.append("| " + " | ".join([f"{sigmas[0]} to {sigmas[1]}", *cells]) + " |")
    return "\n".join([*lines, "", *expected_against_observed(frame)]) + "\n"


def expected_against_observed(frame: pd.DataFrame) -> Iterator[str]:
    """Sentences about the expected PSNR; the second compares it with a constant and needs two cases or more."""
    off, correlation = frame.expected_psnr - frame.observed, frame.expected_psnr.corr(frame.observed)
    yield (f"Expected against observed PSNR over the brain, matched, {len(frame)} images: correlation "
           f"{correlation:.2f}, mean difference {off.mean():+.2f} dB, mean absolute difference "
           f"{off.abs().mean():.2f} dB.")  # fmt: skip
    if frame.case_id.nunique() > 1:
        by_task = frame.groupby(["sources", "target"])["observed"]
        others = (by_task.transform("sum") - frame.observed) / (by_task.transform("size") - 1)
        yield (f"The mean of the other cases in the same task is wrong by "
               f"{(others - frame.observed).abs().mean():.2f} dB.")  # fmt: skip


def main() -> None:
    """Measure and write the tables."""
    options = parsed(__doc__)
    networks, table = Inference(checkpoint.load(options.weights)[0], best_device()), options.out / "uncertainty.csv"
    options.out.mkdir(parents=True, exist_ok=True)
    done = scored(table, COLUMNS, keys=3)
    for files in find_cases(options.cases, modality_set=networks.preset.modality_set):
        case = read_case(files)
        for sources, target in tasks(case.modality_set):
            if (case.case_id, "+".join(sources), target) not in done:
                append(table, COLUMNS, [measure(networks, case, sources, target, options.samples)])
                print(case.case_id, "+".join(sources), target, flush=True)
    (options.out / "uncertainty.md").write_text(summary(read(table)), encoding="utf8")


if __name__ == "__main__":
    main()
