"""The effect of each part of the model, in the spirit of the paper's Table 3, on validation cases.

    python -m benchmarks.ablation --cases DIR --out DIR

Parts of the trained weights are switched off one at a time; nothing is trained anew. A network that had been trained
without a part would have learned to do without it, so a row tells how much the weights rely on the part. Each case is
scored in two tasks, one target (in turn) from one source and from all others. Writes `ablation.csv` and `ablation.md`.

The first rows are the mean: whole, with MS-SPADE switched to another target, without the sources' statistics, the place
in the brain, the neighbouring voxels and the linear path of the decoder. The others are ALDM's own way, without the
guided decoder: the target-like latent (the mean's) decoded, diffusion decoded, with and without the sources' tokens;
then what modfill gives, a sample and the mean of several with the guided decoder's detail.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.ladder import SHOWN, Task, parsed, tasks
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.model.device import best_device, fast_precision
from modfill.model.inference import Inference
from modfill.model.synthesiser import Encoded, Synthesiser
from modfill.weights import checkpoint


@contextmanager
def switched_off(*parts: nn.Module) -> Iterator[None]:
    """Set all parameters of some modules to 0 for a while, which autocast may not know in bfloat16 from before."""
    kept = [(p, p.detach().clone()) for part in parts for p in part.parameters()]
    with torch.no_grad():
        for p, _ in kept:
            p.zero_()
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in kept:
                p.copy_(value)
        torch.clear_autocast_cache()


def means(task: Task) -> Iterator[tuple[str, Tensor]]:
    """Name and volume (X, Y, Z), z-scored, of the mean and of the mean without a part."""
    model, encoded, target = task.networks.model, task.encoded, task.index
    translator, decoder = model.translator, model.translator.decoder
    yield "the mean", task.mean.volume
    translate, modalities = translator.translate, len(model.preset.modalities)
    with patch.object(translator, "translate", lambda h, which: translate(h, (which - 1) % modalities)):
        yield "- MS-SPADE switched to another target", model.mean(encoded, target)[0]
    for name in ("statistics", "place"):
        inputs = encoded.inputs._replace(**{name: torch.zeros_like(getattr(encoded.inputs, name))})
        yield f"- without {name}", model.mean(Encoded(inputs, translator.encode(inputs)), target)[0]
    for name, part in (("neighbouring voxels", decoder.near), ("linear path", decoder.shortcut)):
        with switched_off(part):
            yield f"- without {name}", model.mean(encoded, target)[0]


def samples(task: Task) -> Iterator[tuple[str, Tensor]]:
    """Name and volume (X, Y, Z), z-scored, of ALDM's own way and of modfill's samples."""
    target_like, mean = task.target_like(), task.mean.volume
    yield "MS-SPADE alone: the target-like latent, decoded", target_like
    if not task.samples:
        return
    residuals = task.residuals(task.samples)
    with switched_off(task.networks.model.denoiser.source_token):
        without = task.residuals(1)[0]
    yield "+ diffusion without the sources' tokens", target_like + without
    yield "+ diffusion with them", target_like + residuals[0]
    yield "+ guided decoder: one sample", mean + residuals[0]
    yield f"+ guided decoder: the mean of {len(residuals)} samples", mean + residuals.mean(0)


@torch.inference_mode()
def measure(model: Synthesiser, cases: list[Case], count: int) -> Iterator[dict]:
    """A row per case, task and part."""
    networks = Inference(model, best_device())
    for case, sources, target in tasks(cases):
        task = Task(networks, case, sources, target, count)
        with fast_precision(networks.device):  # not across a yield, at which inference mode ends autocast
            rows = [*task.scored(means(task)), *task.scored(samples(task))]
        yield from rows
        print(case.case_id, "+".join(sources), target, flush=True)


def summary(frame: pd.DataFrame) -> str:
    """Markdown: the means over tasks, and what a row of the mean loses against the whole."""
    shown = [name for name in SHOWN if name in frame]  # there may be no tumour
    table = frame.groupby("rung", sort=False)[shown].mean()
    lost = table.psnr_matched - table.psnr_matched.loc["the mean"]
    lines = ["| model | " + " | ".join(shown) + " | psnr_matched, against the mean |", "|---" * (2 + len(shown)) + "|"]
    for name, row in table.iterrows():
        cells = [f"{row[key]:.3f}" if "ssim" in key else f"{row[key]:.2f}" for key in shown]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {lost[name]:+.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Score and write the table."""
    options = parsed(__doc__)
    model, _ = checkpoint.load(options.weights)
    found = find_cases(options.cases, modality_set=model.preset.modality_set)
    frame = pd.DataFrame(measure(model, [read_case(files) for files in found], options.samples))
    options.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(options.out / "ablation.csv", index=False)
    (options.out / "ablation.md").write_text(summary(frame), encoding="utf8")


if __name__ == "__main__":
    main()
