"""The stages of the model from the autoencoder's limit to the mean and samples, on validation cases.

    python -m benchmarks.ladder --cases DIR --out DIR [--samples N]

Each case is scored in two tasks, one target (in turn) from one source and from all others. Writes `ladder.csv` and
`ladder.md`: the autoencoder given the target itself, the decoded latent of the mean (the autoencoder's limit for it),
the mean, one sample, and the mean of several samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.cases import figures, in_unit_range, reduced
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.model.device import best_device, fast_precision
from modfill.model.inference import Inference
from modfill.model.synthesiser import Synthesiser
from modfill.preprocessing.prepare import prepare
from modfill.weights import checkpoint
from modfill.weights.file import SHIPPED

SHOWN = ("psnr", "psnr_brain", "psnr_tumour", "ssim", "psnr_matched", "ssim_matched", "sharpness")


def tasks(cases: list[Case]) -> Iterator[tuple[Case, tuple[str, ...], str]]:
    """Each case's target, in turn, from the modality after it and from all others."""
    for index, case in enumerate(cases):
        known = case.modality_set.names
        target = known[index % len(known)]
        yield case, (known[(index + 1) % len(known)],), target
        yield case, case.modality_set.without([target]), target


class Task:
    """One target of a case from some of its modalities: its mean, and samples of it.

    Attributes:
        encoded: the sources.
        index: of the target among the modalities.
        mean: the prediction.
        unit_std: standard deviation that the mean is expected to have in unit range.
        mse: calibrated mean squared error of the mean, z-scored.
    """

    def __init__(self, networks: Inference, case: Case, sources: tuple[str, ...], target: str, samples: int):
        self.networks, self.case, self.sources, self.target, self.samples = networks, case, sources, target, samples
        self.index = networks.preset.modalities.index(target)
        self.prepared = prepare(reduced(case, sources), networks.preset.multiple)
        self.encoded = networks.encode(self.prepared.volumes, self.prepared.brain)
        with torch.inference_mode(), fast_precision(networks.device):
            self.mean = networks.model.predict(self.encoded, self.index)
        self.unit_std = self.unit(self.mean.volume.float().cpu().numpy())[1]
        self.mse = networks.model.calibrated_mse(self.mean.expected_mse, self.unit_std)

    def residuals(self, count: int) -> Tensor:
        """Residuals (count, X, Y, Z) of the samples that completions with the seeds 0, 1, ... draw."""
        known = self.encoded, self.case.case_id, self.target
        noise = torch.stack([self.networks.noise(*known, seed) for seed in range(count)])
        return self.networks.model.residuals(self.encoded, self.index, self.mean, noise, self.mse)

    def target_like(self) -> Tensor:
        """The latent of the mean, decoded, (X, Y, Z)."""
        model, mean = self.networks.model, self.mean
        latent = model.condition(self.encoded, self.index, mean.volume, mean.squared_error).mean
        return model.autoencoder.decode(latent)[0, 0].float() * self.encoded.brain

    def rungs(self) -> Iterator[tuple[str, Tensor]]:
        """Name and volume (X, Y, Z), z-scored, of every rung that does not know the target."""
        yield "the mean's latent, decoded", self.target_like()
        yield "the mean", self.mean.volume
        if self.samples:
            residuals = self.residuals(self.samples)
            yield "one sample", self.mean.volume + residuals[0]
            yield f"the mean of {len(residuals)} samples", self.mean.volume + residuals.mean(0)

    def scored(self, volumes: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Any]]:
        """A row of every figure of the protocol, and the sharpness, for each name and volume (X, Y, Z), z-scored."""
        for name, volume in volumes:
            yield {**self.row(name), **figures(self.case, self.target, self.in_unit_range(volume))}

    def in_unit_range(self, volume: Tensor) -> np.ndarray:
        """A volume (X, Y, Z), z-scored, in unit range on the case's own grid, as a completion gives it."""
        given = volume.float().cpu().numpy()
        return in_unit_range(self.prepared, given, self.unit(given))

    def unit(self, volume: np.ndarray) -> list[float]:
        """The mean and standard deviation in unit range that a completion gives a volume (X, Y, Z), z-scored."""
        return self.networks.unit(self.prepared.brightness(), self.target, volume, self.prepared.brain)

    def row(self, name: str) -> dict[str, Any]:
        """The keys of a row of that name."""
        sources = "+".join(self.sources)
        return {"rung": name, "case_id": self.case.case_id, "sources": sources, "target": self.target}

    def limit(self) -> dict[str, Any]:
        """The row of the autoencoder that is given the target itself."""
        model, whole = self.networks.model, prepare(self.case, self.networks.preset.multiple)
        truth = torch.from_numpy(whole.volumes[self.target])[None, None].to(self.networks.device)
        volume = model.autoencoder.decode(model.encode_latents(truth))[0, 0].float().cpu().numpy()
        scale = whole.scales[self.target]
        given = in_unit_range(whole, volume, (scale.unit_mean, scale.unit_std))
        return {**self.row("autoencoder, given the target"), **figures(self.case, self.target, given)}


@torch.inference_mode()
def climb(model: Synthesiser, cases: list[Case], samples: int) -> pd.DataFrame:
    """A row per case, task and rung."""
    networks, rows = Inference(model, best_device()), []
    for case, sources, target in tasks(cases):
        task = Task(networks, case, sources, target, samples)
        with fast_precision(networks.device):
            rows.append(task.limit())
            rows += task.scored(task.rungs())
        print(case.case_id, "+".join(sources), target, flush=True)
    return pd.DataFrame(rows)


def summary(frame: pd.DataFrame) -> str:
    """Markdown: means per rung over all tasks, and PSNR per target."""
    shown = [name for name in SHOWN if name in frame]  # there may be no tumour
    means = frame.groupby("rung", sort=False)[shown].mean()
    targets = frame.pivot_table(index="rung", columns="target", values="psnr", sort=False)
    table = means.join(targets.add_prefix("psnr "))
    lines = ["| rung | " + " | ".join(table.columns) + " |", "|---" * (1 + len(table.columns)) + "|"]
    lines += [
        f"| {name} | " + " | ".join(f"{v:.3f}" if "ssim" in c else f"{v:.2f}" for c, v in row.items()) + " |"
        for name, row in table.iterrows()
    ]
    return "\n".join(lines) + "\n"


def parsed(description: str | None) -> argparse.Namespace:
    """The options of the benchmarks that measure the mean and samples of weights on complete cases."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR")
    parser.add_argument("--weights", type=Path, default=SHIPPED, metavar="FILE")
    parser.add_argument("--samples", type=int, default=8, metavar="N", help="0 leaves samples out")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    if options.samples < 0 or options.samples == 1:
        parser.error("--samples must be 0, or 2 or more")
    return options


def main() -> None:
    """Score every rung and write the tables."""
    options = parsed(__doc__)
    model, _ = checkpoint.load(options.weights)
    found = find_cases(options.cases, modality_set=model.preset.modality_set)
    frame = climb(model, [read_case(files) for files in found], options.samples)
    options.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(options.out / "ladder.csv", index=False)
    (options.out / "ladder.md").write_text(summary(frame), encoding="utf8")


if __name__ == "__main__":
    main()
