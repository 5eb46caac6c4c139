"""How exact are `modfill prepare` and `modfill restore`?

    python -m benchmarks.preparation phantoms --count 50 --out DIR
    python -m benchmarks.preparation study --study DIR --prepared CASE --out DIR

`phantoms`: heads with skull and scalp around the demo's brains, moved by known rigid transforms of up to 30 degrees and
40 mm, sampled on anisotropic grids with noise and cropped fields of view. Writes `phantoms.csv`: for every pair of
scans the error of the recovered transform in mm, on average and at worst over the brain, and of the way there and back.

`study`: the raw scans of a patient whose prepared images are known too. Writes `study.md`: volume and Dice of the brain
mask against the known one; then each sequence is hidden, completed from the others and restored to its own native
grid, and scored against the acquired scan there, beside the same for the known images on their own grid.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from modfill import ModalityCompleter
from modfill.demo.phantom import make_case
from modfill.metrics import match, psnr, unit_range
from modfill.modalities import BRATS, MODALITIES
from modfill.prepare import prepare_study, restore
from modfill.prepare.grid import Grid, resample
from modfill.prepare.record import grid_from, matrix_from, read_record
from modfill.prepare.registration import register
from modfill.prepare.scan import Scan, inverse, read_scan

HEADS = 5  # different brains among the phantoms
CSF, SKULL, SCALP, MUSCLE = range(4)
OUTER = {"t1n": (300, 120, 1500, 800), "t1c": (330, 140, 1700, 900), "t2w": (1800, 160, 900, 500),
         "t2f": (250, 140, 900, 600)}  # fmt: skip  # intensities of CSF, skull, scalp and muscle
GRIDS = ((0.5, 6.0, 2, 0.0), (0.9, 5.5, 2, 0.2), (1.0, 1.0, 0, 0.0), (0.7, 3.0, 1, 0.15))
"""In-plane spacing and slice distance in mm, axis of the slices, and the cropped share of the field of view."""


@lru_cache(maxsize=2)
def head(seed: int) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_], NDArray[np.float64]]:
    """A phantom's four modalities with CSF, skull, scalp and neck, its brain, and its affine centred on 0."""
    images = make_case(seed)
    brain = np.pad(np.asarray(images["t1n"].dataobj) > 0, 25)
    depth = ndimage.distance_transform_edt(~brain)
    x, y, z = np.indices(brain.shape)
    size = np.array(brain.shape)
    neck = (np.hypot(x - size[0] / 2, y - 0.55 * size[1]) < 45) & (z < 0.35 * size[2]) & (depth > 4)
    thickness = 8 + 3 * np.sin(y / size[1] * 5) + 3 * x / size[0]
    whole = {}
    for modality, outer in OUTER.items():
        voxels = np.pad(np.asarray(images[modality].dataobj).astype(np.float32), 25)
        scale = np.percentile(voxels[brain], 99) / 1200
        voxels[(depth > 0) & (depth <= 3)] = outer[CSF] * scale
        voxels[(depth > 3) & (depth <= 8)] = outer[SKULL] * scale
        voxels[(depth > 8) & (depth <= 8 + thickness)] = outer[SCALP] * scale
        voxels[neck & (depth > 8)] = outer[MUSCLE] * scale
        whole[modality] = ndimage.gaussian_filter(voxels, 0.7)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (size - 1) / 2
    return whole, brain, affine


def rigid(rng: np.random.Generator, degrees: float, millimetres: float) -> NDArray[np.float64]:
    """A random rigid transform (4, 4) of up to this angle and distance."""
    axis, way = rng.normal(size=(2, 3))
    matrix = np.eye(4)
    angle = np.deg2rad(rng.uniform(0, degrees))
    matrix[:3, :3] = Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix()
    matrix[:3, 3] = way / np.linalg.norm(way) * rng.uniform(0, millimetres)
    return matrix


