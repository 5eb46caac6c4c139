"""Normalisation: each step and its inverse, zero background, and nothing that depends on the scanner's units."""

from __future__ import annotations

import numpy as np
import pytest

from modfill.cases.brain import brain_mask
from modfill.cases.reading import case_from_arrays
from modfill.errors import CaseError
from modfill.preprocessing.intensity import IntensityScale
from modfill.preprocessing.prepare import prepare
from tests.case_files import brain_volumes, oblique_affine


@pytest.fixture
def scale() -> IntensityScale:
    volume = brain_volumes()["t2f"].astype(np.float32)
    return IntensityScale.of(volume, volume != 0)


def test_percentiles_are_those_of_the_brain() -> None:
    volume = np.zeros((20, 20, 20), np.float32)
    brain = np.zeros(volume.shape, bool)
    brain[5:15, 5:15, 5:15] = True
    volume[brain] = np.arange(1, 1001)
    scale = IntensityScale.of(volume, brain)
    assert (scale.low, scale.high) == pytest.approx((5.995, 995.005))
    assert scale.mean == pytest.approx(500.5, abs=1e-3)
    assert (scale.unit_mean, scale.unit_std) == pytest.approx((0.5, 1000 / np.sqrt(12) / 989), abs=2e-3)


def test_restore_inverts_normalise_between_the_percentiles(scale: IntensityScale) -> None:
    values = np.linspace(scale.low, scale.high, 200, dtype=np.float32)
    normalised = scale.normalise(values)
    assert normalised.dtype == np.float32
    assert np.all(np.diff(normalised) > 0)
    np.testing.assert_allclose(scale.restore(normalised), values, rtol=1e-5)


def test_beyond_the_percentiles_is_clipped(scale: IntensityScale) -> None:
    beyond = np.array([scale.low - 100, scale.low, scale.high, scale.high + 100])
    low, again_low, high, again_high = scale.normalise(beyond)
    assert low == again_low < high == again_high


def test_unit_range_is_percentiles_to_0_and_1(scale: IntensityScale) -> None:
    middle = (scale.low + scale.high) / 2
    values = np.array([scale.low, middle, scale.high])
    np.testing.assert_allclose(scale.to_unit(scale.normalise(values)), (0, 0.5, 1), atol=1e-6)
    outside = np.array([-100.0, 100.0])
    np.testing.assert_array_equal(scale.to_unit(outside), (0, 1))


def test_prepared_volumes() -> None:
    volumes = brain_volumes()
    del volumes["t1c"]
    prepared = prepare(case_from_arrays(volumes, oblique_affine(), "p1"), 16)
    assert tuple(prepared.volumes) == tuple(prepared.scales) == ("t1n", "t2w", "t2f")
    for volume in prepared.volumes.values():
        assert volume.dtype == np.float32
        assert volume.shape == prepared.brain.shape == prepared.geometry.model_shape
        assert all(edge % 16 == 0 for edge in volume.shape)
        assert np.isfinite(volume).all()
        np.testing.assert_array_equal(volume[~prepared.brain], 0)
        assert volume[prepared.brain].std() > 0.1
    np.testing.assert_array_equal(prepared.own_brain, np.any([v != 0 for v in volumes.values()], axis=0))


def test_zscores_have_mean_0_and_deviation_1_over_the_brain() -> None:
    case = case_from_arrays(brain_volumes(), np.diag((1.0, 1.0, 1.0, 1.0)), "p1")
    prepared = prepare(case, 16)
    for volume in prepared.volumes.values():
        assert volume[prepared.brain].mean() == pytest.approx(0, abs=1e-3)
        assert volume[prepared.brain].std() == pytest.approx(1, abs=1e-3)


def test_the_brain_is_the_union_of_the_foregrounds() -> None:
    volumes = brain_volumes()
    volumes["t1n"][:12], volumes["t2w"][14:] = 0, 0
    case = case_from_arrays({m: volumes[m] for m in ("t1n", "t2w")}, np.eye(4), "p1")
    prepared = prepare(case, 8)
    np.testing.assert_array_equal(prepared.own_brain, (volumes["t1n"] != 0) | (volumes["t2w"] != 0))
    assert prepared.brain.sum() == prepared.own_brain.sum()


