"""Files that are legal to the letter, or almost: each once went wrong, or would without the check that it meets."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from modfill.cases.finding import find_cases
from modfill.cases.marks import read_sidecar
from modfill.cases.reading import case_from_arrays, read_case
from modfill.completer import ModalityCompleter
from modfill.errors import CaseError
from modfill.preprocessing import prepare
from tests.case_files import brain_volumes, oblique_affine, save
from tests.fuzz import bomb

SHAPE = (14, 16, 12)
Change = Callable[[bytearray], bytes]

pytestmark = pytest.mark.usefixtures("in_float32")


def folder_with(tmp_path: Path, change: Change, ending: str = ".nii.gz") -> Path:
    """A case whose t2w, the bytes of a NIfTI-1 file of int16 with both codes 1, was changed before it was packed."""
    save(tmp_path / "p1" / "p1-t1n.nii.gz", brain_volumes(SHAPE)["t1n"])
    path = save(tmp_path / "p1" / "p1-t2w.nii", brain_volumes(SHAPE)["t2w"])
    changed = change(bytearray(path.read_bytes()))
    path.unlink()
    path.with_suffix(ending).write_bytes(gzip.compress(changed) if ending.endswith(".gz") else changed)
    return tmp_path / "p1"


def put(place: int, value: float, dtype: str = "<f4") -> Change:
    """Write one number into the header."""

    def change(raw: bytearray) -> bytes:
        number = np.array([value], dtype).tobytes()
        raw[place : place + len(number)] = number
        return bytes(raw)

    return change


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: raw + b"\0", "got more than that"),
        (lambda raw: raw + bytes(10**6), ""),
        (put(108, 2.0**30), ""),  # vox_offset
        (put(42, 20_000, "<i2"), "got a truncated or corrupt file"),  # a side
    ],
)
def test_a_file_holds_what_its_header_says_and_nothing_else(
    tmp_path: Path, ending: str, change: Change, reason: str
) -> None:
    case = read_case(find_cases(folder_with(tmp_path, change, ending))[0])
    assert case.available == ("t1n",) and reason in case.unusable["t2w"]


def test_a_gzip_bomb_behind_the_image_is_not_unpacked(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, bytes)
    path = folder / "p1-t2w.nii.gz"
    path.write_bytes(path.read_bytes() + bomb())
    assert "p1-t2w.nii.gz must hold 14x16x12 voxels" in read_case(find_cases(folder)[0]).unusable["t2w"]


def test_an_extension_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    def claim(raw: bytearray) -> bytes:
        extension = b"\1\0\0\0" + np.array([2**31 - 16, 6], "<i4").tobytes() + bytes(20)
        return put(108, 352 + 28)(raw)[:348] + extension + bytes(raw[352:])

    assert read_case(find_cases(folder_with(tmp_path, claim))[0]).available == ("t1n", "t2w")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: put(254, 0, "<i2")(raw) and put(80, 1e-5)(raw), "voxels of 0.01 to 100 mm"),  # the qform's size
        (put(280, 5000), "voxels of 0.01 to 100 mm"),
        (put(292, 1e7), "within 100 m of the origin"),
        (put(292, np.inf), "an invertible affine"),
        (put(280, 1e38), "voxels of 0.01 to 100 mm"),
    ],
)
def test_impossible_places_are_refused(tmp_path: Path, change: Change, reason: str) -> None:
    folder = folder_with(tmp_path, change)
    with pytest.raises(CaseError, match=f"case p1: p1-t2w.nii.gz must have .*{reason}"):
        read_case(find_cases(folder)[0])


@pytest.mark.parametrize(
    ("place", "value", "dtype"),
    [(256, 37.0, "<f4"), (260, -2.5, "<f4"), (123, 7, "u1"), (123, 255, "u1")],  # quatern_b, quatern_c, xyzt_units
)
def test_header_fields_that_make_no_sense_are_copied_not_stumbled_over(
    completer: ModalityCompleter, tmp_path: Path, place: int, value: float, dtype: str
) -> None:
    folder = folder_with(tmp_path, put(place, value, dtype))
    (folder / "p1-t1n.nii.gz").unlink()
    written = completer.complete(folder, out=tmp_path / "out", targets=["t2f"]).paths["t2f"]
    size = np.dtype(dtype).itemsize
    assert gzip.decompress(written.read_bytes())[place : place + size] == np.array([value], dtype).tobytes()


def volumes() -> dict[str, npt.NDArray]:
    return {"t1n": brain_volumes(SHAPE)["t1n"].astype(np.float64)}


def test_sides_that_no_nifti_can_have_are_refused() -> None:
    with pytest.raises(CaseError, match="at most 32767 voxels a side"):
        case_from_arrays({"t1n": np.ones((40_000, 2, 2), np.uint8)}, np.eye(4))


@pytest.mark.parametrize("value", [1e16, -1e30])
def test_intensities_beyond_arithmetic_are_refused(value: float) -> None:
    made = volumes()
    made["t1n"][7, 8, 6] = value
    with pytest.raises(CaseError, match="intensities of at most 1e\\+15"):
        case_from_arrays(made, np.eye(4))


def test_voxels_far_apart_are_no_brain(completer: ModalityCompleter) -> None:
    """2 litres of brain, in a box that would take the model 360 litres."""
    volume = np.zeros((100, 100, 200))
    volume[2:40, 2:30, 5:25] = np.random.default_rng(0).random((38, 28, 20))
    volume[90, 90, 190] = 1
    case = case_from_arrays({"t1n": volume}, np.diag((4.5, 4.5, 4.5, 1)))
    with pytest.raises(CaseError, match="box of at most 34 litres, got 1[0-9][0-9]; check the voxel sizes"):
        completer.complete(case, targets=["t1c"])


def test_the_box_is_measured_before_it_is_filled(completer: ModalityCompleter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "MOST_VOXELS", 16**3 - 1)
    with pytest.raises(CaseError, match="must lie in a box"):
        completer.complete(case_from_arrays(volumes(), np.eye(4)), targets=["t1c"])


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_negative_integers_stay_negative(completer: ModalityCompleter, dtype: type) -> None:
    """Ten times z-scores, less seven: an integer scan whose brain has both signs gives one that has both too."""
    volume = brain_volumes(SHAPE)["t1n"].astype(float)
    brain = volume != 0
    volume[brain] = 10 * (volume[brain] - volume[brain].mean()) / volume[brain].std() - 7
    volume[brain & (np.rint(volume) == 0)] = 1
    volume = np.rint(volume).astype(dtype)
    made = completer.complete_arrays({"t1n": volume}, affine=oblique_affine())
    for array in made.values():
        np.testing.assert_array_equal(array != 0, volume != 0)
        assert array.dtype == dtype
    assert any((array < 0).any() and (array > 0).any() for array in made.values())


@pytest.mark.parametrize("junk", ["[" * 10**5, '{"Synthetic": true}', "", "\ud800".encode("utf8", "surrogatepass")])
def test_a_sidecar_may_be_anything(tmp_path: Path, junk: str | bytes) -> None:
    (tmp_path / "p1.json").write_bytes(junk.encode() if isinstance(junk, str) else junk)
    assert read_sidecar(tmp_path / "p1.json") is None


def test_nifti2_files_are_understood_whole(completer: ModalityCompleter, tmp_path: Path) -> None:
    image = nib.Nifti2Image(brain_volumes(SHAPE)["t1n"], oblique_affine())
    image.header.structarr["quatern_b"] = 1e300  # more than NIfTI-1 can say, and not used
    (tmp_path / "p1").mkdir()
    nib.save(image, tmp_path / "p1" / "p1-t1n.nii")
    written = nib.load(completer.complete(tmp_path / "p1", out=tmp_path / "out", targets=["t1c"]).paths["t1c"])
    np.testing.assert_allclose(written.affine, oblique_affine(), atol=1e-5)
