"""A raw dataset with gaps becomes one without; nothing acquired is copied or changed, and nnU-Net is not needed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from modfill.integrations.nnunet.command import main
from modfill.integrations.nnunet.filling import ChannelFiller, _holds_zeros, without_zeros
from modfill.integrations.nnunet.prepare import prepare_dataset

from modfill.cases.finding import find_cases
from modfill.cases.layouts.dataset_json import cases_in
from modfill.cases.reading import read_case, require_usable
from modfill.cli import main as complete
from modfill.errors import CaseError, ModfillError
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


def listing(folder: Path) -> dict[str, list[Path]]:
    content = json.loads((folder / "dataset.json").read_text())
    return {case_id: [folder / image for image in entry["images"]] for case_id, entry in content["dataset"].items()}


def test_every_case_has_every_channel(raw: Path, tiny_weights: Path) -> None:
    before = hashes(raw / "Dataset501_Toy")
    folder = prepare_dataset(501, 502, weights=tiny_weights, device="cpu")
    assert folder == raw / "Dataset502_Toy_modfill" and hashes(raw / "Dataset501_Toy") == before
    content = json.loads((folder / "dataset.json").read_text())
    assert content["numTraining"] == 5 and content["labels"] == {"background": 0, "tumour": 1}
    gaps = {case_id: list(missing) for case_id, missing in GAPS.items() if missing}
    assert content["modfill"] == {"CompletedFrom": "Dataset501_Toy", "SyntheticChannels": gaps}
    for case_id, images in listing(folder).items():
        label = folder / content["dataset"][case_id]["label"]
        assert label.resolve() == raw / "Dataset501_Toy" / "labelsTr" / f"{case_id}.nii.gz" and label.is_file()
        reference = nib.load(label)
        for number, (modality, path) in enumerate(zip(MODALITIES, images, strict=True)):
            if modality in GAPS[case_id]:
                assert path == folder / "synthetic" / "imagesTr" / case_id / f"{case_id}-{modality}.nii.gz"
                assert path.with_name(f"{case_id}-{modality}.json").is_file()
            else:
                assert path.resolve() == raw / "Dataset501_Toy" / "imagesTr" / f"{case_id}_{number:04d}.nii.gz"
            image = nib.load(path)
            assert image.shape == reference.shape
            np.testing.assert_allclose(image.affine, reference.affine, atol=1e-6)


def test_test_cases_are_complete_in_one_folder(raw: Path, tiny_weights: Path) -> None:
    folder = prepare_dataset(501, 502, weights=tiny_weights, device="cpu")
    images = sorted((folder / "imagesTs").iterdir())
    assert [path.name for path in images] == [f"x_{number:04d}.nii.gz" for number in range(4)]
    assert images[3].resolve() == raw / "Dataset501_Toy" / "imagesTs" / "x_0003.nii.gz"
    assert images[0].resolve() == folder / "synthetic" / "imagesTs" / "x" / "x-t1n.nii.gz"
    assert all(path.is_symlink() and not Path(path.readlink()).is_absolute() for path in images)


def test_nnunet_raw_may_be_moved(raw: Path, tiny_weights: Path) -> None:
    prepare_dataset(501, 502, weights=tiny_weights, device="cpu")
    moved = raw.rename(raw.parent / "elsewhere")
    folder = moved / "Dataset502_Toy_modfill"
    assert all(path.is_file() for images in listing(folder).values() for path in images)
    assert all(path.is_file() for path in (folder / "imagesTs").iterdir())


def test_a_second_run_does_nothing_again(raw: Path, tiny_weights: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["prepare", "-d", "501", "-o", "502", "--weights", str(tiny_weights), "--device", "cpu"]
    assert main(options) == 0
    folder = Path(capsys.readouterr().out.strip())
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "synthetic").rglob("*.nii.gz")}
    before = hashes(folder)
    assert len(stamps) == 4 + 3
    assert main(options) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps and hashes(folder) == before
    assert main([*options, "--overwrite"]) == 0
    assert hashes(folder) == before


def test_an_explicit_listing_is_read_and_a_prepared_dataset_needs_nothing(raw: Path, tiny_weights: Path) -> None:
    first = prepare_dataset(501, 502, weights=tiny_weights, device="cpu")
    second = prepare_dataset(502, 503, weights=tiny_weights, device="cpu")
    assert not (second / "synthetic").exists()
    assert [[p.resolve() for p in images] for images in listing(second).values()] == [
        [p.resolve() for p in images] for images in listing(first).values()
    ]
    content = json.loads((second / "dataset.json").read_text())  # what was synthetic before is synthetic still
    assert content["modfill"]["SyntheticChannels"]["c"] == ["t1n", "t2w"]


def test_test_cases_that_are_gone_leave_no_link(raw: Path, tiny_weights: Path) -> None:
    write_images(raw / "Dataset501_Toy" / "imagesTs", "w", ("t1c",), 71)
    folder = prepare_dataset(501, 502, weights=tiny_weights, device="cpu")
    (folder / "imagesTs" / "own_0000.nii.gz").touch()  # not a link of ours
    for path in (raw / "Dataset501_Toy" / "imagesTs").glob("w_*"):
        path.unlink()
    prepare_dataset(501, 502, weights=tiny_weights, device="cpu")
    names = sorted(path.name for path in (folder / "imagesTs").iterdir())
    assert names == ["own_0000.nii.gz", *(f"x_{number:04d}.nii.gz" for number in range(4))]


def test_a_synthetic_channel_is_known_by_its_sidecar_too(raw: Path, tiny_weights: Path) -> None:
    folder = prepare_dataset(501, 502, weights=tiny_weights, device="cpu")
    image = folder / "synthetic" / "imagesTr" / "b" / "b-t1c.nii.gz"
    loaded = nib.load(image)
    nib.save(nib.Nifti1Image(np.asarray(loaded.dataobj), loaded.affine), image)  # as a program that rewrites headers
    second = prepare_dataset(502, 503, weights=tiny_weights, device="cpu")
    content = json.loads((second / "dataset.json").read_text())
    assert content["modfill"]["SyntheticChannels"]["b"] == ["t1c"]


@pytest.mark.parametrize(
    ("listing", "case_id"), [([1], "the whole"), ({"b": {"images": ["b.nii.gz"]}}, "b"), ({"b": {"label": "x"}}, "b")]
)
def test_wrong_listings(raw: Path, listing: Any, case_id: str) -> None:
    path = raw / "Dataset501_Toy" / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dataset": listing}))
    with pytest.raises(ModfillError, match=f"dataset must list 'images' and a 'label' for each case, .* for {case_id}"):
        prepare_dataset(501, 502)


@pytest.mark.parametrize("number", [-1, 0, 1000])
def test_wrong_numbers(raw: Path, number: int) -> None:
    with pytest.raises(ModfillError, match=f"the new dataset's number must be from 1 to 999, got {number}"):
        prepare_dataset(501, number)


def test_the_order_of_channels_may_be_told(raw: Path, tiny_weights: Path) -> None:
    path = raw / "Dataset501_Toy" / "dataset.json"
    content = json.loads(path.read_text())
    content["channel_names"] = {str(number): "MRI" for number in range(4)}
    path.write_text(json.dumps(content))
    with pytest.raises(ModfillError, match="Dataset501_Toy: the name of channel 0 .* --channels"):
        main(["prepare", "-d", "501", "-o", "502"])
    assert not (raw / "Dataset502_Toy_modfill").exists()
    main(["prepare", "-d", "501", "-o", "502", "-c", *MODALITIES, "--weights", str(tiny_weights), "--device", "cpu"])
    assert len(listing(raw / "Dataset502_Toy_modfill")["c"]) == 4


def test_a_channel_of_zeros_is_a_missing_one_by_every_way(
    raw: Path, tiny_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = raw / "Dataset501_Toy"
    blank = save(source / "imagesTr" / "a_0001.nii.gz", np.zeros(SHAPE, np.int16), SPACE)  # a has no other gap
    save(source / "imagesTs" / "x_0000.nii.gz", np.zeros(SHAPE, np.float32), nib.load(blank).affine)
    before = hashes(source)
    said = "case a: a_0001.nii.gz holds zeros alone; t1c is taken for missing"

    folder = prepare_dataset(501, 502, weights=tiny_weights, device="cpu")
    content = json.loads((folder / "dataset.json").read_text())
    assert content["modfill"]["SyntheticChannels"]["a"] == ["t1c"]
    assert said in caplog.messages and "x_0000.nii.gz" in caplog.text
    assert {record.name for record in caplog.records} == {"modfill"}
    assert (folder / "imagesTs" / "x_0000.nii.gz").resolve().name == "x-t1n.nii.gz"

    caplog.clear()
    filler = ChannelFiller(MODALITIES, tiny_weights, "cpu")
    [case] = [case for case in cases_in(source / "imagesTr", 4) if case.case_id == "a"]
    filled = filler.fill_cached(case, tmp_path / "cache")  # what the plugin does
    assert filled.synthetic == (1,) and filled == filler.fill_cached(case, tmp_path / "cache")
    assert caplog.messages == [said] * 2

    caplog.clear()
    options = ["--naming", "nnunet", "--link", "--weights", str(tiny_weights), "--device", "cpu"]
    assert complete(["complete", str(source), "--out", str(tmp_path / "out"), *options]) == 0
    assert said in caplog.messages and hashes(source) == before
    images = [
        nib.load(listing(folder)["a"][1]),
        nib.load(filled.files[1]),
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
    assert set(without_zeros({"t1n": volume, "t1c": volume * 0, "ADC": volume * 0}, "a")) == {"t1n", "ADC"}
    assert "case a: the array t1c holds zeros alone" in caplog.text


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
    folder = prepare_dataset(501, 502, weights=tiny_weights, device="cpu")
    files = listing(folder)["a"]
    assert [file.name for file in files] == [
        "a_0000.nii.gz", "a_0001.nii.gz", "a-t1c.nii.gz", "a_0003.nii.gz", "a_0004.nii.gz"
    ]  # fmt: skip
    content = json.loads((folder / "dataset.json").read_text())
    assert tuple(content["channel_names"].values()) == FIVE
    assert content["modfill"]["SyntheticChannels"] == {"a": ["t1c"]}
    out = tmp_path / "out"
    options = ["--out", str(out), "--naming", "auto", "--link", "--weights", str(tiny_weights), "--device", "cpu"]
    assert complete(["complete", str(source), *options]) == 0
    assert tuple(json.loads((out / "dataset.json").read_text())["channel_names"].values()) == FIVE
    assert len(list((out / "imagesTr").glob("*.nii.gz"))) == 10
    assert (out / "imagesTr" / "a_0000.nii.gz").resolve() == source / "imagesTr" / "a_0000.nii.gz"
    same = [nib.load(path).get_fdata() for path in (files[2], out / "imagesTr" / "a_0002.nii.gz")]
    np.testing.assert_array_equal(*same)


def test_a_channel_of_another_kind_is_never_synthesised(raw: Path, tiny_weights: Path) -> None:
    source = write_five(raw, {"a": ("ADC",), "b": ("t2w",)})
    a, b = find_cases(source)
    assert b.problem is None and "case a: channel 0 (ADC) must be there" in str(a.problem)
    with pytest.raises(CaseError, match=r"case a: channel 0 \(ADC\) must be there.*a_0000.nii.gz"):
        prepare_dataset(501, 502, weights=tiny_weights, device="cpu")
    filler = ChannelFiller(("ADC", *MODALITIES), tiny_weights, "cpu")
    volumes = brain_volumes(SHAPE)
    arrays = {"t1n": volumes["t1n"], "ADC": volumes["t2w"] // 2}
    whole = filler.fill_arrays(arrays, SPACE, "x")
    assert tuple(whole) == ("ADC", *MODALITIES) and whole["ADC"] is arrays["ADC"]
    with pytest.raises(CaseError, match="ADC"):
        filler.fill_arrays({"t1n": volumes["t1n"]}, SPACE, "x")


def test_the_plugin_s_cache_follows_the_content(raw: Path, tiny_weights: Path, tmp_path: Path) -> None:
    filler = ChannelFiller(MODALITIES, tiny_weights, "cpu")
    images = raw / "Dataset501_Toy" / "imagesTr"
    [case] = [case for case in cases_in(images, 4) if case.case_id == "b"]
    first = filler.fill_cached(case, tmp_path / "cache")
    again = filler.fill_cached(case, tmp_path / "cache")
    assert again == first and first.synthetic == (1,) and [path.parent for path in first.files[2:]] == [images] * 2
    write_images(images, "b", GAPS["b"], seed=40)
    changed = filler.fill_cached(case, tmp_path / "cache")
    assert changed.files[1] != first.files[1] and changed.files[1].read_bytes() != first.files[1].read_bytes()
    with pytest.raises(ModfillError, match="lost.safetensors must be a file"):
        ChannelFiller(MODALITIES, tmp_path / "lost.safetensors", "cpu").fill_cached(case, tmp_path / "cache")


def test_a_broken_run_leaves_no_dataset(raw: Path, tiny_weights: Path) -> None:
    (raw / "Dataset501_Toy" / "imagesTr" / "e_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(ModfillError, match="case e: .*e_0000.nii.gz"):
        prepare_dataset(501, 502, weights=tiny_weights, device="cpu")
    assert not (raw / "Dataset502_Toy_modfill" / "dataset.json").exists()


def test_help_names_the_options_of_modfill_s_own(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "plan_and_preprocess and predict take\n--channels" in capsys.readouterr().out


def test_clear_errors(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModfillError, match="must hold one Dataset600_<name>, got none"):
        prepare_dataset(600, 601)
    (raw / "Dataset502_Other").mkdir()
    with pytest.raises(ModfillError, match="must be free, got 502, that of Dataset502_Other"):
        prepare_dataset(501, 502)
    label = raw / "Dataset501_Toy" / "labelsTr" / "b.nii.gz"
    label.rename(label.with_name("z.nii.gz"))
    with pytest.raises(ModfillError, match="case z: z.nii.gz must have an image"):
        prepare_dataset(501, 503)
    label.with_name("z.nii.gz").unlink()
    with pytest.raises(ModfillError, match="case b: label .*b.nii.gz must be a file, got none"):
        prepare_dataset(501, 503)
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(ModfillError, match="nnUNet_raw must be set"):
        prepare_dataset(501, 503)
