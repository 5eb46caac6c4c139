"""Score methods on all 28 (source set, target) tasks of complete cases.

    python -m benchmarks.translation --cases DIR --train DIR --methods copy mean voxelwise modfill --out DIR

Writes `translation.csv`, a row per method, case, source set and target, and `translation.md`, means and standard
deviations. Stopped, it goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.baselines import Method
from benchmarks.baselines.ours import Modfill
from benchmarks.baselines.simple import CopyNearest, MeanAvailable
from benchmarks.baselines.voxelwise import Voxelwise
from modfill.case import Case, find_cases, read_case
from modfill.metrics import brain_box, score
from modfill.modalities import MODALITIES, NAMES

SHOWN = ("psnr", "ssim", "psnr_matched", "ssim_matched")


def tasks() -> Iterator[tuple[str, ...]]:
    """The 14 source sets that leave something to synthesise."""
    for count in range(1, len(MODALITIES)):
        yield from combinations(MODALITIES, count)


def reduced(case: Case, sources: tuple[str, ...]) -> Case:
    """The case with only these modalities."""
    images, paths = ({m: d[m] for m in sources} for d in (case.images, case.paths))
    return Case(case.case_id, images, paths, {})


def evaluate(method: Method, case: Case, segmentation: np.ndarray | None, sources: tuple[str, ...]) -> list[dict]:
    """One row per target of a source set."""
    targets = [m for m in MODALITIES if m not in sources]
    predictions = method.complete(reduced(case, sources), targets)
    brain = sum((case.volume(m) > 0).astype(int) for m in MODALITIES) >= 2
    box = brain_box(brain)
    tumour = None if segmentation is None else (segmentation > 0)[box] & brain[box]
    rows = []
    for t in targets:
        figures = score(case.volume(t)[box], predictions[t][box], brain[box], tumour)
        rows.append(
            {"method": method.name, "case_id": case.case_id, "sources": "+".join(sources), "target": t, **figures}
        )
    return rows


def segmentation_of(case: Case) -> np.ndarray | None:
    """The expert segmentation beside the images, if there is one."""
    import nibabel as nib

    folder = next(iter(case.paths.values())).parent
    path = folder / f"{case.case_id}-seg.nii.gz"
    return np.asarray(nib.load(path).dataobj) if path.exists() else None


def run(methods: list[Method], cohort: Path, out: Path) -> pd.DataFrame:
    """Every method on every task of every complete case below `cohort`, appended to `translation.csv`."""
    out.mkdir(parents=True, exist_ok=True)
    table = out / "translation.csv"
    done = set()
    if table.exists():
        done = set(pd.read_csv(table)[["method", "case_id", "sources"]].itertuples(index=False, name=None))
    for files in find_cases(cohort):
        case = read_case(files)
        segmentation = segmentation_of(case)
        for method in methods:
            for sources in tasks():
                if (method.name, case.case_id, "+".join(sources)) not in done:
                    _append(table, evaluate(method, case, segmentation, sources))
            print(f"{method.name} {case.case_id}", flush=True)
    return pd.read_csv(table)


COLUMNS = ("method", "case_id", "sources", "target", *(
    f"{name}{suffix}" for suffix in ("", "_matched")
    for name in ("psnr", "psnr_brain", "nmse", "ssim", "ssim_brain", "psnr_tumour", "ssim_tumour")
))  # fmt: skip


def _append(table: Path, rows: list[dict]) -> None:
    new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def summary(frame: pd.DataFrame) -> str:
    """Markdown: means per method over 1→1, 2→1, 3→1 and all 28 tasks, then every task of every method."""
    frame = frame.assign(count=frame.sources.str.count(r"\+") + 1)
    lines = ["| method | tasks | " + " | ".join(SHOWN) + " |", "|---|---|" + "---|" * len(SHOWN)]
    for name, rows in frame.groupby("method", sort=False):
        for label, part in [(f"{n}→1", rows[rows["count"] == n]) for n in (1, 2, 3)] + [("all 28", rows)]:
            by_case = part.groupby("case_id")[list(SHOWN)].mean()
            cells = [f"{by_case[s].mean():.3f} ± {by_case[s].std():.3f}" for s in SHOWN]
            lines.append(f"| {name} | {label} | " + " | ".join(cells) + " |")
    lines += ["", "| method | sources | target | " + " | ".join(SHOWN) + " |", "|---|---|---|" + "---|" * len(SHOWN)]
    for (name, sources, target), rows in frame.groupby(["method", "sources", "target"], sort=False):
        cells = [f"{rows[s].mean():.3f} ± {rows[s].std():.3f}" for s in SHOWN]
        lines.append(f"| {name} | {sources} | {target} ({NAMES[target].split()[0]}) | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--train", type=Path, help="training cases, for the methods that must be fitted")
    parser.add_argument("--methods", nargs="+", default=["modfill"],
                        choices=("copy", "mean", "voxelwise", "modfill", "modfill-sample"))  # fmt: skip
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    makers = {
        "copy": CopyNearest, "mean": MeanAvailable, "voxelwise": Voxelwise,
        "modfill": lambda: Modfill(options.weights), "modfill-sample": lambda: Modfill(options.weights, "sample"),
    }  # fmt: skip
    methods = [makers[name]() for name in options.methods]
    if "voxelwise" in options.methods:
        if options.train is None:
            parser.error("voxelwise needs --train")
        training = [read_case(files) for files in find_cases(options.train)]
        for method in methods:
            method.fit(training)
    (options.out / "translation.md").write_text(summary(run(methods, options.cases, options.out)), encoding="utf8")


if __name__ == "__main__":
    main()
