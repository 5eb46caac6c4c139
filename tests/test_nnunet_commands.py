"""`modfill nnunet ...` as users run it, in processes of its own; nnU-Net spawns workers that must find the plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from modfill.checkpoint import SHIPPED
from tests.case_files import MODALITIES
from tests.nnunet_data import NAMES, TRAINER, description, shrink_plans, write_dataset

pytest.importorskip("nnunetv2")

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("MODFILL_DATA", ROOT.parent / "shared" / "data"))
TRAINING = {  # cases with expert segmentation, and what is deleted from them
    "BraTS2021_01480": (),
    "BraTS-GLI-00002-000": ("t1c",),
    "BraTS-GLI-00009-000": (),
    "BraTS2021_01476": ("t1n", "t2w"),
    "Brats18_CBICA_ABM_1": (),
    "Brats18_TCIA01_425_1": (),
}
TEST_GAPS = (("t1c",), ("t1n", "t1c", "t2w"))


@dataclass
class NnUNet:
    """nnU-Net's three folders, and commands that run in them."""

    folder: Path
    weights: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        (self.folder / "trainers").mkdir()
        (self.folder / "trainers" / "two_step_trainer.py").write_text(TRAINER)
        own = {f"nnUNet_{name}": str(self.folder / name) for name in ("raw", "preprocessed", "results")}
        for path in own.values():
            Path(path).mkdir(exist_ok=True)
        self.environment = {**os.environ, **own, "nnUNet_extTrainer": str(self.folder / "trainers")}

    def run(self, *command: str, **environment: str) -> str:
        """Run a command that must succeed; returns what it printed."""
        done = subprocess.run(
            command, env={**self.environment, **environment}, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    def modfill(self, *arguments: str) -> str:
        """Run `modfill nnunet ...` with these weights."""
        return self.run(sys.executable, "-m", "modfill.cli", "nnunet", *arguments, "--weights", str(self.weights))

    def train(self, name: str, trainer: str, features: Sequence[int] | None, patch: Sequence[int] | None) -> None:
        """Train a narrow network on a preprocessed dataset."""
        shrink_plans(self.folder / "preprocessed" / name / "nnUNetPlans.json", features, patch)
        arguments = [name, "3d_fullres", "all", "-tr", trainer, "-device", "cpu"]
        self.run(sys.executable, "-m", "modfill.cli", "nnunet", "train", *arguments, nnUNet_n_proc_DA="0")

    def predict(self, name: str, trainer: str, images: Path, out: Path) -> None:
        """Predict a folder of images with gaps by the model's folder."""
        model = self.folder / "results" / name / f"{trainer}__nnUNetPlans__3d_fullres"
        self.modfill("predict", "-i", str(images), "-o", str(out), "-m", str(model), "-f", "all", "-device", "cpu",
                     "-npp", "1", "-nps", "1", "--disable_tta")  # fmt: skip


def both_routes(nnunet: NnUNet, trainer: str, features: Sequence[int] | None, patch: Sequence[int] | None) -> Path:
    """Take dataset 501 through both routes up to predictions; returns the folder that holds those of each network."""
    [source] = (nnunet.folder / "raw").glob("Dataset501_*")
    prepared = nnunet.modfill("prepare", "-d", "501", "-o", "502").strip()
    bin_folder = Path(sys.executable).parent
    options = ["-c", "3d_fullres", "-npfp", "1", "-np", "1", "--verify_dataset_integrity", "--no_pbar"]
    nnunet.run(str(bin_folder / "nnUNetv2_plan_and_preprocess"), "-d", "502", *options)
    nnunet.modfill("plan_and_preprocess", "-d", "501", *options)
    for name in (Path(prepared).name, source.name):
        nnunet.train(name, trainer, features, patch)
        nnunet.predict(name, trainer, source / "imagesTs", nnunet.folder / "predictions" / name)
    assert_same_arrays(
        nnunet.folder / "preprocessed" / Path(prepared).name, nnunet.folder / "preprocessed" / source.name
    )
    return nnunet.folder / "predictions"


def assert_same_arrays(first: Path, second: Path) -> None:
    """Both datasets' preprocessed cases are the same, voxel by voxel."""
    prepared, plugged = (nnUNetDatasetBlosc2(str(folder / "nnUNetPlans_3d_fullres")) for folder in (first, second))
    assert sorted(prepared.identifiers) == sorted(plugged.identifiers) and len(prepared.identifiers) >= 5
    for case_id in prepared.identifiers:
        (data, seg, *_), (other, other_seg, *_) = prepared.load_case(case_id), plugged.load_case(case_id)
        assert data.shape[0] == 4
        np.testing.assert_array_equal(data[:], other[:])
        np.testing.assert_array_equal(seg[:], other_seg[:])


def assert_predicted(folder: Path, images: Path, case_id: str, missing: Sequence[str]) -> None:
    """There is a segmentation on the case's grid, and its JSON names the synthetic channels."""
    source = nib.load(next(images.glob(f"{case_id}_000?.nii.gz")))
    segmentation = nib.load(folder / f"{case_id}.nii.gz")
    assert segmentation.shape == source.shape
    np.testing.assert_allclose(segmentation.affine, source.affine, atol=1e-4)
    assert json.loads((folder / f"{case_id}.json").read_text())["SyntheticChannels"] == list(missing)


@pytest.mark.slow
def test_commands_on_tiny_cases(tmp_path: Path, tiny_weights: Path) -> None:
    source = write_dataset(tmp_path / "raw")
    predictions = both_routes(NnUNet(tmp_path, tiny_weights), "TwoStepTrainer", None, None)
    for run in predictions.iterdir():
        assert_predicted(run, source / "imagesTs", "x", ("t1n", "t1c", "t2w"))


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="real cases not found; set MODFILL_DATA to their folder")
@pytest.mark.skipif(not SHIPPED.is_file(), reason="no shipped weights")
def test_both_routes_on_real_cases(tmp_path: Path) -> None:
    """Six real cases, two with gaps; 30 iterations; test cases without t1c and with t2f alone."""
    source = tmp_path / "raw" / "Dataset501_Tumour"
    for case_id, gaps in TRAINING.items():
        link_case(DATA / "train" / case_id, source / "imagesTr", gaps)
        label = source / "labelsTr" / f"{case_id}.nii.gz"
        label.parent.mkdir(exist_ok=True)
        label.symlink_to(DATA / "train" / case_id / f"{case_id}-seg.nii.gz")
    tested = dict(zip(sorted((DATA / "test").iterdir()), TEST_GAPS, strict=False))
    for folder, gaps in tested.items():
        link_case(folder, source / "imagesTs", gaps)
    labels = {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 3}
    (source / "dataset.json").write_text(json.dumps(description(NAMES, len(TRAINING), labels=labels)))
    nnunet = NnUNet(tmp_path, SHIPPED)
    trainer = TRAINER.replace("TwoStepTrainer", "ThirtyStepTrainer").replace("= 1, 2, 1", "= 1, 30, 1")
    (tmp_path / "trainers" / "thirty_step_trainer.py").write_text(trainer)
    predictions = both_routes(nnunet, "ThirtyStepTrainer", (16, 32, 64, 128), (64, 64, 64))
    for run in predictions.iterdir():
        for folder, gaps in tested.items():
            assert_predicted(run, source / "imagesTs", folder.name, gaps)


def link_case(case: Path, images: Path, gaps: Sequence[str]) -> None:
    """Give a real case's modalities, all but the gaps, nnU-Net's names."""
    images.mkdir(parents=True, exist_ok=True)
    for number, modality in enumerate(MODALITIES):
        if modality not in gaps:
            (images / f"{case.name}_{number:04d}.nii.gz").symlink_to(case / f"{case.name}-{modality}.nii.gz")
