"""Train a rival, all with the same cases and the same budget.

python -m benchmarks.baselines.trained unet --train DIR --validate DIR --minutes 60 --out RUN
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.baselines.network import PRESET, NetworkStage
from benchmarks.baselines.pix2pix import Pix2Pix2D, Pix2Pix3D
from benchmarks.baselines.unet import UNetStage
from benchmarks.cases import in_unit_range
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.errors import ModfillError
from modfill.modalities import MODALITIES
from modfill.model.device import best_device, fast_precision, half_is_fast
from modfill.preprocessing.prepare import prepare
from modfill.process import keep_freed_memory
from modfill.training.data import TrainingCase
from modfill.training.log import Budget
from modfill.training.loop import train

STAGES: dict[str, Callable[[list[TrainingCase], list[TrainingCase]], NetworkStage]] = {
    "unet": UNetStage,
    "unet-l1": partial(UNetStage, power=1),  # the first was chosen by comparison with these two
    "unet-plain": partial(UNetStage, residual=False),
    "pix2pix3d": Pix2Pix3D,
    "pix2pix2d": Pix2Pix2D,
}
DEVICE = best_device()


class Trained:
    """A trained rival as one of the methods.

    Args:
        name: a key of `STAGES`.
        run: the folder in which `fit` trains it, or did.
        minutes: of training; None takes the stage's number of steps.
        held_out: complete cases to validate on while training.
    """

    def __init__(self, name: str, run: Path, minutes: float | None = None, held_out: Sequence[Case] = ()):
        self.name, self.run, self.minutes, self.held_out = name, run, minutes, held_out
        self.stage: NetworkStage | None = None

    def fit(self, cases: Sequence[Case]) -> None:
        """Train, or resume a stopped run."""
        stage = STAGES[self.name]([training_case(c) for c in cases], [training_case(c) for c in self.held_out])
        self.run.mkdir(parents=True, exist_ok=True)
        train(
            stage, self.run, Budget(stage.config.steps, self.minutes), seed=0, device=DEVICE, half=half_is_fast(DEVICE)
        )

    def complete(self, case: Case, targets: Sequence[str]) -> dict[str, np.ndarray]:
        """Complete with the averaged weights of the run. Raises ModfillError if there are none."""
        stage = self.stage = self.stage or self._load()
        prepared = prepare(case, PRESET.multiple)
        sources = [MODALITIES.index(m) for m in prepared.volumes]
        volumes = torch.zeros(len(MODALITIES), *prepared.brain.shape)
        volumes[sources] = torch.from_numpy(np.stack(list(prepared.volumes.values())))
        with torch.inference_mode(), fast_precision(DEVICE):
            given = stage.whole(volumes.to(DEVICE), sources).float().cpu().numpy()
        done = {}
        for target in targets:
            index = MODALITIES.index(target)
            mean, std = stage.unit[index].tolist()
            done[target] = in_unit_range(prepared, given[index], (mean, std))
        return done

    def _load(self) -> NetworkStage:
        stage = STAGES[self.name]([], [])
        path = self.run / f"{stage.name}.ckpt"
        if not path.exists():
            raise ModfillError(f"{path} must be a trained {self.name}, got no file; train it with "
                               f"python -m benchmarks.baselines.trained {self.name}")  # fmt: skip
        state = torch.load(path, map_location="cpu", weights_only=True)
        stage.load_state_dict({**state["buffers"], **state["ema"]})
        return stage.to(DEVICE).eval()


def training_case(case: Case) -> TrainingCase:
    """A complete case, normalised and held in memory."""
    prepared = prepare(case, PRESET.multiple)
    volumes = np.stack([prepared.volumes[m] for m in MODALITIES]).astype(np.float16)
    return TrainingCase(case.case_id, volumes, prepared.brain, tuple(prepared.scales[m] for m in MODALITIES))


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=STAGES)
    parser.add_argument("--train", type=Path, required=True, metavar="DIR")
    parser.add_argument("--validate", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, metavar="N")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN")
    options = parser.parse_args()
    keep_freed_memory()
    cases, held_out = ([read_case(files) for files in find_cases(d)] for d in (options.train, options.validate))
    Trained(options.name, options.out, options.minutes, held_out).fit(cases)


if __name__ == "__main__":
    main()
