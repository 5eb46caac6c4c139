"""A real nnU-Net v2, small enough to train on a CPU, and its two twins that were trained with modality dropout.

One twin is given zeros for what was dropped, the other completions (`benchmarks.nnunet_completions`).

nnU-Net plans, preprocesses, augments, trains and predicts. Only the plans are reduced: patches of 64 voxels of 1.5 mm,
which contain most of a tumour's surroundings, and 16 to 128 features. Intensities are z-scored over the brain, as
nnU-Net plans it for BraTS as distributed, so that no strategy gains or loses by its scale. Steps run in bfloat16 where
the processor supports it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.crossval_split import generate_crossval_split
from torch import Tensor

from benchmarks.cases import segmentation_path
from benchmarks.filling import drawn_missing
from benchmarks.nnunet_completions import CompletedDataset
from modfill.cases.reading import Case
from modfill.modalities import MODALITIES
from modfill.model.device import best_device, fast_precision

DATASET = "Dataset900_Tumour"
LABELS = {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 3}
FEATURES, PATCH, SPACING = [16, 32, 64, 128], [64, 64, 64], [1.5, 1.5, 1.5]  # the last in mm
EPOCH = 50  # iterations
STEP = 0.8  # of the patch, from one to the next in prediction; nnU-Net's 0.5 takes half as many patches again
DEVICE = best_device()
WORKERS = 0 if DEVICE.type == "cpu" else max(1, (os.cpu_count() or 1) // 3)  # that augment; 0: in this process


class SmallTrainer(nnUNetTrainer):
    """nnU-Net's trainer with short epochs and fast steps, without a validation of its own."""

    def __init__(self, plans: dict, configuration: str, fold: Any, dataset_json: dict, device: torch.device = DEVICE):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch, self.save_every = EPOCH, 1, 2

    def initialize(self) -> None:
        """nnU-Net's, with the channels last in memory: a step takes a quarter less on a CPU."""
        super().initialize()
        self.network.to(memory_format=torch.channels_last_3d)

    def train_step(self, batch: dict) -> dict:
        """One step; the batch's images pass `corrupted` first."""
        with fast_precision(DEVICE):
            return super().train_step({**batch, "data": self.corrupted(batch["data"])})

    def corrupted(self, images: Tensor) -> Tensor:
        """The network's input for images (B, M, X, Y, Z)."""
        return images

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Nothing: the benchmark itself is the validation."""


class DropoutTrainer(SmallTrainer):
    """The twin that is given zeros: `drawn_missing` of each example's modalities are set to 0."""

    def corrupted(self, images: Tensor) -> Tensor:
        """As in `SmallTrainer`. nnU-Net's normalisation maps a channel that is 0 everywhere to 0."""
        kept = torch.tensor([[m not in missing for m in MODALITIES] for missing in (drawn_missing() for _ in images)])
        return images * kept[:, :, None, None, None]


class CompletedTrainer(SmallTrainer):
    """The twin that is given completions: `drawn_missing` of each example's modalities come from the cache."""

    def initialize(self) -> None:
        """As in `SmallTrainer`, with cases from `CompletedDataset`: nnU-Net crops and augments them as any other."""
        super().initialize()
        self.dataset_class = CompletedDataset


TRAINERS: dict[str, type[SmallTrainer]] = {
    "plain": SmallTrainer, "dropout": DropoutTrainer, "completed": CompletedTrainer,
}  # fmt: skip


