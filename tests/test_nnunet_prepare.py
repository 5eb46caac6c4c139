"""A raw dataset with gaps becomes one without; nothing acquired is copied or changed, and nnU-Net is not needed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from modfill.integrations.nnunet.channels import ChannelCompleter, _holds_zeros, without_zeros
from modfill.integrations.nnunet.command import main
from modfill.integrations.nnunet.prepare import prepare_dataset

from modfill.cases.finding import find_cases
from modfill.cases.layouts.dataset_json import ChannelCase
from modfill.cases.reading import read_case, require_usable
from modfill.cli import main as complete
from modfill.cohort.table import read_table
from modfill.errors import CaseError, ModfillError
from modfill.modalities import BRATS
from tests.case_files import MODALITIES, brain_volumes, save, write_case
from tests.nnunet_data import GAPS, SHAPE, SPACE, description, write_dataset, write_images


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnUNet_raw with a dataset 501 that has gaps."""
    folder = tmp_path / "raw"
    write_dataset(folder)
    monkeypatch.setenv("nnUNet_raw", str(folder))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def channels_of(folder: Path, case_id: str, count: int = 4) -> list[Path]:
    return [folder / f"{case_id}_{number:04d}.nii.gz" for number in range(count)]


def record(folder: Path) -> dict[str, list[str]]:
    return json.loads((folder / "dataset.json").read_text())["modfill"]["SyntheticChannels"]


def reasons(folder: Path) -> dict[str, str]:
    """Why cases failed, by case."""
    return {row["case"]: row["reason"] for row in read_table(folder) if row["status"] == "failed"}


def only(folder: Path, case_id: str) -> ChannelCase:
    [case] = [case for case in find_cases(folder) if case.case_id == case_id]
    assert isinstance(case, ChannelCase)
    return case


def test_every_case_has_every_channel(raw: Path, tiny_weights: Path) -> None:
    before = hashes(raw / "Dataset501_Toy")
    folder = prepare_dataset(501, new_id=502, weights=tiny_weights, device="cpu")
    assert folder == raw / "Dataset502_Toy_modfill" and hashes(raw / "Dataset501_Toy") == before
    content = json.loads((folder / "dataset.json").read_text())
    assert content["numTraining"] == 5 and content["labels"] == {"background": 0, "tumour": 1}
    gaps = {case_id: list(missing) for case_id, missing in GAPS.items() if missing}
    assert content["modfill"] == {"CompletedFrom": "Dataset501_Toy", "SyntheticChannels": gaps}
    assert "dataset" not in content and content["file_ending"] == ".nii.gz"
    assert len(list((folder / "imagesTr").glob("*.nii.gz"))) == 20  # nnU-Net takes each for a channel
    for case_id in GAPS:
        label = folder / "labelsTr" / f"{case_id}.nii.gz"
        assert label.resolve() == raw / "Dataset501_Toy" / "labelsTr" / f"{case_id}.nii.gz" and label.is_file()
        reference = nib.load(label)
        for number, path in enumerate(channels_of(folder / "imagesTr", case_id)):
            if MODALITIES[number] in GAPS[case_id]:
                assert not path.is_symlink() and path.with_name(f"{case_id}_{number:04d}.json").is_file()
            else:
                assert path.resolve() == raw / "Dataset501_Toy" / "imagesTr" / f"{case_id}_{number:04d}.nii.gz"
            image = nib.load(path)
            assert image.shape == reference.shape
            np.testing.assert_allclose(image.affine, reference.affine, atol=1e-6)


def test_test_cases_are_complete_in_one_folder(raw: Path, tiny_weights: Path) -> None:
    folder = prepare_dataset(501, new_id=502, weights=tiny_weights, device="cpu")
    images = sorted((folder / "imagesTs").glob("*.nii.gz"))
    assert images == channels_of(folder / "imagesTs", "x")
    assert images[3].resolve() == raw / "Dataset501_Toy" / "imagesTs" / "x_0003.nii.gz"
    assert [path.is_symlink() for path in images] == [False, False, False, True]


def test_nnunet_raw_may_be_moved(raw: Path, tiny_weights: Path) -> None:
    prepare_dataset(501, new_id=502, weights=tiny_weights, device="cpu")
    moved = raw.rename(raw.parent / "elsewhere")
    files = list((moved / "Dataset502_Toy_modfill").rglob("*.nii.gz"))
    assert len(files) == 20 + 5 + 4 and all(path.is_file() for path in files)


