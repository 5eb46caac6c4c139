"""IXI from its archive to training and test folders, and phantoms in its layout.

    python -m benchmarks.ixi prepare --archive IXI --out CASES --jobs 4
    python -m benchmarks.ixi split --cases CASES --out SPLIT
    python -m benchmarks.ixi phantoms --count 24 --labelmaps DIR --out ARCHIVE
    python -m benchmarks.ixi registration --archive ARCHIVE --cases CASES

`prepare` registers T2 and PD to T1, crops and pads to 256x160x224 and sets the air to 0; a stopped run is resumed.
`split` puts links into `SPLIT/train` and `SPLIT/test`: the paper's 459 and 115 subjects where there are 574. `phantoms`
writes heads in the archive's layout; no figure of theirs is IXI's. `registration` compares the transforms that
`prepare` found for phantoms with the true ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.ixi.archive import read_archive
from benchmarks.ixi.phantoms import MOVED, write_phantom
from benchmarks.ixi.preparation import prepare_archive
from benchmarks.ixi.splitting import write_split
from benchmarks.preparation import displacement
from modfill.errors import ModfillError
from modfill.prepare.record import grid_from, matrix_from, read_record
from modfill.prepare.scan import read_scan


def prepare(archive: Path, out: Path, jobs: int) -> int:
    """Prepare an archive; returns the exit status."""
    found = read_archive(archive)
    print(f"{len(found.subjects)} subjects with T1, T2 and PD; {len(found.incomplete)} others are left out", flush=True)
    failed = []
    for number, (subject, problem) in enumerate(prepare_archive(found.subjects, out, jobs), start=1):
        print(f"{number}/{len(found.subjects)} {subject}{f': {problem}' if problem else ''}", flush=True)
        failed += [subject] if problem else []
    print(f"{len(found.subjects) - len(failed)} cases in {out}, {len(failed)} failed {' '.join(failed)}".rstrip())
    return 1 if failed else 0


def phantoms(count: int, out: Path, labelmaps: Path | None, jobs: int) -> int:
    """Write `count` phantoms, each with one label map in turn; returns the exit status."""
    maps = [] if labelmaps is None else sorted(labelmaps.glob("*.nii*"))
    if labelmaps is not None and not maps:
        raise ModfillError(f"{labelmaps} must hold label maps (*.nii.gz), got none; leave --labelmaps out")
    labels = [maps[k % len(maps)] if maps else None for k in range(count)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for subject in pool.map(write_phantom, range(1, count + 1), [out] * count, labels):
            print(subject, flush=True)
    return 0


def registration(archive: Path, cases: Path) -> pd.DataFrame:
    """The error in mm of each prepared phantom's transform from T1 to T2, on average and at worst over the head."""
    rows = []
    for truth in sorted((archive / MOVED).glob("*.json")):
        subject = truth.stem
        record = cases / subject / f"{subject}-prepared.json"
        if record.exists():
            note, true = read_record(record), np.array(json.loads(truth.read_text()))
            scan = next(scan for scan in note["Scans"] if scan["Modality"] == "t2")
            head = np.argwhere(read_scan(cases / subject / f"{subject}-t1.nii.gz").voxels > 0)[::9973]
            affine = grid_from(note["Grid"]).affine
            points = head @ affine[:3, :3].T + affine[:3, 3]
            mean, worst = displacement(matrix_from(scan), true, points)
            moved = displacement(np.eye(4), true, points)[0]
            rows.append({"subject": subject, "moved": moved, "mean": mean, "worst": worst})
    if not rows:
        raise ModfillError(
            f"{cases} must hold prepared phantoms of {archive}, got none; run phantoms and prepare first"
        )
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ixi", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    for step, folders in {"prepare": ("archive", "out"), "split": ("cases", "out"), "phantoms": ("out",),
                          "registration": ("archive", "cases")}.items():  # fmt: skip
        own = steps.add_parser(step)
        for folder in folders:
            own.add_argument(f"--{folder}", type=Path, required=True, metavar="DIR")
        if step in ("prepare", "phantoms"):
            own.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
        if step == "phantoms":
            own.add_argument("--count", type=int, default=24, metavar="N")
            own.add_argument(
                "--labelmaps", type=Path, metavar="DIR", help="brain label maps; without, the demo's brain"
            )
    options = parser.parse_args(arguments)
    try:
        if options.step == "prepare":
            return prepare(options.archive, options.out, options.jobs)
        if options.step == "phantoms":
            return phantoms(options.count, options.out, options.labelmaps, options.jobs)
        if options.step == "split":
            train, test = write_split(options.cases, options.out)
            print(f"{len(train)} training and {len(test)} test subjects in {options.out}")
            return 0
        frame = registration(options.archive, options.cases)
        print(frame.round(3).to_string(index=False))
        print(frame[["moved", "mean", "worst"]].describe().loc[["mean", "min", "max"]].round(3).to_string())
    except ModfillError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
