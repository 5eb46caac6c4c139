"""The way to the model's grid and back: nothing is lost, whatever the orientation, crop and spacing."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from modfill.preprocessing.geometry import Geometry
from tests.case_files import brain_volumes, oblique_affine

SHAPE = (9, 12, 7)
ORIENTATIONS = [
    "".join(axes)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for axes in itertools.product(*order)
]  # fmt: skip


def oriented_affine(codes: str, spacing: float = 1.0) -> npt.NDArray[np.float64]:
    """Affine of a grid with these axis codes, its origin away from 0."""
    affine = np.zeros((4, 4))
    for axis, code in enumerate(codes):
        world = next(index for index, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        affine[world, axis] = spacing if code in "RAS" else -spacing
    affine[:, 3] = (-31.0, 12.5, 7.0, 1.0)
    return affine


def blob(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> npt.NDArray[np.bool_]:
    """A lopsided mask away from the borders."""
    mask = np.zeros(shape, bool)
    mask[2:-1, 1:-3, 3:-2] = np.random.default_rng(seed).random((shape[0] - 3, shape[1] - 4, shape[2] - 5)) < 0.7
    mask[2, 1, 3] = mask[-2, -4, -3] = True
    return mask


def numbered(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """A volume in which each voxel of the mask has a number of its own, 0 elsewhere."""
    return np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0).astype(np.float32)


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_round_trip_is_exact_in_every_orientation(codes: str) -> None:
    mask = blob()
    geometry = Geometry.of(oriented_affine(codes), mask, 4)
    there = geometry.apply(numbered(mask))
    assert there.shape == geometry.model_shape
    np.testing.assert_array_equal(geometry.restore(there), numbered(mask))


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_orientation_of_one_brain_gives_one_model_volume(codes: str) -> None:
    ras = nib.Nifti1Image(numbered(blob()), oriented_affine("RAS"))
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    turned = ras.as_reoriented(turn)
    assert "".join(nib.aff2axcodes(turned.affine)) == codes
    volumes = []
    for image in (ras, turned):
        volume = np.asanyarray(image.dataobj)
        volumes.append(Geometry.of(image.affine, volume != 0, 8).apply(volume))
    np.testing.assert_array_equal(*volumes)


def test_round_trip_is_exact_with_a_real_oblique_affine() -> None:
    affine = oblique_affine() @ np.diag((1, 1 / 1.1, 1 / 1.3, 1))  # turned and flipped, all spacings 1 mm
    volume = brain_volumes()["t1n"].astype(np.float32)
    geometry = Geometry.of(affine, volume != 0, 16)
    assert geometry.zoom == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(geometry.restore(geometry.apply(volume)), volume)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 13)] * 3),
    codes=st.sampled_from(ORIENTATIONS),
    multiple=st.sampled_from([1, 3, 8, 16]),
    seed=st.integers(0, 99),
    density=st.sampled_from([0.02, 0.5, 1.0]),
)
def test_round_trip_is_exact_for_any_grid(
    shape: tuple[int, int, int], codes: str, multiple: int, seed: int, density: float
) -> None:
    """Odd sizes, boxes that touch any border, single voxels: all come back, and the padding is 0."""
    mask = np.random.default_rng(seed).random(shape) <= density
    mask.flat[seed % mask.size] = True
    geometry = Geometry.of(oriented_affine(codes, 0.97), mask, multiple)
    there = geometry.apply(numbered(mask))
    assert all(edge % multiple == 0 and edge > 0 for edge in there.shape)
    assert all(edge - multiple < stop - start for edge, (start, stop) in zip(there.shape, geometry.box, strict=True))
    assert sorted(there[there != 0]) == sorted(numbered(mask)[mask])
    np.testing.assert_array_equal(geometry.restore(there), numbered(mask))


def test_masks_and_volumes_stay_aligned() -> None:
    mask = blob()
    geometry = Geometry.of(oriented_affine("PIL"), mask, 8)
    there = geometry.apply(numbered(mask))
    np.testing.assert_array_equal(geometry.apply(mask.astype(np.float32), linear=False) > 0, there != 0)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRA"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (0.5, 0.6, 2.0), (1.4, 1.0, 0.8)])
def test_smooth_volumes_survive_resampling(codes: str, spacing: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(3)
    volume = gaussian_filter(rng.standard_normal((30, 26, 22)), 4).astype(np.float32)
    volume /= volume.std()
    affine = oriented_affine(codes) @ np.diag((*spacing, 1.0))
    geometry = Geometry.of(affine, np.ones(volume.shape, bool), 16)
    there = geometry.apply(volume)
    back = geometry.restore(there)
    assert back.shape == volume.shape
    assert np.sqrt(np.mean((back - volume) ** 2)) < 0.05
    assert np.abs(back - volume).max() < 0.3
    # the model's voxels are 1 mm: extents in mm agree to a voxel
    ras = [spacing[axis] for axis in np.argsort([" RL AP SI".index(code) // 3 for code in codes])]
    used = np.argwhere(there != 0).max(0) + 1
    own = [volume.shape[axis] for axis in np.argsort([" RL AP SI".index(code) // 3 for code in codes])]
    assert np.abs(used - 1 - (np.array(own) - 1) * ras).max() <= 0.5 + 1e-6


def test_resampling_puts_landmarks_where_they_are_in_mm() -> None:
    volume = np.zeros((20, 20, 20), np.float32)
    volume[4, 6, 5] = 1.0
    brain = np.ones(volume.shape, bool)
    there = Geometry.of(oriented_affine("RAS") @ np.diag((2, 1, 3, 1)), brain, 4).apply(volume)
    assert np.unravel_index(there.argmax(), there.shape) == (8, 6, 15)


@pytest.mark.parametrize(("spacing", "resampled"), [(1.0, False), (1.04, False), (0.96, False), (1.1, True)])
def test_only_spacings_away_from_1_mm_are_resampled(spacing: float, resampled: bool) -> None:
    geometry = Geometry.of(oriented_affine("RAS", spacing), blob(), 4)
    assert any(zoom != 1 for zoom in geometry.zoom) == resampled


def test_apply_leaves_its_input_alone() -> None:
    mask, volume = blob(), numbered(blob())
    geometry = Geometry.of(oblique_affine(), mask, 4)
    kept = volume.copy()
    there = geometry.apply(volume)
    there[:] = -1
    geometry.restore(there)[:] = -1
    np.testing.assert_array_equal(volume, kept)
