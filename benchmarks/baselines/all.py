"""Train all rivals one after the other, for as many minutes each, and score them on the tasks of the paper's Table 1.

    python -m benchmarks.baselines.all --minutes-each 4 --train DIR --validate DIR --cases DIR --out RIVALS [--small]
    python -m benchmarks.baselines.all --modalities ixi ...

The tasks are T1 to T2 and T2 to FLAIR, of IXI T1 to PD. `--pairs` names others; a set that is not the paper's needs
it.

Minutes are those of `benchmarks.baselines.trained`. A rival for one pair trains as long for each pair, and one for all
pairs once, for the sum. Cases are read and prepared once. The same command can be repeated: a finished run is left as
it is, and a stopped one goes on. With `--cases`, writes `translation.csv`, and `rivals.md`: the paper's Table 1 with
the steps and minutes of each rival.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from safetensors import safe_open

from benchmarks import translation
from benchmarks.baselines import Method
from benchmarks.baselines.export import Facts, exported, facts_of
from benchmarks.baselines.trained import PAIRS, STAGES, Trained, TrainedPairs, fit_any, fit_pair, run_of, training_cases
from benchmarks.tables import PAPER
from modfill.modalities import BRATS, ModalitySet
from modfill.process import keep_freed_memory

TASKS = {"brats": PAPER, "ixi": {"T1 to PD": ("t1", "pd")}}  # of the paper's Table 1, by modality set
NAMES = ("unet", "pix2pix2d", "pix2pix3d", *PAIRS)
IN_PAPER = {  # its Table 1: PSNR and SSIM of these tasks, those of BraTS first
    "pix2pix2d": ("24.62 / .874", "24.36 / .846", "25.28 / .882"),
    "cyclegan2d": ("23.54 / .837", "23.42 / .825", "24.85 / .841"),
    "nicegan": ("23.72 / .840", "23.64 / .829", "25.33 / .855"),
    "reggan": ("24.88 / .881", "24.58 / .852", "25.85 / .898"),
    "resvit": ("25.58 / .895", "24.83 / .861", "27.27 / .916"),
    "pix2pix3d": ("25.18 / .887", "24.60 / .854", "26.39 / .903"),
    "cyclegan3d": ("23.74 / .835", "23.51 / .822", "25.51 / .882"),
    "eagan": ("–", "–", "26.85 / .912"),
    "aldm": ("25.82 / .904", "25.07 / .867", "27.73 / .921"),
}


class Training(NamedTuple):
    """One training: of a rival, for a pair or for all pairs, into a folder, for as many minutes."""

    name: str
    pair: tuple[str, str] | None
    run: Path
    minutes: float

    @property
    def done(self) -> bool:
        """True if the run was trained for these minutes."""
        path = exported(self.run, self.name)
        return path.exists() and facts_of(path).minutes >= self.minutes


def trainings(names: Sequence[str], pairs: Sequence[tuple[str, str]], out: Path, minutes: float) -> list[Training]:
    """All trainings below `out`, each of `minutes` a pair."""
    single = [name for name in names if name in PAIRS and not PAIRS[name].universal]
    return [Training(name, None, out / name, minutes * len(pairs)) for name in names if name not in single] + [
        Training(name, pair, run_of(name, *pair, out / name), minutes) for pair in pairs for name in single
    ]


def train_all(
    pending: Sequence[Training], *, small: bool, train: Path, validate: Path, modality_set: ModalitySet = BRATS
) -> None:
    """Train one rival after the other on the cases below `train`; those below `validate` are held out."""
    cases, held_out = (training_cases(folder, modality_set) for folder in (train, validate))
    names = modality_set.names
    for name, pair, run, minutes in pending:
        if name in STAGES:
            facts = fit_any(name, run, minutes=minutes, modalities=names, cases=cases, held_out=held_out)
        else:
            source, target = pair or names[:2]
            facts = fit_pair(name, source, target, run, small=small, minutes=minutes, modalities=names, cases=cases,
                             held_out=held_out)  # fmt: skip
        print(f"{run}: {facts.steps} steps, {facts.validation_psnr:.2f} dB", flush=True)


def table(frame: pd.DataFrame, names: Sequence[str], out: Path, tasks: Mapping[str, tuple[str, str]]) -> str:
    """The paper's Table 1 for these tasks as Markdown, with what each rival was trained for.

    Args:
        frame: the rows of `translation.csv`.
        names: the rivals'.
        out: the folder of their runs.
        tasks: source and target by title.
    """
    heads = [f"{task}, psnr / psnr_matched / ssim" for task in tasks]
    lines = ["| rival | parameters | steps | minutes | " + " | ".join(heads) + " | in the paper, psnr / ssim |",
             "|" + "---|" * (5 + len(heads))]  # fmt: skip
    for name in names:
        facts = _facts(name, out, tasks.values())
        rows = frame[frame.method == next(iter(facts.values())).label]
        cells = []
        for source, target in tasks.values():
            part = rows[(rows.sources == source) & (rows.target == target)]
            means = (part[figure].mean() for figure in ("psnr", "psnr_matched", "ssim"))
            cells.append("{:.2f} / {:.2f} / {:.3f}".format(*means) if len(part) else "–")
        steps = ", ".join(f"{each.steps:,}" for each in facts.values())
        minutes = ", ".join(f"{each.minutes:.2f} ({each.clock})" for each in facts.values())
        size = _parameters(next(iter(facts)), name)
        paper = "; ".join(_in_paper(name, pair) for pair in tasks.values())
        label = rows.method.iloc[0] if len(rows) else name
        lines.append(f"| {label} | {size:,} | {steps} | {minutes} | {' | '.join(cells)} | {paper} |")
    return "\n".join(lines) + "\n"


def _in_paper(name: str, pair: tuple[str, str]) -> str:
    """PSNR and SSIM of a rival for a pair, as the paper states them; a dash if it does not."""
    stated = [own for of_set in TASKS.values() for own in of_set.values()]
    return IN_PAPER[name][stated.index(pair)] if name in IN_PAPER and pair in stated else "–"


def curves(names: Sequence[str], out: Path, pairs: Collection[tuple[str, str]]) -> str:
    """Means of the losses over the first and the last tenth of each training as Markdown."""
    lines = ["| run | loss, first tenth → last tenth |", "|---|---|"]
    for name in names:
        for run in _facts(name, out, pairs):
            rows = pd.read_csv(run / f"{name}.csv")
            rows = rows[~rows.name.isin(["learning_rate", "validation_psnr"])]
            first = rows[rows.seconds <= 0.1 * rows.seconds.max()].groupby("name", sort=False).value.mean()
            last = rows[rows.seconds >= 0.9 * rows.seconds.max()].groupby("name").value.mean()
            losses = "; ".join(
                f"{loss} {value:.3g} → {last[loss]:.3g}" for loss, value in first.items() if loss in last
            )
            lines.append(f"| {run.relative_to(out)} | {losses} |")
    return "\n".join(lines) + "\n"


def _facts(name: str, out: Path, pairs: Collection[tuple[str, str]]) -> dict[Path, Facts]:
    """The runs of a rival and their facts, in the order of the pairs."""
    folder = out / name
    runs = [folder] if name in STAGES else [run_of(name, *pair, folder) for pair in pairs]
    return {run: facts_of(exported(run, name)) for run in runs if exported(run, name).exists()}


def _parameters(run: Path, name: str) -> int:
    """Numbers in an export: the parameters that complete a case, and the statistics of batch norm."""
    with safe_open(exported(run, name), "pt") as file:
        return sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118 (a file, not a dictionary)


def main() -> None:
    """Train and score from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes-each", type=float, required=True, metavar="N")
    parser.add_argument("--train", type=Path, required=True, metavar="DIR")
    parser.add_argument("--validate", type=Path, required=True, metavar="DIR")
    parser.add_argument("--cases", type=Path, metavar="DIR", help="cases to score on")
    parser.add_argument("--out", type=Path, required=True, metavar="RIVALS")
    parser.add_argument("--modalities", metavar="SET", help="the cases' set of modalities (default: brats)")
    parser.add_argument("--pairs", nargs="+", metavar="SOURCE-TARGET", help="default: those of the paper's Table 1")
    parser.add_argument("--names", nargs="+", choices=(*STAGES, *PAIRS), default=NAMES, metavar="NAME")
    parser.add_argument("--small", action="store_true", help="the narrow forms of the rivals for one pair, for CPUs")
    options = parser.parse_args()
    modality_set = ModalitySet.of(options.modalities)
    tasks = TASKS.get(modality_set.name, {})
    if options.pairs:
        tasks = {pair.replace("-", " to "): tuple(pair.split("-")) for pair in options.pairs}
    if not tasks or any(len(pair) != 2 or not set(pair) <= set(modality_set.names) for pair in tasks.values()):
        parser.error(f"--pairs must be SOURCE-TARGET of {', '.join(modality_set.names)}, got "
                     f"{' '.join(options.pairs or ['none'])}")  # fmt: skip
    keep_freed_memory()
    pairs = list(tasks.values())
    if pending := [t for t in trainings(options.names, pairs, options.out, options.minutes_each) if not t.done]:
        train_all(pending, small=options.small, train=options.train, validate=options.validate,
                  modality_set=modality_set)  # fmt: skip
    if options.cases is not None:
        methods: list[Method] = [
            Trained(name, options.out / name) if name in STAGES else TrainedPairs(name, options.out / name)
            for name in options.names
        ]
        frame = translation.run(methods, options.cases, options.out, modalities=options.modalities, pairs=pairs)
        parts = table(frame, options.names, options.out, tasks), curves(options.names, options.out, pairs)
        (options.out / "rivals.md").write_text("\n".join(parts), encoding="utf8")


if __name__ == "__main__":
    main()
