"""The paper's Table 3 on one's own data: the effect of each part of the latent model.

    python -m benchmarks.ablation --train DIR --validate DIR --cases DIR --minutes 10 --run RUN --out DIR

Every translator and denoiser is trained anew, each for the same time, on the latents of the weights' autoencoder. For
the row with a codebook, that autoencoder is trained further for the same time with a codebook. Diffusion gives its mean
estimate, in one step. The last row, refiner and U-Net, is that of the weights. Each case is scored on the 12 one-source
tasks and the 4 three-source tasks. Writes `ablation.csv` and `ablation.md`. Training that was stopped is resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.baselines.trained import training_case
from benchmarks.cases import figures, in_unit_range
from benchmarks.translation import tasks
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.modalities import MODALITIES
from modfill.model.denoiser import Denoiser
from modfill.model.device import best_device, fast_precision, half_is_fast
from modfill.model.synthesiser import Encoded, Synthesiser
from modfill.model.translator import Translator
from modfill.preprocessing.prepare import prepare
from modfill.process import keep_freed_memory
from modfill.training.data import TrainingCase
from modfill.training.latents import LatentBank
from modfill.training.log import Budget
from modfill.training.loop import Stage, train
from modfill.training.shortcuts import fit_shortcut
from modfill.training.stages.autoencoder import AutoencoderStage
from modfill.training.stages.translation import DenoiserStage, TranslatorStage
from modfill.weights import checkpoint
from modfill.weights.file import SHIPPED

CODES = 8192  # the paper's
DEVICE = best_device()
SHOWN = ("psnr", "ssim", "psnr_matched", "ssim_matched")
Cases = list[TrainingCase]


class Nothing(nn.Module):
    """Replaces the translator for diffusion alone: the denoiser learns the target's distribution without a source."""

    def fuse(self, latents: Tensor, sources: tuple[int, ...], target: int) -> tuple[Tensor, Tensor]:
        """As `Translator.fuse`."""
        return torch.zeros_like(latents[:1]), latents


class Sources(nn.Module):
    """Replaces the translator for Palette (Saharia et al. 2022): the denoiser is given the source itself."""

    def fuse(self, latents: Tensor, sources: tuple[int, ...], target: int) -> tuple[Tensor, Tensor]:
        """As `Translator.fuse`."""
        return latents.mean(0, keepdim=True), latents


class Averaged(nn.Module):
    """A translator that averages its sources with equal weights."""

    def __init__(self, translator: Translator):
        super().__init__()
        self.translator = translator

    def fuse(self, latents: Tensor, sources: tuple[int, ...], target: int) -> tuple[Tensor, Tensor]:
        """As `Translator.fuse`."""
        _, each = self.translator.fuse(latents, sources, target)
        return each.mean(0, keepdim=True), each


@dataclass
class Laboratory:
    """Trains the parts.

    Attributes:
        weights: the model with whose autoencoder, or from which, everything starts.
        cases, held_out: to learn from and to validate on.
        run: each part has a folder in it.
        minutes: of every training.
        steps: of every training at most; None takes the preset's.
    """

    weights: Synthesiser
    cases: Cases
    held_out: Cases
    run: Path
    minutes: float | None
    steps: int | None = None

    def rows(self) -> Iterator[tuple[str, Synthesiser, str]]:
        """Title, model, and the part that gives its estimate."""
        model = self._with_autoencoder(None)
        model.translator = Nothing()  # type: ignore[assignment]
        yield "(a) diffusion alone", self._with_denoiser(model, "alone", tokens=False), "denoiser"
        model.translator = Sources()  # type: ignore[assignment]
        yield "(b) diffusion on the source, Palette", self._with_denoiser(model, "palette", tokens=False), "denoiser"
        model = self._with_translator(self._with_autoencoder(None), "translator")
        yield "(c) MS-SPADE alone", model, "translator"
        yield "MS-SPADE and diffusion", self._with_denoiser(model, "paper", tokens=False), "denoiser"
        coded = self._with_translator(self._with_autoencoder(CODES), "coded-translator")
        yield "(d) a codebook in place of KL", self._with_denoiser(coded, "coded", tokens=False), "denoiser"
        model = self._with_denoiser(model, "tokens", tokens=True)
        yield "+ tokens of the sources", model, "denoiser"
        averaged = deepcopy(model)
        averaged.translator = Averaged(averaged.translator)  # type: ignore[assignment]
        yield "the same, sources averaged and not fused", averaged, "denoiser"
        yield "+ refiner and U-Net (the weights as they are)", self.weights, "refiner"

    def _with_autoencoder(self, codes: int | None) -> Synthesiser:
        """A copy of the weights without refiner and U-Net.

        With `codes`, its autoencoder is trained on with such a codebook in place of its own regularisation.
        """
        own = self.weights.preset
        autoencoder = replace(own.autoencoder, codes=codes or own.autoencoder.codes)
        model = Synthesiser(replace(own, autoencoder=autoencoder, refiner=None, unet=None)).to(DEVICE)
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        kept = {name: v for name, v in self.weights.state_dict().items() if shapes.get(name) == v.shape}
        model.load_state_dict(kept, strict=False)
        if codes:
            self._train(AutoencoderStage(model.autoencoder, model.preset, self.cases, self.held_out), "codebook")
            model.latent_std.fill_(self._bank(model).std())
        return model

    def _with_translator(self, model: Synthesiser, name: str) -> Synthesiser:
        """The model with a translator of its own, trained anew."""
        model.translator = Translator(
            model.preset.translator, model.preset.autoencoder.latent_channels, len(MODALITIES)
        ).to(DEVICE)
        bank = self._bank(model)
        if model.translator.shortcut is not None:
            fit_shortcut(model.translator.shortcut, bank)
        self._train(TranslatorStage(model, model.translator, bank, self.held_out), name)
        return model

    def _with_denoiser(self, model: Synthesiser, name: str, tokens: bool) -> Synthesiser:
        """A copy of the model with a denoiser trained anew, with or without a token for each source."""
        model = deepcopy(model)
        config = replace(model.preset.denoiser, source_tokens=tokens)
        model.denoiser = Denoiser(config, model.preset.autoencoder.latent_channels, len(MODALITIES)).to(DEVICE)
        self._train(DenoiserStage(model, model.denoiser, self._bank(model), self.held_out), f"denoiser-{name}")
        return model

    def _bank(self, model: Synthesiser) -> LatentBank:
        bank = LatentBank(model, self.cases, self.run / "latents")
        bank.fill()
        return bank

    def _train(self, stage: Stage, name: str) -> None:
        if isinstance(stage, TranslatorStage | DenoiserStage):
            stage.model.requires_grad_(False)
        stage.requires_grad_(True)
        steps = self.steps or stage.config.steps
        torch.manual_seed(0)
        train(stage, self.run / name, Budget(steps, self.minutes), seed=0, device=DEVICE, half=half_is_fast(DEVICE))
        stage.eval()


