"""The figures that other papers give, of the same images: one function for each definition.

All are defined on the whole BraTS grid in the acquired image's intensities; `modfill.metrics` works in unit range.
A figure of one definition compares with no figure of another, and none compares with a matched figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from modfill.metrics import C1, C2, SMALLEST, WINDOW_RADIUS, WINDOW_SIGMA, brain_box

__all__ = ["COLUMNS", "Pair", "brasyn", "cwdm", "pair_on_grid", "scales", "wfm"]

Volume = NDArray[np.floating]
Mask = NDArray[np.bool_]

COLUMNS = ("psnr_cwdm_224", "psnr_cwdm_240", "psnr_wfm", "ssim_wfm", "ssim_brasyn_healthy", "ssim_brasyn_tumour",
           "ssim_brasyn_healthy_volume", "ssim_brasyn_tumour_volume")  # fmt: skip

GRID = (240, 240, 155)  # of BraTS, 1 mm
ORIGIN = (0, 239, 0)  # mm, of its first voxel; x and y fall along the axes
BORDER, DEPTH = (8, 8, 0), 160  # cWDM: voxels fewer on each side; zeros up to 160 planes in z
UNIFORM_RADIUS = 3  # scikit-image's default window has 7 voxels
MARGIN = WINDOW_RADIUS  # the larger window: beyond it two images are equal, and their similarity is 1


@dataclass(frozen=True)
class Pair:
    """Two images on a grid, cropped to what is not 0 and a margin of 5 voxels where the grid has them.

    Attributes:
        reference: the acquired image (X, Y, Z), float32.
        prediction: the synthetic one, likewise, in the same intensities.
        start: the voxel of the grid at which both begin.
        grid: the grid's shape; both images are 0 in the rest of it.
    """

    reference: Volume
    prediction: Volume
    start: tuple[int, ...]
    grid: tuple[int, ...] = GRID


def pair_on_grid(reference: np.ndarray, prediction: np.ndarray, affine: np.ndarray,
                 grid: tuple[int, ...] = GRID) -> tuple[Pair, tuple[slice, ...]] | None:  # fmt: skip
    """Two images of a case on the BraTS grid, as if padded with zeros to 240x240x155 voxels.

    A case that was cropped from that grid lies where it was, by its affine. Another lies in the middle.

    Args:
        reference: (X, Y, Z), background 0.
        prediction: likewise.
        affine: 4x4, voxels to mm, RAS.
        grid: the grid's shape.

    Returns:
        The pair, and the same crop of any array of the case that is padded with 5 voxels on each side; None if the case
        does not fit into the grid.
    """
    room = np.subtract(grid, reference.shape)
    if (room < 0).any():
        return None
    first = np.round((affine[:3, 3] - ORIGIN) * (-1, -1, 1)).astype(int)
    known = np.allclose(affine[:3, :3], np.diag((-1, -1, 1))) and (first >= 0).all() and (first <= room).all()
    first = first if known else room // 2
    crop, start = [], []
    for s, corner, size in zip(brain_box((reference != 0) | (prediction != 0)), first, grid, strict=True):
        begin, end = max(s.start - MARGIN, -corner), min(s.stop + MARGIN, size - corner)  # in voxels of the case
        crop.append(slice(int(begin + MARGIN), int(end + MARGIN)))
        start.append(int(begin + corner))
    r, p = (np.pad(volume, MARGIN)[tuple(crop)].astype(np.float32) for volume in (reference, prediction))
    return Pair(r, p, tuple(start), grid), tuple(crop)


def scales(reference: np.ndarray, predicted: np.ndarray, brain: Mask, tumour: Mask | None,
           affine: np.ndarray) -> dict[str, float]:  # fmt: skip
    """Every figure of `COLUMNS` of one synthetic image.

    The prediction is mapped from unit range to the acquired image's intensities by the protocol's own map: the 0.5 and
    99.5 percentiles of that image over the brain stand for 0 and 1.

    Args:
        reference: the acquired image (X, Y, Z), any intensities.
        predicted: the synthetic one (X, Y, Z), unit range.
        brain: (X, Y, Z), not empty.
        tumour: (X, Y, Z); None or empty leaves out BraSyn's figures.
        affine: 4x4, voxels to mm, RAS.

    Returns:
        The figures; none if the case does not fit into the BraTS grid.
    """
    low, high = np.percentile(np.asarray(reference, np.float64)[brain], (0.5, 99.5))
    placed = pair_on_grid(reference, (np.clip(predicted, 0, 1) * (high - low) + low) * brain, affine)
    if placed is None:
        return {}
    pair, crop = placed
    figures = cwdm(pair) | wfm(pair)
    if tumour is not None and tumour.any():
        figures |= brasyn(pair, np.pad(tumour, MARGIN)[crop])
    return figures


def cwdm(pair: Pair) -> dict[str, float]:
    """PSNR in the range of cWDM (Friedrich et al. 2024, arXiv 2411.17203), dB.

    Its loader clips an image to its 0.1 and 99.9 percentiles over the *whole* volume, maps them to [0, 1], pads 155
    planes to 160 and takes the central 224x224. Its sampler clips the synthetic image to [0, 1] and sets it to 0
    outside the brain. Both were read in forks of github.com/pfriedri/cwdm (`guided_diffusion/bratsloader.py`,
    `scripts/sample.py`). The paper's evaluation could not be read: over which voxels it averages and how it takes SSIM
    is not known. Hence two figures, and no SSIM.

    Returns:
        `psnr_cwdm_224`, mean over 224x224x160 voxels, and `psnr_cwdm_240`, mean over 240x240x155.
    """
    r, p = _whole_volume_range(pair)
    error = (r - p).astype(np.float64) ** 2
    width, height, _ = np.subtract(pair.grid, np.multiply(2, BORDER))
    return {
        "psnr_cwdm_224": _decibels(error[_inside(pair.start, pair.grid, BORDER)].sum() / (width * height * DEPTH)),
        "psnr_cwdm_240": _decibels(error.sum() / np.prod(pair.grid)),
    }


def wfm(pair: Pair) -> dict[str, float]:
    """PSNR (dB) and SSIM as WFM's evaluation takes them (Tur et al. 2026, arXiv 2604.21146).

    From its code (github.com/stojkovicMihajlo/WFM, commit 143b2b5: `guided_diffusion/bratsloader.py`,
    `scripts/sample_wfm.py`, `scripts/evaluate.py`): the range of cWDM, the central 224x224x155 voxels, each image
    divided by its own maximum. PSNR has range 1 and averages over all voxels. SSIM is scikit-image's with its defaults:
    a uniform window of 7 voxels in 3D, sample covariance, mean over all voxels but 3 at each border; data range 1. Its
    option `--use_mask` takes PSNR over the reference's non-zero voxels; whether the published figures use it could not
    be read.

    Returns:
        `psnr_wfm` and `ssim_wfm`.
    """
    central = _inside(pair.start, pair.grid, BORDER)
    start, shape = np.maximum(np.subtract(pair.start, BORDER), 0), np.subtract(pair.grid, np.multiply(2, BORDER))
    r, p = (volume[central] for volume in _whole_volume_range(pair))
    r, p = (volume / max(float(volume.max()), SMALLEST) for volume in (r, p))
    counted = _inside(start, shape, (UNIFORM_RADIUS,) * 3)
    error = (r - p).astype(np.float64) ** 2
    return {
        "psnr_wfm": _decibels(error.sum() / np.prod(shape)),
        "ssim_wfm": _mean(_uniform_ssim(r, p)[counted], int(np.prod(shape - 2 * UNIFORM_RADIUS))),
    }


def brasyn(pair: Pair, tumour: Mask) -> dict[str, float]:
    """SSIM in the tumour and outside, as the BraSyn challenge takes it (Li et al. 2023, arXiv 2305.09011).

    From the organisers' `ssim.py` (github.com/hongweilibran/BraSyn, commit 4d9af6d): *each* image is clipped to its own
    0.5 and 99.5 percentiles over the whole cuboid (the lower one not below 0) and mapped to [0, 1]. Both are set to 0
    outside the region. SSIM is torchmetrics' with its defaults: a gaussian window of 11 voxels, sigma 1.5, in 3D,
    population covariance, the larger of the two images' ranges as data range, mirrored at the border.

    That script averages over the region's voxels, but stops with an error as it stands. A participant's copy
    (github.com/AImageLab-zip/BraSyn25, `final_eval/get_ssim.py`) averages over the whole masked volume, where every
    voxel far from the region counts as 1. Which of both the challenge's tables give could not be read. Versions 1.0 to
    1.2 of torchmetrics left 5 voxels at each border of the volume out of that mean; 1.4 and later do not.

    Args:
        pair: the images; the prediction's scale does not matter.
        tumour: the pair's shape, not empty.

    Returns:
        `ssim_brasyn_tumour` and `ssim_brasyn_healthy`, the mean over the region's voxels (background is healthy), and
        both with the suffix `_volume`, the mean over all voxels of the grid.
    """
    voxels = int(np.prod(pair.grid))
    r, p = (_own_range(volume, voxels) for volume in (pair.reference, pair.prediction))
    figures = {}
    for name, region, elsewhere in (("healthy", ~tumour, voxels - tumour.size), ("tumour", tumour, 0)):
        crop = tuple(slice(max(s.start - MARGIN, 0), s.stop + MARGIN) for s in brain_box(region))
        start = [corner + s.start for corner, s in zip(pair.start, crop, strict=True)]
        similarity = _gaussian_ssim(r[crop] * region[crop], p[crop] * region[crop], start, pair.grid)
        figures[f"ssim_brasyn_{name}"] = _mean(similarity[region[crop]], int(region.sum()) + elsewhere)
        figures[f"ssim_brasyn_{name}_volume"] = _mean(similarity, voxels)
    return figures


def _whole_volume_range(pair: Pair) -> tuple[Volume, Volume]:
    low, high = _quantiles(pair.reference, (0.001, 0.999), int(np.prod(pair.grid)))
    r, p = (np.clip((v - low) / max(high - low, SMALLEST), 0, 1) for v in (pair.reference, pair.prediction))
    return r, p


def _own_range(volume: Volume, voxels: int) -> Volume:
    low, high = _quantiles(volume, (0.005, 0.995), voxels)
    low = max(low, 0.0)
    return np.clip((volume - low) / max(high - low, SMALLEST), 0, 1)


def _quantiles(volume: Volume, fractions: Sequence[float], voxels: int) -> list[float]:
    """`np.quantile` of a volume that is padded with zeros to so many voxels; sorts only what is not 0."""
    values = np.sort(volume[volume != 0])
    negative, zeros = int(np.searchsorted(values, 0)), voxels - values.size

    def ranked(rank: int) -> float:
        if negative <= rank < negative + zeros:
            return 0.0
        return float(values[rank if rank < negative else rank - zeros])

    found = []
    for fraction in fractions:
        below = int(fraction * (voxels - 1))
        share = fraction * (voxels - 1) - below
        found.append(ranked(below) + share * (ranked(min(below + 1, voxels - 1)) - ranked(below)))
    return found


def _inside(start: Iterable[int], shape: Iterable[int], border: Iterable[int]) -> tuple[slice, ...]:
    """Of a crop that begins at `start` of a volume: the part that is not in the volume's border."""
    return tuple(slice(max(b - s, 0), max(size - b - s, 0)) for s, size, b in zip(start, shape, border, strict=True))


