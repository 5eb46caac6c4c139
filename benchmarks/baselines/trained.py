"""Train a rival, all with the same cases and the same budget.

    python -m benchmarks.baselines.trained unet --train DIR --validate DIR --minutes 60 --out RIVALS/unet

A rival that translates one modality into one other trains one pair a run, into a folder of its own below `--out`:

    python -m benchmarks.baselines.trained reggan --source t1n --target t2w [--small] ... --out RIVALS/reggan

Minutes are of training alone. On a GPU they are of the wall clock. On a CPU they are processor minutes of all threads
together, because there other work takes its share of the wall clock.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import torch

from benchmarks.baselines.aldm import ALDM
from benchmarks.baselines.cyclegan import CycleGAN2D, CycleGAN3D
from benchmarks.baselines.eagan import EaGAN
from benchmarks.baselines.export import Facts, export, exported, facts_of, load
from benchmarks.baselines.network import PRESET, NetworkStage
from benchmarks.baselines.nicegan import NICEGAN
from benchmarks.baselines.pair import PairStage
from benchmarks.baselines.pix2pix import Pix2Pix2D, Pix2Pix3D
from benchmarks.baselines.reggan import RegGAN
from benchmarks.baselines.resvit import ResViT
from benchmarks.baselines.unet import UNetStage
from benchmarks.cases import in_unit_range
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.errors import ModfillError
from modfill.modalities import BRATS, MODALITIES, ModalitySet
from modfill.model.device import best_device, fast_precision, half_is_fast
from modfill.preprocessing.prepare import prepare
from modfill.process import keep_freed_memory
from modfill.training.data import TrainingCase
from modfill.training.log import Budget
from modfill.training.loop import train

STAGES: dict[str, Callable[[list[TrainingCase], list[TrainingCase], tuple[str, ...]], NetworkStage]] = {
    "unet": UNetStage,
    "unet-l1": partial(UNetStage, power=1),  # the first was chosen by comparison with these two
    "unet-plain": partial(UNetStage, residual=False),
    "pix2pix3d": Pix2Pix3D,
    "pix2pix2d": Pix2Pix2D,
}
PAIRS: dict[str, type[PairStage]] = {
    stage.name: stage for stage in (CycleGAN2D, CycleGAN3D, NICEGAN, RegGAN, ResViT, EaGAN, ALDM)
}
DEVICE = best_device()
CLOCK, SECONDS = ("processor", time.process_time) if DEVICE.type == "cpu" else ("wall", time.monotonic)
SEED = 0


class Trained:
    """A trained rival that takes any modalities, as one of the methods.

    Args:
        name: a key of `STAGES`.
        run: the folder in which `fit_any` trained it.
    """

    def __init__(self, name: str, run: Path):
        self.name, self.run = name, run
        self.stage: NetworkStage | None = None

    def fit(self, cases: Sequence[Case]) -> None:
        """Trained already: `fit_any`."""

    def complete(self, case: Case, targets: Sequence[str]) -> dict[str, np.ndarray]:
        """Complete with the averaged weights of the run. Raises ModfillError if there are none."""
        stage = self.stage = self.stage or self._load()
        order = _order(self.name, stage.modalities, case)
        prepared = prepare(case, PRESET.multiple)
        sources = [order.index(m) for m in prepared.volumes]
        volumes = torch.zeros(len(order), *prepared.brain.shape)
        volumes[sources] = torch.from_numpy(np.stack(list(prepared.volumes.values())))
        with torch.inference_mode(), fast_precision(DEVICE):
            given = stage.whole(volumes.to(DEVICE), sources).float().cpu().numpy()
        done = {}
        for target in targets:
            index = order.index(target)
            mean, std = stage.unit[index].tolist()
            done[target] = in_unit_range(prepared, given[index], (mean, std))
        return done

    def _load(self) -> NetworkStage:
        facts = facts_of(path := exported(self.run, STAGES[self.name]([], [], MODALITIES).name))
        stage = STAGES[self.name]([], [], facts.modalities)
        load(stage, path)
        return stage.to(DEVICE)


class TrainedPairs:
    """A rival from one source to one target, as one of the methods, with all pairs that its folder has.

    Args:
        name: a key of `PAIRS`.
        folder: holds a run for each pair, `<source>-<target>`; or is the one run of a rival for all pairs.

    Raises:
        ModfillError: none is trained, or some have the small form and others the full one.
    """

    def __init__(self, name: str, folder: Path):
        runs = [folder] if PAIRS[name].universal else sorted(folder.glob("*-*")) or [folder]
        self.facts: dict[tuple[str, str], Facts] = {}
        self.paths: dict[tuple[str, str], Path] = {}
        for run in runs:
            facts = facts_of(path := exported(run, name))
            pairs = list(permutations(facts.modalities, 2)) if PAIRS[name].universal else [(facts.source, facts.target)]
            for pair in pairs:
                self.facts[pair], self.paths[pair] = facts, path
        names = {facts.label for facts in self.facts.values()}
        if len(names) > 1:
            raise ModfillError(f"{folder} must have runs of one form, got {' and '.join(sorted(names))}; remove some")
        [self.name] = names
        self.stages: dict[Path, PairStage] = {}

    def fit(self, cases: Sequence[Case]) -> None:
        """Trained already: `fit_pair`."""

    def complete(self, case: Case, targets: Sequence[str]) -> dict[str, np.ndarray]:
        """Translate the case's only modality into each target. Raises ModfillError for a pair that is not trained."""
        source = "+".join(case.available)
        for target in targets:
            if (source, target) not in self.facts:
                known = ", ".join(f"{a} to {b}" for a, b in self.facts)
                raise ModfillError(f"case {case.case_id}: {self.name} translates {known}, got {source} to {target}; "
                                   "train that pair, or leave the method out")  # fmt: skip
        prepared = prepare(case, PRESET.multiple)
        unit = prepared.scales[source].to_unit(prepared.volumes[source]) * prepared.brain
        done = {}
        for target in targets:
            pair = source, target
            path = self.paths[pair]
            if path not in self.stages:
                facts = self.facts[pair]
                stage = pair_stage(facts.rival, *pair, small=facts.form == "small", modalities=facts.modalities)
                load(stage, path)
                self.stages[path] = stage.to(DEVICE)
            stage = self.stages[path]
            order = _order(self.name, self.facts[pair].modalities, case)
            stage.pair = order.index(source), order.index(target)
            with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16, enabled=half_on_gpu()):
                done[target] = prepared.restore(stage.whole(unit))
        return done


