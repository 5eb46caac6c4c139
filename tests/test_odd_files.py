"""Files that other tools write somewhat differently, and that say clearly enough what they mean."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from modfill.cases.finding import find_cases
from modfill.cases.nifti import PLACE
from modfill.cases.reading import Case, read_case
from modfill.completer import ModalityCompleter
from modfill.errors import CaseError
from modfill.reports.scan import scan_cohort
from tests.case_files import brain_volumes, save, write_case

SHAPE = (14, 16, 12)

pytestmark = pytest.mark.usefixtures("in_float32")


def read(folder: Path) -> Case:
    return read_case(find_cases(folder)[0])


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_nan_outside_the_brain_is_background(tmp_path: Path, value: float) -> None:
    folder = write_case(tmp_path, "p1", ("t1n", "t2w"), SHAPE)
    volume = brain_volumes(SHAPE)["t2w"].astype(np.float32)
    save(folder / "p1-t2w.nii.gz", np.where(volume == 0, np.float32(value), volume))
    case = read(folder)
    assert case.available == ("t1n", "t2w")
    np.testing.assert_array_equal(case.volume("t2w"), volume)


def test_nan_inside_the_brain_is_not_taken_for_background(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "p1", ("t1n", "t2w"), SHAPE)
    volume = brain_volumes(SHAPE)["t2w"].astype(np.float32)
    volume[volume == 0] = np.nan
    volume[7, 8, 6] = np.nan
    save(folder / "p1-t2w.nii.gz", volume)
    assert "must be finite everywhere" in read(folder).unusable["t2w"]


def test_nothing_but_nan_is_unusable(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "p1", ("t1n", "t2w"), SHAPE)
    save(folder / "p1-t2w.nii.gz", np.full(SHAPE, np.nan, np.float32))
    assert "must be finite everywhere" in read(folder).unusable["t2w"]


@pytest.mark.parametrize("axes", [1, 2])
def test_last_axes_of_one_voxel_are_dropped(tmp_path: Path, axes: int) -> None:
    folder = write_case(tmp_path, "p1", ("t1n", "t2w"), SHAPE)
    volume = brain_volumes(SHAPE)["t2w"]
    save(folder / "p1-t2w.nii.gz", volume.reshape(SHAPE + (1,) * axes))
    case = read(folder)
    assert case.images["t2w"].shape == SHAPE
    np.testing.assert_array_equal(case.volume("t2w"), volume)
    (scanned,) = scan_cohort(tmp_path).cases
    assert scanned.available == ("t1n", "t2w") and scanned.problem is None and scanned.grid == "14x16x12"


@pytest.mark.parametrize(("ending", "packed"), [(".nii.gz", False), (".nii", True)])
def test_content_says_whether_a_file_is_compressed(tmp_path: Path, ending: str, packed: bool) -> None:
    folder = write_case(tmp_path, "p1", ("t1n",), SHAPE)
    volume = brain_volumes(SHAPE)["t2w"]
    raw = nib.Nifti1Image(volume, nib.load(folder / "p1-t1n.nii.gz").affine).to_bytes()
    (folder / f"p1-t2w{ending}").write_bytes(gzip.compress(raw) if packed else raw)
    np.testing.assert_array_equal(read(folder).volume("t2w"), volume)
    assert scan_cohort(tmp_path).cases[0].available == ("t1n", "t2w")


def uncoded(folder: Path, modality: str) -> None:
    """An image whose header does not say where its voxels lie."""
    image = nib.Nifti1Image(brain_volumes(SHAPE)[modality], None)
    image.header.set_zooms((1.0, 1.1, 1.3))
    nib.save(image, folder / f"p1-{modality}.nii.gz")


@pytest.mark.parametrize(("without", "coded"), [("t1n", "t2f"), ("t2f", "t1n")])
def test_a_header_without_orientation_codes_is_named_and_can_be_set_aside(
    completer: ModalityCompleter, tmp_path: Path, without: str, coded: str
) -> None:
    folder = write_case(tmp_path / "in", "p1", (coded,), SHAPE)
    uncoded(folder, without)
    with pytest.raises(
        CaseError, match=f"case p1: .* p1-{without}.nii.gz without orientation codes .*assume_aligned=True"
    ):
        read(folder)
    assert "without orientation codes" in str(scan_cohort(tmp_path / "in").cases[0].problem)
    (result,) = completer.complete_cohort(tmp_path / "in", out=tmp_path / "out", targets=["t1c"], assume_aligned=True)
    assert result.error is None
    written, source = nib.load(tmp_path / "out/p1/p1-t1c.nii.gz"), nib.load(folder / f"p1-{coded}.nii.gz")
    np.testing.assert_array_equal(written.affine, source.affine)
    note = json.loads((tmp_path / "out/p1/p1-t1c.json").read_text())
    assert note["Overrides"] == ["assume-aligned"]


def test_images_that_all_say_where_they_lie_are_not_moved(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "p1", ("t1n", "t2f"), SHAPE)
    assert read_case(find_cases(folder)[0], assume_aligned=True).overrides == ()
    save(folder / "p1-t2f.nii.gz", brain_volumes(SHAPE)["t2f"], np.eye(4))
    with pytest.raises(CaseError, match="on one grid"):
        read_case(find_cases(folder)[0], assume_aligned=True)


def test_all_that_is_synthesised_for_a_case_has_one_qform_and_sform(
    completer: ModalityCompleter, tmp_path: Path
) -> None:
    """Sources of one grid whose headers differ in the codes and in the qform that nobody needs."""
    folder = write_case(tmp_path, "p1", ("t1n",), SHAPE)
    image = nib.Nifti1Image(brain_volumes(SHAPE)["t2f"], nib.load(folder / "p1-t1n.nii.gz").affine)
    image.set_sform(image.affine, 2)
    image.set_qform(np.diag((1.0, 1.1, 1.3, 1.0)), 3)
    nib.save(image, folder / "p1-t2f.nii.gz")
    first, second = (made.header for made in completer.complete(folder, targets=["t1c", "t2w"]).images.values())
    for name in PLACE:
        np.testing.assert_array_equal(first[name], second[name])
