"""The metrics: agreement with the independent scorer of the measuring protocol, and the conventions of BraTS."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from modfill import metrics

FOLDER = os.environ.get("MODFILL_PROTOCOL", Path(__file__).parents[2] / "shared" / "protocol")
SCORER = Path(FOLDER) / "score.py"
SHAPE = (26, 23, 19)


@pytest.fixture(scope="module")
def oracle() -> Callable[..., dict[str, float]]:
    """`score` of the protocol's own scorer, which shares no code with modfill."""
    if not SCORER.exists():
        pytest.skip(f"no {SCORER}: set MODFILL_PROTOCOL to the folder that holds score.py")
    pytest.importorskip("skimage")
    spec = importlib.util.spec_from_file_location("protocol_score", SCORER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.score


def smooth_case(seed: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Reference (scanner units), prediction (near unit range), brain and tumour."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2) for _ in range(3)]
    first, second, shape = (field / field.std() for field in fields)
    radius = sum(((np.arange(n) - (n - 1) / 2) / (n / 2)).reshape(s) ** 2
                 for n, s in zip(SHAPE, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True))  # fmt: skip
    brain = radius + 0.1 * shape < 1
    reference = np.where(brain, 500 + 100 * first, 0)
    prediction = 0.4 + 0.2 * first + 0.1 * second  # some of it outside [0, 1], and not 0 outside the brain
    return reference, prediction, brain, brain & (first > 1)


@pytest.mark.parametrize("seed", range(4))
def test_score_agrees_with_the_protocol(oracle: Callable[..., dict[str, float]], seed: int) -> None:
    reference, prediction, brain, tumour = smooth_case(seed)
    for mask in (tumour, None, np.zeros_like(tumour)):
        expected = oracle(reference, prediction, brain, mask)
        assert metrics.score(reference, prediction, brain, mask) == pytest.approx(expected, abs=1e-6)


def test_inverted_and_constant_predictions_agree_with_the_protocol(oracle: Callable[..., dict[str, float]]) -> None:
    reference, prediction, brain, tumour = smooth_case(0)
    for odd in (1 - prediction, np.full(SHAPE, 0.3), metrics.unit_range(reference, brain)):
        expected = oracle(reference, odd, brain, tumour)
        assert metrics.score(reference, odd, brain, tumour) == pytest.approx(expected, abs=1e-6)


def test_ssim_map_is_that_of_scikit_image_up_to_the_border() -> None:
    similarity = pytest.importorskip("skimage.metrics").structural_similarity
    rng = np.random.default_rng(0)
    r, p = rng.random(SHAPE), rng.random(SHAPE)
    _, expected = similarity(
        r, p, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    np.testing.assert_allclose(metrics.ssim_map(r, p), expected, atol=1e-12)


def test_perfect_prediction() -> None:
    reference, _, brain, tumour = smooth_case(0)
    figures = metrics.score(reference, metrics.unit_range(reference, brain), brain, tumour)
    assert figures["psnr"] == figures["psnr_tumour_matched"] == pytest.approx(120)
    assert figures["nmse"] == 0
    assert figures["ssim"] == figures["ssim_brain"] == pytest.approx(1)


def test_matching_undoes_a_change_of_scale_but_never_inverts() -> None:
    reference, _, brain, _ = smooth_case(1)
    unit = metrics.unit_range(reference, brain)
    figures = metrics.score(reference, 0.2 + 0.5 * unit, brain)
    assert figures["psnr_brain"] < 25
    assert figures["psnr_brain_matched"] == pytest.approx(120)
    inverted = metrics.match(unit, (1 - unit) * brain, brain)
    assert inverted[brain] == pytest.approx(unit[brain].mean())


def test_ssim_is_the_mean_of_its_map_over_the_brain() -> None:
    reference, prediction, brain, _ = smooth_case(2)
    figures = metrics.score(reference, prediction, brain)
    unit = metrics.unit_range(reference, brain)
    assert metrics.ssim(unit, np.clip(prediction, 0, 1) * brain, brain) == figures["ssim_brain"]


def test_sharpness_counts_detail_whatever_the_contrast_and_whatever_lies_outside() -> None:
    reference, _, brain, _ = smooth_case(0)
    assert metrics.sharpness(reference, 0.2 + 0.5 * reference, brain) == pytest.approx(1)
    assert metrics.sharpness(reference, np.where(brain, reference, 9), brain) == pytest.approx(1)
    filled = np.where(brain, reference, reference[brain].mean())
    smooth = [metrics.sharpness(reference, ndimage.gaussian_filter(filled, sigma), brain) for sigma in (0.5, 1, 2)]
    assert 1 > smooth[0] > smooth[1] > smooth[2] > 0
    noisy = reference + 30 * np.random.default_rng(0).standard_normal(reference.shape)
    assert metrics.sharpness(reference, noisy, brain) > 1
    assert metrics.sharpness(reference, np.ones_like(reference), brain) == pytest.approx(0)


def test_inputs_stay_as_they_are_and_float32_is_computed_in_float64() -> None:
    reference, prediction, brain, tumour = smooth_case(3)
    arrays = [reference.astype(np.float32), prediction.astype(np.float32), brain, tumour]
    before = [array.copy() for array in arrays]
    figures = metrics.score(*arrays)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    doubles = [array.astype(np.float64) for array in arrays[:2]]
    assert figures == metrics.score(*doubles, brain, tumour)


def cube(corner: tuple[int, int, int], edge: int = 6) -> NDArray[np.bool_]:
    mask = np.zeros((30, 24, 20), bool)
    mask[tuple(slice(start, start + edge) for start in corner)] = True
    return mask


def test_dice() -> None:
    empty, one, shifted = np.zeros((30, 24, 20), bool), cube((4, 5, 6)), cube((7, 5, 6))
    assert metrics.dice(one, one) == 1
    assert metrics.dice(one, shifted) == 0.5
    assert metrics.dice(empty, empty) == 1
    assert metrics.dice(one, empty) == metrics.dice(empty, one) == 0
    assert metrics.dice(one.astype(np.uint8) * 3, one) == 1  # any non-zero label counts once


def test_hd95_conventions() -> None:
    empty, one = np.zeros((30, 24, 20), bool), cube((4, 5, 6))
    assert metrics.hd95(one, one, (1, 1, 1)) == 0
    assert metrics.hd95(empty, empty, (1, 1, 1)) == 0
    assert metrics.hd95(one, empty, (1, 1, 1)) == metrics.hd95(empty, one, (1, 1, 1)) == 373.13


@pytest.mark.parametrize("axis", range(3))
def test_hd95_of_a_shifted_cube_is_the_shift_in_mm(axis: int) -> None:
    spacing = (1.0, 0.8, 2.5)
    corner = [4, 5, 6]
    corner[axis] += 6  # side by side: more than 5 % of the surface is a whole shift away
    assert metrics.hd95(cube((4, 5, 6)), cube((corner[0], corner[1], corner[2])), spacing) == pytest.approx(
        6 * spacing[axis]
    )


def test_hd95_is_symmetric_and_takes_the_worse_direction() -> None:
    small, large = cube((10, 10, 8), edge=2), cube((4, 6, 6), edge=12)
    there, back = metrics.hd95(small, large, (1, 1, 1)), metrics.hd95(large, small, (1, 1, 1))
    assert there == back > 4


def test_hd95_at_the_volumes_border_counts_the_border_as_surface() -> None:
    whole, core = np.ones((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    core[4, 4, 4] = True
    assert metrics.hd95(whole, core, (1, 1, 1)) >= 4
