"""The figures of other papers agree with their definitions, computed on whole grids by scikit-image and MONAI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics.regression import compute_ssim_and_cs
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from benchmarks.scales import COLUMNS, GRID, Pair, brasyn, cwdm, pair_on_grid, scales, wfm

SMALL = (40, 42, 24)  # a grid in place of 240x240x155
AFFINE = np.diag((-1.0, -1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def whole() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reference, prediction and tumour on the small grid: the brain begins in its first plane."""
    rng = np.random.default_rng(3)
    x, y, z = np.meshgrid(*(np.arange(n) for n in SMALL), indexing="ij")
    brain = ((x - 20) / 15) ** 2 + ((y - 20) / 16) ** 2 + ((z - 7) / 11) ** 2 < 1
    assert brain[:, :, 0].any() and brain[:8].any()
    fields = [gaussian_filter(rng.standard_normal(SMALL), 1.5) for _ in range(2)]
    reference = (600 + 900 * fields[0]).clip(20) * brain
    prediction = (580 + 700 * fields[0] + 300 * fields[1]).clip(5) * brain
    tumour = brain & ((x - 15) ** 2 + (y - 19) ** 2 + (z - 8) ** 2 < 30)
    return reference, prediction, tumour


@pytest.fixture(scope="module")
def placed(whole: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[Pair, np.ndarray]:
    """The pair and the tumour, from a case that was cropped to its brain."""
    crop = (slice(5, 36), slice(4, 37), slice(0, 19))
    assert all(not np.delete(v, np.r_[s], axis).any() for v in whole[:2] for axis, s in enumerate(crop))
    affine = AFFINE.copy()
    affine[:3, 3] = (-5, 239 - 4, 0)
    found = pair_on_grid(whole[0][crop], whole[1][crop], affine, SMALL)
    assert found is not None
    pair, window = found
    return pair, np.pad(whole[2][crop], 5)[window]


def whole_volume_range(reference: np.ndarray, volume: np.ndarray) -> np.ndarray:
    low, high = np.quantile(reference, (0.001, 0.999))
    return (np.clip(volume, low, high) - low) / (high - low)


def test_cwdm(whole: tuple[np.ndarray, ...], placed: tuple[Pair, np.ndarray]) -> None:
    padded = [np.pad(whole_volume_range(whole[0], v), ((0, 0), (0, 0), (0, 160 - SMALL[2]))) for v in whole[:2]]
    figures = cwdm(placed[0])
    central = peak_signal_noise_ratio(*(v[8:-8, 8:-8] for v in padded), data_range=1)
    assert figures["psnr_cwdm_224"] == pytest.approx(central, abs=1e-4)
    everything = peak_signal_noise_ratio(*(v[..., : SMALL[2]] for v in padded), data_range=1)
    assert figures["psnr_cwdm_240"] == pytest.approx(everything, abs=1e-4)


def test_wfm(whole: tuple[np.ndarray, ...], placed: tuple[Pair, np.ndarray]) -> None:
    r, p = (whole_volume_range(whole[0], v)[8:-8, 8:-8] for v in whole[:2])
    r, p = r / r.max(), p / p.max()
    figures = wfm(placed[0])
    assert figures["psnr_wfm"] == pytest.approx(peak_signal_noise_ratio(r, p, data_range=1), abs=1e-4)
    assert figures["ssim_wfm"] == pytest.approx(structural_similarity(r, p, data_range=1), abs=1e-5)


def test_brasyn(whole: tuple[np.ndarray, ...], placed: tuple[Pair, np.ndarray]) -> None:
    tumour = whole[2]
    figures = brasyn(*placed)
    for name, region in (("tumour", tumour), ("healthy", ~tumour)):
        masked = []
        for volume in whole[:2]:
            low, high = np.percentile(volume, (0.5, 99.5))
            masked.append((np.clip(volume, low, high) - low) / (high - low) * region)
        tensors = [torch.from_numpy(np.pad(v, 5, mode="reflect"))[None, None] for v in masked]
        span = max(float(np.ptp(v)) for v in masked)
        similarity, _ = compute_ssim_and_cs(
            *tensors, spatial_dims=3, data_range=span, kernel_size=(11,) * 3, kernel_sigma=(1.5,) * 3
        )
        expected = similarity[0, 0].numpy()
        assert expected.shape == SMALL
        assert figures[f"ssim_brasyn_{name}_volume"] == pytest.approx(expected.mean(), abs=1e-5)
        assert figures[f"ssim_brasyn_{name}"] == pytest.approx(expected[region].mean(), abs=1e-5)


def test_brasyn_does_not_mind_the_prediction_s_scale(placed: tuple[Pair, np.ndarray]) -> None:
    pair, tumour = placed
    brighter = Pair(pair.reference, pair.prediction * 3, pair.start, pair.grid)
    assert brasyn(brighter, tumour) == pytest.approx(brasyn(pair, tumour), abs=1e-6)
    assert cwdm(brighter)["psnr_cwdm_240"] < cwdm(pair)["psnr_cwdm_240"] - 3


def test_known_numbers() -> None:
    """An error of a tenth of the range in 1,000 voxels; equal images."""
    reference = np.zeros((60, 60, 60), np.float32)
    reference[10:50, 10:50, 10:50] = 100
    prediction = reference.copy()
    prediction[20:30, 20:30, 20:30] = 90
    affine = AFFINE.copy()
    affine[:3, 3] = (-90, 239 - 90, 50)
    pair, _ = pair_on_grid(reference, prediction, affine)
    figures = cwdm(pair)
    assert figures["psnr_cwdm_224"] == pytest.approx(10 * np.log10(224 * 224 * 160 / 10), abs=1e-4)
    assert figures["psnr_cwdm_240"] == pytest.approx(10 * np.log10(240 * 240 * 155 / 10), abs=1e-4)
    assert wfm(pair)["psnr_wfm"] == pytest.approx(10 * np.log10(224 * 224 * 155 / 10), abs=1e-4)
    brain = reference > 0
    reference[brain] += np.arange(brain.sum()) / brain.sum()
    perfect = scales(reference, (reference - 100) * brain, brain, brain, affine)
    assert set(perfect) == set(COLUMNS)
    assert all(value > (60 if name.startswith("psnr") else 0.999) for name, value in perfect.items())


def test_a_case_lies_where_it_was_cropped_or_in_the_middle_and_may_not_fit() -> None:
    volume = np.ones((100, 120, 140), np.float32)
    affine = AFFINE.copy()
    affine[:3, 3] = (-53, 196, 6)
    pair, crop = pair_on_grid(volume, volume, affine)
    assert pair.start == (48, 38, 1) and pair.grid == GRID and pair.reference.shape == (110, 130, 150)
    assert np.array_equal(np.pad(volume, 5)[crop], pair.reference)
    affine[0, 0] = -1.5
    assert pair_on_grid(volume, volume, affine)[0].start == (65, 55, 2)
    assert pair_on_grid(np.ones((100, 100, 156)), np.ones((100, 100, 156)), affine) is None
