"""nnU-Net itself, made small: both routes preprocess the same arrays, and a trained network predicts on gaps."""

from __future__ import annotations

import json
import pickle
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from modfill.integrations.nnunet.command import main

from modfill.errors import ModfillError
from tests.case_files import oblique_affine
from tests.nnunet_data import GAPS, SPACE, make_quick, write_dataset, write_images
from tests.pages import marked

pytest.importorskip("nnunetv2")

from modfill.integrations.nnunet import plugin
from modfill.integrations.nnunet.plugin import ModalityCompletionPreprocessor, configure
from modfill.integrations.nnunet.predict import ModalityCompletionPredictor
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder

PLAIN = ["-c", "3d_fullres", "-npfp", "1", "-np", "1", "--verify_dataset_integrity", "--no_pbar"]
TEST_GAPS = {"x": ("t1n", "t1c", "t2w"), "y": ("t1c",), "z": ()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Iterator[Path]:
    """Both routes gone through: 501 by the plugin, 502 by prepare and nnU-Net's own commands, and trained on."""
    folder, threads = tmp_path_factory.mktemp("nnunet"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch, folder)
        source = write_dataset(folder / "raw")
        for seed, case_id in enumerate("yz", 71):
            write_images(source / "imagesTs", case_id, TEST_GAPS[case_id], seed, oblique_affine())
        weights = ["--weights", str(tiny_weights)]
        assert main(["prepare", "-d", "501", "-o", "502", "--device", "cpu", *weights]) == 0
        verify_dataset_integrity(str(folder / "raw" / "Dataset502_Toy_modfill"), 1)
        extract_fingerprints([502], num_processes=1, show_progress_bar=False)
        plan_experiments([502])
        preprocess([502], configurations=["3d_fullres"], num_processes=[1], show_progress_bar=False)
        assert main(["plan_and_preprocess", "-d", "501", *PLAIN, *weights]) == 0
        patch.setenv("nnUNet_n_proc_DA", "0")  # right for training here, but planning fails with it
        assert main(["train", "502", "3d_fullres", "all", "-tr", "TwoStepTrainer", "-device", "cpu"]) == 0
        yield folder
        configure()
    torch.set_num_threads(threads)


def preprocessed(world: Path, name: str) -> nnUNetDatasetBlosc2:
    return nnUNetDatasetBlosc2(str(world / "preprocessed" / name / "nnUNetPlans_3d_fullres"))


def model_folder(world: Path) -> Path:
    return world / "results" / "Dataset502_Toy_modfill" / "TwoStepTrainer__nnUNetPlans__3d_fullres"


def predictor(world: Path, tiny_weights: Path) -> ModalityCompletionPredictor:
    made = ModalityCompletionPredictor(
        weights=tiny_weights, device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False
    )
    made.initialize_from_trained_model_folder(str(model_folder(world)), ("all",))
    return made


def test_both_routes_preprocess_the_same_arrays(world: Path) -> None:
    prepared, plugged = (preprocessed(world, name) for name in ("Dataset502_Toy_modfill", "Dataset501_Toy"))
    assert sorted(prepared.identifiers) == sorted(plugged.identifiers) == sorted(GAPS)
    for case_id in GAPS:
        (data, seg, _, notes), (other, other_seg, _, other_notes) = (d.load_case(case_id) for d in (prepared, plugged))
        assert data.shape[0] == 4 and np.asarray(data).std() > 0.1
        np.testing.assert_array_equal(data[:], other[:])
        np.testing.assert_array_equal(seg[:], other_seg[:])
        np.testing.assert_array_equal(notes["class_locations"][1], other_notes["class_locations"][1])


def test_both_routes_take_the_same_fingerprint_and_plans(world: Path) -> None:
    folders = [world / "preprocessed" / name for name in ("Dataset502_Toy_modfill", "Dataset501_Toy")]
    prints = [json.loads((folder / "dataset_fingerprint.json").read_text()) for folder in folders]
    assert prints[0] == prints[1] and len(prints[0]["foreground_intensity_properties_per_channel"]) == 4
    names = [
        json.loads((folder / "nnUNetPlans.json").read_text())["configurations"]["3d_fullres"]["preprocessor_name"]
        for folder in folders
    ]
    assert names == ["DefaultPreprocessor", "ModalityCompletionPreprocessor"]


def test_the_plugin_synthesises_once(world: Path) -> None:
    cache = world / "preprocessed" / "Dataset501_Toy" / "modfill"
    images = sorted(path.name for path in cache.rglob("*.nii.gz"))
    assert images == ["b-t1c.nii.gz", "c-t1n.nii.gz", "c-t2w.nii.gz", "e-t2f.nii.gz"]


def test_a_worker_finds_what_the_main_process_made(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that had to load a model would fail here, and its memory would be a model's per worker."""
    preprocessor, cases = run_whole(world, monkeypatch)
    preprocessor.options = replace(preprocessor.options, device="cuda:99")  # where no model can be loaded
    plans = PlansManager(str(world / "preprocessed" / "Dataset501_Toy" / "nnUNetPlans.json"))
    files = [str(path) for path in sorted((world / "raw" / "Dataset501_Toy" / "imagesTr").glob("c_*"))]
    description = str(world / "raw" / "Dataset501_Toy" / "dataset.json")
    data, _, _ = pickle.loads(pickle.dumps(preprocessor)).run_case(
        files, None, plans, plans.get_configuration("3d_fullres"), description
    )
    assert len(files) == 2 and cases == len(GAPS)
    np.testing.assert_array_equal(data, preprocessed(world, "Dataset502_Toy_modfill").load_case("c")[0][:])


def run_whole(world: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModalityCompletionPreprocessor, int]:
    """Run the plugin's preprocessor over the dataset without nnU-Net's part; returns it and the number of cases."""
    seen: list[int] = []
    monkeypatch.setattr(DefaultPreprocessor, "run", lambda *_: seen.append(len(GAPS)))
    preprocessor = ModalityCompletionPreprocessor(verbose=False)
    preprocessor.run(501, "3d_fullres", "nnUNetPlans", 1)
    return preprocessor, seen[0]


def test_a_listing_may_call_cases_otherwise_than_their_files(
    world: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the workers would look in the wrong place, load a model each, and draw other noise."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setattr(f"nnunetv2.preprocessing.preprocessors.default_preprocessor.{name}", str(tmp_path))
    folder = tmp_path / "Dataset501_Toy"
    images = [write_images(folder / "imagesTr", "file", ("t1n", "t2w"), 9)]
    content = json.loads((world / "raw" / "Dataset501_Toy" / "dataset.json").read_text())
    content["dataset"] = {"case": {"images": [f"imagesTr/{path.name}" for path in images[0]], "label": "seg.nii.gz"}}
    (folder / "dataset.json").write_text(json.dumps(content))
    monkeypatch.setattr(plugin, "maybe_convert_to_dataset_name", lambda _: folder.name)
    configure(weights=tiny_weights, device="cpu")
    preprocessor, _ = run_whole(world, monkeypatch)
    preprocessor.options = replace(preprocessor.options, device="cuda:99")
    plans = PlansManager(str(world / "preprocessed" / "Dataset501_Toy" / "nnUNetPlans.json"))
    files = [str(path) for path in images[0]]
    data, _, _ = pickle.loads(pickle.dumps(preprocessor)).run_case(
        files, None, plans, plans.get_configuration("3d_fullres"), content
    )
    assert data.shape[0] == 4
    assert sorted(path.name for path in folder.rglob("modfill/**/*.nii.gz")) == ["case-t1n.nii.gz", "case-t2w.nii.gz"]


def test_stock_nnunet_shifts_channels_silently(world: Path) -> None:
    """What this package is for: without it, case b's T2 goes where T1ce belongs, and nothing says so."""
    lists = create_lists_from_splitted_dataset_folder(str(world / "raw" / "Dataset501_Toy" / "imagesTr"), ".nii.gz")
    files = next(files for files in lists if Path(files[0]).name.startswith("b_"))
    plans = PlansManager(str(world / "preprocessed" / "Dataset502_Toy_modfill" / "nnUNetPlans.json"))
    configuration = plans.get_configuration("3d_fullres")
    description = str(world / "raw" / "Dataset501_Toy" / "dataset.json")
    shifted, _, _ = DefaultPreprocessor(verbose=False).run_case(files, None, plans, configuration, description)
    whole = preprocessed(world, "Dataset502_Toy_modfill").load_case("b")[0][:]
    assert shifted.shape[0] == 3
    np.testing.assert_array_equal(shifted[1:], whole[2:])


def test_stock_nnunet_fails_on_gaps(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(RuntimeError, match="Some images have errors"):
        verify_dataset_integrity(str(world / "raw" / "Dataset501_Toy"), 1)
    assert "Unexpected number of modalities" in capsys.readouterr().out
    with pytest.raises(IndexError):
        extract_fingerprints([501], num_processes=1, show_progress_bar=False)
    stock = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(model_folder(world)), ("all",))
    with pytest.raises(RuntimeError, match="to have 4 channels, but got 1"):
        stock.predict_from_files_sequential(str(world / "raw" / "Dataset501_Toy" / "imagesTs"), str(tmp_path))


def test_a_trained_network_predicts_on_gaps(world: Path, tiny_weights: Path, tmp_path: Path) -> None:
    cases = str(world / "raw" / "Dataset501_Toy" / "imagesTs")
    options = ["-d", "502", "-tr", "TwoStepTrainer", "-c", "3d_fullres", "-f", "all", "-npp", "0", "-nps", "0",
               "--disable_tta"]  # fmt: skip
    weights = ["--weights", str(tiny_weights)]
    assert main(["predict", "-i", cases, "-o", str(tmp_path / "own"), "-device", "cpu", *options, *weights]) == 0
    stock = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(model_folder(world)), ("all",))
    (tmp_path / "stock").mkdir()
    completed = str(world / "raw" / "Dataset502_Toy_modfill" / "imagesTs")
    stock.predict_from_files_sequential(completed, str(tmp_path / "stock"))
    for case_id, missing in TEST_GAPS.items():
        segmentation, other = (nib.load(tmp_path / run / f"{case_id}.nii.gz") for run in ("own", "stock"))
        np.testing.assert_array_equal(np.asarray(segmentation.dataobj), np.asarray(other.dataobj))
        np.testing.assert_allclose(segmentation.affine, oblique_affine(), atol=1e-4)
        note = json.loads((tmp_path / "own" / f"{case_id}.json").read_text())
        assert note["Case"] == case_id and note["SyntheticChannels"] == list(missing)
        assert [channel["Synthetic"] for channel in note["Channels"]] == [
            modality in missing for modality in ("t1n", "t1c", "t2w", "t2f")
        ]
        assert note["Channels"][3] == {"Channel": "0003", "Name": "FLAIR", "Modality": "t2f", "Synthetic": False,
                                       "File": f"{case_id}_0003.nii.gz"}  # fmt: skip
    assert (tmp_path / "own" / "synthetic" / "y" / "y-t1c.json").is_file()


def test_files_and_arrays_give_the_same_segmentation(world: Path, tiny_weights: Path) -> None:
    folder = world / "raw" / "Dataset501_Toy" / "imagesTs"
    images = {"t1n": folder / "y_0000.nii.gz", "t2f": folder / "y_0003.nii.gz"}
    made = predictor(world, tiny_weights)
    [expected] = made.predict_from_files_sequential([[str(path) for path in images.values()]], None)
    loaded = {modality: nib.load(path) for modality, path in images.items()}
    arrays = {modality: np.asarray(image.dataobj) for modality, image in loaded.items()}
    segmentation, note = made.predict_arrays(arrays, loaded["t1n"].affine, "y")
    np.testing.assert_array_equal(segmentation, expected.transpose(2, 1, 0))
    assert note["SyntheticChannels"] == ["t1c", "t2w"] and "File" not in note["Channels"][0]


def test_wrong_arrays_are_refused(world: Path, tiny_weights: Path) -> None:
    made = predictor(world, tiny_weights)
    with pytest.raises(ModfillError, match="case y: an array's modality must be one of t1n, .*, got 'pd'"):
        made.predict_arrays({"pd": np.ones((4, 4, 4))}, np.eye(4), "y")
    with pytest.raises(ModfillError, match="case y: .*3D"):
        made.predict_arrays({"t1n": np.ones((4, 4))}, np.eye(4), "y")


def test_arrays_that_do_not_fit_one_another_are_refused(world: Path, tiny_weights: Path) -> None:
    """Also where none is missing, so that completion has no say."""
    made, whole = predictor(world, tiny_weights), {m: np.ones((4, 4, 4)) for m in ("t1n", "t1c", "t2w", "t2f")}
    with pytest.raises(ModfillError, match="case y: all arrays must have one shape, got .* t2f with 4x4x5 voxels; res"):
        made.predict_arrays({**whole, "t2f": np.ones((4, 4, 5))}, np.eye(4), "y")
    with pytest.raises(ModfillError, match="case y: t2f must be 3D, got 2D"):
        made.predict_arrays({**whole, "t2f": np.ones((4, 4))}, np.eye(4), "y")
    with pytest.raises(ModfillError, match="case y must have a 4x4 affine"):
        made.predict_arrays(whole, np.eye(3), "y")


def test_cases_whose_files_have_one_name_stay_apart(world: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """Two hospitals' `p_0000.nii.gz`: each case gets its own synthetic channels, with and without an output folder."""
    lists = [[str(p) for p in write_images(tmp_path / site, "p", ("t1c",), seed)] for seed, site in enumerate("ab", 3)]
    made = predictor(world, tiny_weights)
    (tmp_path / "out").mkdir()
    apart = [made.predict_from_files_sequential([files], None)[0] for files in lists]
    together = made.predict_from_files_sequential(lists, None)
    made.predict_from_files_sequential(lists, [str(tmp_path / "out" / name) for name in ("first", "second")])
    for one, both, name in zip(apart, together, ("first", "second"), strict=True):
        written = np.asarray(nib.load(tmp_path / "out" / f"{name}.nii.gz").dataobj).transpose(2, 1, 0)
        np.testing.assert_array_equal(one, both)
        np.testing.assert_array_equal(one, written)
        assert (tmp_path / "out" / "synthetic" / name / f"{name}-t1c.nii.gz").is_file()
    images = [(tmp_path / "out" / "synthetic" / n / f"{n}-t1c.nii.gz").read_bytes() for n in ("first", "second")]
    assert images[0] != images[1]


def test_an_image_without_a_channel_number_is_named(world: Path, tiny_weights: Path, tmp_path: Path) -> None:
    for name in ("p_0003.nii.gz", "x.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModfillError, match=r"x\.nii\.gz must end in a channel number, e\.g\. _0000"):
        predictor(world, tiny_weights).predict_from_files(str(tmp_path), str(tmp_path / "out"))


def test_nothing_to_predict_is_an_error(world: Path, tiny_weights: Path, tmp_path: Path) -> None:
    made = predictor(world, tiny_weights)
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ModfillError, match="must hold images <case>_0000.nii.gz, ..., got none; check the input"):
            made.predict_from_files_sequential(str(folder), str(tmp_path))
    with pytest.raises(ModfillError, match="each case must have at least one file, got an empty list"):
        made.predict_from_files_sequential([[]], None)


def test_a_folder_without_a_model_is_an_error(world: Path, tiny_weights: Path, tmp_path: Path) -> None:
    made = ModalityCompletionPredictor(weights=tiny_weights, device=torch.device("cpu"))
    with pytest.raises(
        ModfillError, match="dataset.json must be nnU-Net's description .*, got FileNotFoundError; give"
    ):
        made.initialize_from_trained_model_folder(str(tmp_path), ("all",))
    content = json.loads((model_folder(world) / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "file_ending": ".mha"}))
    with pytest.raises(ModfillError, match="file_ending must be '.nii.gz', got '.mha'; convert the images"):
        made.initialize_from_trained_model_folder(str(tmp_path), ("all",))
    with pytest.raises(ModfillError, match="Dataset9: file_ending must be '.nii.gz', got '.mha'"):
        plugin.Options().completer({**content, "file_ending": ".mha"}, "Dataset9")


def test_the_snippet_of_the_documentation(world: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modfill.weights.file.SHIPPED", tiny_weights)
    images = world / "raw" / "Dataset501_Toy" / "imagesTs"
    code = marked("docs/how-to/nnunet.md", "snippet: nnunet").replace("TRAINED_MODEL_FOLDER", str(model_folder(world)))
    names: dict = {}
    exec(compile(code.replace("case_0003.nii.gz", str(images / "x_0003.nii.gz")), "nnunet.md", "exec"), names)
    assert names["note"]["SyntheticChannels"] == ["t1n", "t1c", "t2w"]
    assert names["segmentation"].shape == nib.load(images / "x_0003.nii.gz").shape


def test_finished_predictions_are_left_alone(world: Path, tiny_weights: Path, tmp_path: Path) -> None:
    made, cases = predictor(world, tiny_weights), str(world / "raw" / "Dataset501_Toy" / "imagesTs")
    for case_id in "xz":
        (tmp_path / f"{case_id}.nii.gz").touch()
    made.predict_from_files_sequential(cases, str(tmp_path), overwrite=False)
    assert (tmp_path / "x.nii.gz").stat().st_size == 0 and (tmp_path / "y.nii.gz").stat().st_size > 0
    assert [path.name for path in (tmp_path / "synthetic").iterdir()] == ["y"]


def test_too_many_channels_are_refused(world: Path, tiny_weights: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "in", "w", ("t1c",), 5, SPACE)
    (tmp_path / "in" / "w_0000.nii.gz").rename(tmp_path / "in" / "w_0004.nii.gz")
    with pytest.raises(ModfillError, match="case w: w_0004.nii.gz must end in a channel number from _0000 to _0003"):
        predictor(world, tiny_weights).predict_from_files_sequential(str(tmp_path / "in"), str(tmp_path))


def test_a_model_with_doubtful_channels_is_refused_at_once(world: Path, tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "fold_all").symlink_to(model_folder(world) / "fold_all")
    (tmp_path / "plans.json").symlink_to(model_folder(world) / "plans.json")
    content = json.loads((model_folder(world) / "dataset.json").read_text())
    content["channel_names"]["1"] = "zscore"
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    made = ModalityCompletionPredictor(weights=tiny_weights, device=torch.device("cpu"))
    with pytest.raises(ModfillError, match="the name of channel 1 must be that of a modality, got 'zscore'"):
        made.initialize_from_trained_model_folder(str(tmp_path), ("all",))
    told = ModalityCompletionPredictor(("t1n", "t1c", "t2w", "t2f"), tiny_weights, device=torch.device("cpu"))
    told.initialize_from_trained_model_folder(str(tmp_path), ("all",))


def test_a_network_trained_with_the_plugin_predicts(world: Path, tiny_weights: Path) -> None:
    """Its plans name a preprocessor that nnU-Net's workers would not find; they need nnU-Net's own by then."""
    made = ModalityCompletionPredictor(weights=tiny_weights, device=torch.device("cpu"))
    plans = PlansManager(str(world / "preprocessed" / "Dataset501_Toy" / "nnUNetPlans.json"))
    description = json.loads((world / "raw" / "Dataset501_Toy" / "dataset.json").read_text())
    made.manual_initialization(
        torch.nn.Identity(), plans, plans.get_configuration("3d_fullres"), None, description, "TwoStepTrainer", None
    )
    assert made.configuration_manager.preprocessor_class is DefaultPreprocessor


def test_the_example_runs(
    world: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")  # it plans and trains in one process
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "nnunet_end_to_end.py"))
    options = ["--trainer", "TwoStepTrainer", "--device", "cpu", "--weights", str(tiny_weights)]
    example["main"](["501", "504", str(tmp_path), *options])
    assert sorted(path.name for path in tmp_path.glob("*.nii.gz")) == ["x.nii.gz", "y.nii.gz", "z.nii.gz"]
    assert "y.nii.gz: y.json says which channels were synthetic" in capsys.readouterr().out
    assert json.loads((tmp_path / "y.json").read_text())["SyntheticChannels"] == ["t1c"]


def test_without_nnunet_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['nnunetv2'] = None\n"
        "from modfill.errors import ModfillError\n"
        "from modfill.integrations.nnunet.command import main\n"
        "try: main(['predict', '-i', 'a', '-o', 'b', '-m', 'c'])\n"
        "except ModfillError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install" in done.stdout and "modfill[nnunet]" in done.stdout


def test_a_broken_torchvision_does_not_hide_trainers() -> None:
    """nnU-Net's search imports the one module that needs timm; finding TwoStepTrainer above went through it, too."""
    code = (
        "import sys; sys.modules['timm'] = None\n"
        "from modfill.integrations.nnunet.shim import require_nnunet\n"
        "require_nnunet(); require_nnunet()\n"
        "print('Primus' in dir(sys.modules['nnunetv2.training.nnUNetTrainer.primus.primus_trainers']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_channels_are_completed_on_the_predictor_s_own_device() -> None:
    dataset = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    made = ModalityCompletionPredictor("flair", device=torch.device("cpu"))
    assert made.channels == ("t2f",)
    made = ModalityCompletionPredictor(("T1", "flair"), device=torch.device("cpu"))
    made.dataset_json = dataset
    made.plans_manager = SimpleNamespace(dataset_name="Dataset501")
    for device in ("cpu", "cuda:1"):
        made.device = torch.device(device)
        assert made._completer().device == device and made._completer().channels == ("t1n", "t2f")