def test_a_second_run_does_nothing_again(raw: Path, tiny_weights: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["prepare", "-d", "501", "-o", "502", "--weights", str(tiny_weights), "--device", "cpu"]
    assert main(options) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    stamps = {path: path.lstat().st_mtime_ns for path in folder.rglob("*.nii.gz")}
    before = hashes(folder)
    assert main(options) == 0
    assert {path: path.lstat().st_mtime_ns for path in stamps} == stamps and hashes(folder) == before
    assert main([*options, "--overwrite"]) == 0
    assert (folder / "imagesTs" / "x_0000.nii.gz").lstat().st_mtime_ns > stamps[folder / "imagesTs" / "x_0000.nii.gz"]
    again = hashes(folder)
    assert {name: again[name] for name in before if name != "cohort.csv"} == {  # which tells the seconds
        name: digest for name, digest in before.items() if name != "cohort.csv"
    }


def test_an_explicit_listing_is_read(raw: Path, tiny_weights: Path) -> None:
    source = raw / "Dataset501_Toy"
    image = (source / "imagesTr" / "b_0000.nii.gz").rename(raw / "other_0000.nii.gz")
    entry = {"images": ["../other_0000.nii.gz", "imagesTr/b_0003.nii.gz"], "label": "labelsTr/b.nii.gz"}
    path = source / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dataset": {"patient": entry}}))
    folder = prepare_dataset(501, new_id=502, weights=tiny_weights, device="cpu")
    images = sorted((folder / "imagesTr").glob("*.nii.gz"))
    assert images == channels_of(folder / "imagesTr", "patient") and images[0].resolve() == image
    assert record(folder) == {"patient": ["t1c", "t2w"]}
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 1
    assert (folder / "labelsTr" / "patient.nii.gz").resolve() == source / "labelsTr" / "b.nii.gz"


def test_a_prepared_dataset_may_be_prepared_again(raw: Path, tiny_weights: Path) -> None:
    """What was synthetic is synthetic still, also where a program rewrote a header; it is no source."""
    first = prepare_dataset(501, new_id=502, weights=tiny_weights, device="cpu")
    image = first / "imagesTr" / "b_0001.nii.gz"
    loaded = nib.load(image)
    nib.save(nib.Nifti1Image(np.asarray(loaded.dataobj), loaded.affine), image)
    second = prepare_dataset(502, new_id=503, weights=tiny_weights, device="cpu")
    assert record(second) == record(first)
    for path in first.rglob("*.nii.gz"):
        same = [np.asarray(nib.load(place).dataobj) for place in (path, second / path.relative_to(first))]
        np.testing.assert_array_equal(*same)


def test_cases_that_are_gone_leave_nothing_of_modfill_s(raw: Path, tiny_weights: Path) -> None:
    """Else nnU-Net would train with what a former run left of them."""
    source = raw / "Dataset501_Toy"
    folder = prepare_dataset(501, new_id=502, weights=tiny_weights, device="cpu")
    (folder / "imagesTs" / "own_0000.nii.gz").touch()  # neither a link nor synthetic
    for path in (*source.glob("imagesTr/c_*"), source / "labelsTr" / "c.nii.gz", *source.glob("imagesTs/x_*")):
        path.unlink()
    prepare_dataset(501, new_id=502, weights=tiny_weights, device="cpu")
    assert not [path for path in folder.rglob("*") if path.name.startswith(("c_", "c.", "x_"))]
    assert [path.name for path in (folder / "imagesTs").iterdir()] == ["own_0000.nii.gz"]
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 4 and "c" not in record(folder)


def test_a_dataset_of_the_first_nnunet(raw: Path, tiny_weights: Path) -> None:
    path = raw / "Dataset501_Toy" / "dataset.json"
    training = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in GAPS]
    content = {"name": "Toy", "modality": description()["channel_names"], "numTraining": 5, "training": training,
               "labels": {"0": "background", "1": "tumour"}, "test": ["./imagesTs/x.nii.gz"]}  # fmt: skip
    path.write_text(json.dumps(content))
    folder = prepare_dataset(501, new_id=502, weights=tiny_weights, device="cpu")
    made = json.loads((folder / "dataset.json").read_text())
    assert made["channel_names"] == content["modality"] and made["labels"] == {"background": 0, "tumour": 1}
    assert made["numTraining"] == 5 and not {"modality", "training", "test"} & set(made)
    assert len(list(folder.glob("images*/*.nii.gz"))) == 20 + 4


