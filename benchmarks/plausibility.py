"""Is it acquired or synthetic? A test with two alternatives, taken by a small classifier.

    python -m benchmarks.plausibility --cases DIR --methods modfill-sample modfill --out DIR
    python -m benchmarks.plausibility --cases DIR --methods modfill-sample modfill pix2pix3d --runs RIVALS --out DIR

For T2 and FLAIR from T1 and T1ce from the other three, cubes of the acquired and of the synthetic image are described
by what is in them at every scale and by their histogram. For each method, a random forest learns from all cases but one
to tell the two apart. It is then shown both cubes of each place in the last case: how often does it take the acquired
one for the acquired one? 50 % means that it cannot tell, 100 % that it always can. It is a test of texture and grey
values; nobody's eye and no anatomy is in it.

Writes `plausibility.csv`, a row per cube, and `plausibility.md`. A stopped run is resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier

from benchmarks.agreement import SCALES, bands
from benchmarks.baselines import Method
from benchmarks.baselines.trained import TrainedPairs
from benchmarks.cases import brain_of, reduced
from benchmarks.methods import add_arguments, selected_methods
from benchmarks.tables import append, read, scored
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.metrics import brain_box

TASKS = ((("t1n",), "t2w"), (("t1n",), "t2f"), (("t1n", "t2w", "t2f"), "t1c"))
CUBE = 16  # voxels; an edge
FULL = 0.9  # least share of brain in a cube
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
FEATURES = (*(f"scale_{number}" for number in range(len(SCALES) + 1)), *(f"quantile_{q}" for q in QUANTILES))
COLUMNS = ("image", "case_id", "sources", "target", "cube", *FEATURES)
ACQUIRED = "acquired"


def described(volume: np.ndarray, brain: np.ndarray) -> Iterator[dict[str, float]]:
    """A row for each cube of the brain: the logarithm of its power at every scale, and its quantiles.

    Args:
        volume: (X, Y, Z); z-scored here over the brain.
        brain: bool.
    """
    volume = (volume - volume[brain].mean()) / max(float(volume[brain].std()), 1e-6)
    scales = np.zeros((len(SCALES) + 1, *brain.shape), np.float32)
    for scale, values in zip(scales, bands(volume, brain), strict=True):
        scale[brain] = values
    for number, cube in enumerate(cubes(brain)):
        inside = brain[cube]
        powers = (np.log(np.mean(scale[cube][inside] ** 2) + 1e-6) for scale in scales)
        row = [*powers, *np.quantile(volume[cube][inside], QUANTILES)]
        yield {"cube": number, **dict(zip(FEATURES, map(float, row), strict=True))}


def cubes(brain: np.ndarray) -> Iterator[tuple[slice, ...]]:
    """Cubes side by side that are nearly full of brain."""
    for corner in np.ndindex(*(n // CUBE for n in brain.shape)):
        cube = tuple(slice(CUBE * c, CUBE * (c + 1)) for c in corner)
        if brain[cube].mean() >= FULL:
            yield cube


def rows_of(case: Case, method: Method | None, sources: tuple[str, ...], target: str) -> Iterator[dict]:
    """The rows of one image: a method's, or the acquired one."""
    brain = brain_of(case)
    box = brain_box(brain)
    image = case.volume(target) if method is None else method.complete(reduced(case, sources), [target])[target]
    own = {"image": method.name if method else ACQUIRED, "case_id": case.case_id, "sources": "+".join(sources),
           "target": target}  # fmt: skip
    return ({**own, **row} for row in described(image[box], brain[box]))


def taken_for_acquired(frame: pd.DataFrame, image: str) -> pd.Series:
    """For each cube of each case, left out of the training, whether the acquired one was chosen; ties count a half."""
    keys = ["case_id", "sources", "target", "cube"]
    pairs = frame[frame.image == ACQUIRED].merge(frame[frame.image == image], on=keys, suffixes=("", "_synthetic"))
    synthetic = [f"{name}_synthetic" for name in FEATURES]
    chosen = pd.Series(np.nan, index=pd.MultiIndex.from_frame(pairs[["case_id", "target"]]))
    for case_id in pairs.case_id.unique():
        left_out = (pairs.case_id == case_id).to_numpy()
        known = pairs[~left_out]
        shown = np.concatenate([known[list(FEATURES)].to_numpy(), known[synthetic].to_numpy()])
        forest = RandomForestClassifier(100, min_samples_leaf=3, random_state=0)
        forest.fit(shown, np.repeat([1, 0], len(known)))
        real, made = (
            forest.predict_proba(pairs.loc[left_out, list(names)].to_numpy())[:, 1] for names in (FEATURES, synthetic)
        )
        chosen[left_out] = (real > made) + 0.5 * (real == made)
    return chosen


def summary(frame: pd.DataFrame) -> str:
    """Markdown: the share of cubes in which the acquired image was recognised, by method and target."""
    names = [name for name in frame.image.unique() if name != ACQUIRED]
    targets = list(frame.target.unique())
    lines = ["| acquired or | " + " | ".join(targets) + " | all | lowest and highest case |",
             "|---" * (3 + len(targets)) + "|"]  # fmt: skip
    for name in names:
        chosen = taken_for_acquired(frame, name)
        by_target, by_case = (chosen.groupby(level=level).mean() for level in ("target", "case_id"))
        cells = [f"{by_target[t]:.0%}" if t in by_target else "–" for t in targets]
        cells += [f"{chosen.mean():.0%}", f"{by_case.min():.0%} and {by_case.max():.0%}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Describe the images, take the test, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR")
    add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    methods = selected_methods(options, parser)
    options.out.mkdir(parents=True, exist_ok=True)
    table = options.out / "plausibility.csv"
    done = scored(table, COLUMNS, keys=4)
    cases = [read_case(files) for files in find_cases(options.cases)]
    if len(cases) < 2:
        parser.error(f"--cases must have two cases or more, got {len(cases)} in {options.cases}")
    for case in cases:
        for sources, target in TASKS:
            for method in (None, *methods):
                key = (method.name if method else ACQUIRED, case.case_id, "+".join(sources), target)
                if key not in done and takes(method, sources, target):
                    append(table, COLUMNS, rows_of(case, method, sources, target))
        print(case.case_id, flush=True)
    (options.out / "plausibility.md").write_text(summary(read(table)), encoding="utf8")


def takes(method: Method | None, sources: tuple[str, ...], target: str) -> bool:
    """Whether a method was trained for a task: a rival for one pair knows its own only."""
    return not isinstance(method, TrainedPairs) or any((*sources, target) == pair for pair in method.facts)


if __name__ == "__main__":
    main()
