"""Output folders as whole datasets, in every layout; links never take the place of somebody's file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from modfill.cases.finding import find_cases, find_cohort
from modfill.cases.reading import read_case
from modfill.cli import main
from modfill.cohort.pipeline import CohortResults
from modfill.completer import ModalityCompleter
from modfill.errors import CaseError, ModfillError
from modfill.modalities import MODALITIES
from modfill.outputs.linking import describe, link, write_json
from modfill.outputs.naming import output_folder
from tests.case_files import brain_volumes, save, write_case
from tests.layout_files import AVAILABLE, LAYOUTS, as_bids, as_nnunet, case_name, small_cohort, write_label


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    return small_cohort(tmp_path_factory.mktemp("sources"))


def complete(weights: Path, *arguments: object) -> int:
    return main(["complete", *map(str, arguments), "--weights", str(weights), "--device", "cpu"])


def state(folder: Path) -> dict[str, tuple[int, str]]:
    """When each file or link below a folder was last written, and where a link leads."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, os.readlink(path) if path.is_symlink() else "")
        for path in folder.rglob("*")
        if not path.is_dir() and path.name != "cohort.csv"  # which every run writes anew
    }


REWRITTEN = ("dataset.json", "dataset_description.json")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_output_is_a_whole_dataset_in_the_input_s_naming(
    tmp_path: Path, sources: dict[str, dict[str, Path]], tiny_weights: Path, layout: str
) -> None:
    where = LAYOUTS[layout](tmp_path / "in", sources)
    out = tmp_path / "out"
    options = (where, "--out", out, "--naming", "auto", "--link", "--uncertainty")
    assert complete(tiny_weights, *options) == 0
    whole = find_cohort(out)
    assert whole.layout == {"decathlon": "nnunet", "table": "folders"}.get(layout, layout)
    for case_id, files in zip(sources, whole.cases, strict=True):
        assert files.case_id == case_name(layout, case_id) and files.problem is None
        assert tuple(files.paths) == MODALITIES  # no gap is left
        case = read_case(files)
        assert case.available == AVAILABLE[case_id] and set(case.synthetic) == set(MODALITIES) - set(case.available)
        for modality, path in case.paths.items():
            acquired = nib.load(sources[case_id][modality])
            np.testing.assert_array_equal(case.volume(modality), np.asanyarray(acquired.dataobj))
            assert path.is_symlink() == (layout != "decathlon")
            assert nib.load(path).get_data_dtype() == acquired.get_data_dtype()
    before = {name: entry for name, entry in state(out).items() if name not in REWRITTEN}
    assert complete(tiny_weights, *options) == 0  # nothing is done twice
    assert {name: entry for name, entry in state(out).items() if name not in REWRITTEN} == before
    assert all(not target.startswith("/") for _, target in before.values())


@pytest.mark.parametrize("layout", ["nnunet", "bids"])
def test_python_makes_the_same_dataset(
    tmp_path: Path, sources: dict[str, dict[str, Path]], completer: ModalityCompleter, tiny_weights: Path, layout: str
) -> None:
    where = LAYOUTS[layout](tmp_path / "in", sources)
    assert complete(tiny_weights, where, "--out", tmp_path / "out", "--naming", "auto", "--link") == 0
    results = list(completer.complete_cohort(where, out=tmp_path / "same", link=True, naming="auto"))
    assert [result.problem for result in results] == [None] * 3
    one, two = ({path.relative_to(out): path.read_bytes() for path in out.rglob("*.[jn]*") if path.is_file()}
                for out in (tmp_path / "out", tmp_path / "same"))  # fmt: skip
    assert one == two and len(one) > 12
    with pytest.raises(ModfillError, match="naming must be one of auto, brats2023, .* got 'brats'"):
        completer.complete_cohort(where, out=tmp_path / "other", naming="brats")


