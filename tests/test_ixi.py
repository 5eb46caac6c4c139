"""IXI's files, the split, the prepared grid, and Table D; small volumes stand for scans."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from benchmarks.baselines.simple import CopyNearest
from benchmarks.ixi import phantoms, preparation
from benchmarks.ixi.__main__ import main
from benchmarks.ixi.archive import read_archive
from benchmarks.ixi.splitting import split, write_split
from benchmarks.papers_matrix import papers_matrix
from benchmarks.tables import summary
from benchmarks.translation import run
from modfill.cases.reading import case_from_arrays
from modfill.errors import CaseError, SettingsError
from modfill.metrics import psnr, score
from modfill.modalities import ModalitySet
from modfill.prepare.grid import Grid, resample
from modfill.prepare.registration import Registration
from modfill.prepare.scan import Scan, read_scan

SUBJECTS = ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI035-IOP-0873")


def archive(folder: Path, *, apart: bool) -> Path:
    """Empty files of three subjects, the last one without PD, in one folder or three."""
    for subject in SUBJECTS:
        for modality in ("T1", "T2", "PD", "MRA")[: 2 if subject == SUBJECTS[-1] else None]:
            place = folder / f"IXI-{modality}" if apart else folder
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{subject}-{modality}.nii.gz").touch()
    return folder


@pytest.mark.parametrize("apart", [True, False])
def test_subjects_with_all_three_are_found_in_one_folder_or_three(tmp_path: Path, apart: bool) -> None:
    found = read_archive(archive(tmp_path, apart=apart))
    assert list(found.subjects) == list(SUBJECTS[:2]) and found.incomplete == {SUBJECTS[2]: ("pd",)}
    assert [path.name[-9:] for path in found.subjects[SUBJECTS[0]].values()] == ["T1.nii.gz", "T2.nii.gz", "PD.nii.gz"]


def test_a_file_that_is_there_twice_and_an_empty_archive_are_refused(tmp_path: Path) -> None:
    archive(tmp_path / "both", apart=True), archive(tmp_path / "both", apart=False)
    with pytest.raises(CaseError, match="must be there once"):
        read_archive(tmp_path / "both")
    with pytest.raises(CaseError, match="must hold IXI's files"):
        read_archive(tmp_path / "nothing")


def test_the_split_has_the_paper_s_sizes_and_depends_on_nothing_but_the_names() -> None:
    names = [f"IXI{n:03d}-Guys-{n:04d}" for n in range(1, 575)]
    train, test = split(names)
    assert (len(train), len(test)) == (459, 115) and set(train) | set(test) == set(names)
    assert split(names[::-1]) == (train, test) != split(names, seed=1)
    assert test[:2] == ["IXI003-Guys-0003", "IXI006-Guys-0006"]  # on any machine
    fewer = split(names[:-1])
    assert len(set(fewer[1]) - set(test)) <= 1
    assert tuple(map(len, split(names[:24]))) == (19, 5)


def test_the_split_is_written_as_links_and_not_mixed_with_another(tmp_path: Path) -> None:
    for subject in SUBJECTS:
        (tmp_path / "cases" / subject).mkdir(parents=True)
        (tmp_path / "cases" / subject / f"{subject}-prepared.json").write_text("{}")
    train, test = write_split(tmp_path / "cases", tmp_path / "out")
    (link,) = (tmp_path / "out" / "test").glob("*/*")
    assert (len(train), len(test)) == (2, 1) and link.is_symlink() and link.read_text() == "{}"
    assert write_split(tmp_path / "cases", tmp_path / "out") == (train, test)
    (tmp_path / "out" / "train" / test[0]).mkdir()
    with pytest.raises(CaseError, match="this split's cases only"):
        write_split(tmp_path / "cases", tmp_path / "out")


@pytest.mark.parametrize("turned", ["PSR", "LPS", "RAS"])
def test_the_window_keeps_t1_s_voxels_at_their_places(turned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "SHAPE", (20, 32, 28))
    rng = np.random.default_rng(0)
    ras = np.zeros((18, 32, 32), np.float32)
    ras[3:15, 2:30, 7:31] = rng.integers(1, 99, (12, 28, 24))
    affine = np.diag([1.2, 0.9375, 0.9375, 1.0])
    image = nib.Nifti1Image(ras, affine)
    to = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(turned))
    own = image.as_reoriented(to)
    t1 = preparation._in_ras(Scan(Path("t1"), np.asarray(own.dataobj), own.affine))
    grid, low, cut = preparation.window(Grid.of(t1), t1.voxels > 0)
    moved = preparation._moved(t1.voxels, low)
    assert moved.shape == preparation.SHAPE == grid.shape and cut == 0
    assert np.array_equal(moved[moved > 0], ras[ras > 0])
    corner = grid.affine @ [*np.argwhere(moved > 0)[0], 1]
    assert np.allclose(corner, affine @ [3, 2, 7, 1])


def test_the_lower_end_of_a_head_that_is_too_long_is_cut() -> None:
    head = np.zeros((150, 256, 256), bool)
    head[70:80, 100:110, 6:250] = True
    _, low, cut = preparation.window(Grid(head.shape, np.eye(4)), head)
    assert low[2] + 224 == 250 and cut == 20 * 100


def test_a_field_of_view_ends_where_its_outermost_voxels_lie() -> None:
    own, to = Grid((4, 5, 6), np.diag([2.0, 2, 2, 1])), Grid((10, 10, 10), np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = 1.0
    covered = preparation._covered(own, to, moved)
    assert covered.sum() == 6 * 9 * 10 and not covered[6:].any() and not covered[:, 9:].any()


def test_resampling_leaves_0_outside_of_the_field_of_view_whatever_the_values_are() -> None:
    ones = np.ones((4, 4, 4), np.float32)
    out = resample(ones, Grid(ones.shape, np.eye(4)), Grid((8, 4, 4), np.eye(4)), order=0)
    assert out[:4].all() and not out[4:].any()


def test_one_registration_serves_t2_and_pd_and_all_three_end_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = np.eye(4)
    way[:3, 3] = (2.4, 0, 0)
    calls: list[str] = []

    def register(reference: Scan, scan: Scan) -> Registration:
        calls.append(scan.path.name)
        return Registration(way, (1.0, 0.5), 0.0, 1.0, 1.0, ())

    monkeypatch.setattr(preparation, "register", register)
    monkeypatch.setattr(preparation, "SHAPE", (40, 48, 56))
    block = np.zeros((30, 40, 50), np.int16)
    block[8:22, 8:32, 5:45] = np.random.default_rng(0).integers(300, 900, (14, 24, 40))
    affine = np.diag([1.2, 1.2, 1.2, 1.0])
    shifted = affine.copy()
    shifted[:3, 3] = (2.4, 0, 12 * 1.2)
    files = {}
    for modality, part, place in (
        ("t1", block, affine),
        ("t2", block[..., 12:], shifted),
        ("pd", block[..., 12:], shifted),
    ):
        files[modality] = tmp_path / f"IXI002-Guys-0828-{modality.upper()}.nii.gz"
        nib.save(nib.Nifti1Image(part, place), files[modality])
    folder = preparation.prepare_subject(SUBJECTS[0], files, tmp_path / "cases")
    made = {m: read_scan(folder / f"{SUBJECTS[0]}-{m}.nii.gz").voxels for m in files}
    assert calls == ["IXI002-Guys-0828-T2.nii.gz"]
    assert made["t1"].any() and all(np.array_equal(v > 0, made["t1"] > 0) for v in made.values())
    assert np.flatnonzero((made["t1"] > 0).any((0, 1))).size == 33  # of 40 slices, T2 begins at the 8th
    assert abs(made["t2"] - made["t1"]).max() <= 1  # the same head, moved and found again
    record = (folder / f"{SUBJECTS[0]}-prepared.json").stat().st_mtime_ns
    preparation.prepare_subject(SUBJECTS[0], files, tmp_path / "cases")
    assert (folder / f"{SUBJECTS[0]}-prepared.json").stat().st_mtime_ns == record and len(calls) == 1
    files["pd"].write_bytes(files["t1"].read_bytes())  # another file: the case is made anew, and PD has its own grid
    preparation.prepare_subject(SUBJECTS[0], files, tmp_path / "cases")
    assert len(calls) == 3


def test_phantoms_lie_on_ixi_s_grids() -> None:
    rng = np.random.default_rng(0)
    t1, t2 = phantoms._sagittal(rng), phantoms._axial(rng, np.eye(4))
    assert (t1.shape, t2.shape) == ((256, 256, 150), (256, 256, 130))
    assert (nib.aff2axcodes(t1.affine), nib.aff2axcodes(t2.affine)) == (tuple("PSR"), tuple("LPS"))
    assert np.allclose([t1.spacing, t2.spacing], [[0.9375, 0.9375, 1.2], [0.9375, 0.9375, 1.25]])


def test_a_phantom_s_movement_is_that_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantoms, "FIELD", (60, 60, 60))
    monkeypatch.setattr(phantoms, "BRAIN_CENTRE", np.full(3, 30.0))
    monkeypatch.setattr(phantoms, "smooth_noise", lambda rng, sigma, shape: np.zeros(shape))  # no bias field
    rng = np.random.default_rng(3)
    shown = np.zeros(phantoms.FIELD, bool)
    shown[30:50, 25:40, 10:35] = True
    coarse = np.diag([2.0, 2.0, 2.0, 1.0])
    coarse[:3, 3] = -40
    centres = []
    for moved in (np.eye(4), true := phantoms._movement(rng)):
        scanned = phantoms._acquired(rng, np.ones(int(shown.sum())), shown, Grid((40, 40, 40), coarse), moved)
        centres.append(coarse @ [*np.argwhere(scanned > 0.5 * scanned.max()).mean(0), 1])
    assert np.linalg.norm(true @ centres[0] - centres[1]) < 0.5 < np.linalg.norm(centres[0] - centres[1])


def test_table_d_has_three_figures_for_each_target_and_the_reconstruction_on_its_diagonal() -> None:
    tasks = [(s, t) for s in ("t1", "t2", "pd") for t in ("t1", "t2", "pd") if s != t]
    frame = pd.DataFrame(
        [{"method": "modfill", "case_id": c, "sources": s, "target": t, "psnr": 27.0 + c, "nmse": 0.07, "ssim": 0.9}
         for c in (0, 1) for s, t in [*tasks, ("t1+t2", "pd")]]
    )  # fmt: skip
    own = pd.DataFrame([{"case_id": c, "modality": "t2", "psnr": 30.0, "nmse": 0.04, "ssim": 0.94} for c in (0, 1)])
    lines = papers_matrix(frame, "modfill", own).splitlines()
    assert len(lines) == 5 and lines[2].startswith("| t1 |  |  |  | 27.500 ± 0.707 | 0.070 ± 0.000 | 0.900 ± 0.000 |")
    assert "| 30.000 ± 0.000 | 0.040 ± 0.000 | 0.940 ± 0.000 |" in lines[3]
    assert papers_matrix(frame, "copy") == ""


def test_figures_are_averaged_over_the_paper_s_volume_of_the_data_set() -> None:
    rng = np.random.default_rng(0)
    reference, prediction = rng.random((2, 12, 12, 12))
    brain = np.ones(reference.shape, bool)
    ixi, brats = 256 * 160 * 224, 192 * 192 * 144
    assert np.isclose(psnr(reference, prediction, voxels=ixi) - psnr(reference, prediction), 10 * np.log10(ixi / brats))
    assert score(reference, prediction, brain, voxels=ixi)["ssim"] > score(reference, prediction, brain)["ssim"]


def whole_head() -> dict[str, np.ndarray]:
    """A ball with the dark ring of a skull, in three modalities; 0 in the air."""
    x, y, z = np.indices((100, 100, 100)) - 50.0
    depth = 46 - np.sqrt(x**2 + y**2 + z**2)
    voxels = np.where(depth > 0, 100.0, 0) * np.where((depth > 8) & (depth < 14), 0.1, 1.0)
    return {m: (voxels * factor).astype(np.float32) for m, factor in (("t1", 1), ("t2", 2.5), ("pd", 4))}


def test_whole_heads_are_cases_of_ixi_and_their_air_must_be_0() -> None:
    heads = whole_head()
    case = case_from_arrays(heads, np.eye(4), modality_set="ixi")
    assert case.available == ("t1", "t2", "pd")
    with pytest.raises(CaseError, match="must be skull-stripped"):
        case_from_arrays({"t1n": heads["t1"], "t2w": heads["t2"]}, np.eye(4))
    noisy = {m: voxels + 3 for m, voxels in heads.items()}
    with pytest.raises(CaseError, match="must have a background of 0.*set the air to 0"):
        case_from_arrays(noisy, np.eye(4), modality_set="ixi")


def test_a_set_says_whether_heads_are_whole_and_keeps_it_in_weights() -> None:
    ixi = ModalitySet.of("ixi")
    assert not ixi.skull_stripped and ModalitySet.from_table(ixi.table) == ixi
    assert ModalitySet.of("brats").skull_stripped and "skull_stripped" not in ModalitySet.of("brats").table
    with pytest.raises(SettingsError, match="skull_stripped must be true or false, got 'no'"):
        ModalitySet.from_table({**ixi.table, "skull_stripped": "no"})


def test_a_case_of_ixi_has_nine_tasks(tmp_path: Path) -> None:
    folder = tmp_path / "cases" / SUBJECTS[0]
    folder.mkdir(parents=True)
    for modality, voxels in whole_head().items():
        image = nib.Nifti1Image(voxels[::2, ::2, ::2], np.diag([2.0, 2, 2, 1]))
        nib.save(image, folder / f"{SUBJECTS[0]}-{modality}.nii.gz")
    frame = run([CopyNearest()], tmp_path / "cases", tmp_path / "out", modalities="ixi")
    assert len(frame) == 9 == len(set(zip(frame.sources, frame.target, strict=True)))
    assert set(frame.target) == {"t1", "t2", "pd"} and "| t1+pd | t2 (T2) |" in summary(frame)


def test_the_commands_say_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["prepare", "--archive", tmp_path], ["split", "--cases", tmp_path],
                    ["phantoms", "--labelmaps", tmp_path]):  # fmt: skip
        assert main([*map(str, command), "--out", str(tmp_path / "out")]) == 1
        assert "must hold" in capsys.readouterr().err