def pair_stage(
    name: str,
    source: str,
    target: str,
    *,
    small: bool,
    modalities: tuple[str, ...] = MODALITIES,
    cases: Sequence[TrainingCase] = (),
    held_out: Sequence[TrainingCase] = (),
) -> PairStage:
    """A rival for one pair, or for all pairs of these modalities, untrained."""
    stage, pair = PAIRS[name], (modalities.index(source), modalities.index(target))
    if stage is ALDM:  # the only one for all pairs
        return ALDM(ALDM.SMALL if small else ALDM.FULL, pair, list(cases), list(held_out), len(modalities))
    return stage(stage.SMALL if small else stage.FULL, pair, list(cases), list(held_out))


def fit_any(
    name: str,
    run: Path,
    *,
    minutes: float | None,
    modalities: tuple[str, ...] = MODALITIES,
    cases: Sequence[TrainingCase],
    held_out: Sequence[TrainingCase],
) -> Facts:
    """Train a rival that takes any modalities into a folder, or resume a stopped run."""
    torch.manual_seed(SEED)
    stage = STAGES[name](list(cases), list(held_out), modalities)
    _train(stage, run, minutes, half_is_fast(DEVICE))
    return export(stage, run, form="full", clock=CLOCK, modalities=modalities)


def fit_pair(
    name: str,
    source: str,
    target: str,
    run: Path,
    *,
    small: bool,
    minutes: float | None,
    modalities: tuple[str, ...] = MODALITIES,
    cases: Sequence[TrainingCase],
    held_out: Sequence[TrainingCase],
) -> Facts:
    """Train a rival for one pair into a folder, or resume a stopped run; one for all pairs ignores the pair."""
    torch.manual_seed(SEED)
    stage = pair_stage(name, source, target, small=small, modalities=modalities, cases=cases, held_out=held_out)
    _train(stage, run, minutes, half_on_gpu())
    source, target = ("", "") if stage.universal else (source, target)
    form = "small" if small else "full"
    return export(stage, run, form=form, clock=CLOCK, modalities=modalities, source=source, target=target)


