"""Pictures of two patients: the labels, and their segmentation from acquired, empty and completed modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from benchmarks import nnunet
from benchmarks.baselines import Method
from benchmarks.cases import brain_of, segmentation_of
from benchmarks.filling import filled
from benchmarks.pictures import slice_of, upright
from benchmarks.segmentation_tables import OURS
from modfill.cases.reading import Case
from modfill.metrics import unit_range
from modfill.modalities import MODALITIES

PATIENTS = 2
MISSING = (("t1c",), ("t2f",))  # a row each of every patient: enhancement and oedema lose most by them
COLOURS = np.array([(0, 0, 0, 0), (0.9, 0.2, 0.2, 0.55), (0.2, 0.7, 0.3, 0.55), (1, 0.85, 0.1, 0.65)])  # by label


def pictures(
    cases: Sequence[Case], methods: Sequence[Method], predictors: Mapping[str, nnUNetPredictor], path: Path
) -> None:
    """Draw the first two cases on the axial slice with most tumour, over the acquired missing modality, as a PNG.

    Nothing is done if the file exists, or without modfill among the methods.
    """
    ours = next((method for method in methods if method.name == OURS), None)
    if ours is None or path.exists():
        return
    rows = [_row(case, missing, ours, predictors) for case in cases[:PATIENTS] for missing in MISSING]
    _draw(rows, path)


Row = tuple[str, np.ndarray, dict[str, np.ndarray]]  # title, slice in unit range (X, Y), label slices by strategy


def _row(case: Case, missing: tuple[str, ...], ours: Method, predictors: Mapping[str, nnUNetPredictor]) -> Row:
    spacing = tuple(float(edge) for edge in voxel_sizes(case.images[MODALITIES[0]].affine))
    truth = segmentation_of(case)
    assert truth is not None, "cases of the benchmark have a segmentation"
    whole, empty, completed = filled(case, (), None), filled(case, missing, None), filled(case, missing, ours)
    inputs = {"acquired": ("plain", whole), "zeros": ("plain", empty), "modfill": ("plain", completed),
              "dropout": ("dropout", empty), "completed": ("completed", completed)}  # fmt: skip
    found = {name: nnunet.segment(predictors[network], volumes, spacing) for name, (network, volumes) in inputs.items()}
    brain = brain_of(case)
    number = slice_of(brain, truth)
    background = upright(case, unit_range(case.volume(missing[0]), brain))[:, :, number]
    labels = {"labels": truth} | found
    return (
        f"{case.case_id}\nwithout {'+'.join(missing)}",
        background,
        {name: upright(case, volume)[:, :, number] for name, volume in labels.items()},
    )


def _draw(rows: Sequence[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shape = len(rows), len(rows[0][2])
    figure, axes = plt.subplots(*shape, figsize=(2.1 * shape[1], 2.6 * shape[0]), layout="constrained", squeeze=False)
    for line, (title, background, labels) in zip(axes, rows, strict=True):
        line[0].set_ylabel(title, fontsize=7)
        for place, (name, shown) in zip(line, labels.items(), strict=True):
            place.imshow(background.T, cmap="gray", vmin=0, vmax=1)
            place.imshow(COLOURS[shown.T.astype(int)])
            place.set_title(name, fontsize=8)
            place.set(xticks=[], yticks=[])
    figure.supxlabel("red: necrosis, green: oedema, yellow: enhancing tumour", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