def test_only_the_dataset_s_own_channels_are_completed(raw: Path, tiny_weights: Path) -> None:
    path = raw / "Dataset501_Toy" / "dataset.json"
    path.write_text(json.dumps(description(("T1", "T1ce"), overwrite_image_reader_writer="NibabelIO")))
    for image in [*path.parent.glob("images*/*_0002.nii.gz"), *path.parent.glob("images*/*_0003.nii.gz")]:
        image.unlink()
    for name in ("imagesTr/c_0000.nii.gz", "imagesTs/x_0000.nii.gz"):
        save(path.parent / name, brain_volumes(SHAPE, 9)["t1n"], SPACE)
    folder = prepare_dataset(501, new_id=502, weights=tiny_weights, device="cpu")
    content = json.loads((folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "T1", "1": "T1ce"} and record(folder) == {"b": ["t1c"]}
    assert content["overwrite_image_reader_writer"] == "NibabelIO"  # nnU-Net's keys stay
    assert len(list(folder.glob("imagesTr/*.nii.gz"))) == 10


@pytest.mark.parametrize("listing", [[1], 5])
def test_wrong_listings(raw: Path, listing: Any) -> None:
    path = raw / "Dataset501_Toy" / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dataset": listing}))
    with pytest.raises(ModfillError, match="dataset must list 'images' and a 'label' by case, got"):
        prepare_dataset(501, new_id=502)


@pytest.mark.parametrize("entry", [{"images": ["b.nii.gz"]}, {"label": "x"}, {"images": [1], "label": "x"}, "b", None])
def test_a_wrong_entry_of_a_listing_is_its_case_s_problem(raw: Path, entry: Any) -> None:
    path = raw / "Dataset501_Toy" / "dataset.json"
    good = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "dataset": {"a": good, "b": entry}}))
    a, b, _ = find_cases(path.parent)
    assert a.problem is None and "case b: its entry in dataset.json must hold 'images' and a 'label'" in str(b.problem)


@pytest.mark.parametrize("number", [-1, 0, 1000])
def test_wrong_numbers(raw: Path, number: int) -> None:
    with pytest.raises(ModfillError, match=f"the new dataset's number must be from 1 to 999, got {number}"):
        prepare_dataset(501, new_id=number)


def test_the_order_of_channels_may_be_told(raw: Path, tiny_weights: Path) -> None:
    path = raw / "Dataset501_Toy" / "dataset.json"
    content = json.loads(path.read_text())
    content["channel_names"] = {str(number): "MRI" for number in range(4)}
    path.write_text(json.dumps(content))
    with pytest.raises(ModfillError, match="Dataset501_Toy/dataset.json: the name of channel 0 .* .channels="):
        main(["prepare", "-d", "501", "-o", "502"])
    assert not (raw / "Dataset502_Toy_modfill").exists()
    main(["prepare", "-d", "501", "-o", "502", "-c", *MODALITIES, "--weights", str(tiny_weights), "--device", "cpu"])
    folder = raw / "Dataset502_Toy_modfill"
    assert len(list(folder.glob("imagesTr/c_*.nii.gz"))) == 4 and record(folder)["c"] == ["t1n", "t2w"]
    assert json.loads((folder / "dataset.json").read_text())["channel_names"]["0"] == "MRI"  # by which it normalises


