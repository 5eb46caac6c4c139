"""Cohorts in every layout: what is there is found as what it is, and doubt is refused, never guessed away."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from modfill.cases.files import CaseFiles
from modfill.cases.finding import find_cases, find_cohort
from modfill.cases.reading import read_case
from modfill.errors import CaseError, ModfillError
from modfill.modalities import MODALITIES
from modfill.model.config import PRESETS
from modfill.outputs.linking import describe
from modfill.outputs.naming import output_folder
from modfill.training.data import load_cohort
from tests.case_files import brain_volumes, save, write_case
from tests.layout_files import AVAILABLE, CHANNEL_NAMES, CHANNELS, LAYOUTS, as_nnunet, case_name, small_cohort
from tests.nnunet_data import description
from tests.test_finding import touch


def refusal(path: Path) -> str:
    """The message with which a cohort is refused; always one line."""
    with pytest.raises(ModfillError) as caught:
        find_cases(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def only(path: Path, case_id: str) -> CaseFiles:
    (case,) = [case for case in find_cases(path) if case.case_id == case_id]
    assert case.problem is None or "\n" not in case.problem
    return case


def problem(path: Path, case_id: str) -> str:
    found = only(path, case_id).problem
    assert found is not None
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_voxels(tmp_path: Path, layout: str) -> None:
    files = small_cohort(tmp_path / "in")
    cohort = find_cohort(LAYOUTS[layout](tmp_path / layout, files))
    assert cohort.layout == layout and [case.problem for case in cohort.cases] == [None] * 3
    for case_id, found in zip(files, cohort.cases, strict=True):
        case = read_case(found)
        assert (case.case_id, case.available, case.unusable) == (case_name(layout, case_id), AVAILABLE[case_id], {})
        for modality, file in files[case_id].items():
            stored = nib.load(file)
            np.testing.assert_array_equal(case.volume(modality), np.asanyarray(stored.dataobj))
            np.testing.assert_array_equal(case.images[modality].affine, stored.affine)
            assert case.images[modality].get_data_dtype() == np.int16 and case.images[modality].ndim == 3


# nnU-Net


def raw_dataset(folder: Path, *files: str, **more: object) -> Path:
    """A raw dataset of empty files, T1, T1ce, T2, FLAIR."""
    for file in files:
        touch((folder / file).parent, Path(file).name)
    (folder / "dataset.json").write_text(json.dumps(description(**more)))  # type: ignore[arg-type]
    return folder


def test_nnunet_missing_channels_are_missing_and_keep_the_others_place(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0003.nii.gz", "imagesTs/b_0002.nii.gz")
    touch(tmp_path / "imagesTr", "._a_0001.nii.gz")
    (tmp_path / "imagesTr" / "a_0002.nii.gz").symlink_to("nowhere")  # dangling: there for the user
    touch(tmp_path / "imagesTr", "a_1_0000.nii.gz", "note.txt")
    a, a_1, b = find_cases(raw)
    assert tuple(a.paths) == ("t1n", "t2w", "t2f") and a.label == tmp_path / "labelsTr" / "a.nii.gz"
    assert (a_1.case_id, tuple(a_1.paths)) == ("a_1", ("t1n",))  # no part of case a
    assert tuple(b.paths) == ("t2w",) and b.label is None
    assert [case.case_id for case in find_cases(raw / "imagesTs")] == ["b"]


def test_nnunet_a_label_without_an_image_is_a_problem(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/z.nii.gz")
    assert only(raw, "a").problem is None
    assert "z.nii.gz must have an image, got none; add or move it" in problem(raw, "z")


def test_nnunet_channels_may_be_told(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path, "imagesTr/a_0000.nii.gz", names=("MRI", "MRI"))
    assert find_cohort(raw, channels=("t2f", "T1")).cases[0].paths == {"t2f": raw / "imagesTr" / "a_0000.nii.gz"}
    write_case(tmp_path / "brats", "p1", ("t1n",))
    with pytest.raises(ModfillError, match="must be an nnU-Net dataset to have channels, got folders"):
        find_cohort(tmp_path / "brats", channels=("t1n",))


def test_nnunet_files_may_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "there"))
    listing = {
        "a": {"images": ["../x/one.nii.gz", "two.nii.gz", "3.nii.gz", "$ELSEWHERE/4.nii.gz"], "label": "a.nii.gz"},
        "b": {"images": ["../x/b_0001.nii.gz"], "label": "b.nii.gz"},
        "c": {"images": ["first.nii.gz", "second.nii.gz"], "label": "c.nii.gz"},
        "d": ["d_0000.nii.gz"],
    }
    raw = raw_dataset(tmp_path / "raw", "imagesTr/ignored_0000.nii.gz", dataset=listing)
    a, b, c, d = find_cases(raw)
    assert list(a.paths.values())[::3] == [tmp_path / "x" / "one.nii.gz", tmp_path / "there" / "4.nii.gz"]
    assert b.paths == {"t1c": tmp_path / "x" / "b_0001.nii.gz"}
    assert "first.nii.gz must end in a channel number" in str(c.problem)
    assert "must hold 'images' and a 'label'" in str(d.problem)


def test_nnunet_order_is_never_assumed(tmp_path: Path) -> None:
    message = refusal(touch(tmp_path / "bare", "a_0000.nii.gz", "a_0001.nii.gz"))
    assert "channel_names" in message and "never guessed" in message
    raw = raw_dataset(tmp_path, "imagesTr/a_0000.nii.gz", names=("T1", "MR sequence 2", "T2", "FLAIR"))
    assert "got 'MR sequence 2'" in refusal(raw)
    raw_dataset(tmp_path, names=("T1", "T1", "T2", "FLAIR"))
    assert "t1n twice" in refusal(raw)
    (tmp_path / "dataset.json").write_text("{")
    assert "dataset.json" in refusal(raw)


def test_nnunet_a_bad_case_does_not_keep_the_others_back(tmp_path: Path) -> None:
    raw = raw_dataset(
        tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/b_0007.nii.gz", "imagesTr/c.nii.gz", "imagesTs/d_0000.nii.gz",
        "imagesTr/d_0001.nii.gz",
    )  # fmt: skip
    assert only(raw, "a").problem is None
    assert "b_0007.nii.gz must end in a channel number from _0000 to _0003" in problem(raw, "b")
    assert "c.nii.gz must end in a channel number" in problem(raw, "c")
    assert [case.problem is not None for case in find_cases(raw) if case.case_id == "d"] == [True, True]  # one place
    (tmp_path / "empty").mkdir()
    assert "must hold images" in refusal(raw_dataset(tmp_path / "empty"))


def first_nnunet(folder: Path, files: Mapping[str, Mapping[str, Path]]) -> Path:
    """The same as a dataset of the first nnU-Net: one file listed per case, but files by channel in the folders."""
    as_nnunet(folder, files)
    ids = {split: sorted({file.name[: -len("_0000.nii.gz")] for file in (folder / split).iterdir()})
           for split in ("imagesTr", "imagesTs")}  # fmt: skip
    training = [{"image": f"./imagesTr/{i}.nii.gz", "label": f"./labelsTr/{i}.nii.gz"} for i in ids["imagesTr"]]
    content = {"name": "BRATS", "tensorImageSize": "4D", "modality": CHANNEL_NAMES, "numTraining": len(training),
               "labels": {"0": "background", "1": "tumour"}, "training": training,
               "test": [f"./imagesTs/{i}.nii.gz" for i in ids["imagesTs"]]}  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_the_first_nnunet_s_channels_are_files(tmp_path: Path) -> None:
    files = small_cohort(tmp_path / "in")
    second, first = find_cohort(as_nnunet(tmp_path / "2", files)), find_cohort(first_nnunet(tmp_path / "1", files))
    assert (first.layout, first.channels) == ("nnunet", CHANNELS)
    for old, new in zip(first.cases, second.cases, strict=True):
        assert old.problem is None and old.volume_index == {}
        assert [file.resolve() for file in old.paths.values()] == [file.resolve() for file in new.paths.values()]
        assert (old.label and old.label.name) == (new.label and new.label.name)
    assert [case.case_id for case in find_cases(tmp_path / "1" / "imagesTs")] == ["p3"]
    describe(output_folder(tmp_path / "out", "auto", first), first)
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "tumour": 1} and described["channel_names"] == CHANNEL_NAMES
    assert not {"modality", "training", "test"} & set(described)


def test_a_decathlon_dataset_that_lost_its_images_is_still_one(tmp_path: Path) -> None:
    folder = decathlon(tmp_path)
    (folder / "imagesTr" / "a.nii.gz").rename(folder / "imagesTr" / "a_x_0000.nii.gz")  # another case's
    assert "dataset.json lists it, got none" in refusal(folder)


@pytest.mark.parametrize(
    "content", [{"training": [{"fold": 0, "image": ["p1/p1-t1n.nii.gz"], "label": "x"}]}, [], ["p1"], {}, 5]
)
def test_a_foreign_dataset_json_is_ignored_with_a_word(
    tmp_path: Path, content: object, caplog: pytest.LogCaptureFixture
) -> None:
    write_case(tmp_path, "p1", ("t1n",))
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    cohort = find_cohort(tmp_path)
    assert (cohort.layout, [case.case_id for case in cohort.cases]) == ("folders", ["p1"])
    (message,) = caplog.messages
    assert "dataset.json" in message and "ignored" in message
    touch(tmp_path / "imagesTr", "a_0000.nii.gz")
    assert "dataset.json must" in refusal(tmp_path)  # nnU-Net's images need nnU-Net's description


@pytest.mark.parametrize("content", ["{", "", '{"channel_names": {"0": "T1"}}', '{"labels": {}}', '{"modality": {}}'])
def test_a_damaged_dataset_json_is_not_foreign(tmp_path: Path, content: str) -> None:
    write_case(tmp_path, "p1", ("t1n",))
    (tmp_path / "dataset.json").write_text(content)
    assert "dataset.json" in refusal(tmp_path)


# Decathlon


def decathlon(folder: Path, shape: tuple[int, ...] = (24, 28, 20, 4), **more: object) -> Path:
    """One case `a` of the given shape."""
    volumes = brain_volumes()
    stack = np.stack([volumes[m] for m in CHANNELS] + [volumes["t1n"]], axis=3)
    save(folder / "imagesTr" / "a.nii.gz", stack[..., : shape[3]] if len(shape) == 4 else stack[..., 0])
    content = {"modality": CHANNEL_NAMES, "training": [{"image": "./imagesTr/a.nii.gz"}], **more}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_decathlon_zeros_are_a_missing_modality_but_a_constant_is_unusable(tmp_path: Path) -> None:
    folder = decathlon(tmp_path)
    path = tmp_path / "imagesTr" / "a.nii.gz"
    stack = np.array(nib.load(path).dataobj)
    stack[..., 0] = 0
    stack[..., 2] = 7
    save(path, stack)
    case = read_case(find_cases(folder)[0])
    assert case.available == ("t1n", "t2w") and case.volume_index == {"t1n": 1, "t2w": 3}
    assert list(case.unusable) == ["t1c"] and case.unusable["t1c"].startswith("a.nii.gz (t1c) ")
    save(path, stack * 0)
    with pytest.raises(CaseError, match="at least one modality must be usable"):
        read_case(find_cases(folder)[0])


@pytest.mark.parametrize("shape", [(24, 28, 20, 5), (24, 28, 20, 3), (24, 28, 20)])
def test_decathlon_the_fourth_axis_must_be_what_is_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(CaseError, match="a.nii.gz must be 4D with 4 volumes"):
        read_case(find_cases(decathlon(tmp_path, shape))[0])


def test_training_takes_what_the_cases_have_of_a_decathlon_dataset(tmp_path: Path) -> None:
    folder = LAYOUTS["decathlon"](tmp_path / "in", small_cohort(tmp_path / "files"))
    cases = load_cohort(folder, tmp_path / "cache", PRESETS["tiny"])
    found = {case.case_id: case.available for case in cases}
    assert found["p2"] == (0, 1, 2, 3) and all(len(available) >= 2 for available in found.values())
    assert all(case.volumes[index].any() == (index in case.available) for case in cases for index in range(4))


def test_training_refuses_an_unusable_image(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "p1")
    save(folder / "p1-t1c.nii.gz", np.zeros((24, 28, 20), np.int16))
    with pytest.raises(CaseError, match="p1-t1c.nii.gz must show a brain"):
        load_cohort(tmp_path, tmp_path / "cache", PRESETS["tiny"])


def test_decathlon_doubt_is_refused(tmp_path: Path) -> None:
    assert "got 'MRI'" in refusal(decathlon(tmp_path, modality={"0": "MRI", "1": "T1w"}))
    assert "must list images" in refusal(decathlon(tmp_path, training=[]))
    assert "must name an image" in refusal(decathlon(tmp_path, training=[3]))
    listed = [{"image": f"./imagesTr/{name}.nii.gz"} for name in ("a", "gone")]
    assert "dataset.json lists it, got none" in problem(decathlon(tmp_path, training=listed), "gone")


def test_a_truncated_stack_is_unusable_as_a_whole(tmp_path: Path) -> None:
    folder = decathlon(tmp_path)
    path = tmp_path / "imagesTr" / "a.nii.gz"
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(CaseError, match="truncated or corrupt"):
        read_case(find_cases(folder)[0])


# BIDS


def anat(root: Path, *names: str) -> Path:
    """Empty files in the anat folder that their names ask for."""
    for name in names:
        entities = [word for word in name.split("_") if word.startswith(("sub-", "ses-"))]
        touch(root.joinpath(*entities, "anat"), name)
    return root


def test_bids_sessions_are_cases(tmp_path: Path) -> None:
    root = anat(
        tmp_path, "sub-01_ses-a_T1w.nii.gz", "sub-01_ses-a_ce-gadolinium_T1w.nii.gz", "sub-01_ses-b_FLAIR.nii",
        "sub-02_run-1_T2w.nii.gz",
    )  # fmt: skip
    found = {case.case_id: tuple(case.paths) for case in find_cases(root)}
    assert found == {"sub-01_ses-a": ("t1n", "t1c"), "sub-01_ses-b": ("t2f",), "sub-02": ("t2w",)}
    assert [case.case_id for case in find_cases(root / "sub-01")] == ["sub-01_ses-a", "sub-01_ses-b"]


def test_bids_everything_else_is_left_alone(tmp_path: Path) -> None:
    root = anat(
        tmp_path, "sub-01_desc-postproc_T1w.nii.gz", "sub-01_T1w.json", "sub-01_desc-brain_mask.nii.gz",
        "sub-01_PDw.nii.gz", "sub-01_label-lesion_dseg.nii.gz", "sub-01_T2star.nii.gz",
        "sub-01_ce-gadolinium_FLAIR.nii.gz",
    )  # fmt: skip
    touch(root / "derivatives" / "tool" / "sub-01" / "anat", "sub-01_T2w.nii.gz")
    touch(root / "sub-01" / "dwi", "sub-01_dwi.nii.gz")
    touch(root / "sub-02" / "func", "sub-02_bold.nii.gz")
    (case,) = find_cases(root)
    assert (case.case_id, tuple(case.paths), case.problem) == ("sub-01", ("t1n", "t2f"), None)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["sub-01_run-1_T1w.nii.gz", "sub-01_run-2_T1w.nii.gz"], ["run-1", "run-2", "t1n must be one file"]),
        (["sub-01_acq-spc_T2w.nii.gz", "sub-01_T2w.nii.gz"], ["acq-spc", "sub-01_T2w.nii.gz", "list the right ones"]),
        (["sub-01_acq-postgad_T1w.nii.gz"], ["acq-postgad", "entity ce"]),
        (["sub-09_T1w.nii.gz"], ["sub-09_T1w.nii.gz must begin with sub-01_"]),
    ],
)
def test_bids_doubt_is_a_problem_that_names_the_files(tmp_path: Path, names: list[str], parts: list[str]) -> None:
    anat(tmp_path, "sub-02_T1w.nii.gz")
    touch(tmp_path / "sub-01" / "anat", *names)
    assert only(tmp_path, "sub-02").problem is None
    message = problem(tmp_path, "sub-01")
    assert message.startswith("case sub-01: ")
    for part in parts:
        assert part in message


def test_bids_without_images_is_refused(tmp_path: Path) -> None:
    assert "sub-01/anat/sub-01_T1w.nii.gz" in refusal(anat(tmp_path, "sub-01_PDw.nii.gz"))


def test_folders_named_sub_without_anat_are_brats_folders(tmp_path: Path) -> None:
    write_case(tmp_path, "sub-01", ("t1n",))
    assert find_cohort(tmp_path).layout == "folders"


# Tables


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(("name", "comma"), [("c.csv", ","), ("c.csv", ";"), ("c.tsv", "\t"), ("C.CSV", ",")])
def test_table_relative_absolute_and_empty_cells(tmp_path: Path, name: str, comma: str) -> None:
    lines = ["Case_ID,T1ce, flair ,age,seg,T1", "p1,/abs/x.nii.gz,,51,s.nii.gz,a b/t1.nii", "", "p2,,f.nii.gz"]
    p1, p2 = find_cases(table(tmp_path / name, *(line.replace(",", comma) for line in lines)))
    assert p1.paths == {"t1n": tmp_path / "a b" / "t1.nii", "t1c": Path("/abs/x.nii.gz")}
    assert p2.paths == {"t2f": tmp_path / "f.nii.gz"} and tuple(p1.paths) == ("t1n", "t1c")


@pytest.mark.parametrize("word", ["n/a", "N/A", "NA", "NaN", "nan", "None", "null", "NULL", " n/a "])
def test_table_words_for_nothing_are_no_files(tmp_path: Path, word: str) -> None:
    lines = [
        "case\tage\tt1\tt1ce\tt2",
        f"p1\t{word}\ta.nii\t{word}\t-",
        f"p2\t51\t{word}\t{word}\t",
        f"{word}\t3\ta.nii",
    ]
    path = table(tmp_path / "c.tsv", *lines)
    assert only(path, "p1").paths == {"t1n": tmp_path / "a.nii", "t2w": tmp_path / "-"}
    assert "at least one file" in problem(path, "p2")
    assert "must have a case id" in problem(path, "row 4")


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (["name,t1", "p1,a.nii"], ["must have a column case_id", "got name, t1"]),
        (["case,age", "p1,51"], ["one per modality (t1n, t1c, t2w, t2f)"]),
        (["case,t1,T1w", "p1,a.nii,b.nii"], ["one column for t1n", "t1 and t1w"]),
        (["case,t1,perfusion", "p1,a.nii,p.nii.gz"], ["column 'perfusion'", "p.nii.gz"]),
        (["case,t1"], ["header alone"]),
        (["", ""], ["empty file"]),
        (["case,t1", "p1,a,b.nii,c"], ["row 2 must have 2 cells", "got 4"]),
    ],
)
def test_table_doubt_is_refused(tmp_path: Path, lines: list[str], parts: list[str]) -> None:
    message = refusal(table(tmp_path / "c.csv", *lines))
    for part in ("c.csv", *parts):
        assert part in message


def test_table_a_bad_row_does_not_keep_the_others_back(tmp_path: Path) -> None:
    path = table(
        tmp_path / "c.csv", "case,t1,t2", "p1,a.nii,", "p2,b.nii,", "p2,c.nii,", "p3,,", ",d.nii,", "../p4,e.nii,"
    )
    assert only(path, "p1").problem is None
    doubles = [case.problem for case in find_cases(path) if case.case_id == "p2"]
    assert len(doubles) == 2 and all("must be unique" in str(problem) for problem in doubles)
    assert "at least one file" in problem(path, "p3")
    assert "must have a case id" in problem(path, "row 6")
    assert "one folder's name" in problem(path, "../p4")


def test_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    for content in (b"\xff\xfe\x00case", b'case,t1\np1,"' + b"x" * 200_000):
        (tmp_path / "c.csv").write_bytes(content)
        assert "must be a table in UTF-8" in refusal(tmp_path / "c.csv")
    assert "nothing there" in refusal(tmp_path / "gone.csv")


def test_modalities_keep_their_order_in_every_layout(tmp_path: Path) -> None:
    files = small_cohort(tmp_path / "in", {"p1": MODALITIES})
    for layout, build in LAYOUTS.items():
        (case,) = find_cases(build(tmp_path / layout, files))
        assert tuple(case.paths) == MODALITIES
