"""The probability that a tumour's voxels enhance, from samples of T1ce: is it right?

    python -m benchmarks.enhancement --cases DIR --out DIR [--samples N]

T1ce is synthesised from the other three modalities. A voxel of the tumour is taken to enhance where T1ce exceeds T1 by
`THRESHOLD`, both z-scored over the brain; the acquired T1ce says which voxels do. Four statements of the probability
are compared: the share of the samples in which the voxel enhances; a gaussian around the mean with the deviation of
`--uncertainty`; the mean itself, which says 0 or 1; and one number for all voxels, the share of enhancing voxels in the
other cases' tumours.

Writes the tumours' voxels to `voxels/`, an array for each image, `enhancement.csv`, a row per case and statement, and
`enhancement.md`. A stopped run is resumed. Cases without a segmentation are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from benchmarks.cases import brain_of, reduced, segmentation_of
from benchmarks.ladder import parsed
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.completer import ModalityCompleter
from modfill.settings import Settings, numbered_samples

THRESHOLD = 0.5
"""Standard deviations. Of five training cases' voxels labelled as enhancing, 66 to 94 % are above it, of the other
voxels of their tumours 2 to 10 %."""
SOURCES, TARGET, BEFORE = ("t1n", "t2w", "t2f"), "t1c", "t1n"  # BEFORE: without contrast agent
STATEMENTS = {"samples": "share of the samples", "gaussian": "gaussian around the mean", "mean": "the mean alone",
              "others": "share in the other cases"}  # fmt: skip


def voxels(completer: ModalityCompleter, case: Case, samples: int, folder: Path) -> dict[str, np.ndarray]:
    """Excess of T1ce over T1 in the tumour's voxels, z-scored over the brain; each image's is kept in `folder`.

    Returns:
        Arrays (N,): `enhances`, bool; by image, `mean` and `sample-1` to `sample-<samples>`, the excess over T1; and
        `deviation`, the map's.
    """
    labels, brain = segmentation_of(case), brain_of(case)
    assert labels is not None, "main() lets no other case through"
    tumour = brain & (labels > 0)
    before = standardised(case.volume(BEFORE), brain)[tumour]
    found = {"enhances": standardised(case.volume(TARGET), brain)[tumour] - before > THRESHOLD}
    for name, settings in {"mean": Settings(uncertainty=True), **numbered_samples(samples)}.items():
        path = folder / f"{case.case_id}-{name}.npy"
        if not path.exists():
            done = completer.complete(reduced(case, SOURCES), targets=[TARGET], settings=settings)
            image = np.asarray(done.images[TARGET].dataobj, np.float64)
            rows = [standardised(image, brain)[tumour] - before]
            for deviation in done.uncertainty.values():
                rows.append(np.asarray(deviation.dataobj, np.float64)[tumour] / image[brain].std())
            np.save(path, np.stack(rows).astype(np.float32))
        found[name], *deviation = np.load(path)
        if deviation:
            (found["deviation"],) = deviation
    return found


def standardised(volume: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """A volume (X, Y, Z) with mean 0 and standard deviation 1 over the brain."""
    return (volume - volume[brain].mean()) / volume[brain].std()


def probabilities(found: dict[str, np.ndarray], others: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The statements on each voxel (N,), from what `voxels` found in a case and in the others."""
    drawn = [values > THRESHOLD for name, values in found.items() if name.startswith("sample-")]
    everywhere = np.concatenate([other["enhances"] for other in others])
    return {
        "samples": np.mean(drawn, axis=0),
        "gaussian": norm.sf(THRESHOLD, found["mean"], np.maximum(found["deviation"], 1e-6)),
        "mean": (found["mean"] > THRESHOLD).astype(float),
        "others": np.full(len(found["mean"]), everywhere.mean()),
    }


def judged(cases: dict[str, dict[str, np.ndarray]]) -> Iterator[dict]:
    """A row for each case and statement: `auc` (NaN where no voxel or every one enhances), `brier` and volumes in ml.

    `expected_ml` is the sum of the probabilities over the tumour, at voxels of 1 mm.
    """
    for case_id, found in cases.items():
        truth = found["enhances"]
        stated = probabilities(found, [other for name, other in cases.items() if name != case_id])
        for statement, probability in stated.items():
            yield {
                "case_id": case_id, "statement": statement, "voxels": len(truth),
                "auc": roc_auc_score(truth, probability) if 0 < truth.sum() < len(truth) else np.nan,
                "brier": float(np.mean((probability - truth) ** 2)),
                "acquired_ml": truth.sum() / 1000, "expected_ml": probability.sum() / 1000,
            }  # fmt: skip


def summary(frame: pd.DataFrame) -> str:
    """Markdown: the statements, averaged over cases, and the enhancing volume of each case."""
    means = frame.groupby("statement", sort=False)[["auc", "brier"]].mean()
    lines = ["| probability | AUC | Brier score |", "|---|---|---|"]
    lines += [f"| {STATEMENTS[str(name)]} | {row.auc:.2f} | {row.brier:.3f} |" for name, row in means.iterrows()]
    volumes = frame.pivot_table(index="case_id", columns="statement", values="expected_ml", sort=False)
    acquired = frame.groupby("case_id", sort=False).acquired_ml.first()
    lines += ["", "| enhancing volume, ml | acquired | " + " | ".join(STATEMENTS[str(c)] for c in volumes) + " |"]
    lines.append("|---" * (2 + len(volumes.columns)) + "|")
    for case_id, row in volumes.iterrows():
        lines.append(f"| {case_id} | {acquired[case_id]:.1f} | " + " | ".join(f"{value:.1f}" for value in row) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Draw, judge and write the tables."""
    options = parsed(__doc__)
    completer, folder = ModalityCompleter(options.weights), options.out / "voxels"
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for files in find_cases(options.cases):
        case = read_case(files)
        labels = segmentation_of(case)
        if labels is not None and labels.any():
            found[case.case_id] = voxels(completer, case, options.samples, folder)
            print(case.case_id, flush=True)
    frame = pd.DataFrame(judged(found))
    frame.to_csv(options.out / "enhancement.csv", index=False)
    (options.out / "enhancement.md").write_text(summary(frame), encoding="utf8")


if __name__ == "__main__":
    main()