@torch.inference_mode()
def measure(title: str, model: Synthesiser, part: str, case: Case) -> list[dict]:
    """A row per task with one or three sources."""
    model.eval()
    prepared, rows = prepare(case, model.preset.multiple, model.preset.normalisation), []
    bright = [prepared.scales[m].brightness(prepared.volumes[m], prepared.brain) for m in MODALITIES]
    volumes = {m: torch.from_numpy(v).to(DEVICE) for m, v in prepared.volumes.items()}
    with fast_precision(DEVICE):
        latents = model.encode_latents(torch.stack([volumes[m] for m in MODALITIES])[:, None])
    for names in tasks():
        if len(names) == 2:
            continue
        sources = tuple(MODALITIES.index(m) for m in names)
        with fast_precision(DEVICE):
            encoded = model.encode({m: volumes[m] for m in names}) if part == "refiner" else None
        for target, name in enumerate(MODALITIES):
            if target not in sources:
                with fast_precision(DEVICE):
                    volume = synthesise(model, part, encoded or Encoded(sources, latents[list(sources)], None), target)
                unit = model.brightness([bright[source] for source in sources], sources, target)
                given = in_unit_range(prepared, volume.float().cpu().numpy(), unit)
                own = {"row": title, "case_id": case.case_id, "sources": len(names), "target": name}
                rows.append({**own, **figures(case, name, given)})
    return rows


def synthesise(model: Synthesiser, part: str, encoded: Encoded, target: int) -> Tensor:
    """Synthesise a volume (X, Y, Z) with the parts of a model up to one of them."""
    nothing = torch.zeros_like(encoded.latents[:1])
    if part == "refiner":
        return model.predict(encoded, target, nothing, None, "mean").volume
    target_like, denoised = model.estimate(encoded, target, nothing, 1)
    return model.decode(target_like if part == "translator" else denoised)[0, 0]


def summary(frame: pd.DataFrame) -> str:
    """Markdown: the means over cases and tasks, from one source and from three."""
    lines = ["| model | " + " | ".join(f"{count}→1 {name}" for count in (1, 3) for name in SHOWN) + " |"]
    lines.append("|---" * (1 + 2 * len(SHOWN)) + "|")
    means = frame.groupby(["row", "sources"], sort=False)[list(SHOWN)].mean()
    for title in frame.row.unique():
        cells = [f"{means.loc[(title, count), name]:.3f}" for count in (1, 3) for name in SHOWN]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, score, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--train", "--validate", "--cases"):
        parser.add_argument(name, type=Path, required=True, metavar="DIR")
    parser.add_argument("--weights", type=Path, default=SHIPPED, metavar="FILE")
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="of each of the eight trainings (10)")
    parser.add_argument("--run", type=Path, required=True, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    keep_freed_memory()
    weights, _ = checkpoint.load(options.weights)
    weights.to(DEVICE)
    if not weights.preset.single_step_mean:
        parser.error("--weights must be of a model that estimates the clean latent, as preset small does")
    folders = (options.train, options.validate, options.cases)
    train_on, validate_on, score_on = ([read_case(files) for files in find_cases(folder)] for folder in folders)
    learn, hold_out = ([training_case(case) for case in cases] for cases in (train_on, validate_on))
    laboratory = Laboratory(weights, learn, hold_out, options.run, options.minutes)
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    for row in laboratory.rows():
        rows += [line for case in score_on for line in measure(*row, case)]
        print(row[0], flush=True)
        frame = pd.DataFrame(rows)
        frame.to_csv(options.out / "ablation.csv", index=False)
        (options.out / "ablation.md").write_text(summary(frame), encoding="utf8")


if __name__ == "__main__":
    main()
