"""The effect of completion on segmentation: every missing set, every way to fill the gaps, one nnU-Net trained thrice.

    python -m benchmarks.segmentation --train DIR --cases DIR --run RUN --methods mean copy voxelwise modfill --out DIR
    python -m benchmarks.segmentation --folds 5 --cases DIR --run RUN --methods mean copy modfill --out DIR

The three segmenters are trained on the same cases for the same iterations: on complete cases (`plain`); with modality
dropout and zeros (`dropout`); with the same dropout and modfill's completions (`completed`). The strategies:

| strategy | segmenter | a missing modality is |
|---|---|---|
| `zeros` | plain | 0 |
| the name of a method, such as `modfill` | plain | completed by it |
| `dropout` | dropout | 0 |
| `dropout+modfill` | dropout | completed by modfill |
| `completed` | completed | completed by modfill |

`t1ce-empty`, `t1ce-t1` and `t1ce-blend` are methods that differ from modfill in T1ce (`benchmarks.baselines.contrast`).

Writes `segmentation.csv`, a row per strategy, case, missing set and region, `segmentation.md`, `choices.csv`, a plot,
and pictures of two patients. A stopped run is resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from benchmarks import nnunet
from benchmarks.baselines import Method
from benchmarks.baselines.contrast import RULES, T1CE
from benchmarks.baselines.ours import Modfill
from benchmarks.cases import segmentation_of, segmentation_path
from benchmarks.filling import filled, missing_sets
from benchmarks.methods import add_arguments, selected_methods
from benchmarks.nnunet_completions import write_completions
from benchmarks.segmentation_pictures import pictures
from benchmarks.segmentation_tables import COMPLETE, OURS, choices, plot, summary
from benchmarks.tables import append, read, scored
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.metrics import dice, hd95
from modfill.modalities import MODALITIES

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}  # BraTS 2023: 1 necrosis, 2 oedema, 3 enhancing
COLUMNS = ("strategy", "case_id", "missing", "region", "dice", "hd95")
Fold = int | Literal["all"]


class Strategy(NamedTuple):
    """A segmenter, a key of `nnunet.TRAINERS`, and the method that fills the gaps; None leaves zeros."""

    name: str
    segmenter: str
    method: Method | None


def rows_of(segmentation: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]) -> Iterator[dict]:
    """Dice and HD95 of each region."""
    for region, labels in REGIONS.items():
        masks = np.isin(segmentation, labels), np.isin(truth, labels)
        yield {"region": region, "dice": dice(*masks), "hd95": hd95(*masks, spacing)}


def strategies(missing: tuple[str, ...], methods: Sequence[Method]) -> list[Strategy]:
    """Everything that is tried with a missing set; `()` for a case that lacks nothing."""
    ours = [method for method in methods if method.name == OURS]
    if not missing:
        found = [Strategy(COMPLETE, "plain", None), Strategy("dropout", "dropout", None)]
        return found + [Strategy("completed", "completed", None)] * len(ours)
    found = [Strategy("zeros", "plain", None)]
    found += [Strategy(m.name, "plain", m) for m in methods if m.name not in RULES or T1CE in missing]
    found.append(Strategy("dropout", "dropout", None))
    for method in ours:
        found += [Strategy(f"dropout+{OURS}", "dropout", method), Strategy("completed", "completed", method)]
    return found


def run(cases: list[Case], methods: list[Method], predictors: Mapping[str, nnUNetPredictor], out: Path) -> pd.DataFrame:
    """Segment every case under every strategy; appended to `segmentation.csv`."""
    out.mkdir(parents=True, exist_ok=True)
    table = out / "segmentation.csv"
    done = scored(table, COLUMNS, keys=3)
    for case in cases:
        truth = segmentation_of(case)
        assert truth is not None, "segmented() lets no other case through"
        for missing in [(), *missing_sets()]:
            work = [one for one in strategies(missing, methods) if _key(one, case, missing) not in done]
            by_method: dict[str, np.ndarray] = {}  # each filling is made once, and segmented by several networks
            for one in work:
                name = one.method.name if one.method else ""
                if name not in by_method:
                    by_method[name] = filled(case, missing, one.method)
                segmentation = nnunet.segment(predictors[one.segmenter], by_method[name], spacing_of(case))
                own = dict(zip(COLUMNS, _key(one, case, missing), strict=False))
                append(table, COLUMNS, [own | row for row in rows_of(segmentation, truth, spacing_of(case))])
        print(case.case_id, flush=True)
    return read(table)


def _key(strategy: Strategy, case: Case, missing: tuple[str, ...]) -> tuple[str, str, str]:
    return strategy.name, case.case_id, "+".join(missing) or COMPLETE


def spacing_of(case: Case) -> tuple[float, ...]:
    """Edges of a voxel in mm."""
    return tuple(float(edge) for edge in nib.affines.voxel_sizes(case.images[MODALITIES[0]].affine))


def predictors_of(options: argparse.Namespace, cases: list[Case], methods: Sequence[Method],
                  fold: Fold = "all") -> dict[str, nnUNetPredictor]:  # fmt: skip
    """The segmenters that the methods need, trained on these cases, or on those of them that a fold leaves."""
    plans, description = nnunet.preprocessed(cases, options.run)
    names = ["plain", "dropout"]
    for method in methods:
        if method.name == OURS:
            dataset = options.run / "preprocessed" / nnunet.DATASET
            fill = partial(filled, method=method)
            write_completions(cases, fill, weights_of(methods), plans=plans, description=description, dataset=dataset)
            names.append("completed")
    return {name: nnunet.trained(name, plans, description, options.iterations, fold) for name in names}


def main() -> None:
    """Train what is not trained, score, write the tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR", help="with segmentations; to score")
    parser.add_argument("--folds", type=int, metavar="N", help="cross-validate over --cases, instead of --train")
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", help="nnU-Net's folders")
    parser.add_argument("--iterations", type=int, default=1500, metavar="N", help="of each segmenter (1500)")
    add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    if (options.train is None) == (options.folds is None):
        parser.error("give either --train, cases with segmentations for the segmenters, or --folds")
    cases, methods = segmented(options.cases), selected_methods(options, parser)
    if options.folds is None:
        predictors = predictors_of(options, segmented(options.train), methods)
        frame = run(cases, methods, predictors, options.out)
        pictures(cases, methods, predictors, options.out / "segmentation-patients.png")
    else:
        nnunet.preprocessed(cases, options.run)
        for fold, ids in enumerate(nnunet.split([case.case_id for case in cases], options.folds, options.run)):
            held_out = [case for case in cases if case.case_id in ids]
            predictors = predictors_of(options, cases, methods, fold)
            frame = run(held_out, methods, predictors, options.out)
            pictures(held_out, methods, predictors, options.out / f"segmentation-patients-{fold}.png")
    (options.out / "segmentation.md").write_text(summary(frame), encoding="utf8")
    plot(frame, options.out / "segmentation.png")
    choices(frame, weights_of(methods)).to_csv(options.out / "choices.csv", index=False, float_format="%.4f")


def weights_of(methods: Sequence[Method]) -> str:
    """SHA-256 of modfill's weights; empty without modfill."""
    return next((m.completer.networks.file.sha256 for m in methods if isinstance(m, Modfill)), "")


def segmented(folder: Path) -> list[Case]:
    """The complete cases of a folder that have a segmentation."""
    cases = [read_case(files) for files in find_cases(folder)]
    return [case for case in cases if not case.missing and segmentation_path(case).exists()]


if __name__ == "__main__":
    main()
