"""Files that other tools write somewhat differently, and that say clearly enough what they mean."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from modfill.case import Case, find_cases, read_case
from modfill.scan import scan_cohort
from tests.case_files import brain_volumes, save, write_case

SHAPE = (14, 16, 12)


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
