"""From raw scans to a case, and back."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from benchmarks.preparation import displacement, rigid
from modfill.cases.finding import find_cases
from modfill.cases.marks import voxel_hash
from modfill.cases.reading import read_case
from modfill.cli import main
from modfill.errors import CaseError, SettingsError
from modfill.modalities import BRATS
from modfill.prepare import prepare_studies, prepare_study, registration, restore
from modfill.prepare.finding import Series, find_series, find_studies
from modfill.prepare.grid import Grid, grid_of_reference, resample
from modfill.prepare.picture import draw
from modfill.prepare.recognition import choose, recognise
from modfill.prepare.record import grid_from, matrix_from, read_record
from modfill.prepare.registration import register
from modfill.prepare.scan import Scan, read_scan
from modfill.prepare.stripping import doubts_of
from tests.heads import brain_on, brain_points, head, scanned, written

MOVED = {
    "t1n": np.eye(4),
    "t1c": rigid(np.random.default_rng(1), 12, 15),
    "t2w": rigid(np.random.default_rng(2), 12, 15),
    "t2f": rigid(np.random.default_rng(3), 12, 15),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw T1, T2 and FLAIR of one patient on three grids, and a brain mask on the T1's; the T1ce was not acquired."""
    folder = tmp_path_factory.mktemp("raw") / "patient"
    for modality, name in (("t1n", "AX_T1"), ("t2w", "AX_T2"), ("t2f", "SAG_FLAIR")):
        written(scanned(modality, MOVED[modality]), folder / f"{name}.nii.gz")
    scan = scanned("t1n", MOVED["t1n"])
    mask = nib.Nifti1Image(brain_on(scan, MOVED["t1n"]).astype(np.uint8), scan.affine)
    nib.save(mask, folder.parent / "brain.nii.gz")
    return folder


