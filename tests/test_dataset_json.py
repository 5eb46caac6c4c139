"""nnU-Net's channels become modalities without guessing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modfill.cases.layouts.dataset_json import channel_modalities, channel_number, read_dataset_json
from modfill.cases.layouts.nnunet import channel_case
from modfill.errors import ModfillError
from modfill.modalities import BRATS
from tests.nnunet_data import NAMES, description

ALL = ("t1n", "t1c", "t2w", "t2f")


@pytest.mark.parametrize(
    ("names", "modalities"),
    [
        (NAMES, ALL),
        (("FLAIR", "T1w", "t1gd", "T2w"), ("t2f", "t1n", "t1c", "t2w")),  # Medical Decathlon
        (("T1ce", "T1", "T2 FLAIR", "T2-w"), None),
        (("t2f", "t1c"), ("t2f", "t1c")),
        ((" T1 Gd ", "T2-FLAIR"), ("t1c", "t2f")),
    ],
)
def test_names_are_read_by_the_table_of_aliases(names: tuple[str, ...], modalities: tuple[str, ...] | None) -> None:
    expected = modalities or ("t1c", "t1n", "t2f", "t2w")
    if modalities is None:  # "T2-w" is no alias: never half of an order
        with pytest.raises(ModfillError, match="channel 3 must be that of a modality, got 'T2-w'"):
            channel_modalities(description(names), "Dataset501_Toy", BRATS)
    else:
        assert channel_modalities(description(names), "Dataset501_Toy", BRATS) == expected


def test_the_old_key_modality_is_read() -> None:
    content = description()
    content["modality"] = content.pop("channel_names")
    assert channel_modalities(content, "Dataset501_Toy", BRATS) == ALL


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("MRI", "T1ce", "T2", "FLAIR"), "channel 0 must be that of a modality, got 'MRI'"),
        (("noNorm", "zscore"), "got 'noNorm'"),
        (("T1", "T1w", "T2", "FLAIR"), "t1n twice"),
    ],
)
def test_doubtful_names_are_refused_until_told(names: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ModfillError, match=reason) as caught:
        channel_modalities(description(names), "Dataset501_Toy", BRATS)
    assert str(caught.value).startswith("Dataset501_Toy: ") and "channels" in str(caught.value)
    told = ALL[: len(names)]
    assert channel_modalities(description(names), "Dataset501_Toy", BRATS, told) == told


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (("t1n", "t1c"), r"channels must name 4 channels \(T1, T1ce, T2, FLAIR\), got 2 \(t1n, t1c\)"),
        (("t1n", "t1c", "t2w", "mri"), "channel 3 must be that of a modality, got 'mri'"),
        (("t1n", "t1c", "t2w", "t2w"), "t2w twice"),
    ],
)
def test_what_is_told_must_fit(told: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ModfillError, match=reason):
        channel_modalities(description(), "Dataset501_Toy", BRATS, told)


@pytest.mark.parametrize(
    ("names", "foreign"),
    [
        ((*NAMES, "ADC"), True),
        (("ADC", "T1"), True),
        (("T1", "DWI b1000", "T2* ", "SWI"), False),
        (("T1", "T2star", "brain mask"), True),
        ((*NAMES, "Radiomics"), True),  # whatever it is, it is none of the four
        (("T1", "Radiomics"), False),  # may be any of the others
        ((*NAMES, "T1 something"), False),
        ((*NAMES, "T1 perfusion"), False),
        ((*NAMES, "FLAIR2"), False),
        ((*NAMES, "post contrast"), False),
        (("ADC", "DWI"), False),  # nothing that can be completed
        (("T1", "ADC", "ADC"), False),
    ],
)
def test_channels_of_another_kind_keep_their_names(names: tuple[str, ...], foreign: bool) -> None:
    if not foreign:
        with pytest.raises(ModfillError, match="Dataset501_Toy: .* must be"):
            channel_modalities(description(names), "Dataset501_Toy", BRATS)
        return
    known = dict(zip(NAMES, ALL, strict=True))
    expected = tuple(known.get(name, name) for name in names)
    assert channel_modalities(description(names), "Dataset501_Toy", BRATS) == expected
    assert channel_modalities(description(("?",) * len(names)), "Dataset501_Toy", BRATS, names) == expected
    with pytest.raises(ModfillError, match="must be that of a modality"):
        channel_modalities(description(names), "Dataset501_Toy", BRATS, foreign=False)


@pytest.mark.parametrize("numbers", [{"1": "T1", "2": "T2"}, {}, None, ["T1", "T2"]])
def test_channels_must_be_numbered_from_0(numbers: object) -> None:
    with pytest.raises(ModfillError, match="channel_names must number the channels"):
        channel_modalities({"channel_names": numbers}, "Dataset501_Toy", BRATS)


@pytest.mark.parametrize(
    ("name", "number"), [("a_0002.nii.gz", 2), ("a_b_0000.nii.gz", 0), ("a_002.nii.gz", None), ("a_0002.nii", None)]
)
def test_the_number_stands_before_the_ending(name: str, number: int | None) -> None:
    assert channel_number(Path("folder_0003") / name) == number


def test_what_is_there_keeps_its_number() -> None:
    case = channel_case("a", ["x/a_0003.nii.gz", "x/a_0001.nii.gz"], ALL, BRATS)
    assert case.paths == {"t2f": Path("x/a_0003.nii.gz"), "t1c": Path("x/a_0001.nii.gz")} and not case.carried
    assert case.numbered(ALL) == {1: Path("x/a_0001.nii.gz"), 3: Path("x/a_0003.nii.gz")}


def test_a_complete_listing_needs_no_numbers() -> None:
    case = channel_case("a", ["t1.nii.gz", "a_0001.nii.gz"], ("t2w", "t1n"), BRATS)
    assert case.numbered(("t2w", "t1n")) == {0: Path("t1.nii.gz"), 1: Path("a_0001.nii.gz")}
    assert case.paths == {"t1n": Path("a_0001.nii.gz"), "t2w": Path("t1.nii.gz")}


def test_a_channel_of_another_kind_keeps_its_number() -> None:
    channels = ("ADC", "t1n", "t2f")
    case = channel_case("a", ["a_0000.nii.gz", "a_0002.nii.gz"], channels, BRATS)
    assert (case.paths, case.carried) == ({"t2f": Path("a_0002.nii.gz")}, {0: Path("a_0000.nii.gz")})
    assert case.numbered(channels) == {0: Path("a_0000.nii.gz"), 2: Path("a_0002.nii.gz")} and case.problem is None
    lacking = channel_case("a", ["a_0001.nii.gz"], channels, BRATS)
    assert str(lacking.problem).startswith("case a: channel 0 (ADC) must be there") and "t1n" in lacking.paths


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (["a_0000.nii.gz", "a_0004.nii.gz"], "a_0004.nii.gz must end in a channel number from _0000 to _0003"),
        (["a_0000.nii.gz", *(f"a_000{n}.nii.gz" for n in (2, 3, 4))], "a_0004.nii.gz must end"),  # as many as channels
        (["a_0000.nii.gz", "y/a_0000.nii.gz"], "each once"),
        (["t1.nii.gz", "t2.nii.gz"], "t1.nii.gz must end .* got none"),
        (["a_0001.nii.gz", "a_0000.nii.gz", "a_0002.nii.gz", "a_0003.nii.gz"], "in order"),
        ([], "at least one of 4 channels"),
    ],
)
def test_doubtful_files_are_refused(images: list[str], reason: str) -> None:
    with pytest.raises(ModfillError, match=reason) as caught:
        channel_case("a", images, ALL, BRATS)
    assert str(caught.value).startswith("case a: ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "got FileNotFoundError"),
        ("{", "got JSONDecodeError"),
        ("[]", "must hold channel_names"),
        (json.dumps(description() | {"file_ending": ".nrrd"}), "file_ending must be '.nii.gz', got '.nrrd'"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path: Path, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ModfillError, match=reason) as caught:
        read_dataset_json(tmp_path)
    assert "dataset.json" in str(caught.value)