def test_a_channel_of_zeros_is_a_missing_one_by_every_way(
    raw: Path, tiny_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = raw / "Dataset501_Toy"
    blank = save(source / "imagesTr" / "a_0001.nii.gz", np.zeros(SHAPE, np.int16), SPACE)  # a has no other gap
    save(source / "imagesTs" / "x_0000.nii.gz", np.zeros(SHAPE, np.float32), nib.load(blank).affine)
    before = hashes(source)
    said = "case a: a_0001.nii.gz holds only zeros; t1c counts as missing"

    folder = prepare_dataset(501, new_id=502, weights=tiny_weights, device="cpu")
    assert record(folder)["a"] == ["t1c"]
    assert said in caplog.messages and "x_0000.nii.gz" in caplog.text
    assert {record.name for record in caplog.records} == {"modfill"}
    assert not (folder / "imagesTs" / "x_0000.nii.gz").is_symlink()

    caplog.clear()
    completer, case = ChannelCompleter(MODALITIES, tiny_weights, "cpu"), only(source, "a")
    completed = completer.complete_cached(case, tmp_path / "cache")  # what the plugin does
    assert completed.synthetic == (1,) and completed == completer.complete_cached(case, tmp_path / "cache")
    assert caplog.messages == [said] * 2

    caplog.clear()
    options = ["--naming", "nnunet", "--link", "--weights", str(tiny_weights), "--device", "cpu"]
    assert complete(["complete", str(source), "--out", str(tmp_path / "out"), *options]) == 0
    assert said in caplog.messages and hashes(source) == before
    images = [
        nib.load(folder / "imagesTr/a_0001.nii.gz"),
        nib.load(completed.files[1]),
        nib.load(tmp_path / "out/imagesTr/a_0001.nii.gz"),
    ]
    assert images[0].get_fdata().any()
    for image in images[1:]:
        np.testing.assert_array_equal(image.get_fdata(), images[0].get_fdata())


def test_only_zeros_alone_are_a_missing_channel(raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not a volume whose middle is empty, nor one that cannot be read; and arrays as files."""
    volume = np.zeros(SHAPE, np.int16)
    path = save(tmp_path / "a_0000.nii.gz", volume, SPACE)
    assert _holds_zeros("a", path)
    volume[3, 4, 1] = 1
    assert not _holds_zeros("a", save(path, volume, SPACE))
    path.write_bytes(path.read_bytes()[:300])
    assert not _holds_zeros("a", path)
    assert set(without_zeros({"t1n": volume, "t1c": volume * 0, "ADC": volume * 0}, "a", BRATS)) == {"t1n", "ADC"}
    assert "case a: the array t1c holds only zeros" in caplog.text


def test_a_file_of_zeros_in_brats_folders_is_refused(tmp_path: Path, tiny_weights: Path) -> None:
    home = write_case(tmp_path / "in", "p1", MODALITIES[:2])
    save(home / "p1-t1c.nii.gz", np.zeros((24, 28, 20), np.int16))
    with pytest.raises(CaseError, match="all zero"):
        require_usable(read_case(find_cases(tmp_path / "in")[0]))


FIVE = ("ADC", "T1", "T1ce", "T2", "FLAIR")


def write_five(raw: Path, gaps: dict[str, tuple[str, ...]]) -> Path:
    """Make the dataset's channels ADC, T1, T1ce, T2, FLAIR; ADC is a gap like others."""
    source = raw / "Dataset501_Toy"
    (source / "dataset.json").write_text(json.dumps(description(FIVE, len(gaps))))
    for folder in ("imagesTr", "imagesTs", "labelsTr"):
        for file in (source / folder).iterdir():
            file.unlink()
    for seed, (case_id, missing) in enumerate(gaps.items()):
        volumes = brain_volumes(SHAPE, seed)
        volumes = {"ADC": volumes["t2w"] // 2} | volumes
        for number, (name, volume) in enumerate(volumes.items()):
            if name not in missing:
                save(source / "imagesTr" / f"{case_id}_{number:04d}.nii.gz", volume, SPACE)
        save(source / "labelsTr" / f"{case_id}.nii.gz", np.ones(SHAPE, np.uint8), SPACE)
    return source


def test_a_channel_of_another_kind_is_carried_along(raw: Path, tiny_weights: Path, tmp_path: Path) -> None:
    source = write_five(raw, {"a": ("t1c",), "b": ()})
    folder = prepare_dataset(501, new_id=502, weights=tiny_weights, device="cpu")
    files = channels_of(folder / "imagesTr", "a", 5)
    assert [file.is_symlink() for file in files] == [True, True, False, True, True]
    assert files[0].resolve() == source / "imagesTr" / "a_0000.nii.gz"
    content = json.loads((folder / "dataset.json").read_text())
    assert tuple(content["channel_names"].values()) == FIVE and record(folder) == {"a": ["t1c"]}
    out = tmp_path / "out"
    options = ["--out", str(out), "--naming", "auto", "--link", "--weights", str(tiny_weights), "--device", "cpu"]
    assert complete(["complete", str(source), *options]) == 0
    assert tuple(json.loads((out / "dataset.json").read_text())["channel_names"].values()) == FIVE
    assert len(list((out / "imagesTr").glob("*.nii.gz"))) == 10
    assert (out / "imagesTr" / "a_0000.nii.gz").resolve() == source / "imagesTr" / "a_0000.nii.gz"
    same = [nib.load(path).get_fdata() for path in (files[2], out / "imagesTr" / "a_0002.nii.gz")]
    np.testing.assert_array_equal(*same)


def test_a_channel_of_another_kind_is_never_synthesised(raw: Path, tiny_weights: Path, tmp_path: Path) -> None:
    source = write_five(raw, {"a": ("ADC",), "b": ("t2w",)})
    a, b = only(source, "a"), only(source, "b")
    assert b.problem is None and "case a: channel 0 (ADC) must be there" in str(a.problem)
    with pytest.raises(ModfillError, match="1 of 2 failed"):
        prepare_dataset(501, new_id=502, weights=tiny_weights, device="cpu")
    assert list(reasons(raw / "Dataset502_Toy_modfill").values()) == [a.problem]
    completer = ChannelCompleter(("ADC", *MODALITIES), tiny_weights, "cpu")
    with pytest.raises(CaseError, match=r"case a: channel 0 \(ADC\)"):
        completer.complete(a, out=tmp_path)
    volumes = brain_volumes(SHAPE)
    arrays = {"t1n": volumes["t1n"], "ADC": volumes["t2w"] // 2}
    whole = completer.complete_arrays(arrays, affine=SPACE, case_id="x")
    assert tuple(whole) == ("ADC", *MODALITIES) and whole["ADC"] is arrays["ADC"]
    with pytest.raises(CaseError, match="ADC"):
        completer.complete_arrays({"t1n": volumes["t1n"]}, affine=SPACE, case_id="x")


def test_the_plugin_s_cache_follows_the_content(raw: Path, tiny_weights: Path, tmp_path: Path) -> None:
    completer = ChannelCompleter(MODALITIES, tiny_weights, "cpu")
    images = raw / "Dataset501_Toy" / "imagesTr"
    case = only(raw / "Dataset501_Toy", "b")
    first = completer.complete_cached(case, tmp_path / "cache")
    again = completer.complete_cached(case, tmp_path / "cache")
    assert again == first and first.synthetic == (1,) and [path.parent for path in first.files[2:]] == [images] * 2
    write_images(images, "b", GAPS["b"], seed=40)
    changed = completer.complete_cached(case, tmp_path / "cache")
    assert changed.files[1] != first.files[1] and changed.files[1].read_bytes() != first.files[1].read_bytes()
    with pytest.raises(ModfillError, match="lost.safetensors: weights must be a file"):
        ChannelCompleter(MODALITIES, tmp_path / "lost.safetensors", "cpu").complete_cached(case, tmp_path / "cache")


def test_a_case_that_fails_stops_no_other_and_leaves_no_dataset_json(raw: Path, tiny_weights: Path) -> None:
    """nnU-Net would move the channels of the failed case up; without a description it takes the folder for none."""
    source, folder = raw / "Dataset501_Toy", raw / "Dataset502_Toy_modfill"
    options = ["prepare", "-d", "501", "-o", "502", "--weights", str(tiny_weights), "--device", "cpu"]
    assert main(options) == 0
    image = source / "imagesTr" / "b_0000.nii.gz"
    whole, label = image.read_bytes(), source / "labelsTr" / "d.nii.gz"
    image.write_bytes(b"no image")
    label.rename(source / "d.nii.gz")
    with pytest.raises(ModfillError, match="Dataset502_Toy_modfill must have every case complete .* 2 of 6 failed"):
        main([*options, "--overwrite"])
    assert "b_0000.nii.gz" in reasons(folder)["b"] and "case d: label" in reasons(folder)["d"]
    assert len(reasons(folder)) == 2 and not (folder / "dataset.json").exists()
    assert len([path for path in folder.glob("imagesTr/*.nii.gz") if path.name[0] in "ce"]) == 8
    image.write_bytes(whole)
    (source / "d.nii.gz").rename(label)
    assert main(options) == 0
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 5


def test_whichever_shard_finishes_last_writes_dataset_json(
    raw: Path, tiny_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["prepare", "-d", "501", "--weights", str(tiny_weights), "--device", "cpu"]
    shards = raw / "Dataset503_Toy_modfill"
    assert main([*options, "-o", "503", "--shard", "2/2"]) == 0
    assert not (shards / "dataset.json").exists()
    assert "Dataset503_Toy_modfill has no dataset.json yet: 3 of 6 cases are not complete" in caplog.text
    assert main([*options, "-o", "503", "--shard", "1/2", "--jobs", "2"]) == 0
    assert json.loads((shards / "dataset.json").read_text())["numTraining"] == 5
    assert main([*options, "-o", "504"]) == 0
    one, two = (hashes(raw / name) for name in ("Dataset503_Toy_modfill", "Dataset504_Toy_modfill"))
    assert one.keys() == two.keys() and {n for n in one if one[n] != two[n]} == {"cohort.csv"}  # seconds


def test_help_names_the_options_of_modfill_s_own(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "plan_and_preprocess and predict take\n--channels" in capsys.readouterr().out


def test_clear_errors(raw: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = raw / "Dataset501_Toy"
    with pytest.raises(ModfillError, match="must hold one Dataset600_<name>, got none"):
        prepare_dataset(600, new_id=601)
    (raw / "Dataset502_Other").mkdir()
    with pytest.raises(ModfillError, match="must be free, got 502, that of Dataset502_Other"):
        prepare_dataset(501, new_id=502)
    with pytest.raises(ModfillError, match="must be free, got 501, that of Dataset501_Toy"):
        prepare_dataset(501, new_id=501)
    (raw / "Dataset503_Toy_modfill").mkdir()
    (raw / "Dataset503_Toy_modfill" / "dataset.json").write_text("{}")
    with pytest.raises(ModfillError, match="dataset.json must be free or modfill's"):
        prepare_dataset(501, new_id=503, weights=tiny_weights, device="cpu")
    label = source / "labelsTr" / "b.nii.gz"
    label.rename(label.with_name("z.nii.gz"))
    with pytest.raises(ModfillError, match="2 of 7 failed"):
        prepare_dataset(501, new_id=504, weights=tiny_weights, device="cpu")
    failed = reasons(raw / "Dataset504_Toy_modfill")
    assert "z.nii.gz must have an image, got none" in failed["z"] and "b.nii.gz must be a file, got none" in failed["b"]
    (source / "dataset.json").write_text(json.dumps(description(file_ending=".mha")))
    with pytest.raises(ModfillError, match="file_ending must be '.nii.gz', got '.mha'; convert the images"):
        prepare_dataset(501, new_id=504)
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(ModfillError, match="nnUNet_raw must be set"):
        prepare_dataset(501, new_id=504)


def test_other_layouts_are_refused(raw: Path) -> None:
    source = raw / "Dataset501_Toy"
    (source / "dataset.json").unlink()
    with pytest.raises(ModfillError, match="dataset.json must be nnU-Net's description"):
        prepare_dataset(501, new_id=502)
    for folder in ("imagesTr", "imagesTs"):
        for file in (source / folder).iterdir():
            file.unlink()
    image = save(source / "imagesTr" / "a.nii.gz", np.ones((*SHAPE, 4), np.int16), SPACE)
    content = {"modality": description()["channel_names"], "labels": {"0": "background"},
               "training": ["imagesTr/a.nii.gz"]}  # fmt: skip
    (source / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(ModfillError, match="got layout 'decathlon'; complete it with naming='nnunet' and link=True"):
        prepare_dataset(501, new_id=502)
    (source / "dataset.json").write_text(json.dumps(description()))
    image.rename(source / "imagesTs" / "a_0000.nii.gz")
    for label in (source / "labelsTr").iterdir():
        label.unlink()
    with pytest.raises(ModfillError, match="must hold training cases, got none"):
        prepare_dataset(501, new_id=502)
