"""The brain is found as it is: cavities belong to it, ripples of interpolation do not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import binary_dilation, shift

from modfill.brain import brain_mask, foreground
from modfill.case import case_from_arrays
from modfill.completer import ModalityCompleter
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
    made = completer.complete_arrays({"t1n": volume, "t2f": other}, np.eye(4), targets=["t1c"])["t1c"]
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
    with pytest.raises(Exception, match="strip the skull"):
        case_from_arrays({"t1n": volume}, np.eye(4))
