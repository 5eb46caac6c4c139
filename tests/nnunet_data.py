"""Small raw nnU-Net datasets with gaps, and what makes nnU-Net small enough for tests."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

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
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class TwoStepTrainer(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 2, 1

    def perform_actual_validation(self, save_probabilities=False):
        pass
"""


class _Threads:
    """Stands for a multiprocessing context: its workers are threads, which need not import nnU-Net for seconds each."""

    Pool = ThreadPool
    Process = Thread


def stay_in_this_process(patch: pytest.MonkeyPatch) -> None:
    """Let nnU-Net plan and preprocess in this process, on few samples, and draw its progress small."""
    from matplotlib import rcParams
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.utilities import utils

    analyse = DatasetFingerprintExtractor.analyze_case
    few = staticmethod(lambda images, label, reader, samples: analyse(images, label, reader, 1000))
    patch.setattr(DatasetFingerprintExtractor, "analyze_case", few)
    patch.setattr(multiprocessing, "get_context", lambda kind=None: _Threads)
    patch.setattr(utils, "Pool", ThreadPool)
    patch.setitem(rcParams, "savefig.dpi", 5)


def make_quick(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Point nnU-Net to `folder`; it works in this process, on few samples, with narrow networks and TwoStepTrainer."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    for name in ("raw", "preprocessed", "results"):
        (folder / name).mkdir()
        patch.setenv(f"nnUNet_{name}", str(folder / name))
    (folder / "trainers").mkdir()
    (folder / "trainers" / "two_step_trainer.py").write_text(TRAINER)
    patch.setenv("nnUNet_extTrainer", str(folder / "trainers"))
    patch.setenv("nnUNet_n_proc_DA", "1")
    plan = ExperimentPlanner.__init__

    def plan_narrow(planner: Any, *arguments: Any, **options: Any) -> None:
        plan(planner, *arguments, **options)
        planner.UNet_base_num_features = 4

    patch.setattr(ExperimentPlanner, "__init__", plan_narrow)
    stay_in_this_process(patch)


def shrink_plans(path: Path, features: Sequence[int] | None = None, patch: Sequence[int] | None = None) -> None:
    """Make the network of a plans.json narrow: 4, 8, ... features on the planned patch, unless told otherwise.

    Args:
        path: nnUNetPlans.json.
        features: by stage; the stages are as many.
        patch: edges of the patch in voxels.
    """
    plans = json.loads(path.read_text())
    configuration = plans["configurations"]["3d_fullres"]
    kwargs = configuration["architecture"]["arch_kwargs"]
    stages = len(features) if features else kwargs["n_stages"]
    kwargs["n_stages"] = stages
    kwargs["features_per_stage"] = list(features or (4 * 2**stage for stage in range(stages)))
    for name in ("kernel_sizes", "strides", "n_conv_per_stage"):
        kwargs[name] = kwargs[name][:stages]
    kwargs["n_conv_per_stage_decoder"] = kwargs["n_conv_per_stage_decoder"][: stages - 1]
    configuration["patch_size"] = list(patch or configuration["patch_size"])
    path.write_text(json.dumps(plans))