def acquire(
    rng: np.random.Generator,
    voxels: NDArray[np.float32],
    affine: NDArray[np.float64],
    moved: NDArray[np.float64],
    grid: tuple[float, float, int, float],
) -> Scan:
    """A head that was moved, scanned with thick slices, a cropped field of view and Rician noise of 3 %."""
    fine, thick, axis, cropped = grid
    spacing = np.full(3, fine)
    spacing[axis] = thick
    shape = np.ceil(np.array([250, 250, 220]) / spacing).astype(int)
    own = np.eye(4)
    own[:3, :3] = Rotation.from_euler("xyz", rng.uniform(-5, 5, 3), degrees=True).as_matrix() * spacing
    own[:3, 3] = -own[:3, :3] @ ((shape - 1) / 2) + rng.uniform(-8, 8, 3)
    below = int(shape[2] * cropped)
    own[:3, 3] += own[:3, 2] * below
    shape[2] -= below
    way = np.linalg.inv(affine) @ np.linalg.inv(moved) @ own
    parts = max(1, round(thick / 1.5))  # a slice is the mean over its thickness
    total = np.zeros(shape, np.float32)
    for part in range(parts):
        offset = np.zeros(3)
        offset[axis] = (part + 0.5) / parts - 0.5
        start = way[:3, 3] + way[:3, :3] @ offset
        total += ndimage.affine_transform(voxels, way[:3, :3], start, output_shape=tuple(shape), order=1) / parts
    level = 0.03 * np.percentile(voxels, 99)
    real, imaginary = rng.normal(0, level, (2, *shape))
    return Scan(Path("phantom"), np.hypot(total + real, imaginary).astype(np.int16).astype(np.float32), own)


def displacement(
    found: NDArray[np.float64], true: NDArray[np.float64], points: NDArray[np.float64]
) -> tuple[float, float]:
    """Mean and largest distance in mm between two transforms of points (N, 3)."""
    apart = np.linalg.norm(points @ (found - true)[:3, :3].T + (found - true)[:3, 3], axis=1)
    return float(apart.mean()), float(apart.max())


