"""`modfill nnunet ...` as users run it, in processes of its own; nnU-Net spawns workers that must find the plugin."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from modfill.weights.file import SHIPPED
from tests.case_files import MODALITIES
from tests.nnunet_data import NAMES, TRAINER, description, shrink_plans, write_dataset
from tests.pages import marked

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


# nnU-Net's own training command and trainer, but for the number of iterations
SHORT_TRAINING = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

initialize = nnUNetTrainer.initialize

def shorten_and_initialize(self):
    self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, {steps}, 1
    initialize(self)

nnUNetTrainer.initialize = shorten_and_initialize
nnUNetTrainer.perform_actual_validation = lambda self, save_probabilities=False: None
from nnunetv2.run.run_training import run_training_entry

run_training_entry()
"""


@dataclass
class NnUNet:
    """nnU-Net's three folders, and the documentation's commands run in them on a small network.

    Attributes:
        steps: iterations of training.
        features, patch: as in `shrink_plans`.
    """

    folder: Path
    weights: Path
    steps: int
    features: Sequence[int] | None = None
    patch: Sequence[int] | None = None
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        trainer = TRAINER.replace("TwoStepTrainer", "ShortTrainer").replace("= 1, 2, 1", f"= 1, {self.steps}, 1")
        (self.folder / "trainers").mkdir()
        (self.folder / "trainers" / "short_trainer.py").write_text(trainer)
        own = {f"nnUNet_{name}": str(self.folder / name) for name in ("raw", "preprocessed", "results")}
        for path in own.values():
            Path(path).mkdir(exist_ok=True)
        self.environment = {**os.environ, **own, "nnUNet_extTrainer": str(self.folder / "trainers")}

    def documented(self, block: str, options: Mapping[str, Sequence[str]], words: Mapping[str, Path] = {}) -> None:
        """Run a block of the documentation's commands, in order.

        Args:
            block: the name of its mark.
            options: added to each command, by its name, to make it small.
            words: what stands for the documentation's words in capitals.
        """
        for line in marked("docs/how-to/nnunet.md", f"commands: {block}").splitlines():
            program, *rest = (str(words.get(word, word)) for word in shlex.split(line, comments=True))
            command = rest[1] if program == "modfill" else program
            training = "train" in command
            if training:
                for plans in self.folder.glob("preprocessed/*/nnUNetPlans.json"):
                    shrink_plans(plans, self.features, self.patch)
            self.run(program, *rest, *options[command], **({"nnUNet_n_proc_DA": "0"} if training else {}))

    def run(self, program: str, *arguments: str, **environment: str) -> None:
        """Run an installed command, which must succeed."""
        own = [str(Path(sys.executable).parent / program)]
        if program == "nnUNetv2_train":
            own = ["-c", SHORT_TRAINING.format(steps=self.steps)]
        done = subprocess.run([sys.executable, *own, *arguments], env={**self.environment, **environment}, cwd=ROOT,
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    def model(self, dataset: str, trainer: str) -> Path:
        """The folder of a trained network."""
        return self.folder / "results" / dataset / f"{trainer}__nnUNetPlans__3d_fullres"


def both_routes(nnunet: NnUNet) -> list[Path]:
    """Take dataset 501 through both routes, word for word as in the documentation.

    Returns:
        The folders of predictions: of the plugin's network; of the prepared dataset's network on cases with gaps; of
        the same with nnU-Net's own command on prepared cases.
    """
    [source] = (nnunet.folder / "raw").glob("Dataset501_*")
    prepared, images, cpu = f"{source.name}_modfill".replace("501", "502"), source / "imagesTs", ["-device", "cpu"]
    weights = ["--weights", str(nnunet.weights)]
    planning = ["-c", "3d_fullres", "-npfp", "1", "-np", "1", "--no_pbar"]
    predicting = [*cpu, "-npp", "1", "-nps", "1", "--disable_tta"]
    plugged, filled, own = (nnunet.folder / "predictions" / name for name in ("plugged", "filled", "own"))
    nnunet.documented("prepare", {"prepare": weights, "nnUNetv2_plan_and_preprocess": planning, "nnUNetv2_train": cpu})
    filled_images = nnunet.folder / "raw" / prepared / "imagesTs"
    nnunet.run("nnUNetv2_predict", "-i", str(filled_images), "-o", str(own), "-d", "502", "-c", "3d_fullres", "-f", "0",
               *predicting)  # fmt: skip
    options = {
        "plan_and_preprocess": [*planning, *weights],
        "train": [*cpu, "-tr", "ShortTrainer"],
        "predict": [*predicting, *weights],
    }
    words = {"INPUT": images, "OUTPUT": plugged, "TRAINED_MODEL_FOLDER": nnunet.model(source.name, "ShortTrainer")}
    nnunet.documented("plugin", options, words)
    nnunet.run("modfill", "nnunet", "predict", "-i", str(images), "-o", str(filled), "-m",
               str(nnunet.model(prepared, "nnUNetTrainer")), "-f", "0", *options["predict"])  # fmt: skip
    assert_same_arrays(*(nnunet.folder / "preprocessed" / name for name in (prepared, source.name)))
    return [plugged, filled, own]


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


def assert_all_predicted(folders: Sequence[Path], images: Path, tested: Mapping[str, Sequence[str]]) -> None:
    """Every network predicted every case, and nnU-Net's own command on prepared cases says the same as modfill's."""
    plugged, filled, own = folders
    for case_id, gaps in tested.items():
        for folder in (plugged, filled):
            assert_predicted(folder, images, case_id, gaps)
        same = [np.asarray(nib.load(folder / f"{case_id}.nii.gz").dataobj) for folder in (filled, own)]
        np.testing.assert_array_equal(*same)


@pytest.mark.slow
def test_commands_on_tiny_cases(tmp_path: Path, tiny_weights: Path) -> None:
    source = write_dataset(tmp_path / "raw")
    folders = both_routes(NnUNet(tmp_path, tiny_weights, steps=2))
    assert_all_predicted(folders, source / "imagesTs", {"x": ("t1n", "t1c", "t2w")})


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
    folders = both_routes(NnUNet(tmp_path, SHIPPED, 30, (16, 32, 64, 128), (64, 64, 64)))
    assert_all_predicted(folders, source / "imagesTs", {folder.name: gaps for folder, gaps in tested.items()})


def link_case(case: Path, images: Path, gaps: Sequence[str]) -> None:
    """Give a real case's modalities, all but the gaps, nnU-Net's names."""
    images.mkdir(parents=True, exist_ok=True)
    for number, modality in enumerate(MODALITIES):
        if modality not in gaps:
            (images / f"{case.name}_{number:04d}.nii.gz").symlink_to(case / f"{case.name}-{modality}.nii.gz")
