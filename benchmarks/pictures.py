"""Pictures for comparison by eye: a slice of each case as acquired and as every method gives it.

    python -m benchmarks.pictures --cases DIR --methods copy modfill --sources t1n t2w --target t2f --out FILE
    python -m benchmarks.pictures --cases DIR --methods modfill --samples 3 --sources t1n --target t2f --out FILE

One row a case, at the axial slice with most tumour (with most brain, without a segmentation), one column a method, in
unit range, with the matched PSNR of the whole volume above. With `--samples N`, N samples follow, and how much they
differ: their standard deviation, a quarter of unit range being white. Writes a PNG.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.baselines import Method
from benchmarks.baselines.ours import Modfill
from benchmarks.cases import brain_of, reduced, segmentation_of
from benchmarks.methods import add_arguments, selected_methods
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.metrics import brain_box, score, unit_range
from modfill.modalities import ModalitySet
from modfill.settings import numbered_samples

SAMPLE = "sample"
WHITE = 0.25  # of unit range, in pictures of the spread
Picture = tuple[str, np.ndarray]  # title, unit range (X, Y) with the nose up when shown


def row_of(case: Case, methods: list[Method], sources: tuple[str, ...], target: str) -> list[Picture]:
    """The slice as acquired, of each source and as each method gives the target."""
    brain = brain_of(case)
    box, segmentation = brain_box(brain), segmentation_of(case)
    number = slice_of(brain, segmentation)
    pictures = [(m, unit_range(case.volume(m), brain)) for m in (*sources, target)]
    for method in methods:
        given = method.complete(reduced(case, sources), [target])[target]
        figure = score(case.volume(target)[box], given[box], brain[box])["psnr_matched"]
        pictures.append((f"{method.name} {figure:.2f} dB", given))
    drawn = [volume for title, volume in pictures if title.startswith(SAMPLE)]
    if drawn:
        pictures.append((f"spread of {len(drawn)}", np.std(drawn, axis=0) / WHITE))
    return [(title, upright(case, volume)[:, :, number]) for title, volume in pictures]


def slice_of(brain: np.ndarray, segmentation: np.ndarray | None) -> int:
    """The axial slice with most tumour, or with most brain."""
    shown = brain if segmentation is None or not segmentation.any() else segmentation > 0
    return int(shown.sum((0, 1)).argmax())


def upright(case: Case, volume: np.ndarray) -> np.ndarray:
    """A volume with the patient's right on the left and the nose on top, once transposed; slices keep their order."""
    axes = nib.orientations.io_orientation(next(iter(case.images.values())).affine)
    return np.flip(volume, tuple(axis for axis in (0, 1) if axes[axis, 1] > 0))


def draw(rows: list[tuple[str, list[Picture]]], path: Path) -> None:
    """Draw rows of pictures under their titles."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shape = len(rows), max(len(pictures) for _, pictures in rows)
    figure, axes = plt.subplots(*shape, figsize=(2.3 * shape[1], 2.9 * shape[0]), layout="constrained", squeeze=False)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        line[0].set_ylabel(name, fontsize=7)
        for place, (title, picture) in zip(line, pictures, strict=True):
            place.imshow(picture.T, cmap="gray", vmin=0, vmax=1)
            place.set_title(title, fontsize=8)
            place.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Draw one task of every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR")
    add_arguments(parser)
    parser.add_argument("--sources", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--target", required=True, metavar="NAME")
    parser.add_argument("--samples", type=int, default=0, metavar="N", help="of modfill's (default: 0)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    known = ModalitySet.of(options.modalities)
    sources, (target,) = known.in_order(known.modalities_of(options.sources)), known.modalities_of(options.target)
    methods = selected_methods(options, parser)
    for name, settings in (numbered_samples(options.samples) if options.samples else {}).items():
        methods.append(Modfill(options.weights, settings))
        methods[-1].name = name
    cases = [read_case(files) for files in find_cases(options.cases, modality_set=known)]
    rows = [(case.case_id, row_of(case, methods, sources, target)) for case in cases]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, options.out)


if __name__ == "__main__":
    main()
