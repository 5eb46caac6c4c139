"""Score methods on all (source set, target) tasks of complete cases: 28 of the BraTS set, 9 of IXI's.

    python -m benchmarks.translation --cases DIR --train DIR --methods copy mean voxelwise modfill --out DIR
    python -m benchmarks.translation --modalities ixi --weights FILE --cases DIR --methods copy modfill --out DIR

Writes `translation.csv`, a row per method, case, source set and target, `translation.md`, means and standard deviations
in the paper's forms, and a plot. A stopped run is resumed. `--sources 3` restricts it to tasks with three sources.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd

from benchmarks.baselines import Method
from benchmarks.baselines.trained import TrainedPairs
from benchmarks.cases import figures, others_figures, reduced
from benchmarks.methods import add_arguments, selected_methods
from benchmarks.scales import COLUMNS as SCALES
from benchmarks.tables import any_subset, append, plot, read, scored, summary
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.modalities import BRATS, ModalitySet


def tasks(method: Method, modality_set: ModalitySet = BRATS) -> Iterator[tuple[tuple[str, ...], Sequence[str]]]:
    """The source sets that a method takes with their targets.

    They are the pairs that it learned, or all source sets that leave something to synthesise: 14 of four modalities, 6
    of three.
    """
    if isinstance(method, TrainedPairs):
        yield from (((source,), [target]) for source, target in method.facts)
        return
    for count in range(1, len(modality_set.names)):
        for sources in combinations(modality_set.names, count):
            yield sources, modality_set.without(sources)


def evaluate(method: Method, case: Case, sources: tuple[str, ...], targets: Sequence[str]) -> list[dict]:
    """One row per target."""
    predictions = method.complete(reduced(case, sources), targets)
    own = {"method": method.name, "case_id": case.case_id, "sources": "+".join(sources)}
    return [
        {**own, "target": t, **figures(case, t, predictions[t]), **others_figures(case, t, predictions[t])}
        for t in targets
    ]


def run(
    methods: list[Method],
    cohort: Path,
    out: Path,
    *,
    modalities: str | None = None,
    counts: Sequence[int] | None = None,
    pairs: Collection[tuple[str, str]] | None = None,
) -> pd.DataFrame:
    """Every method on every task of every complete case below `cohort`, appended to `translation.csv`.

    Args:
        methods: ready to complete cases.
        cohort: a folder of complete cases.
        out: the folder of `translation.csv`.
        modalities: the name or file of the modality set; None takes that of BraTS.
        counts: the numbers of sources of the tasks; None takes all.
        pairs: (source, target) of the only tasks to score; None takes all.
    """
    out.mkdir(parents=True, exist_ok=True)
    table = out / "translation.csv"
    done = scored(table, COLUMNS, keys=4)
    for files in find_cases(cohort, modality_set=modalities):
        case = read_case(files)
        for method in methods:
            for sources, targets in tasks(method, case.modality_set):
                own = method.name, case.case_id, "+".join(sources)
                wanted = [t for t in targets if (*own, t) not in done and (pairs is None or (*sources, t) in pairs)]
                if wanted and (counts is None or len(sources) in counts):
                    append(table, COLUMNS, evaluate(method, case, sources, wanted))
            print(f"{method.name} {case.case_id}", flush=True)
    return read(table)


COLUMNS = ("method", "case_id", "sources", "target", *(
    f"{name}{suffix}" for suffix in ("", "_matched")
    for name in ("psnr", "psnr_brain", "nmse", "ssim", "ssim_brain", "psnr_tumour", "ssim_tumour")
), "sharpness", *SCALES)  # fmt: skip


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR")
    add_arguments(parser)
    parser.add_argument("--sources", type=int, nargs="+", metavar="N",
                        help="only tasks with N sources (default: any number)")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    frame = run(selected_methods(options, parser), options.cases, options.out, modalities=options.modalities,
                counts=options.sources)  # fmt: skip
    diagonal = options.out / "reconstruction.csv"
    reconstruction = pd.read_csv(diagonal) if diagonal.exists() else None
    (options.out / "translation.md").write_text(summary(frame, reconstruction), encoding="utf8")
    complete = any_subset(frame)
    if len(complete):
        plot(complete, options.out / "translation.png")


if __name__ == "__main__":
    main()
