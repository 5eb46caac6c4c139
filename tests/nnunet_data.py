"""Small raw nnU-Net datasets with gaps, and what makes nnU-Net small enough for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.case_files import MODALITIES, brain_volumes, oblique_affine, save

NAMES = ("T1", "T1ce", "T2", "FLAIR")
SHAPE = (32, 36, 28)
GAPS = {"a": (), "b": ("t1c",), "c": ("t1n", "t2w"), "d": (), "e": ("t2f",)}
SPACE = np.diag((1.0, 1.0, 1.0, 1.0)) + np.array([[0, 0, 0, -20.0], [0, 0, 0, 13.5], [0, 0, 0, 7.25], [0, 0, 0, 0]])


def description(names: Sequence[str] = NAMES, cases: int = len(GAPS), **more: Any) -> dict[str, Any]:
    """The content of a dataset.json."""
    return {
        "channel_names": {str(number): name for number, name in enumerate(names)},
        "labels": {"background": 0, "tumour": 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
        **more,
    }


def write_images(folder: Path, case_id: str, gaps: Sequence[str], seed: int, affine: np.ndarray = SPACE) -> list[Path]:
    """Write a case's channels `<case_id>_000N.nii.gz`, all but its gaps."""
    volumes = brain_volumes(SHAPE, seed)
    return [
        save(folder / f"{case_id}_{number:04d}.nii.gz", volumes[modality], affine)
        for number, modality in enumerate(MODALITIES)
        if modality not in gaps
    ]


def write_dataset(raw: Path, gaps: Mapping[str, Sequence[str]] = GAPS, name: str = "Dataset501_Toy") -> Path:
    """Write a raw dataset whose cases lack channels, with a test case that has t2f alone; the tumour is a cube."""
    folder = raw / name
    for seed, (case_id, missing) in enumerate(gaps.items()):
        write_images(folder / "imagesTr", case_id, missing, seed)
        label = np.zeros(SHAPE, np.uint8)
        label[10 : 18 + seed, 12:22, 10:17] = 1
        save(folder / "labelsTr" / f"{case_id}.nii.gz", label, SPACE)
    write_images(folder / "imagesTs", "x", ("t1n", "t1c", "t2w"), 70, oblique_affine())
    (folder / "dataset.json").write_text(json.dumps(description(cases=len(gaps))))
    return folder


TRAINER = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class TwoStepTrainer(nnUNetTrainer):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 2, 1
"""


def shrink_plans(path: Path) -> None:
    """Make the network of a plans.json narrow."""
    plans = json.loads(path.read_text())
    kwargs = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = [4 * 2**stage for stage in range(kwargs["n_stages"])]
    path.write_text(json.dumps(plans))
