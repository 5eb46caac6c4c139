"""The contribution of each part of the model, alone and added to the parts before it, on validation cases.

    python -m benchmarks.ladder --cases DIR --out DIR

Each case is scored in two tasks, one target (in turn) from one source and from all others. Writes `ladder.csv` and
`ladder.md`: the autoencoder given the target itself, the latent shortcut, the translator, the denoiser's mean in one
step, samples of 2 to 50 steps, the refiner without latents, with the translator's alone and with both, the U-Net alone,
and the mean of refiner and U-Net.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from benchmarks.cases import figures, in_unit_range, reduced
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.modalities import MODALITIES
from modfill.model.device import fast_precision
from modfill.model.inference import Inference
from modfill.model.synthesiser import Synthesiser
from modfill.preprocessing.prepare import prepare
from modfill.weights import checkpoint
from modfill.weights.file import SHIPPED

STEPS = (2, 5, 10, 50)
SHOWN = ("psnr", "psnr_brain", "psnr_tumour", "ssim", "psnr_matched", "sharpness")


def tasks(cases: list[Case]) -> Iterator[tuple[Case, tuple[str, ...], str]]:
    """Each case's target, in turn, from the modality after it and from all others."""
    for index, case in enumerate(cases):
        target = MODALITIES[index % len(MODALITIES)]
        yield case, (MODALITIES[(index + 1) % len(MODALITIES)],), target
        yield case, tuple(m for m in MODALITIES if m != target), target


def rungs(model: Synthesiser, volumes: dict[str, Tensor], target: int) -> Iterator[tuple[str, Tensor]]:
    """Name and volume (X, Y, Z), z-scored, of every rung."""
    assert model.refiner is not None and model.translator.shortcut is not None
    encoded = model.encode(volumes)
    nothing = torch.zeros_like(encoded.latents[:1])
    noise = torch.randn(nothing.shape, generator=torch.Generator().manual_seed(0))
    yield "latent shortcut", model.decode(model.translator.shortcut(encoded.latents, encoded.sources, target))[0, 0]
    target_like, mean = model.estimate(encoded, target, nothing, 1)
    yield "translator", model.decode(target_like)[0, 0]
    yield "denoiser, 1 step", model.decode(mean)[0, 0]
    for steps in STEPS:
        yield f"one sample, {steps} steps", model.decode(model.estimate(encoded, target, noise, steps)[1])[0, 0]
    alone = replace(encoded, unet_output=None)
    yield "refiner without latents", model.refine(alone, target, nothing, nothing)[0]
    yield "refiner on the translator", model.refine(alone, target, target_like, target_like)[0]
    yield "refiner on the denoiser", model.refine(alone, target, target_like, mean)[0]
    if encoded.unet_output is not None:
        yield "U-Net alone", encoded.unet_output[target]
        yield "refiner and U-Net", model.refine(encoded, target, target_like, mean)[0]


@torch.inference_mode()
def climb(model: Synthesiser, cases: list[Case]) -> pd.DataFrame:
    """A row per case, task and rung, with every figure of the protocol, and the sharpness."""
    rows = []
    for case, sources, target in tasks(cases):
        whole, part = (prepare(c, model.preset.multiple, "zscore") for c in (case, reduced(case, sources)))
        index = MODALITIES.index(target)
        with fast_precision(torch.device("cpu")):
            truth = torch.from_numpy(whole.volumes[target])[None, None]
            scale, unit = (
                whole.scales[target],
                Inference(model, torch.device("cpu")).brightness(part.brightness(), target),
            )
            known = [scale.unit_mean, scale.unit_std]
            found = [("autoencoder, given the target", whole, known, model.decode(model.encode_latents(truth))[0, 0])]
            volumes = {m: torch.from_numpy(v) for m, v in part.volumes.items()}
            found += [(name, part, unit, volume) for name, volume in rungs(model, volumes, index)]
        for name, prepared, bright, volume in found:
            given = in_unit_range(prepared, volume.float().numpy(), bright)
            own = {"rung": name, "case_id": case.case_id, "sources": "+".join(sources), "target": target}
            rows.append({**own, **figures(case, target, given)})
        print(case.case_id, "+".join(sources), target, flush=True)
    return pd.DataFrame(rows)


def summary(frame: pd.DataFrame) -> str:
    """Markdown: means per rung over all tasks, and PSNR per target."""
    shown = [name for name in SHOWN if name in frame]  # there may be no tumour
    means = frame.groupby("rung", sort=False)[shown].mean()
    targets = frame.pivot_table(index="rung", columns="target", values="psnr", sort=False)
    table = means.join(targets.add_prefix("psnr "))
    lines = ["| rung | " + " | ".join(table.columns) + " |", "|---" * (1 + len(table.columns)) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{value:.2f}" for value in row) + " |" for name, row in table.iterrows()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Score every rung and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR")
    parser.add_argument("--weights", type=Path, default=SHIPPED, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    model, _ = checkpoint.load(options.weights)
    frame = climb(model, [read_case(files) for files in find_cases(options.cases)])
    options.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(options.out / "ladder.csv", index=False)
    (options.out / "ladder.md").write_text(summary(frame), encoding="utf8")


if __name__ == "__main__":
    main()
