"""The effect of completion on segmentation: every missing set, every way to fill the gaps, one nnU-Net.

    python -m benchmarks.segmentation --train DIR --cases DIR --run RUN --methods mean copy voxelwise modfill --out DIR

The segmenter is trained on complete cases. It is compared with one that was trained with modality dropout and is given
zeros. Writes `segmentation.csv`, a row per strategy, case, missing set and region, `segmentation.md`, and a plot.
A stopped run is resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from benchmarks import nnunet
from benchmarks.baselines import Method
from benchmarks.cases import reduced, segmentation_of, segmentation_path
from benchmarks.methods import add_arguments, selected_methods
from benchmarks.tables import append, read, scored
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.metrics import dice, hd95
from modfill.modalities import MODALITIES

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}  # BraTS 2023: 1 necrosis, 2 oedema, 3 enhancing
COLUMNS = ("strategy", "case_id", "missing", "region", "dice", "hd95")
Work = tuple[str, tuple[str, ...], Method | None, nnUNetPredictor]  # strategy, missing set, method, segmenter
COMPLETE = "complete"  # the missing set of a case that lacks nothing, and the strategy that fills nothing


def missing_sets() -> list[tuple[str, ...]]:
    """The 14 sets of missing modalities, the smallest first."""
    return [missing for count in range(1, len(MODALITIES)) for missing in combinations(MODALITIES, count)]


def filled(case: Case, missing: tuple[str, ...], method: Method | None) -> np.ndarray:
    """Volumes (M, X, Y, Z) with the missing ones completed by a method, or 0 without one."""
    made: dict[str, np.ndarray] = {}
    if method is not None:
        made = method.complete(reduced(case, tuple(m for m in MODALITIES if m not in missing)), missing)
    empty = np.zeros(case.volume(MODALITIES[0]).shape, np.float32)
    return np.stack([made.get(m, empty) if m in missing else case.volume(m) for m in MODALITIES]).astype(np.float32)


def rows_of(segmentation: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]) -> Iterator[dict]:
    """Dice and HD95 of each region."""
    for region, labels in REGIONS.items():
        masks = np.isin(segmentation, labels), np.isin(truth, labels)
        yield {"region": region, "dice": dice(*masks), "hd95": hd95(*masks, spacing)}


def run(cases: list[Case], methods: list[Method], predictors: Mapping[str, nnUNetPredictor], out: Path) -> pd.DataFrame:
    """Segment every case under every strategy; appended to `segmentation.csv`."""
    out.mkdir(parents=True, exist_ok=True)
    table = out / "segmentation.csv"
    done = scored(table, COLUMNS, keys=3)
    plain, dropout = predictors["plain"], predictors["dropout"]
    for case in cases:
        truth = segmentation_of(case)
        assert truth is not None, "segmented() lets no other case through"
        spacing = tuple(float(edge) for edge in nib.affines.voxel_sizes(case.images[MODALITIES[0]].affine))
        work: list[Work] = [(COMPLETE, (), None, plain), ("dropout", (), None, dropout)]
        for missing in missing_sets():
            work += [("zeros", missing, None, plain), ("dropout", missing, None, dropout)]
            work += [(method.name, missing, method, plain) for method in methods]
        for strategy, missing, method, predictor in work:
            key = (strategy, case.case_id, "+".join(missing) or COMPLETE)
            if key not in done:
                segmentation = nnunet.segment(predictor, filled(case, missing, method), spacing)
                own = dict(zip(COLUMNS, key, strict=False))
                append(table, COLUMNS, [own | row for row in rows_of(segmentation, truth, spacing)])
        print(case.case_id, flush=True)
    return read(table)


def by_set(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean Dice over cases and regions: a row per missing set, a column per strategy."""
    return frame.pivot_table(index="missing", columns="strategy", values="dice", sort=False)


def recovery(table: pd.DataFrame) -> pd.DataFrame:
    """(filled - zeros) / (complete - zeros) of `by_set`'s table, without the complete row."""
    complete = table.loc[COMPLETE, COMPLETE]
    rest = table.drop(index=COMPLETE, columns=COMPLETE)
    return rest.sub(rest["zeros"], axis=0).div(complete - rest["zeros"], axis=0)


def summary(frame: pd.DataFrame) -> str:
    """Markdown: means over all missing sets, Dice per set with the best strategy, and each region by strategy."""
    table = by_set(frame)
    sets, ratios = table.drop(index=COMPLETE, columns=COMPLETE), recovery(table)
    gaps = frame[frame.missing != COMPLETE]
    regions = gaps.pivot_table(index="strategy", columns="region", values=["dice", "hd95"], sort=False)
    lines = [f"Nothing missing: mean Dice {table.loc[COMPLETE, COMPLETE]:.3f} "
             f"(dropout network {table.loc[COMPLETE, 'dropout']:.3f}).", "",
             "| strategy | mean Dice | recovery | " + " | ".join(f"{kind} {region}" for kind, region in regions) + " |",
             "|---" * (3 + regions.shape[1]) + "|"]  # fmt: skip
    for name in sets.columns:
        figures = " | ".join(f"{value:.3f}" for value in regions.loc[name])
        lines.append(f"| {name} | {sets[name].mean():.3f} | {ratios[name].mean():.3f} | {figures} |")
    lines += ["", "| missing | " + " | ".join(sets.columns) + " | best | ahead of the next by |"]
    lines.append("|---" * (3 + sets.shape[1]) + "|")
    for missing, row in sets.iterrows():
        first, second = row.sort_values(ascending=False).iloc[:2]
        lines.append(
            f"| {missing} | " + " | ".join(f"{v:.3f}" for v in row) + f" | {row.idxmax()} | {first - second:.3f} |"
        )
    return "\n".join(lines) + "\n"


def plot(frame: pd.DataFrame, path: Path) -> None:
    """Mean Dice against the missing set, a line per strategy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    table = by_set(frame)
    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    axes.axhline(table.loc[COMPLETE, COMPLETE], color="black", linestyle=":", label="nothing missing")
    for name, values in table.drop(index=COMPLETE, columns=COMPLETE).items():
        axes.plot(values.index, values, marker="o", label=name, linewidth=2.5 if name == "modfill" else 1)
    axes.set(xlabel="missing modalities", ylabel="Dice, mean over cases and regions")
    axes.tick_params(axis="x", rotation=60)
    axes.legend(ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Train what is not trained, score, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR", help="with segmentations; to score")
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", help="nnU-Net's folders")
    parser.add_argument("--iterations", type=int, default=1500, metavar="N", help="of each segmenter (1500)")
    add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    if options.train is None:
        parser.error("--train is needed: cases with segmentations for the segmenter")
    training, cases = (segmented(folder) for folder in (options.train, options.cases))
    plans, description = nnunet.preprocessed(training, options.run)
    predictors = {name: nnunet.trained(name, plans, description, options.iterations) for name in nnunet.TRAINERS}
    frame = run(cases, selected_methods(options, parser), predictors, options.out)
    (options.out / "segmentation.md").write_text(summary(frame), encoding="utf8")
    plot(frame, options.out / "segmentation.png")


def segmented(folder: Path) -> list[Case]:
    """The complete cases of a folder that have a segmentation."""
    cases = [read_case(files) for files in find_cases(folder)]
    return [case for case in cases if not case.missing and segmentation_path(case).exists()]


if __name__ == "__main__":
    main()
