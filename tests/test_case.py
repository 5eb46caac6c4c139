"""Reading cases: what is usable, what is unusable and why, what is refused."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from modfill.cases.finding import find_cases
from modfill.cases.marks import SYNTHETIC_MARK
from modfill.cases.reading import Case, case_from_arrays, read_case, require_usable
from modfill.errors import CaseError, ModfillError
from modfill.modalities import MODALITIES
from tests.case_files import brain_volumes, oblique_affine, save, write_case

DATA = Path(os.environ.get("MODFILL_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real cases not found; set MODFILL_DATA to their folder")


def read(folder: Path) -> Case:
    (files,) = find_cases(folder)
    return read_case(files)


def refusal(folder: Path, *parts: str) -> str:
    """The message with which the case is refused: one line, beginning with the case, with all ``parts``."""
    with pytest.raises(CaseError) as caught:
        read(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("case p1: ")
    for part in parts:
        assert part in message
    return message


@pytest.mark.parametrize("style", ["brats2023", "brats2021", "bare"])
def test_voxels_affine_and_header_come_through(tmp_path: Path, style: str) -> None:
    case = read(write_case(tmp_path, "p1", shape=(16, 18, 14), style=style))
    assert (case.case_id, case.available, case.missing) == ("p1", MODALITIES, ())
    for modality, volume in brain_volumes((16, 18, 14)).items():
        image, stored = case.images[modality], nib.load(case.paths[modality])
        assert case.volume(modality).dtype == np.float32
        np.testing.assert_array_equal(case.volume(modality), volume)
        np.testing.assert_array_equal(image.affine, stored.affine)
        assert image.get_data_dtype() == np.int16
        assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
    require_usable(case)


@pytest.mark.parametrize("modalities", [("t1n",), ("t2w", "t2f"), ("t1c", "t2w", "t2f")])
def test_available_and_missing_make_up_the_set(tmp_path: Path, modalities: tuple[str, ...]) -> None:
    case = read(write_case(tmp_path, "p1", modalities))
    assert case.available == modalities
    assert sorted(case.available + case.missing) == sorted(MODALITIES)


def test_scaling_of_the_file_is_applied(tmp_path: Path) -> None:
    volume = brain_volumes()["t1n"]
    image = nib.Nifti1Image(volume * 0.5, oblique_affine())
    image.set_data_dtype(np.int16)
    (tmp_path / "p1").mkdir()
    nib.save(image, tmp_path / "p1" / "p1-t1n.nii")
    np.testing.assert_allclose(read(tmp_path / "p1").volume("t1n"), volume * 0.5, atol=0.05)


def test_nifti2_is_read(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "p1", ("t1n",))
    nib.save(nib.Nifti2Image(brain_volumes()["t2f"], oblique_affine()), folder / "p1-t2f.nii.gz")
    assert read(folder).available == ("t1n", "t2f")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _corrupt(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 1  # a bit of gzip's checksum
    path.write_bytes(raw)


def _truncate_uncompressed(path: Path) -> None:
    raw = gzip.decompress(path.read_bytes())
    path.with_suffix("").write_bytes(raw[: len(raw) // 2])
    path.unlink()


def _text(path: Path) -> None:
    path.write_text("to be done\n")


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.nii.gz")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _header_only_text(path: Path) -> None:
    path.write_bytes(gzip.compress(b"no image\n" * 100))


def _zero(path: Path) -> None:
    save(path, np.zeros((24, 28, 20), dtype=np.int16))


def _constant(path: Path) -> None:
    save(path, np.where(brain_volumes()["t2w"] > 0, 7, 0).astype(np.int16))


def _nan(path: Path) -> None:
    volume = brain_volumes()["t2w"].astype(np.float32)
    volume[12, 14, 10] = np.nan
    save(path, volume)


def _infinite_as_float32(path: Path) -> None:
    volume = brain_volumes()["t2w"].astype(np.float64)
    volume[12, 14, 10] = 1e300
    save(path, volume)


def _copy(path: Path) -> None:
    save(path, brain_volumes()["t1n"].astype(np.float32))


def _complex(path: Path) -> None:
    save(path, brain_volumes()["t2w"].astype(np.complex64))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_truncate, "truncated or corrupt"),
        (_truncate_uncompressed, "truncated or corrupt"),
        (_corrupt, "truncated or corrupt"),
        (_text, "must be a NIfTI image"),
        (_dangling, "must be a file that can be read, got 'No such file or directory'"),
        (_empty, "must be a NIfTI image"),
        (_header_only_text, "must be a NIfTI image"),
        (_zero, "all zero"),
        (_constant, "the constant 7"),
        (_nan, "NaN or infinity in 1 of 13440 voxels"),
        (_infinite_as_float32, "NaN or infinity in 1 of 13440 voxels"),
        (_copy, "exact copy"),
        (_complex, "one real number per voxel"),
    ],
)
def test_unusable(tmp_path: Path, spoil: Callable[[Path], None], reason: str) -> None:
    folder = write_case(tmp_path, "p1")
    spoil(folder / "p1-t2w.nii.gz")
    case = read(folder)
    assert case.available == ("t1n", "t1c", "t2f") == tuple(case.paths)
    assert case.missing == ("t2w",) == tuple(case.unusable)
    assert case.unusable["t2w"].startswith("p1-t2w.nii") and reason in case.unusable["t2w"]
    with pytest.raises(CaseError) as caught:
        require_usable(case)
    message = str(caught.value)
    assert message.startswith("case p1: p1-t2w.nii") and reason in message and "synthesised" in message
    assert "\n" not in message and str(tmp_path) not in message


def test_no_usable_modality_lists_every_reason(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "p1", ("t1n", "t2w"))
    _zero(folder / "p1-t1n.nii.gz")
    _truncate(folder / "p1-t2w.nii.gz")
    refusal(folder, "p1-t1n.nii.gz", "all zero", "p1-t2w.nii.gz", "truncated")


@pytest.mark.parametrize("shape", [(24, 28), (24, 28, 20, 4), (24, 28, 20, 1, 3)])
def test_other_than_3d_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    folder = write_case(tmp_path, "p1")
    save(folder / "p1-t2w.nii.gz", np.ones(shape, dtype=np.int16))
    refusal(folder, "p1-t2w.nii.gz", "must be 3D", str(shape[:2]).strip("()"))


def _shifted(millimetres: float) -> npt.NDArray[np.float64]:
    affine = oblique_affine()
    affine[0, 3] += millimetres
    return affine


def test_a_single_slice_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "p1" / "p1-t2w.nii.gz", np.ones((24, 28, 1), dtype=np.int16))
    refusal(tmp_path / "p1", "p1-t2w.nii.gz", "at least 2 voxels a side", "(24, 28, 1)")


def test_other_shape_is_refused(tmp_path: Path) -> None:
    write_case(tmp_path, "p1", ("t1n", "t1c"))
    folder = write_case(tmp_path, "p1", ("t2f",), shape=(20, 28, 24))
    refusal(folder, "p1-t1n.nii.gz", "p1-t2f.nii.gz", "24x28x20", "20x28x24", "1x1.1x1.3 mm", "register them first")


def test_other_affine_is_refused_and_rounding_is_not(tmp_path: Path) -> None:
    write_case(tmp_path, "p1", ("t1n",))
    folder = write_case(tmp_path, "p1", ("t1c",), affine=_shifted(2e-4))
    assert read(folder).available == ("t1n", "t1c")
    write_case(tmp_path, "p1", ("t2w",), affine=_shifted(2.5))
    refusal(folder, "p1-t1n.nii.gz", "p1-t2w.nii.gz", "up to 2.5")


@pytest.mark.parametrize("entry", [0.0, np.nan])
def test_a_singular_affine_is_refused(tmp_path: Path, entry: float) -> None:
    folder = write_case(tmp_path, "p1", ("t1n",))
    raw = bytearray(gzip.decompress((folder / "p1-t1n.nii.gz").read_bytes()))
    raw[280:328] = np.full(12, entry, dtype="<f4").tobytes()  # the sform
    (folder / "p1-t1n.nii.gz").write_bytes(gzip.compress(raw))
    refusal(folder, "p1-t1n.nii.gz", "must have an invertible affine")


@pytest.mark.parametrize("background", [-3, 12])
def test_a_background_other_than_zero_is_refused(tmp_path: Path, background: int) -> None:
    folder = write_case(tmp_path, "p1", ("t1n",))
    volume = brain_volumes()["t2w"]
    volume[volume == 0] = background
    save(folder / "p1-t2w.nii.gz", volume)
    refusal(folder, "p1-t2w.nii.gz", "skull-stripped", "HD-BET")


def test_air_noise_is_refused(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "p1", ("t1n",))
    volume = brain_volumes()["t2w"]
    noise = np.random.default_rng(1).integers(0, 5, volume.shape, dtype=np.int16)
    save(folder / "p1-t2w.nii.gz", volume + noise)
    refusal(folder, "p1-t2w.nii.gz", "skull-stripped")


def test_a_head_with_its_air_set_to_zero_is_refused(tmp_path: Path) -> None:
    affine = oblique_affine() @ np.diag((10.0, 10.0, 10.0, 1.0))
    refusal(write_case(tmp_path, "p1", ("t1n",), affine=affine), "p1-t1n.nii.gz", "more than a brain has")


def test_a_brain_cropped_to_its_box_passes(tmp_path: Path) -> None:
    volume = brain_volumes()["t1n"]
    box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in np.nonzero(volume))
    save(tmp_path / "p1" / "p1-t1n.nii.gz", volume[box])
    assert read(tmp_path / "p1").available == ("t1n",)


def test_a_header_that_claims_too_much_is_refused_before_reading(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "p1", ("t1n",))
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header["magic"], header["vox_offset"] = b"n+1", 352
    (folder / "p1-t2w.nii").write_bytes(header.binaryblock + b"\0" * 4)
    refusal(folder, "p1-t2w.nii", "27000000000000", "MODFILL_MAX_VOXELS")


def test_the_voxel_limit_is_set_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_case(tmp_path, "p1", ("t1n",))
    monkeypatch.setenv("MODFILL_MAX_VOXELS", str(24 * 28 * 20))
    assert read(folder).available == ("t1n",)
    monkeypatch.setenv("MODFILL_MAX_VOXELS", str(24 * 28 * 20 - 1))
    refusal(folder, "p1-t1n.nii.gz", "13440")
    monkeypatch.setenv("MODFILL_MAX_VOXELS", "many")
    with pytest.raises(ModfillError, match="must be a whole number, got 'many'"):
        read(folder)


def test_a_synthetic_image_is_no_source(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "p1", ("t1n", "t1c"))
    image = nib.load(folder / "p1-t1c.nii.gz")
    marked = nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
    marked.header["descrip"] = f"{SYNTHETIC_MARK} 0.1"
    nib.save(marked, folder / "p1-t1c.nii.gz")
    case = read(folder)
    assert (case.available, case.synthetic, case.unusable) == (("t1n",), ("t1c",), {})
    assert "t1c" in case.missing
    require_usable(case)
    (folder / "p1-t1n.nii.gz").unlink()
    refusal(folder, "none that is acquired")


def test_a_problem_of_the_files_is_raised(tmp_path: Path) -> None:
    write_case(tmp_path, "p2", ("t1n",))
    write_case(tmp_path, "p1", ("t1c",))
    write_case(tmp_path, "p1", ("t1c",), style="brats2021")
    bad, good = find_cases(tmp_path)
    assert read_case(good).available == ("t1n",)
    with pytest.raises(CaseError, match="case p1: t1c must be one file"):
        read_case(bad)


def test_arrays_are_copied_and_keep_their_affine() -> None:
    arrays = brain_volumes()
    case = case_from_arrays({"t2f": arrays["t2f"], "t1n": arrays["t1n"]}, oblique_affine(), "p1")
    assert (case.available, case.paths) == (("t1n", "t2f"), {})
    np.testing.assert_array_equal(case.images["t1n"].affine, oblique_affine())
    assert case.images["t1n"].get_data_dtype() == np.int16
    case.volume("t1n")[:] = 0
    np.testing.assert_array_equal(arrays["t1n"], brain_volumes()["t1n"])


def test_float_arrays_are_copied_too() -> None:
    array = brain_volumes()["t1n"].astype(np.float32)
    assert not np.shares_memory(case_from_arrays({"t1n": array}, np.eye(4)).volume("t1n"), array)


@pytest.mark.parametrize(
    ("changes", "affine", "message"),
    [
        ({"adc": np.ones((4, 4, 4))}, np.eye(4), "modality must be one of t1n, t1c, t2w, t2f, or a name of theirs"),
        ({"t2w": np.ones((4, 4))}, np.eye(4), "t2w must be 3D"),
        ({"t2w": brain_volumes((24, 28, 22))["t2w"]}, np.eye(4), "on one grid"),
        ({"t2w": brain_volumes()["t2w"] - 5}, np.eye(4), "t2w must be skull-stripped"),
        ({}, np.eye(3), "t1n must have a 4x4 affine, got shape (3, 3)"),
        ({}, np.diag((1.0, 1.0, 0.0, 1.0)), "must have an invertible affine"),
        ({"t1n": np.zeros((8, 8, 8))}, np.eye(4), "at least one modality must be usable, got t1n"),
    ],
)
def test_arrays_are_checked(
    changes: dict[str, npt.NDArray[np.generic]], affine: npt.NDArray[np.float64], message: str
) -> None:
    with pytest.raises(CaseError) as caught:
        case_from_arrays({"t1n": brain_volumes()["t1n"], **changes}, affine, "p1")
    assert str(caught.value).startswith("case p1: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unusable_array_is_reported() -> None:
    volumes = brain_volumes()
    case = case_from_arrays({"t1n": volumes["t1n"], "t2w": np.zeros_like(volumes["t1n"])}, np.eye(4), "p1")
    assert case.unusable == {"t2w": "t2w must show a brain, got all zero"}


@needs_data
def test_real_scans_as_acquired_are_refused() -> None:
    (files,) = find_cases(DATA / "unprepared")
    with pytest.raises(CaseError, match="on one grid"):
        read_case(files)
    for modality, path in files.paths.items():
        with pytest.raises(CaseError, match=f"{path.name} must be skull-stripped"):
            read_case(type(files)(files.case_id, {modality: path}))


@needs_data
@pytest.mark.parametrize("split", ["original", "test", "external"])
def test_real_prepared_case_is_read(split: str) -> None:
    case = read_case(find_cases(DATA / split)[0])
    assert case.available == MODALITIES and not case.unusable