def run_of(name: str, source: str, target: str, folder: Path) -> Path:
    """The run folder of a rival for a pair: `<folder>/<source>-<target>`, or the folder itself if it is for all."""
    return folder if PAIRS[name].universal else folder / f"{source}-{target}"


def half_on_gpu() -> bool:
    """bfloat16 on a GPU only: small edges are not safe in it on a CPU (see modfill.training.run)."""
    return DEVICE.type == "cuda" and half_is_fast(DEVICE)


def _train(stage: NetworkStage | PairStage, run: Path, minutes: float | None, half: bool) -> None:
    run.mkdir(parents=True, exist_ok=True)
    train(stage, run, Budget(stage.config.steps, minutes, SECONDS), seed=SEED, device=DEVICE, half=half)


def training_cases(folder: Path, modality_set: ModalitySet = BRATS) -> list[TrainingCase]:
    """All cases below a folder."""
    return [training_case(read_case(files)) for files in find_cases(folder, modality_set=modality_set)]


def training_case(case: Case) -> TrainingCase:
    """A complete case, normalised and held in memory."""
    prepared = prepare(case, PRESET.multiple)
    order = case.modality_set.names
    volumes = np.stack([prepared.volumes[m] for m in order]).astype(np.float16)
    return TrainingCase(case.case_id, volumes, prepared.brain, tuple(prepared.scales[m] for m in order))


def _order(name: str, modalities: tuple[str, ...], case: Case) -> tuple[str, ...]:
    """The modalities of a rival. Raises ModfillError if the case's set has others."""
    if modalities != case.modality_set.names:
        raise ModfillError(f"case {case.case_id}: {name} was trained for {', '.join(modalities)}, got a case of "
                           f"{', '.join(case.modality_set.names)}; train it with --modalities")  # fmt: skip
    return modalities


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*STAGES, *PAIRS))
    parser.add_argument("--modalities", metavar="SET", help="the cases' set of modalities (default: brats)")
    parser.add_argument("--source", metavar="MODALITY", help="of a rival for one pair")
    parser.add_argument("--target", metavar="MODALITY", help="of a rival for one pair")
    parser.add_argument("--small", action="store_true", help="the narrow form of a rival for one pair, for CPUs")
    parser.add_argument("--train", type=Path, required=True, metavar="DIR")
    parser.add_argument("--validate", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="of a processor on a CPU, of the wall clock on a GPU"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RUN")
    options = parser.parse_args()
    modality_set = ModalitySet.of(options.modalities)
    names = modality_set.names
    if unknown := {options.source, options.target} - {None, *names}:
        parser.error(f"--source and --target must be of {', '.join(names)}, got {', '.join(sorted(unknown))}")
    single = options.name in PAIRS
    pair = single and not PAIRS[options.name].universal
    if pair and (options.source is None or options.target in (None, options.source)):
        parser.error(f"{options.name} translates one modality into another: give --source and --target")
    if not pair and (options.source or options.target):
        parser.error(f"{options.name} takes any modality: leave out --source and --target")
    if not single and options.small:
        parser.error(f"{options.name} has one form: leave out --small")
    keep_freed_memory()
    cases, held_out = (training_cases(folder, modality_set) for folder in (options.train, options.validate))
    if single:
        source, target = (options.source, options.target) if pair else names[:2]
        run = run_of(options.name, source, target, options.out)
        fit_pair(options.name, source, target, run, small=options.small, minutes=options.minutes, modalities=names,
                 cases=cases, held_out=held_out)  # fmt: skip
    else:
        fit_any(options.name, options.out, minutes=options.minutes, modalities=names, cases=cases, held_out=held_out)


if __name__ == "__main__":
    main()