def phantoms(count: int, out: Path) -> pd.DataFrame:
    """Register `count` pairs of scans."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        rng = np.random.default_rng(number)
        voxels, brain, affine = head(number * HEADS // count)
        fixed, moving = map(str, rng.permutation(MODALITIES)[:2])
        true, grid = rigid(rng, 30, 40), GRIDS[number % len(GRIDS)]
        reference = acquire(rng, voxels[fixed], affine, np.eye(4), ((1.0, 1.0, 2, 0.0), (0.9, 3.0, 2, 0.0))[number % 2])
        scan = acquire(rng, voxels[moving], affine, true, grid)
        began = time.time()
        found = register(reference, scan)
        points = np.argwhere(brain)[::997] @ affine[:3, :3].T + affine[:3, 3]
        mean, worst = displacement(found.matrix, true, points)
        back = displacement(np.linalg.inv(found.matrix) @ true, np.eye(4), points)
        turned = float(np.rad2deg(np.arccos(np.clip((np.trace(true[:3, :3]) - 1) / 2, -1, 1))))
        rows.append({
            "phantom": number, "reference": fixed, "scan": moving, "grid": "x".join(map(str, grid[:2])),
            "crop": grid[3],
            "degrees": turned, "millimetres": float(np.linalg.norm(true[:3, 3])), "mean": mean, "worst": worst,
            "back_mean": back[0], "back_worst": back[1], "seconds": time.time() - began,
            "information": found.information[0], "perturbed": found.perturbed, "apart": found.apart,
            "overlap": found.overlap, "doubts": "; ".join(found.doubts),
        })  # fmt: skip
        print({k: round(v, 2) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
        pd.DataFrame(rows).to_csv(out / "phantoms.csv", index=False)
    return pd.DataFrame(rows)


def study(folder: Path, prepared: Path, out: Path) -> str:
    """Prepare, complete, restore and score one patient; returns markdown."""
    began = time.time()
    case = prepare_study(folder, out=out / "cases")
    seconds = time.time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    note = read_record(case.record)
    known = {m: prepared / f"{prepared.name}-{m}.nii.gz" for m in MODALITIES}
    own = read_scan(case.folder / f"{case.case_id}-brainmask.nii.gz")
    theirs = read_scan(known[note["Reference"]])
    way = register(read_scan(case.paths[note["Reference"]]), theirs).matrix
    mask = resample((theirs.voxels > 0).astype(np.float32), Grid.of(theirs), Grid.of(own), way, order=1) > 0.5
    brain = own.voxels > 0
    dice = 2 * float((mask & brain).sum()) / float(mask.sum() + brain.sum())
    lines = [
        f"Prepared in {seconds:.0f} s, {peak:.1f} GiB. Brain {brain.sum() / 1000:.0f} ml, known mask "
        f"{(theirs.voxels > 0).sum() * np.prod(theirs.spacing) / 1000:.0f} ml, Dice {dice:.3f}.", "",
        "| hidden | matched PSNR in the mask, native grid, dB | the known images on their own grid |", "|---|---|---|",
    ]  # fmt: skip
    completer = ModalityCompleter()
    for target in case.paths:
        native = _native_score(completer, case.paths, target, note, out)
        same = _score(completer, known, target, out / "known" / target)
        lines.append(f"| {BRATS[target].short} | {native:.2f} | {same:.2f} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def _completed(completer: ModalityCompleter, paths: dict[str, Path], target: str, out: Path) -> Path:
    given = {m: str(path) for m, path in paths.items() if m != target}
    return completer.complete(given, out=out, targets=[target]).paths[target]


def _native_score(
    completer: ModalityCompleter, paths: dict[str, Path], target: str, note: dict[str, Any], out: Path
) -> float:
    """Matched PSNR of a restored image against the acquired scan, where the brain is."""
    synthetic = _completed(completer, paths, target, out / "completed" / target)
    entry = next(scan for scan in note["Scans"] if scan["Modality"] == target)
    record = next(paths[target].parent.glob("*-prepared.json"))
    (restored,) = restore(synthetic, like=entry["Source"], out=out / "restored" / target, record=record)
    acquired, given = read_scan(Path(entry["Source"])), read_scan(restored)
    mask = read_scan(next(paths[target].parent.glob("*-brainmask.nii.gz")))
    way = inverse(matrix_from(entry))
    brain = resample(mask.voxels, grid_from(note["Grid"]), Grid.of(acquired), way, order=1) > 0.5
    return _matched(acquired.voxels, given.voxels, brain & (given.voxels > 0))


def _score(completer: ModalityCompleter, paths: dict[str, Path], target: str, out: Path) -> float:
    given, acquired = read_scan(_completed(completer, paths, target, out)), read_scan(paths[target])
    return _matched(acquired.voxels, given.voxels, acquired.voxels > 0)


def _matched(acquired: NDArray[np.float32], given: NDArray[np.float32], brain: NDArray[np.bool_]) -> float:
    truth = unit_range(acquired, brain)
    return psnr(truth, match(truth, given, brain), brain)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("phantoms", "study"))
    parser.add_argument("--count", type=int, default=50, metavar="N")
    parser.add_argument("--study", type=Path, metavar="DIR")
    parser.add_argument("--prepared", type=Path, metavar="CASE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what == "phantoms":
        frame = phantoms(options.count, options.out)
        print(frame[["mean", "worst", "back_mean", "back_worst", "seconds"]].describe().round(2).to_string())
        print(f"over 2 mm: {(frame.worst > 2).sum()}; doubtful: {(frame.doubts != '').sum()}")
        return
    if options.study is None or options.prepared is None:
        parser.error("study needs --study DIR and --prepared CASE")
    text = study(options.study, options.prepared, options.out)
    (options.out / "study.md").write_text(text, encoding="utf8")
    print(text)


if __name__ == "__main__":
    main()