def test_dataset_json_is_written_when_every_case_is_complete(
    tmp_path: Path, sources: dict[str, dict[str, Path]], completer: ModalityCompleter, tiny_weights: Path
) -> None:
    where, description = as_nnunet(tmp_path / "in", sources), tmp_path / "out" / "dataset.json"

    def run(**options: Any) -> CohortResults:
        return completer.complete_cohort(where, out=tmp_path / "out", naming="nnunet", link=True, **options)

    results = run()
    assert [description.exists() for _ in results] == [False, False, True]
    assert json.loads(description.read_text())["numTraining"] == 2
    assert [description.exists() for _ in run()] == [True] * 3  # finished before
    description.unlink()
    shutil.rmtree(tmp_path / "out" / "labelsTr")
    options = ("--out", tmp_path / "out", "--naming", "nnunet", "--link")
    assert complete(tiny_weights, where, *options, "--shard", "1/2") == 0 and not description.exists()  # p1, p3
    assert complete(tiny_weights, where, *options, "--shard", "2/2") == 0 and description.exists()


def test_a_cohort_with_a_failed_case_has_no_dataset_json(
    tmp_path: Path, sources: dict[str, dict[str, Path]], tiny_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    where, out = as_nnunet(tmp_path / "in", sources), tmp_path / "out"
    options = (where, "--out", out, "--naming", "nnunet", "--targets", "t1c")
    assert complete(tiny_weights, *options) == 0 and (out / "dataset.json").exists()
    broken = where / "imagesTr" / "p1_0000.nii.gz"
    broken.rename(tmp_path / "kept")
    broken.write_text("no image")
    assert complete(tiny_weights, *options, "--overwrite") == 1 and not (out / "dataset.json").exists()
    assert "has no dataset.json yet: 1 of 3 cases are not complete" in caplog.text
    (tmp_path / "kept").replace(broken)
    assert complete(tiny_weights, *options) == 0 and (out / "dataset.json").exists()


def test_a_description_is_written_by_several_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where their process ids are the same, as in containers."""
    replace = os.replace

    def another_is_faster(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        write_json(tmp_path / "dataset.json", {"same": 1})
        replace(source, target)

    monkeypatch.setattr(os, "replace", another_is_faster)
    write_json(tmp_path / "dataset.json", {"same": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def test_the_whole_may_be_moved(tmp_path: Path, sources: dict[str, dict[str, Path]], tiny_weights: Path) -> None:
    """Links are relative: input and output moved together still belong together."""
    where = tmp_path / "here" / "in"
    for case_id, images in sources.items():
        for modality, file in images.items():
            (where / case_id).mkdir(parents=True, exist_ok=True)
            (where / case_id / f"{case_id}-{modality}.nii.gz").write_bytes(file.read_bytes())
    assert complete(tiny_weights, where, "--out", tmp_path / "here" / "out", "--link") == 0
    (tmp_path / "here").rename(tmp_path / "there")
    assert all(read_case(files).available for files in find_cases(tmp_path / "there" / "out"))


def test_nnunet_description_and_labels(tmp_path: Path, sources: dict[str, dict[str, Path]], tiny_weights: Path) -> None:
    """nnU-Net's own reader lists the output's training cases, whole and in the order of the channels."""
    reader = pytest.importorskip("nnunetv2.utilities.utils").get_filenames_of_train_images_and_targets
    for layout in ("nnunet", "decathlon"):
        out = tmp_path / layout / "out"
        where = LAYOUTS[layout](tmp_path / layout / "in", sources)
        assert complete(tiny_weights, where, "--out", out, "--naming", "auto", "--link") == 0
        listing = reader(str(out))
        assert sorted(listing) == ["p1", "p2"]
        for case_id, entry in listing.items():
            assert [Path(image).name for image in entry["images"]] == [f"{case_id}_000{n}.nii.gz" for n in range(4)]
            assert Path(entry["label"]).is_file()
        dataset = json.loads((out / "dataset.json").read_text())
        assert dataset["labels"] == {"background": 0, "tumour": 1} and dataset["numTraining"] == 2
        assert list(dataset["channel_names"].values()) == ["FLAIR", "T1w", "t1gd", "T2w"]
        test_case = sorted(path.name for path in (out / "imagesTs").glob("*.nii.gz"))
        assert test_case == [f"p3_000{n}.nii.gz" for n in range(4)]


def test_bids_description(tmp_path: Path, sources: dict[str, dict[str, Path]], tiny_weights: Path) -> None:
    where = as_bids(tmp_path / "in", sources)
    assert complete(tiny_weights, where, "--out", tmp_path / "out", "--naming", "bids") == 0
    content = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert content["DatasetType"] == "derivative" and content["GeneratedBy"][0]["Name"] == "modfill"
    written = state(tmp_path / "out")
    assert "sub-p3/anat/sub-p3_desc-modfill_FLAIR.nii.gz" in written
    assert "sub-p3/anat/sub-p3_desc-modfill_FLAIR.json" in written
    assert not [name for name in written if name.endswith("_T1w.nii.gz") and "desc" not in name]  # links were not asked


def test_a_foreign_description_is_left(
    tmp_path: Path, sources: dict[str, dict[str, Path]], tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = as_nnunet(tmp_path / "in", sources)
    before = state(where)
    assert complete(tiny_weights, where, "--out", where, "--naming", "auto", "--link") == 1
    error = capsys.readouterr().err
    assert "dataset.json must be free or modfill's" in error and error.count("\n") == 1
    assert state(where) == before


def test_a_real_file_is_never_replaced(
    tmp_path: Path, sources: dict[str, dict[str, Path]], tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "out" / "p2" / "p2-t1c.nii.gz"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    cohort = next(iter(sources["p2"].values())).parents[1]
    assert complete(tiny_weights, cohort, "--out", tmp_path / "out", "--link") == 1
    assert mine.read_text() == "mine"
    error = capsys.readouterr().err
    assert str(mine) in error and "must be free or a link" in error and error.count("\n") == 1


def test_segmentations_of_brats_are_linked(tmp_path: Path, tiny_weights: Path) -> None:
    """Each to its own case, under the name that the output's other files have; none is taken for a modality."""
    for case_id in ("p1", "p1_a"):
        write_case(tmp_path / "in", case_id, ("t1n", "t1c", "t2w"), style="flat", seed=len(case_id))
        write_label(tmp_path / "in" / f"{case_id}-seg.nii.gz", tmp_path / "in" / f"{case_id}-t1n.nii.gz")
    for naming, name in (("brats2023", "-seg"), ("brats2021", "_seg")):
        out = tmp_path / naming
        assert complete(tiny_weights, tmp_path / "in", "--out", out, "--naming", naming, "--link") == 0
        for case_id in ("p1", "p1_a"):
            place = out / case_id / f"{case_id}{name}.nii.gz"
            assert place.is_symlink() and place.resolve() == tmp_path / "in" / f"{case_id}-seg.nii.gz"
        assert len(list(out.rglob("*seg*"))) == 2
        assert [tuple(case.paths) for case in find_cases(out)] == [MODALITIES] * 2


def plain_case(folder: Path, *segmentations: str) -> Path:
    """A case `p1` of uncompressed files under BraTS 2020's names, with segmentations beside them."""
    volumes = brain_volumes()
    for name, modality in (("t1", "t1n"), ("t2", "t2w"), ("flair", "t2f")):
        save(folder / "p1" / f"p1_{name}.nii", volumes[modality])
    for name in segmentations:
        write_label(folder / "p1" / name, folder / "p1" / "p1_t1.nii")
    return folder


def test_oddly_named_segmentations_and_plain_files(tmp_path: Path, tiny_weights: Path) -> None:
    source = plain_case(tmp_path / "in", "W39_1998.09.19_Segm.nii", "other_brainmask.nii.gz")
    out = tmp_path / "out"
    options = ("--out", out, "--naming", "auto", "--link", "--uncertainty")
    assert complete(tiny_weights, source, *options) == 0
    assert {path.name for path in (out / "p1").iterdir()} == {
        *(f"p1_{name}.nii" for name in ("t1", "t1ce", "t1ce-uncertainty", "t2", "flair", "seg")),
        "p1_t1ce.json", "p1_brainmask.nii.gz",
    }  # fmt: skip
    assert (out / "p1" / "p1_seg.nii").resolve().name == "W39_1998.09.19_Segm.nii"
    assert (out / "p1" / "p1_t1ce.nii").read_bytes()[:2] != b"\x1f\x8b"
    before = state(out)
    assert complete(tiny_weights, source, *options) == 0 and state(out) == before
    assert main(["report", str(out), "--html", str(tmp_path / "page.html")]) == 0
    assert complete(tiny_weights, source, "--out", tmp_path / "2023") == 0
    assert (tmp_path / "2023" / "p1" / "p1-t1c.nii.gz").is_file()  # only auto follows the input


@pytest.mark.parametrize("names", [("a_Segm.nii", "b_seg.nii"), ("p1_seg.nii", "b_segm.nii")])
def test_one_of_several_segmentations_is_never_picked(
    tmp_path: Path, tiny_weights: Path, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    source, out = plain_case(tmp_path / "in", *names), tmp_path / "out"
    assert complete(tiny_weights, source, "--out", out, "--naming", "auto", "--link") == 0
    found = [path.resolve().name for path in (out / "p1").glob("*seg*")]
    assert found == [name for name in names if name == "p1_seg.nii"]
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert all(name in message for name in names if name != "p1_seg.nii") and "case p1" in message


@pytest.mark.parametrize("options", [(), ("--link",), ("--naming", "auto", "--link")], ids=str)
def test_outputs_beside_folders_of_another_name_are_no_cases(
    tmp_path: Path, tiny_weights: Path, options: tuple[str, ...]
) -> None:
    """A folder may be called otherwise than its files' case, after which the output's folder is called."""
    for seed, case_id in enumerate(("p1", "p2")):
        write_case(tmp_path, case_id, ("t1n", "t2w", "t2f"), seed=seed, style="brats2021").rename(
            tmp_path / f"{case_id}_nifti"
        )
    assert complete(tiny_weights, tmp_path, "--out", tmp_path, *options) == 0
    before = state(tmp_path)
    assert {name for name in before if "t1c" in name}
    assert complete(tiny_weights, tmp_path, "--out", tmp_path, *options) == 0
    assert state(tmp_path) == before  # everything was finished
    cohort = find_cohort(tmp_path)
    assert [(case.case_id, case.problem, len(case.paths)) for case in cohort.cases] == [
        ("p1", None, 3),
        ("p2", None, 3),
    ]
    assert {"p1": "output of modfill", "p2": "output of modfill"}.items() <= cohort.left_alone.items()


def test_only_synthetic_images_and_links_are_left_alone(tmp_path: Path, tiny_weights: Path) -> None:
    """An acquired image in an output's folder makes it a case again, which is refused beside the other one."""
    write_case(tmp_path, "p1", ("t1n", "t2w", "t2f")).rename(tmp_path / "p1_nifti")
    write_case(tmp_path, "p2", ("t1n",))
    assert complete(tiny_weights, tmp_path, "--out", tmp_path, "--targets", "t1c") == 0
    output = tmp_path / "p1" / "p1-t1c.nii.gz"
    save(output, brain_volumes(seed=9)["t1c"])  # beside a sidecar that stayed behind
    problems = [case.problem for case in find_cases(tmp_path) if case.case_id == "p1"]
    assert len(problems) == 2 and all("must be unique" in str(problem) for problem in problems)


def test_the_segmentation_of_a_case_of_another_shard_is_not_linked(
    tmp_path: Path, completer: ModalityCompleter, tiny_weights: Path
) -> None:
    """Its name begins with the id of this shard's case, but the folder holds another case too."""
    for seed, case_id in enumerate(("p1", "p1_a")):
        write_case(tmp_path / "in", case_id, ("t1n", "t2w", "t2f"), style="flat", seed=seed)
    write_label(tmp_path / "in" / "p1_a_mask.nii.gz", tmp_path / "in" / "p1-t1n.nii.gz")
    assert complete(tiny_weights, tmp_path / "in", "--out", tmp_path / "out", "--link", "--shard", "1/2") == 0
    names = [f"p1-{modality}.nii.gz" for modality in sorted(MODALITIES)]
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.nii.gz")) == names
    results = list(completer.complete_cohort(tmp_path / "in", out=tmp_path / "same", link=True, shard="1/2"))
    assert [result.case_id for result in results] == ["p1"]
    assert sorted(path.name for path in (tmp_path / "same").rglob("*.nii.gz")) == names
    with pytest.raises(ModfillError, match="shard must be one of 1/N to N/N, got '3/2'"):
        completer.complete_cohort(tmp_path / "in", out=tmp_path / "out", shard="3/2")


def test_link_is_relative_renewed_and_idempotent(tmp_path: Path) -> None:
    first, second, place = tmp_path / "in" / "a", tmp_path / "in" / "b", tmp_path / "out" / "deep" / "a"
    first.parent.mkdir()
    first.write_text("first")
    second.write_text("second")
    link(first, place)
    assert os.readlink(place) == "../../in/a" and place.read_text() == "first"
    stamp = place.lstat().st_mtime_ns
    link(first, place)
    assert place.lstat().st_mtime_ns == stamp
    link(second, place)
    assert place.read_text() == "second" and first.read_text() == "first"
    place.unlink()
    place.symlink_to("nowhere")
    link(first, place)
    assert place.read_text() == "first"
    place.unlink()
    place.write_text("another")
    with pytest.raises(CaseError, match="must be free or a link"):
        link(first, place)
    assert sorted(path.name for path in place.parent.iterdir()) == ["a"]


def test_a_folder_linked_into_itself_stays_as_it_is(
    tmp_path: Path, sources: dict[str, dict[str, Path]], tiny_weights: Path
) -> None:
    where = LAYOUTS["folders"](tmp_path / "in", sources)  # made of links
    before = state(where)
    assert complete(tiny_weights, where, "--out", where, "--naming", "auto", "--link") == 0
    after = state(where)
    assert {name: after[name] for name in before} == before and "p3/p3_flair.json" in after
    assert complete(tiny_weights, where, "--out", where, "--naming", "auto", "--link") == 0
    assert state(where) == after


def test_link_through_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "a").write_text("a")
    (tmp_path / "out").symlink_to("far/away")
    link(tmp_path / "a", tmp_path / "out" / "x" / "a")
    assert (tmp_path / "out" / "x" / "a").read_text() == "a"


def test_without_links_a_copy_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    (tmp_path / "a").write_text("a")
    place = tmp_path / "out" / "a"
    link(tmp_path / "a", place)
    stamp = place.stat().st_mtime_ns
    link(tmp_path / "a", place)
    assert not place.is_symlink() and place.read_text() == "a" and place.stat().st_mtime_ns == stamp


def test_uncompressed_files_are_compressed_for_nnunet_alone(tmp_path: Path, tiny_weights: Path) -> None:
    volumes = brain_volumes()
    for modality in ("t1n", "t1c", "t2w"):
        save(tmp_path / "in" / "p1" / f"p1-{modality}.nii", volumes[modality])
    for naming in ("nnunet", "brats2021"):
        out = tmp_path / naming
        for _ in range(2):
            assert complete(tiny_weights, tmp_path / "in", "--out", out, "--naming", naming, "--link") == 0
    assert not (tmp_path / "nnunet" / "imagesTs" / "p1_0000.nii.gz").is_symlink()
    np.testing.assert_array_equal(
        np.asanyarray(nib.load(tmp_path / "nnunet" / "imagesTs" / "p1_0001.nii.gz").dataobj), volumes["t1c"]
    )
    assert (tmp_path / "brats2021" / "p1" / "p1_t1.nii").is_symlink()


def test_links_go_past_linked_folders(tmp_path: Path) -> None:
    """`linked/../in` is what the file system takes it for, not what the letters say."""
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "in").mkdir()
    (tmp_path / "far" / "in" / "a.nii.gz").write_text("a")
    (tmp_path / "linked").symlink_to(tmp_path / "far" / "deep")
    link(tmp_path / "linked" / ".." / "in" / "a.nii.gz", tmp_path / "out" / "a.nii.gz")
    assert (tmp_path / "out" / "a.nii.gz").read_text() == "a"


@pytest.mark.parametrize("labels", [None, ["background"], {"background": "zero"}])
def test_odd_labels_of_a_decathlon_are_refused_in_words(
    tmp_path: Path, sources: dict[str, dict[str, Path]], labels: object
) -> None:
    where = LAYOUTS["decathlon"](tmp_path / "in", sources)
    description = json.loads((where / "dataset.json").read_text())
    (where / "dataset.json").write_text(json.dumps(description | {"labels": labels}))
    cohort = find_cohort(where)
    with pytest.raises(ModfillError, match="labels in dataset.json must be names by number"):
        describe(output_folder(tmp_path / "out", "auto", cohort), cohort)