def _mean(similarity: Volume, voxels: int) -> float:
    """The mean over so many voxels; in those not given both images are equal, and the similarity is 1."""
    return float(1 + (similarity - 1).sum(dtype=np.float64) / voxels)


def _decibels(mean_squared_error: float) -> float:
    return float(-10 * np.log10(max(mean_squared_error, SMALLEST)))


def _uniform_ssim(r: Volume, p: Volume) -> Volume:
    """scikit-image's map; wrong in 3 voxels at the border of the whole volume, which its mean leaves out."""
    width = 2 * UNIFORM_RADIUS + 1
    return _ssim(r, p, lambda v: ndimage.uniform_filter(v, width, mode="constant"), width**3 / (width**3 - 1))


def _gaussian_ssim(r: Volume, p: Volume, start: Sequence[int], grid: Sequence[int]) -> Volume:
    """The map of torchmetrics, of a crop that begins at `start`; mirrored at the grid's border, 0 beyond elsewhere."""
    span = max(float(np.ptp(r)), float(np.ptp(p)), SMALLEST)
    shape = r.shape
    ends = [(WINDOW_RADIUS * (s == 0), WINDOW_RADIUS * (s + n == size))
            for s, n, size in zip(start, shape, grid, strict=True)]  # fmt: skip
    r, p = (np.pad(volume / span, ends, mode="reflect") for volume in (r, p))
    similarity = _ssim(r, p, lambda v: ndimage.gaussian_filter(v, WINDOW_SIGMA, mode="constant", radius=WINDOW_RADIUS))
    return similarity[tuple(slice(low, low + n) for (low, _), n in zip(ends, shape, strict=True))]


def _ssim(r: Volume, p: Volume, smooth: Callable[[Volume], Volume], sample: float = 1.0) -> Volume:
    """The map of structural similarity of images in [0, 1]; `sample` makes sample variances of population ones."""
    mean_r, mean_p = smooth(r), smooth(p)
    squares, product = mean_r**2 + mean_p**2, mean_r * mean_p
    variances = sample * (smooth(r * r + p * p) - squares)
    covariance = sample * (smooth(r * p) - product)
    return (2 * product + C1) * (2 * covariance + C2) / ((squares + C1) * (variances + C2))