@pytest.fixture(scope="module")
def prepared(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The case that `prepare_study` made of it."""
    out = tmp_path_factory.mktemp("cases")
    return prepare_study(study, out=out, mask=study.parent / "brain.nii.gz").folder


@pytest.mark.parametrize(("fixed", "moving", "seed"), [("t1n", "t2w", 0), ("t2f", "t1c", 4)])
def test_a_known_movement_is_recovered(fixed: str, moving: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = rigid(rng, 30, 40)
    true[:3, :3] = rigid(rng, 30, 0)[:3, :3]
    found = register(scanned(fixed, np.eye(4)), scanned(moving, true, seed))
    mean, worst = displacement(found.matrix, true, brain_points())
    assert mean < 1 and worst < 2
    assert not found.doubts and found.information[0] > found.information[1]


def test_right_positions_of_the_scanner_are_no_doubt() -> None:
    found = register(scanned("t1n", np.eye(4)), scanned("t2w", np.eye(4)))
    assert displacement(found.matrix, np.eye(4), brain_points())[1] < 2
    assert not found.doubts


def test_an_image_without_a_head_is_refused() -> None:
    nothing = Scan(Path("T2.nii.gz"), np.zeros((60, 60, 40), np.float32), np.diag([4.0, 4.0, 5.0, 1.0]))
    with pytest.raises(CaseError, match="T2.nii.gz must show a head"):
        register(scanned("t1n", np.eye(4)), nothing)


def test_another_head_is_doubtful() -> None:
    noise = np.random.default_rng(0).normal(500, 100, (60, 60, 40)).astype(np.float32)
    scan = Scan(Path("noise"), noise, np.diag([4.0, 4.0, 5.0, 1.0]))
    assert register(scanned("t1n", np.eye(4)), scan).doubts


def test_a_worse_optimum_elsewhere_is_no_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    import SimpleITK as sitk

    def upside_down(found: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
        angles = found.GetAngleX() + np.pi, found.GetAngleY(), found.GetAngleZ()
        return sitk.Euler3DTransform(found.GetCenter(), *angles, found.GetTranslation())

    monkeypatch.setattr(registration, "_perturbed", upside_down)
    found = register(scanned("t1n", np.eye(4)), scanned("t2w", MOVED["t2w"]))
    assert displacement(found.matrix, MOVED["t2w"], brain_points())[1] < 2
    assert found.apart > 20 and found.perturbed < registration.AS_GOOD * found.information[0]
    assert not found.doubts


def test_a_head_that_fits_in_every_rotation_is_doubtful() -> None:
    radius = np.linalg.norm(np.indices((60, 60, 60)) - 29.5, axis=0) * 4
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -118
    scans = [Scan(Path("ball"), np.interp(radius, (60, 70, 80, 90), level).astype(np.float32), affine)
             for level in ((900, 200, 1000, 0), (500, 1300, 400, 0))]  # fmt: skip
    (doubt,) = register(*scans).doubts
    assert "as good" in doubt


def test_the_case_is_one_that_complete_takes(prepared: Path) -> None:
    case = read_case(find_cases(prepared)[0])
    assert case.available == ("t1n", "t2w", "t2f") and case.missing == ("t1c",)
    image = nib.load(prepared / "patient-t1n.nii.gz")
    assert np.allclose(image.header.get_zooms(), 1) and image.get_data_dtype().kind == "i"
    brain = np.asarray(nib.load(prepared / "patient-brainmask.nii.gz").dataobj) > 0
    assert abs(brain.sum() / 1000 / (head()[1].sum() * 8 / 1000) - 1) < 0.03
    for modality in case.available:
        voxels = np.asarray(nib.load(prepared / f"patient-{modality}.nii.gz").dataobj)
        assert not voxels[~brain].any() and (voxels[brain] > 0).mean() > 0.98


def test_the_record_names_every_transform_hash_and_version(prepared: Path, study: Path) -> None:
    note = read_record(prepared / "patient-prepared.json")
    assert note["Reference"] == "t1n"
    for scan in note["Scans"]:
        found = matrix_from(scan)
        assert displacement(found, MOVED[scan["Modality"]], brain_points())[1] < 2
        assert len(scan["SHA256"]) == 64 and Path(scan["Source"]).parent == study.resolve()
        image = nib.load(prepared / f"patient-{scan['Modality']}.nii.gz")
        assert scan["PreparedVoxelSHA256"] == voxel_hash(np.asarray(image.dataobj))
    assert {"modfill", "SimpleITK"} <= {tool["Name"] for tool in note["GeneratedBy"]}
    mask = np.asarray(nib.load(prepared / "patient-brainmask.nii.gz").dataobj)
    assert note["Brain"]["VoxelSHA256"] == voxel_hash(mask)
    assert note["Brain"]["Tool"] == "mask brain.nii.gz" and note["Series"]["AX_T1.nii.gz"].startswith("T1:")


def test_the_picture_shows_every_scan(prepared: Path) -> None:
    picture = np.asarray(Image.open(prepared / "patient-prepared.png").convert("RGB")).astype(int)
    rows = np.array_split(picture, 3)
    assert all((row[..., 0] - row[..., 2] > 100).sum() > 100 for row in rows)  # the mask's outline
    assert all((row.max(2) > 60).mean() > 0.1 for row in rows)


def test_the_picture_is_upright_whatever_the_axes_are(tmp_path: Path) -> None:
    voxels, brain = np.zeros((2, 40, 40, 40), np.float32)
    voxels[5:35, 5:35, 5:35] = 1
    voxels[5:15, 5:35, 25:35] = 3  # left, above
    brain[8:32, 8:32, 8:32] = 1
    turned, masks = (np.flip(np.moveaxis(image, 0, 2), 1) for image in (voxels, brain))
    affine = np.array([[0, 0, 1.0, 0], [1, 0, 0, 0], [0, -1, 0, 39], [0, 0, 0, 1]])
    draw({"t1n": voxels}, brain > 0, np.eye(4), {"t1n": "T1"}, tmp_path / "ras.png")
    draw({"t1n": turned}, masks > 0, affine, {"t1n": "T1"}, tmp_path / "turned.png")
    pictures = [np.asarray(Image.open(tmp_path / name)) for name in ("ras.png", "turned.png")]
    assert (pictures[0] == pictures[1]).all()
    coronal = pictures[0][16:, 220:440].sum(2)
    assert coronal[40:100, 40:80].mean() > 1.5 * coronal[120:180, 140:180].mean()


@pytest.mark.parametrize(("modality", "name"), [("t2w", "AX_T2"), ("t2f", "SAG_FLAIR")])
def test_an_image_returns_to_the_exact_original_grid(
    prepared: Path, study: Path, tmp_path: Path, modality: str, name: str
) -> None:
    original = read_scan(study / f"{name}.nii.gz")
    (back,) = restore(prepared / f"patient-{modality}.nii.gz", like=study / f"{name}.nii.gz", out=tmp_path)
    image = nib.load(back)
    assert image.shape == original.voxels.shape and np.allclose(image.affine, original.affine, atol=1e-4)
    voxels = np.asarray(image.dataobj, np.float32)
    inside = voxels > 0
    brain = brain_on(original, MOVED[modality])
    assert 2 * (inside & brain).sum() / (inside.sum() + brain.sum()) > 0.95
    deep = ndimage.binary_erosion(inside & brain, iterations=2)

    def likeness(acquired: np.ndarray) -> float:
        return float(np.corrcoef(voxels[deep], acquired[deep])[0, 1])

    moved = [np.roll(original.voxels, way, axis) for axis in range(3) for way in (-1, 1)]
    assert likeness(original.voxels) > 0.9 and likeness(original.voxels) > max(map(likeness, moved))


def test_labels_stay_labels(prepared: Path, study: Path, tmp_path: Path) -> None:
    grid = grid_from(read_record(prepared / "patient-prepared.json")["Grid"])
    labels = np.zeros(grid.shape, np.uint8)
    middle = [n // 2 for n in grid.shape]
    labels[: middle[0], :, middle[2] - 20 : middle[2] + 20] = 2
    labels[middle[0] :, :, middle[2] - 20 : middle[2] + 20] = 4
    path = prepared / "patient-seg.nii.gz"
    nib.save(nib.Nifti1Image(labels, grid.affine), path)
    try:
        (back,) = restore(path, like=study / "AX_T2.nii.gz", out=tmp_path)
    finally:
        path.unlink()
    assert set(np.unique(np.asarray(nib.load(back).dataobj))) == {0, 2, 4}


def test_a_file_that_is_no_scan_of_the_case_is_refused(prepared: Path, tmp_path: Path) -> None:
    other = written(scanned("t1c", MOVED["t1c"]), tmp_path / "AX_T2.nii.gz")
    with pytest.raises(CaseError, match="must be one of the scans"):
        restore(prepared / "patient-t1n.nii.gz", like=other, out=tmp_path / "out")
    with pytest.raises(CaseError, match="record"):
        restore(other, like=other, out=tmp_path / "out")


def test_a_doubtful_mask_stops_the_study_and_names_the_picture(study: Path, tmp_path: Path) -> None:
    scan = scanned("t1n", MOVED["t1n"])
    whole = nib.Nifti1Image((scan.voxels > 150).astype(np.uint8), scan.affine)  # the head, not the brain
    nib.save(whole, tmp_path / "head.nii.gz")
    with pytest.raises(CaseError, match=r"doubtful .*brain.*patient-prepared\.png"):
        prepare_study({"t1": study / "AX_T1.nii.gz"}, out=tmp_path, mask=tmp_path / "head.nii.gz", case_id="patient")
    assert [path.name for path in (tmp_path / "patient").iterdir()] == ["patient-prepared.png"]


def test_a_mask_of_another_grid_and_an_absent_reference_are_refused(
    study: Path, prepared: Path, tmp_path: Path
) -> None:
    t1 = study / "AX_T1.nii.gz"
    with pytest.raises(CaseError, match="grid of one of the scans"):
        prepare_study({"t1": t1}, out=tmp_path, mask=prepared / "patient-brainmask.nii.gz")
    with pytest.raises(SettingsError, match="reference must be one of t1n"):
        prepare_study({"t1": t1}, out=tmp_path, reference="flair")


def test_nothing_is_written_among_the_scans(study: Path) -> None:
    before = sorted(study.iterdir())
    for out in (study.parent, study, study / "inside"):
        with pytest.raises(SettingsError, match="another folder"):
            prepare_study(study, out=out)
    with pytest.raises(SettingsError, match="another folder"):
        next(prepare_studies(study.parent, out=study.parent / "cases"))
    assert sorted(study.iterdir()) == before


def test_checks_of_a_mask() -> None:
    scan = scanned("t1n", np.eye(4))
    brain, grid = brain_on(scan, np.eye(4)), Grid.of(scan)
    assert not doubts_of(brain, scan.voxels, grid)
    grown = brain.copy()
    for _ in range(11):
        grown |= np.roll(grown, 1, 0) | np.roll(grown, -1, 0) | np.roll(grown, 1, 1) | np.roll(grown, -1, 1)
    assert any("border of the head" in doubt for doubt in doubts_of(grown, scan.voxels, grid))
    halves = brain.copy()
    halves[brain.shape[0] // 2 - 3 : brain.shape[0] // 2 + 3] = False
    assert any("parts" in doubt for doubt in doubts_of(halves, scan.voxels, grid))
    assert doubts_of(brain & False, scan.voxels, grid) == ("the mask is empty",)
    small = brain & (np.indices(brain.shape)[2] > brain.shape[2] // 2)
    assert any("ml" in doubt for doubt in doubts_of(small, scan.voxels, grid))


def test_what_a_scan_does_not_cover_is_no_air() -> None:
    scan = scanned("t1n", np.eye(4))
    own, grid = Grid.of(scan), grid_of_reference(scan)
    mask = resample(brain_on(scan, np.eye(4)).astype(np.float32), own, grid, order=1) > 0.5
    covered = np.indices(grid.shape)[0] + 0.5 * np.indices(grid.shape)[2] > 0.5 * grid.shape[0]  # an oblique border
    head = np.where(covered, resample(scan.voxels, own, grid), 0)
    assert any("border of the head" in doubt for doubt in doubts_of(mask, head, grid))
    assert not doubts_of(mask, head, grid, covered)


def test_a_dark_skull_around_the_brain_is_no_border_of_the_head() -> None:
    scan = scanned("t1n", np.eye(4))
    brain, own, grid = brain_on(scan, np.eye(4)), Grid.of(scan), grid_of_reference(scan)
    ring, outside = (ndimage.binary_dilation(brain, iterations=n) for n in (5, 8))
    separate = np.where(ndimage.binary_dilation(brain) | (outside & ~ring), scan.voxels, 0)
    mask = resample(brain.astype(np.float32), own, grid, order=1) > 0.5
    assert not doubts_of(mask, resample(separate, own, grid), grid)
    stripped = resample(np.where(brain, scan.voxels, 0), own, grid, order=1)
    assert any("border of the head" in doubt for doubt in doubts_of(mask, stripped, grid))


def test_deepbet_finds_the_brain() -> None:
    from modfill.prepare.stripping import brain_of

    scan = scanned("t1n", np.eye(4))
    found, tool = brain_of(scan.voxels, Grid.of(scan))
    brain = brain_on(scan, np.eye(4))
    assert 2 * (found & brain).sum() / (found.sum() + brain.sum()) > 0.85 and tool.startswith("deepbet ")


def test_coarser_voxels_average_noise_and_labels_do_not_mix() -> None:
    noise = np.random.default_rng(0).normal(size=(60, 60, 60)).astype(np.float32)
    fine, coarse = Grid((60, 60, 60), np.eye(4)), Grid((15, 15, 15), np.diag([4.0, 4.0, 4.0, 1.0]))
    assert resample(noise, fine, coarse).std() < 0.3
    labels = np.random.default_rng(1).choice([0, 2, 4], (60, 60, 60)).astype(np.float32)
    assert set(np.unique(resample(labels, fine, coarse, order=0))) <= {0, 2, 4}


def test_the_grid_of_the_reference_covers_its_field_of_view() -> None:
    scan = scanned("t2w", np.eye(4))
    grid = grid_of_reference(scan)
    for corner in (np.zeros(3), np.array(grid.shape) - 1.0):
        place = np.linalg.inv(scan.affine) @ grid.affine @ np.append(corner, 1)
        assert (place[:3] > -1).all() and (place[:3] < np.array(scan.voxels.shape)).all()
    assert np.allclose(grid.spacing, 1)


def series(folder: Path, name: str, shape: tuple[int, ...] = (40, 40, 20), **header: object) -> Series:
    path = folder / f"{len(list(folder.iterdir()))}.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.diag([1.0, 1.0, 5.0, 1.0])), path)
    return Series(path, path, name, dict(header))


T1, T2, FLAIR = {"EchoTime": 0.009, "RepetitionTime": 0.6}, {"EchoTime": 0.1, "RepetitionTime": 4.0}, {
    "EchoTime": 0.12, "RepetitionTime": 9.0, "InversionTime": 2.2}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "header", "modality"),
    [
        ("AX T1", T1, "t1n"),
        ("AX T1 POST GD", T1, "t1c"),
        ("t1_mprage_sag_p2_iso_post", {}, "t1c"),
        ("AX T1", {**T1, "ContrastBolusAgent": "MAGNEVIST"}, "t1c"),
        ("SAG 3D BRAVO", {"EchoTime": 0.003, "RepetitionTime": 0.008, "InversionTime": 0.45}, "t1n"),
        ("t2_tse_tra", T2, "t2w"),
        ("AX FLAIR", FLAIR, "t2f"),
        ("t2_tirm_tra_dark-fluid", {}, "t2f"),
        ("sub-01_ce-gadolinium_T1w.nii.gz", {}, "t1c"),
        ("series 5", FLAIR, "t2f"),
        ("series 6", T2, "t2w"),
        ("3 PLANE LOC", T1, None),
        ("AX T1", {**T1, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, None),
        ("ep2d_diff_3scan_trace", T2, None),
        ("Apparent Diffusion Coefficient", {"ImageType": ["DERIVED", "SECONDARY", "ADC"]}, None),
        ("AX T2* GRE", {}, None),
        ("AX SWI", {}, None),
    ],
)
def test_a_series_is_recognised(tmp_path: Path, name: str, header: dict, modality: str | None) -> None:
    verdict = recognise(series(tmp_path, name, **header))
    assert verdict.modality == modality and verdict.reason
    assert not verdict.doubtful


@pytest.mark.parametrize(("name", "header"), [("AX T1", T2), ("AX FLAIR", T1), ("series 7", {}),
                                              ("AX T1 PRE", {**T1, "ContrastBolusAgent": "Gadavist"})])  # fmt: skip
def test_a_contradiction_is_doubtful(tmp_path: Path, name: str, header: dict) -> None:
    verdict = recognise(series(tmp_path, name, **header))
    assert verdict.modality is None and verdict.doubtful


def test_a_slab_and_a_series_of_volumes_are_left_out(tmp_path: Path) -> None:
    assert "slices" in recognise(series(tmp_path, "T1", (40, 40, 3))).reason
    assert "single slice" in recognise(series(tmp_path, "T1", (40, 40))).reason
    assert "volumes" in recognise(series(tmp_path, "T1", (40, 40, 20, 6))).reason


def test_an_unusable_file_is_not_taken_for_missing(tmp_path: Path) -> None:
    known, broken = series(tmp_path, "AX T2", **T2), tmp_path / "AX_T1.nii.gz"
    broken.write_bytes(b"no image")
    found = [known, Series(broken, broken, broken.name)]
    with pytest.raises(CaseError, match="AX_T1.nii.gz may be one of T1.*must be a NIfTI image"):
        choose(found, {})
    assert set(choose(found, {}, ignore_unexplained=True).series) == {"t2w"}


def test_a_place_that_cannot_be_written_stops_before_the_work(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modfill.prepare.study.register", None)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CaseError, match="file must be a folder that can be written to"):
        prepare_study(study, out=tmp_path / "file")


def test_doubt_is_refused_unless_the_user_decides(tmp_path: Path) -> None:
    known, odd = series(tmp_path, "AX T1", **T1), series(tmp_path, "series 7")
    with pytest.raises(CaseError, match="name the files"):
        choose([known, odd], {})
    assert set(choose([known, odd], {}, ignore_unexplained=True).series) == {"t1n"}
    assert choose([known, odd], {"t2f": odd.source}).series["t2f"] is odd
    twice = [known, series(tmp_path, "AX T1", **T1)]
    with pytest.raises(CaseError, match="same voxels"):
        choose(twice, {}, ignore_unexplained=True)


def test_of_two_series_the_finer_counts(tmp_path: Path) -> None:
    coarse = series(tmp_path, "AX T1", **T1)
    fine = tmp_path / "fine.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((40, 40, 40), np.int16), np.eye(4)), fine)
    choice = choose([coarse, Series(fine, fine, "SAG T1 MPRAGE")], {}, ignore_unexplained=True)
    assert choice.series["t1n"].source == fine and "smaller voxels" in choice.reasons[f"{coarse.source.name} ('AX T1')"]


def dicom_series(folder: Path, scan: Scan, number: int, **tags: object) -> None:
    """Write a scan as one DICOM file for each slice."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    folder.mkdir(parents=True)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine
    spacing = scan.spacing
    for z in range(scan.voxels.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}.{z + 1}"
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        image = FileDataset(str(folder / f"{z:03d}.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        image.Modality, image.PatientID, image.PatientName = "MR", "P1", "Phantom"
        image.Manufacturer, image.StudyInstanceUID = "SIEMENS", "1.2.3"
        image.SeriesInstanceUID, image.SeriesNumber, image.InstanceNumber = f"1.2.3.{number}", number, z + 1
        image.FrameOfReferenceUID, image.ImageType = "1.2.3.0", ["ORIGINAL", "PRIMARY", "M"]
        image.ImageOrientationPatient = [float(f"{v:.7f}") for axis in (0, 1) for v in affine[:3, axis] / spacing[axis]]
        image.ImagePositionPatient = [float(f"{v:.6f}") for v in affine[:3, :3] @ (0, 0, z) + affine[:3, 3]]
        image.PixelSpacing, image.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        plane = scan.voxels[:, :, z].T.astype(np.int16)
        image.Rows, image.Columns = plane.shape
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 1
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit = 15
        image.PixelData = plane.tobytes()
        for key, value in tags.items():
            setattr(image, key, value)
        image.save_as(folder / f"{z:03d}.dcm", enforce_file_format=True)


@pytest.fixture(scope="module")
def dicom_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A localiser, T1, T1 after contrast agent, T2, FLAIR and a derived map, as DICOM."""
    folder = tmp_path_factory.mktemp("dicom") / "P1"
    spin = {"EchoTime": 9, "RepetitionTime": 600}
    t1 = scanned("t1c", np.eye(4))
    scout = Scan(Path(), t1.voxels[:, :, 20:23], t1.affine)
    dicom_series(
        folder / "1", scout, 1, SeriesDescription="3 PLANE LOC", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    dicom_series(folder / "2", t1, 2, SeriesDescription="AX T1", **spin)
    dicom_series(folder / "3", t1, 3, SeriesDescription="AX T1", ContrastBolusAgent="MAGNEVIST", **spin)
    t2 = scanned("t2w", np.eye(4))
    dicom_series(folder / "4", t2, 4, SeriesDescription="AX T2 FSE", EchoTime=100, RepetitionTime=4000)
    dicom_series(
        folder / "5", t2, 5, SeriesDescription="AX FLAIR", EchoTime=120, RepetitionTime=9000, InversionTime=2200
    )
    dicom_series(folder / "6", t2, 6, SeriesDescription="ADC map", ImageType=["DERIVED", "SECONDARY", "ADC"])
    return folder


def test_a_dicom_study_is_recognised(dicom_study: Path, tmp_path: Path) -> None:
    assert find_studies(dicom_study) == [dicom_study]
    choice = choose(find_series(dicom_study, tmp_path), {})
    assert {m: s.source.name for m, s in choice.series.items()} == {"t1n": "2", "t1c": "3", "t2w": "4", "t2f": "5"}
    assert "contrast agent MAGNEVIST" in choice.reasons["3 ('AX T1')"]
    assert "localiser" in choice.reasons["1 ('3 PLANE LOC')"]
    assert sum("left out" in reason for reason in choice.reasons.values()) >= 2
    scan = read_scan(choice.series["t2w"].path)
    assert np.isclose(sorted(scan.spacing), sorted(scanned("t2w", np.eye(4)).spacing), atol=0.01).all()


def test_folders_of_patients_are_told_from_one_patient(tmp_path: Path) -> None:
    for patient in ("a", "b"):
        written(scanned("t1n", np.eye(4)), tmp_path / patient / "T1.nii.gz")
    assert [study.name for study in find_studies(tmp_path)] == ["a", "b"]
    assert find_studies(tmp_path / "a") == [tmp_path / "a"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaseError, match="NIfTI or DICOM"):
        find_studies(tmp_path / "empty")


def test_raw_scans_to_four_modalities_in_native_space_in_two_commands(
    study: Path, tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, back = tmp_path / "completed", tmp_path / "native"
    assert main(["complete", "--prepare", str(study), "-o", str(out), "--weights", str(tiny_weights)]) == 0
    synthetic = out / "patient" / "patient-t1c.nii.gz"
    assert synthetic.exists() and (out / "prepared" / "patient" / "patient-t1n.nii.gz").exists()
    assert main(["restore", str(out), "--like", str(study / "AX_T2.nii.gz"), "-o", str(back)]) == 0
    image = nib.load(back / "patient" / "patient-t1c.nii.gz")
    original = nib.load(study / "AX_T2.nii.gz")
    assert image.shape == original.shape and np.allclose(image.affine, original.affine, atol=1e-4)
    assert image.header["descrip"].item().startswith(b"modfill synthetic")
    sidecar = json.loads((back / "patient" / "patient-t1c.json").read_text())
    assert sidecar["Synthetic"] is True and sidecar["RestoredTo"]["Modality"] == "t2w"
    assert "patient-prepared.png" in capsys.readouterr().out


def test_an_image_whose_scan_is_gone_is_not_left(study: Path, prepared: Path, tmp_path: Path) -> None:
    """It would pass for acquired."""
    shutil.copytree(prepared, tmp_path / "patient")
    mine = tmp_path / "patient" / "patient-t1c.nii.gz"  # of no preparation
    shutil.copy(prepared / "patient-t1n.nii.gz", mine)
    scans, mask = {"t1": study / "AX_T1.nii.gz"}, study.parent / "brain.nii.gz"
    again = prepare_study(scans, out=tmp_path, mask=mask, case_id="patient")
    assert set(again.paths) == {"t1n"} and again.paths["t1n"].exists() and mine.exists()
    assert not list(again.folder.glob("patient-t2?.nii.gz"))


def test_a_study_that_fails_now_is_not_completed_from_earlier_images(
    study: Path, prepared: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    out, studies = tmp_path / "completed", tmp_path / "studies"
    shutil.copytree(prepared, out / "prepared" / "patient")
    (studies / "patient").mkdir(parents=True)
    (studies / "patient" / "AX_T1.nii.gz").write_bytes((study / "AX_T1.nii.gz").read_bytes()[:1000])
    (studies / "other").mkdir()
    shutil.copy(study / "AX_T1.nii.gz", studies / "other")
    words = ["complete", "--prepare", str(studies), "-o", str(out), "--weights", str(tiny_weights)]
    assert main(words) == 1
    assert (out / "other" / "other-t1c.nii.gz").exists() and not (out / "patient").exists()


def test_a_named_dicom_series_returns_to_its_own_grid(dicom_study: Path, tmp_path: Path) -> None:
    scan = scanned("t1c", np.eye(4))
    (tmp_path / "converted").mkdir()
    own = read_scan(find_series(dicom_study / "2", tmp_path / "converted")[0].path)
    mask = tmp_path / "brain.nii.gz"
    nib.save(nib.Nifti1Image(brain_on(own, np.eye(4)).astype(np.uint8), own.affine), mask)
    case = prepare_study({"t1": dicom_study / "2"}, out=tmp_path / "cases", mask=mask, case_id="P1")
    (back,) = restore(case.paths["t1n"], like=dicom_study / "2", out=tmp_path / "native")
    image = nib.load(back)
    assert image.shape == own.voxels.shape and np.allclose(image.affine, own.affine, atol=1e-3)
    assert sorted(image.shape) == sorted(scan.voxels.shape)


def test_patients_are_never_mixed(dicom_study: Path, tmp_path: Path) -> None:
    for patient in ("a", "b"):
        written(scanned("t1n", np.eye(4)), tmp_path / "two" / patient / "T1.nii.gz")
    with pytest.raises(CaseError, match="must be one study, got 2"):
        prepare_study(tmp_path / "two", out=tmp_path / "out", reference="t1")
    flat = tmp_path / "flat"
    dicom_series(flat / "1", scanned("t1c", np.eye(4)), 1)
    dicom_series(flat / "2", scanned("t1c", np.eye(4)), 2, StudyInstanceUID="1.2.4")
    (tmp_path / "scratch").mkdir()
    with pytest.raises(CaseError, match="one DICOM study"):
        find_series(flat, tmp_path / "scratch")


def flat(folder: Path, *names: str) -> Path:
    for name in names:
        written(Scan(Path(), np.zeros((20, 20, 20), np.float32), np.eye(4)), folder / f"{name}.nii.gz")
    return folder


APART = [("p1_t1", "p2_flair"), ("001_T1", "001_T2", "002_FLAIR"), ("2019_T1", "2020_FLAIR"),
         ("sub-01_ses-1_T1w", "sub-01_ses-2_FLAIR"), ("UCSF-0004_T1_orig", "UCSF-0005_FLAIR_orig")]  # fmt: skip
ONE = [("AX_T1", "SAG_FLAIR"), ("3_AX_T1", "5_FLAIR"), ("p1_3_T1", "p1_5_FLAIR"), ("t1_post", "pre_t1"),
       ("sub-01_ses-1_acq-ax_T1w", "sub-01_ses-1_FLAIR"), ("p1_AX_T1_20200101_5", "p1_T2_20200101_6")]  # fmt: skip


@pytest.mark.parametrize(("names", "apart"), [*((n, True) for n in APART), *((n, False) for n in ONE)])
def test_names_tell_patients_apart(tmp_path: Path, names: tuple[str, ...], apart: bool) -> None:
    found = find_series(flat(tmp_path, *names), tmp_path)
    if apart:
        with pytest.raises(CaseError, match="must hold one study"):
            choose(found, {})
    else:
        assert len(choose(found, {}).series) == 2


def test_the_user_and_sidecars_say_whose_images_they_are(tmp_path: Path) -> None:
    folder = flat(tmp_path / "named", "aa_t1", "bb_flair")
    named = {"t1n": folder / "aa_t1.nii.gz", "t2f": folder / "bb_flair.nii.gz"}
    assert len(choose(find_series(folder, tmp_path), named).series) == 2
    folder = flat(tmp_path / "sidecars", "t1", "flair")
    for name, patient in (("t1", "A"), ("flair", "B")):
        (folder / f"{name}.json").write_text(json.dumps({"PatientID": patient}))
    with pytest.raises(CaseError, match="flair.nii.gz and t1.nii.gz"):
        choose(find_series(folder, tmp_path), {})


@pytest.mark.parametrize(
    ("files", "studies"),
    [
        (("T1/img", "T2/img", "FLAIR/img", "ADC/img"), None),
        (("5_AX_T1_POST/5", "7_AX_FLAIR/7"), None),
        (("anat/sub-01_T1w", "dwi/sub-01_dwi"), None),
        (("p1/T1", "p2/T1"), ["p1", "p2"]),
        (("T1D_01/scan_t1", "T2D_01/scan_t1"), ["T1D_01", "T2D_01"]),
        (("PD_1/t1", "PD_2/t1"), ["PD_1", "PD_2"]),
        (("T1/t1", "T1/flair", "T2/t1", "T2/flair"), ["T1", "T2"]),  # points in time
        (("p1_T1/img", "p2_FLAIR/img"), ["p1_T1", "p2_FLAIR"]),
    ],
)
def test_a_folder_for_each_sequence_is_one_study(
    tmp_path: Path, files: tuple[str, ...], studies: list[str] | None
) -> None:
    study = flat(tmp_path / "study", *files)
    found = find_studies(study)
    if studies:
        assert [folder.name for folder in found] == studies
        return
    assert found == [study]
    choice = choose(find_series(study, tmp_path), {})
    stated = {m: s.source.parent.name for m, s in choice.series.items()}
    assert all(BRATS.modality_of(name.split("_")[-1]) in (m, None, "t1c") for m, name in stated.items())
    assert len(stated) == sum("dwi" not in name and "ADC" not in name for name in files)


def test_a_folder_by_sequence_with_files_by_patient_is_refused(tmp_path: Path) -> None:
    flat(tmp_path, "T1/aa", "T1/bb", "FLAIR/aa", "FLAIR/bb")
    with pytest.raises(CaseError, match="must hold one study"):
        choose(find_series(find_studies(tmp_path)[0], tmp_path), {})


def test_images_of_other_patients_are_left_alone_and_named(
    prepared: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = tmp_path / "cases"
    for name in ("patient", "other"):
        (cases / name).mkdir(parents=True)
        image = nib.load(prepared / "patient-t1n.nii.gz")
        nib.save(image, cases / name / f"{name}-t1n.nii.gz")
        note = json.loads((prepared / "patient-prepared.json").read_text()) | {"CaseID": name}
        if name == "other":  # files of the same names on the same grids, with other content
            for scan in note["Scans"]:
                scan["SHA256"], scan["Source"] = "0" * 64, f"/other/{Path(scan['Source']).name}"
        (cases / name / f"{name}-prepared.json").write_text(json.dumps(note))
    (cases / "foreign").mkdir()
    nib.save(image, cases / "foreign" / "t1.nii.gz")
    assert main(["restore", str(cases), "--like", str(study / "AX_T2.nii.gz"), "-o", str(tmp_path / "native")]) == 0
    assert sorted(path.name for path in (tmp_path / "native").rglob("*.nii.gz")) == ["patient-t1n.nii.gz"]
    said = capsys.readouterr().err
    assert re.search("left alone: .*other-t1n", said) and re.search("left alone: .*foreign.*no record", said)


def test_bias_correction_takes_a_coil_away() -> None:
    from modfill.prepare.study import _without_bias

    scan = scanned("t1n", np.eye(4))
    brain = brain_on(scan, np.eye(4))
    slope = np.linspace(0.6, 1.4, scan.voxels.shape[0], dtype=np.float32)[:, None, None]
    flat = _without_bias(scan.voxels * slope, Grid.of(scan), brain)

    def slant(voxels: np.ndarray) -> float:
        left, right = (voxels[half][brain[half]].mean() for half in (slice(None, 62), slice(62, None)))
        return abs(float(np.log(left / right)))

    assert slant(flat) < 0.5 * slant(scan.voxels * slope)


def test_a_study_that_fails_stops_no_other(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw" / "odd").mkdir(parents=True)
    (tmp_path / "raw" / "odd" / "AX_T1.nii.gz").write_bytes(b"no image")
    written(scanned("t1n", np.eye(4)), tmp_path / "raw" / "well" / "AX_T1.nii.gz")
    assert main(["prepare", str(tmp_path / "raw"), "-o", str(tmp_path / "cases")]) == 1
    assert (tmp_path / "cases" / "well" / "well-t1n.nii.gz").exists()
    assert "odd" in capsys.readouterr().err


def test_without_its_packages_one_line_names_the_command(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['SimpleITK'] = sys.modules['deepbet'] = None\n"
        "from modfill.cli import main\n"
        f"sys.exit(main(['prepare', {str(tmp_path)!r}, '-o', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "pip install 'modfill[prepare]'" in done.stderr


def test_wrong_usage_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["prepare", "-o", "x"], ["complete", "-o", "x", "--prepare", str(tmp_path), str(tmp_path)],
                  ["complete", "-o", "x", "--prepare", str(tmp_path), "-n"],
                  ["complete", "-o", "x", "--prepare", str(tmp_path), "--shard", "1/2"]):  # fmt: skip
        with pytest.raises(SystemExit):
            main(words)
        assert re.search("needs|run modfill prepare first", capsys.readouterr().err)
    assert not Path("x").exists()