def test_zeros_enclosed_by_brain_are_brain() -> None:
    """Fluid as black as the background; a bay that is open to the outside, and the outside itself, are not."""
    volumes = {modality: brain_volumes()[modality].astype(np.float32) for modality in ("t1n", "t2f")}
    whole = volumes["t1n"] != 0
    for volume in volumes.values():
        volume[10:14, 12:16, 8:12] = 0
    np.testing.assert_array_equal(brain_mask(volumes), whole)
    prepared = prepare(case_from_arrays(volumes, np.eye(4), "p1"), 8)
    np.testing.assert_array_equal(prepared.own_brain, whole)
    assert prepared.scales["t1n"].low == 0
    for volume in volumes.values():
        volume[10:14, 12:16, 8:] = 0
    np.testing.assert_array_equal(brain_mask(volumes), volumes["t1n"] != 0)


@pytest.mark.parametrize("factor", [0.001, 3.0, 500.0])
def test_units_do_not_matter(factor: float) -> None:
    """An int16 scan and the same scan in other units, as floats, look the same to the model."""
    integers = brain_volumes()
    floats = {modality: volume.astype(np.float64) * factor for modality, volume in integers.items()}
    reference, scaled = (
        prepare(case_from_arrays(volumes, oblique_affine(), "p1"), 16) for volumes in (integers, floats)
    )
    for modality in integers:
        np.testing.assert_allclose(scaled.volumes[modality], reference.volumes[modality], atol=2e-4)
    assert scaled.scales["t1n"].high == pytest.approx(factor * reference.scales["t1n"].high, rel=1e-5)


@pytest.mark.parametrize("voxels", [2, 63])
def test_too_small_a_brain_is_refused(voxels: int) -> None:
    volume = np.zeros((16, 16, 16), np.int16)
    inside = np.argwhere(np.ones((4, 4, 4)))[:voxels] + 5
    volume[tuple(inside.T)] = np.arange(1, voxels + 1)
    with pytest.raises(CaseError, match=f"at least 64 voxels above 0, got {voxels}") as caught:
        prepare(case_from_arrays({"t1n": volume}, np.eye(4), "p1"), 16)
    assert "p1" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 0.5, 0.5), (0.9, 0.9, 5), (2, 2, 2)])
def test_what_lies_outside_the_brain_does_not_enter_it(spacing: tuple[float, ...]) -> None:
    """Neither on the way to the model's grid nor on the way back, also where voxels are interpolated."""
    foreground = brain_volumes()["t1n"] != 0
    halves = np.where(np.arange(foreground.shape[0]) < 12, 400, 800)[:, None, None] * foreground
    prepared = prepare(case_from_arrays({"t1n": halves}, np.diag((*spacing, 1.0)), "p1"), 16)
    volume, scale = prepared.volumes["t1n"], prepared.scales["t1n"]
    values = scale.restore(volume)
    border = int((12 - prepared.geometry.box[0][0]) * prepared.geometry.zoom[0])
    for half, wanted in ((slice(0, border - 2), 400), (slice(border + 2, None), 800)):
        found = values[half][prepared.brain[half]]
        assert found.size > 50
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    back = prepared.restore(np.where(prepared.brain, np.float32(7), np.float32(-100)))
    np.testing.assert_allclose(back, np.where(foreground, 7, 0), rtol=1e-6)


@pytest.mark.parametrize(("spacing", "gain"), [((0.5, 0.5, 0.5), 2.0), ((0.5, 0.5, 1.0), 1.5), ((1.0, 1.0, 1.0), 1.0)])
def test_a_finer_grid_is_averaged_not_sampled(spacing: tuple[float, ...], gain: float) -> None:
    """Noise falls by as much as averaging over 1 mm gives; on the model's own spacing nothing changes."""
    axes = np.meshgrid(*(np.linspace(-1.1, 1.1, 40),) * 3, indexing="ij")
    brain = sum(axis**2 for axis in axes) < 1
    clean = np.where(brain, 500 + 200 * axes[0], 0).astype(np.float32)
    noisy = np.where(brain, clean + np.random.default_rng(0).normal(0, 30, brain.shape), 0).astype(np.float32)
    restored = []
    for volume in (clean, noisy):
        prepared = prepare(case_from_arrays({"t1n": volume}, np.diag((*spacing, 1.0)), "p1"), 8)
        restored.append(prepared.scales["t1n"].restore(prepared.volumes["t1n"])[prepared.brain])
    error = np.median(abs(restored[0] - restored[1])) / 0.6745
    assert error < 30 / gain * 1.1
    if gain == 1:
        assert error > 25


def test_preparing_leaves_the_case_alone() -> None:
    case = case_from_arrays(brain_volumes(), oblique_affine(), "p1")
    for volume in prepare(case, 16).volumes.values():
        volume[:] = 99
    for modality, volume in brain_volumes().items():
        np.testing.assert_array_equal(case.volume(modality), volume)
