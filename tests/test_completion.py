"""What a completion promises: the patient's own grid, the same answer every time, and a mark that it is synthetic."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from modfill.cases.marks import SYNTHETIC_MARK
from modfill.cases.reading import inspect
from modfill.cohort import locks
from modfill.completer import ModalityCompleter
from modfill.errors import CaseError, SettingsError
from modfill.results import Completed
from modfill.settings import Settings
from tests.case_files import brain_volumes, oblique_affine, save, write_case

MISSING = ("t1c", "t2w")


def voxels(image: nib.Nifti1Image) -> npt.NDArray[np.generic]:
    return np.asanyarray(image.dataobj)


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_same(first: Mapping[str, nib.Nifti1Image], second: Mapping[str, nib.Nifti1Image]) -> None:
    assert first.keys() == second.keys()
    for modality in first:
        np.testing.assert_array_equal(voxels(first[modality]), voxels(second[modality]))


def test_a_case_is_completed_once_by_two_calls_at_the_same_time(
    completer: ModalityCompleter, case_folder: Path, tmp_path: Path
) -> None:
    calls: list[Future[Completed]] = []

    def start_another(step: str, share: float) -> None:
        if not calls:
            calls.append(pool.submit(completer.complete, case_folder, out=tmp_path / "out"))
            with pytest.raises(TimeoutError):
                calls[0].result(0.5)  # it waits for the first call

    with ThreadPoolExecutor(1) as pool:
        first = completer.complete(case_folder, out=tmp_path / "out", progress=start_another)
        second = calls[0].result()
    assert (first.skipped, second.skipped) == ((), MISSING) and first.sha256 == second.sha256
    assert not list((tmp_path / "out").glob(".*"))


def test_a_finished_case_in_a_read_only_folder_needs_no_lock(
    completer: ModalityCompleter, case_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    completer.complete(case_folder, out=tmp_path / "out")

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(locks, "take", refuse)
    assert completer.complete(case_folder, out=tmp_path / "out").skipped == MISSING


def test_what_is_missing_appears_on_the_exact_grid(
    completer: ModalityCompleter, case_folder: Path, tmp_path: Path
) -> None:
    before = hashes(case_folder)
    done = completer.complete(case_folder, out=tmp_path / "out")
    assert hashes(case_folder) == before
    assert tuple(done.images) == tuple(done.paths) == tuple(done.provenance) == MISSING
    assert (done.uncertainty, done.skipped) == ({}, ())
    assert set(hashes(tmp_path / "out")) == {f"p1/p1-{m}.{end}" for m in MISSING for end in ("nii.gz", "json")}
    source = nib.load(case_folder / "p1-t1n.nii.gz")
    brain = np.any([voxels(nib.load(path)) != 0 for path in case_folder.iterdir()], axis=0)
    for modality, path in done.paths.items():
        written = nib.load(path)
        np.testing.assert_array_equal(voxels(written), voxels(done.images[modality]))
        assert written.shape == source.shape and written.get_data_dtype() == np.int16
        np.testing.assert_array_equal(written.affine, source.affine)
        for field in ("qform_code", "sform_code", "pixdim", "quatern_b", "qoffset_x", "xyzt_units"):
            np.testing.assert_array_equal(written.header[field], source.header[field])
        assert np.isnan(written.header["scl_slope"]) or written.header["scl_slope"] in (0, 1)
        np.testing.assert_array_equal(voxels(written) != 0, brain)
        assert voxels(written).std() > 0


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 0), (0, 1), (0, 0), (4, 2)])
def test_orientation_codes_and_both_matrices_are_kept(
    completer: ModalityCompleter, tmp_path: Path, sform: int, qform: int
) -> None:
    volume, affine = brain_volumes()["t1n"], oblique_affine()
    image = nib.Nifti1Image(volume, None if sform == qform == 0 else affine)
    other = affine.copy()
    other[:3, 3] += 40 * (sform == 4)  # two spaces, as scanner and template
    image.header.set_zooms((1.0, 1.1, 1.3))
    image.set_qform(other if qform else None, qform)
    image.set_sform(affine if sform else None, sform)
    (tmp_path / "p1").mkdir()
    nib.save(image, tmp_path / "p1" / "p1-t1n.nii.gz")
    source = nib.load(tmp_path / "p1" / "p1-t1n.nii.gz")
    done = completer.complete(tmp_path / "p1", out=tmp_path / "out", targets=["t1c"])
    written = nib.load(done.paths["t1c"])
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (sform, qform)
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
    if qform:
        np.testing.assert_allclose(written.get_qform(), source.get_qform(), atol=1e-5)
    np.testing.assert_allclose(written.header.get_zooms(), source.header.get_zooms(), rtol=1e-6)


def test_the_same_input_gives_the_same_files(completer: ModalityCompleter, case_folder: Path, tmp_path: Path) -> None:
    completer.complete(case_folder, out=tmp_path / "a")
    completer.complete(case_folder, out=tmp_path / "b")
    first, second = hashes(tmp_path / "a"), hashes(tmp_path / "b")
    assert len(first) == 4 and first == second


def test_the_seed_decides_a_sample(completer: ModalityCompleter, case_folder: Path) -> None:
    images = [
        voxels(
            completer.complete(
                case_folder, targets=["t1c"], settings=Settings(mode="sample", steps=2, seed=seed)
            ).images["t1c"]
        )
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).mean() > 0.05


def test_modes_and_steps_matter(completer: ModalityCompleter, case_folder: Path) -> None:
    settings = ({}, *({"mode": "sample", "steps": steps} for steps in (None, 2, 3)))
    images = [
        voxels(completer.complete(case_folder, targets=["t2w"], settings=Settings(**s)).images["t2w"]) for s in settings
    ]
    for index, image in enumerate(images):
        assert all((image != other).mean() > 0.01 for other in images[:index])


@pytest.mark.parametrize("targets", [["t2w"], ["t2w", "t1c"], ["t1c", "t2w"]])
@pytest.mark.parametrize("mode", ["mean", "sample"])
def test_targets_do_not_influence_each_other(
    completer: ModalityCompleter, case_folder: Path, targets: list[str], mode: str
) -> None:
    together = completer.complete(case_folder, settings=Settings(mode)).images
    some = completer.complete(case_folder, targets=targets, settings=Settings(mode)).images
    assert list(some) == targets
    assert_same(some, {modality: together[modality] for modality in targets})


def test_a_case_before_changes_nothing(completer: ModalityCompleter, case_folder: Path, tmp_path: Path) -> None:
    alone = completer.complete(case_folder, settings=Settings(mode="sample", steps=2)).images
    completer.complete(
        write_case(tmp_path / "other", "p0", ("t2f",), seed=7), settings=Settings(mode="sample", steps=2)
    )
    assert_same(completer.complete(case_folder, settings=Settings(mode="sample", steps=2)).images, alone)


@pytest.mark.parametrize("axes", ["RAS", "SPR", "ILA"])
def test_a_reoriented_case_gives_the_reoriented_answer(completer: ModalityCompleter, axes: str) -> None:
    """The model's grid is the same whatever the file's axes: only rounding may differ, by one unit."""
    volumes = brain_volumes()
    images = {m: nib.Nifti1Image(volumes[m], oblique_affine()) for m in ("t1n", "t2f")}
    start = nib.io_orientation(oblique_affine())
    turn = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(tuple(axes)))
    turned = {m: image.as_reoriented(turn) for m, image in images.items()}
    answers = [
        completer.complete_arrays({m: voxels(i) for m, i in case.items()}, affine=case["t1n"].affine, case_id="p1")[
            "t1c"
        ]
        for case in (images, turned)
    ]
    expected = nib.orientations.apply_orientation(answers[0], turn)
    assert expected.shape == answers[1].shape
    np.testing.assert_array_equal(expected != 0, answers[1] != 0)
    assert np.abs(expected.astype(int) - answers[1]).max() <= 1


@pytest.mark.parametrize("target", MISSING)
def test_sidecar_tells_where_it_comes_from(
    completer: ModalityCompleter, tiny_weights: Path, case_folder: Path, tmp_path: Path, target: str
) -> None:
    done = completer.complete(case_folder, out=tmp_path, settings=Settings(mode="sample", steps=3, seed=5))
    note = json.loads((tmp_path / "p1" / f"p1-{target}.json").read_text())
    assert note == done.provenance[target]
    assert note["Synthetic"] is True and note["Modality"] == target
    assert [(s["Modality"], s["File"]) for s in note["SourceImages"]] == [
        ("t1n", "p1-t1n.nii.gz"),
        ("t2f", "p1-t2f.nii.gz"),
    ]
    for source in note["SourceImages"]:
        assert source["SHA256"] == hashlib.sha256((case_folder / source["File"]).read_bytes()).hexdigest()
    assert note["Weights"]["SHA256"] == hashlib.sha256(tiny_weights.read_bytes()).hexdigest()
    assert note["Weights"]["Preset"] == "tiny" and note["GeneratedBy"][0]["Name"] == "modfill"
    assert (note["Mode"], note["Steps"], note["Seed"]) == ("sample", 3, 5)
    assert ("ContrastAgent" in note) == (target == "t1c")
    assert str(tmp_path) not in json.dumps(note)


def test_a_synthetic_t1c_says_that_no_agent_was_given(completer: ModalityCompleter, case_folder: Path) -> None:
    assert "No contrast agent was given" in completer.complete(case_folder).provenance["t1c"]["ContrastAgent"]


def test_unit_range_maps_the_intensities_back(completer: ModalityCompleter, case_folder: Path) -> None:
    volumes = brain_volumes()
    brain = volumes["t1n"] != 0
    done = completer.complete(case_folder)
    for modality, nearest in (("t1c", "t1n"), ("t2w", "t2f")):
        low, high = done.provenance[modality]["UnitRange"]
        assert (low, high) == pytest.approx(tuple(np.percentile(volumes[nearest][brain], (0.5, 99.5))), rel=1e-6)
        unit = (voxels(done.images[modality])[brain] - low) / (high - low)
        assert unit.min() >= -1 / (high - low) and unit.max() <= 1 + 1 / (high - low)


@pytest.mark.parametrize(("target", "nearest"), [("t1c", "t1n"), ("t2f", "t2w")])
def test_intensities_and_type_are_those_of_the_nearest_source(
    completer: ModalityCompleter, target: str, nearest: str
) -> None:
    """An uint8 image beside an int16 one of much larger intensities: the answer fits the type and is not saturated."""
    volumes = brain_volumes((14, 16, 12))
    brain = volumes["t1n"] != 0
    small = np.where(brain, np.clip(volumes["t1n"] / 8, 1, 255), 0).astype(np.uint8)
    arrays = {"t1n": small, "t2w": (volumes["t2w"] * 30).astype(np.int16)}
    made = completer.complete_arrays(arrays, affine=np.eye(4), targets=[target])[target]
    assert made.dtype == arrays[nearest].dtype
    low, high = np.percentile(arrays[nearest][brain], (0.5, 99.5))
    assert low - 1 <= made[brain].min() and made[brain].max() <= high + 1
    assert (made[brain] == np.iinfo(made.dtype).max).mean() < 0.01
    assert np.unique(made[brain]).size > 10


def test_the_header_bears_the_mark(completer: ModalityCompleter, case_folder: Path, tmp_path: Path) -> None:
    done = completer.complete(case_folder, out=tmp_path)
    description = nib.load(done.paths["t2w"]).header["descrip"].item().decode()
    assert description == f"{SYNTHETIC_MARK} t2w from t1n+t2f"


def test_a_synthetic_image_never_becomes_a_source(
    completer: ModalityCompleter, case_folder: Path, tmp_path: Path
) -> None:
    first = completer.complete(case_folder, out=tmp_path)
    (case_folder / "p1-t1c.nii.gz").write_bytes(first.paths["t1c"].read_bytes())  # its sidecar is lost
    case = inspect(case_folder)
    assert (case.available, case.synthetic, case.missing) == (("t1n", "t2f"), ("t1c",), MISSING)
    assert_same(completer.complete(case_folder).images, first.images)


def test_finished_outputs_are_kept_unless_told(completer: ModalityCompleter, case_folder: Path, tmp_path: Path) -> None:
    first = completer.complete(case_folder, out=tmp_path / "out", settings=Settings(uncertainty=True))
    before = hashes(tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in first.paths.values()}
    again = completer.complete(case_folder, out=tmp_path / "out", settings=Settings(uncertainty=True))
    assert again.skipped == MISSING and again.provenance == first.provenance
    assert_same(again.images, first.images)
    assert_same(again.uncertainty, first.uncertainty)
    assert {path: path.stat().st_mtime_ns for path in first.paths.values()} == stamps
    redone = completer.complete(case_folder, out=tmp_path / "out", overwrite=True, settings=Settings(uncertainty=True))
    assert redone.skipped == () and hashes(tmp_path / "out") == before


def test_an_output_of_other_settings_or_sources_is_not_taken_for_this_one(
    completer: ModalityCompleter, case_folder: Path, tmp_path: Path
) -> None:
    own = Settings("sample", 1)
    completer.complete(case_folder, out=tmp_path / "out", settings=own)
    before = hashes(tmp_path / "out")
    others = {"Seed": {"seed": 3}, "Mode": {"mode": "mean", "steps": None}, "Steps": {"steps": 2},
              "Uncertainty": {"uncertainty": True}}  # fmt: skip
    for key, other in others.items():
        with pytest.raises(CaseError, match=f"{key} of this run.*overwrite=True"):
            completer.complete(case_folder, out=tmp_path / "out", settings=replace(own, **other))
    save(case_folder / "p1-t1n.nii.gz", brain_volumes(seed=1)["t1n"])
    with pytest.raises(CaseError, match="SourceImages of this run"):
        completer.complete(case_folder, out=tmp_path / "out", settings=own)
    assert hashes(tmp_path / "out") == before
    redone = completer.complete(case_folder, out=tmp_path / "out", overwrite=True, settings=Settings(seed=3))
    assert redone.skipped == ()
    assert json.loads((tmp_path / "out" / "p1" / "p1-t1c.json").read_text())["Seed"] == 3


def test_an_overwritten_image_keeps_no_old_uncertainty(
    completer: ModalityCompleter, case_folder: Path, tmp_path: Path
) -> None:
    completer.complete(case_folder, out=tmp_path / "out", targets=["t1c"], settings=Settings(uncertainty=True))
    completer.complete(case_folder, out=tmp_path / "out", targets=["t1c"], overwrite=True)
    assert set(hashes(tmp_path / "out")) == {"p1/p1-t1c.json", "p1/p1-t1c.nii.gz"}
    assert completer.complete(case_folder, out=tmp_path / "out", targets=["t1c"]).uncertainty == {}


@pytest.mark.parametrize("lost", ["p1-t1c.nii.gz", "p1-t2w.nii.gz"])
def test_an_image_without_its_partner_is_done_again(
    completer: ModalityCompleter, case_folder: Path, tmp_path: Path, lost: str
) -> None:
    first = completer.complete(case_folder, out=tmp_path)
    (tmp_path / "p1" / lost).unlink()  # killed between sidecar and image
    again = completer.complete(case_folder, out=tmp_path)
    assert len(again.skipped) == 1
    assert_same({m: nib.load(path) for m, path in again.paths.items()}, first.images)


def test_outputs_may_lie_beside_their_sources(completer: ModalityCompleter, case_folder: Path) -> None:
    sources = hashes(case_folder)
    first = completer.complete(case_folder, out=case_folder.parent)
    assert sources.items() <= hashes(case_folder).items() and len(hashes(case_folder)) == len(sources) + 4
    assert completer.complete(case_folder, out=case_folder.parent).skipped == MISSING
    again = completer.complete(case_folder, out=case_folder.parent, overwrite=True)
    assert_same(again.images, first.images)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("sidecar", [None, '{"EchoTime": 0.09}'])  # as dcm2niix writes beside every image
def test_an_acquired_file_in_the_way_is_refused_and_survives(
    completer: ModalityCompleter, case_folder: Path, tmp_path: Path, sidecar: str | None, overwrite: bool
) -> None:
    acquired = save(tmp_path / "out" / "p1" / "p1-t1c.nii.gz", brain_volumes(seed=9)["t1c"])
    if sidecar is not None:
        (acquired.parent / "p1-t1c.json").write_text(sidecar)
    before = hashes(tmp_path / "out")
    with pytest.raises(CaseError, match="p1-t1c.nii.gz"):
        completer.complete(case_folder, out=tmp_path / "out", targets=["t1c"], overwrite=overwrite)
    assert hashes(tmp_path / "out") == before


@pytest.mark.parametrize("damage", [b"", b"no image"])
def test_a_damaged_output_is_one_line(
    completer: ModalityCompleter, case_folder: Path, tmp_path: Path, damage: bytes
) -> None:
    done = completer.complete(case_folder, out=tmp_path / "out", targets=["t1c"])
    done.paths["t1c"].write_bytes(damage)
    with pytest.raises(CaseError, match="p1-t1c.nii.gz"):
        completer.complete(case_folder, out=tmp_path / "out", targets=["t1c"])


def test_a_target_must_be_missing(completer: ModalityCompleter, case_folder: Path) -> None:
    with pytest.raises(CaseError, match=r"case p1: a target must be missing \(t1c, t2w\), got 't1n'"):
        completer.complete(case_folder, targets=["t1n"])


@pytest.mark.parametrize(
    ("settings", "reason"), [({"mode": "best"}, "mode"), ({"steps": 0}, "steps"), ({"seed": -1}, "seed")]
)
def test_settings_are_checked(completer: ModalityCompleter, case_folder: Path, settings: dict, reason: str) -> None:
    with pytest.raises(SettingsError, match=f"{reason} must be"):
        completer.complete(case_folder, settings=Settings(**settings))


def test_a_complete_case_needs_nothing(completer: ModalityCompleter, tmp_path: Path) -> None:
    done = completer.complete(write_case(tmp_path / "in", "p1"), out=tmp_path / "out")
    assert (done.images, done.paths) == ({}, {}) and not (tmp_path / "out").exists()
    with pytest.raises(CaseError, match="none is"):
        completer.complete_arrays(brain_volumes(), affine=np.eye(4), targets=["t1n"])