def preprocessed(cases: Sequence[Case], folder: Path) -> tuple[dict, dict]:
    """Plan and preprocess once.

    Args:
        cases: complete cases with `<case_id>-seg.nii.gz` beside their images.
        folder: receives nnU-Net's three folders.

    Returns:
        The narrowed plans and dataset.json.

    Raises:
        ValueError: the folder holds other cases.
    """
    for name in ("raw", "preprocessed", "results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str((folder / name).resolve())
    os.environ.update(nnUNet_n_proc_DA="1", nnUNet_compile="f")  # planning fails with 0
    plans_file = folder / "preprocessed" / DATASET / "nnUNetPlans.json"
    ready, case_ids = folder / "ready", "\n".join(case.case_id for case in cases)
    if ready.exists() and ready.read_text() != case_ids:
        raise ValueError(f"{folder} must hold these {len(cases)} cases, preprocessed, got others; give another --run")
    description = _write_raw(cases, folder / "raw" / DATASET)
    if not ready.exists():
        extract_fingerprints([900], num_processes=max(1, WORKERS), show_progress_bar=False)
        plan_experiments([900])
        plans_file.write_text(json.dumps(_narrowed(json.loads(plans_file.read_text()))))
        preprocess([900], configurations=["3d_fullres"], num_processes=[max(1, WORKERS)], show_progress_bar=False)
        ready.write_text(case_ids)
    os.environ.update(nnUNet_n_proc_DA=str(WORKERS))
    return json.loads(plans_file.read_text()), description


def split(case_ids: Sequence[str], folds: int, folder: Path) -> list[list[str]]:
    """Divide cases for a cross-validation as nnU-Net does by default, and tell it so.

    Args:
        case_ids: of all preprocessed cases.
        folds: parts of about the same size.
        folder: as for `preprocessed`.

    Returns:
        The ids of each fold's held-out cases.

    Raises:
        ValueError: the folder holds another division.
    """
    parts = generate_crossval_split(sorted(case_ids), n_splits=folds)
    content = [{kind: [str(case_id) for case_id in ids] for kind, ids in part.items()} for part in parts]
    file = folder / "preprocessed" / DATASET / "splits_final.json"
    if file.exists() and json.loads(file.read_text()) != content:
        raise ValueError(f"{file} must divide the same cases into {folds} folds, got another division; "
                         "give another --run")  # fmt: skip
    file.write_text(json.dumps(content))
    return [part["val"] for part in content]


def _write_raw(cases: Sequence[Case], folder: Path) -> dict:
    """nnU-Net's raw dataset, a listing of the files where they lie."""
    folder.mkdir(exist_ok=True)
    listing = {
        case.case_id: {
            "images": [str(case.paths[m].resolve()) for m in MODALITIES],
            "label": str(segmentation_path(case).resolve()),
        }
        for case in cases
    }
    description = {
        "channel_names": {str(number): name for number, name in enumerate(MODALITIES)}, "labels": LABELS,
        "numTraining": len(cases), "file_ending": ".nii.gz", "dataset": listing,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))
    return description


def _narrowed(plans: dict) -> dict:
    configuration = plans["configurations"]["3d_fullres"]
    kwargs, stages = configuration["architecture"]["arch_kwargs"], len(FEATURES)
    kwargs.update(n_stages=stages, features_per_stage=FEATURES)
    for name in ("kernel_sizes", "strides", "n_conv_per_stage"):
        kwargs[name] = kwargs[name][:stages]
    kwargs["n_conv_per_stage_decoder"] = kwargs["n_conv_per_stage_decoder"][: stages - 1]
    over_brain = [True] * len(MODALITIES)  # nnU-Net's own choice unless the cases come cropped
    configuration.update(patch_size=PATCH, spacing=SPACING, batch_size=2, use_mask_for_norm=over_brain)
    return plans


def trained(
    name: str, plans: dict, description: dict, iterations: int, fold: int | Literal["all"] = "all"
) -> nnUNetPredictor:
    """A predictor with the network of that name, trained now, or further, or before.

    Args:
        name: a key of `TRAINERS`.
        plans: as `preprocessed` returned them.
        description: likewise.
        iterations: rounded up to whole epochs of 50; a network that was trained for less is trained further.
        fold: of `split`, whose held-out cases are left out; "all" trains on every case.
    """
    torch.manual_seed(0)
    np.random.seed(0)  # nnU-Net draws its patches from numpy's global generator
    trainer = TRAINERS[name]({**plans, "continue_training": False}, "3d_fullres", fold, description, DEVICE)
    trainer.num_epochs = -(-iterations // EPOCH)
    trainer.initialize()
    saved = [Path(trainer.output_folder) / f"checkpoint_{kind}.pth" for kind in ("latest", "final")]
    if found := next((path for path in saved if path.exists()), None):
        trainer.load_checkpoint(str(found))
    if trainer.current_epoch < trainer.num_epochs:
        trainer.run_training()
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(STEP, use_mirroring=False, device=DEVICE, allow_tqdm=False)
    predictor.manual_initialization(trainer.network.eval(), trainer.plans_manager, trainer.configuration_manager,
                                    [trainer.network.state_dict()], description, name, None)  # fmt: skip
    return predictor


def segment(predictor: nnUNetPredictor, volumes: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The segmentation (X, Y, Z) of volumes (M, X, Y, Z) with this spacing in mm."""
    images = np.ascontiguousarray(volumes.transpose(0, 3, 2, 1), dtype=np.float32)
    with fast_precision(DEVICE):
        given = predictor.predict_single_npy_array(images, {"spacing": list(reversed(spacing))})
    return np.asarray(given).transpose(2, 1, 0)
