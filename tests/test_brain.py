"""The brain is found as it is: cavities belong to it, ripples of interpolation do not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, shift

from modfill.cases.brain import brain_mask, foreground, partial_coverage
from modfill.cases.finding import find_cases
from modfill.cases.reading import case_from_arrays, read_case
from modfill.completer import ModalityCompleter
from modfill.errors import CaseError
from tests.case_files import brain_volumes

Volume = npt.NDArray[np.float32]


def interpolated(modality: str, kind: str) -> tuple[Volume, npt.NDArray[np.bool_]]:
    """A brain moved by a part of a voxel with a cubic spline, and the voxels of which it fills any part."""
    original = np.pad(brain_volumes()[modality], 3 if kind == "float" else 12).astype(np.float32)
    moved = shift(original, (0.4, 0.3, 0.2), order=3, mode="grid-wrap" if kind == "float" else "constant")
    touched = shift((original != 0).astype(np.float32), (0.4, 0.3, 0.2), order=1) > 0
    return (moved if kind == "float" else np.rint(moved).astype(np.int16).astype(np.float32)), touched


@pytest.mark.parametrize("kind", ["int16", "float"])
@pytest.mark.parametrize("modality", ["t1n", "t2w"])
def test_ripples_of_interpolation_are_not_brain(modality: str, kind: str) -> None:
    volume, touched = interpolated(modality, kind)
    assert (volume[~touched] != 0).sum() > 1000
    found = foreground(volume)
    assert not (found & ~touched).any()
    assert not (~found & ~binary_dilation(~touched, iterations=2)).any()


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("kind", ["int16", "float"])
def test_nothing_outside_a_brain_with_ripples_is_filled(completer: ModalityCompleter, kind: str) -> None:
    (volume, touched), (other, _) = interpolated("t1n", kind), interpolated("t2f", kind)
    made = completer.complete_arrays({"t1n": volume, "t2f": other}, affine=np.eye(4), targets=["t1c"])["t1c"]
    assert not made[~touched].any() and made[touched].any()


def _stray_negatives(volume: Volume) -> Volume:
    volume[10:12, 10:12, 10:12] = -3
    return volume


@pytest.mark.parametrize(
    "change",
    [
        lambda volume: volume,
        lambda volume: np.where(volume == 0, 0, (volume - 500) / 120),  # z-scores
        lambda volume: -volume,
        _stray_negatives,
    ],
    ids=["as it was", "z-scores", "negative", "negative inside"],
)
@pytest.mark.parametrize("modality", ["t1n", "t2f"])
def test_other_volumes_are_foreground_wherever_they_are_not_0(modality: str, change) -> None:
    volume = change(brain_volumes()[modality].astype(np.float32))
    volume[0, 0, 0], volume[12, 14, 10] = 1, 2  # a stray voxel, a dark one
    np.testing.assert_array_equal(foreground(volume), volume != 0)


def test_unfiltered_air_is_not_taken_for_ripples() -> None:
    """An image that was not stripped shows as such: noise in air is positive."""
    noise = np.random.default_rng(0).rayleigh(10, (24, 28, 20)).astype(np.float32)
    volume = brain_volumes()["t1n"] + noise
    np.testing.assert_array_equal(brain_mask({"t1n": volume}), np.ones(volume.shape, bool))
    with pytest.raises(CaseError, match="modfill prepare strips raw scans"):
        case_from_arrays({"t1n": volume}, np.eye(4))


def layers(*radii: tuple[float, float]) -> Volume:
    """Spheres within each other on a 4 mm grid, by radius in mm and intensity; noise on all of them, air 0."""
    axes = np.meshgrid(*((np.arange(48) - 23.5) * 4.0,) * 3, indexing="ij")
    distance = np.sqrt(sum(axis**2 for axis in axes))
    volume = np.zeros(distance.shape, np.float32)
    for radius, intensity in radii:
        volume[distance < radius] = intensity
    noise = np.random.default_rng(0).normal(0, 8, volume.shape)
    return np.where(volume > 0, np.clip(volume + noise, 1, None), 0).astype(np.float32)


@pytest.mark.parametrize("skull", [25, 150])
@pytest.mark.parametrize(("scalp", "brain"), [(900, 500), (500, 900)])
def test_a_head_is_told_by_its_skull(skull: float, scalp: float, brain: float) -> None:
    """Air set to 0, and no larger than a brain may be."""
    head = layers((78, scalp), (71, skull), (63, brain))
    assert np.count_nonzero(head) * 64 / 1000 < 2500
    with pytest.raises(CaseError, match="must be skull-stripped .* got a dark ring, as of skull.*; modfill prepare"):
        case_from_arrays({"t1n": head}, np.diag((4.0, 4.0, 4.0, 1.0)))


@pytest.mark.parametrize(
    "brain",
    [
        layers((70, 200), (64, 600), (20, 100)),  # T1: dark fluid around, dark ventricles
        layers((70, 1300), (64, 600), (20, 1300)),  # T2
        layers((70, 600)),
    ],
    ids=["T1", "T2", "uniform"],
)
def test_a_stripped_brain_is_not_taken_for_a_head(brain: Volume) -> None:
    assert case_from_arrays({"t1n": brain}, np.diag((4.0, 4.0, 4.0, 1.0))).available == ("t1n",)


def test_real_brains_are_not_taken_for_heads() -> None:
    folder = Path(os.environ.get("MODFILL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    cases = sorted((folder / "test").glob("*/"))[:2]
    if not cases:
        pytest.skip("no real cases here")
    for case in cases:
        read = read_case(find_cases(case)[0])
        assert len(read.available) == 4
        for modality in read.available:
            np.testing.assert_array_equal(foreground(read.volume(modality)), read.volume(modality) != 0)


def half(volume: Volume) -> Volume:
    """Only the upper half of the slices."""
    volume = volume.copy()
    volume[:, :, :10] = 0
    return volume


def test_a_source_that_covers_half_the_brain_is_left_out_with_a_word(
    completer: ModalityCompleter, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is that without it, over the whole brain; a source like that once counted as tissue of 0."""
    volumes = {m: volume.astype(np.float32) for m, volume in brain_volumes().items()}
    whole = {"t1n": volumes["t1n"]}
    completed = [
        completer.complete(case_from_arrays(arrays, np.eye(4)), targets=["t2f"])
        for arrays in (whole, whole | {"t2w": half(volumes["t2w"])})
    ]
    alone, beside = (np.asanyarray(done.images["t2f"].dataobj) for done in completed)
    np.testing.assert_array_equal(alone, beside)
    assert completed[1].provenance["t2f"]["SourcesLeftOut"] == ["t2w"]
    assert "SourcesLeftOut" not in completed[0].provenance["t2f"]
    assert "t2w covers only 50% of the brain; left out" in caplog.text
    description = completed[1].images["t2f"].header["descrip"].item().decode()
    assert description.endswith("t2f from t1n")


def test_thin_rims_and_cavities_are_no_lack_of_coverage() -> None:
    volumes = {m: volume.astype(np.float32) for m, volume in brain_volumes().items() if m in ("t1n", "t2f")}
    volumes["t2f"][10:14, 12:16, 8:12] = 0
    volumes["t2f"][~binary_erosion(volumes["t1n"] != 0)] = 0
    assert partial_coverage(volumes) == {}


def test_where_no_source_covers_the_brain_none_is_left_out() -> None:
    volume = brain_volumes()["t1n"].astype(np.float32)
    assert partial_coverage({"t1n": half(volume), "t2w": half(volume[:, :, ::-1])[:, :, ::-1]}) == {}
