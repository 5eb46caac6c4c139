"""Masks of the brain in skull-stripped volumes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy
from numpy.typing import NDArray

__all__ = ["brain_mask", "foreground", "partial_coverage", "ring_darkness"]

_SMALL = 0.15  # of the 99th percentile: a cubic spline overshoots a step by about 0.13 of its height
_DEEPEST = 0.3  # of the 99th percentile: lower negative intensities are no ripples but e.g. z-scores
_RINGING = (0.2, 0.8)  # share of negative voxels in ripples; noise in air is positive, or was never interpolated
_LEAST = 0.01  # voxels of ripples for one of the brain: fewer are left alone
_STEP = 2.0  # mm: every second voxel of 1 mm is enough for a head; also the thickness of a shell
_SKULL_DEPTH = 25.0  # mm below the skin, at most; deeper, ventricles are dark
_SKULL_THICKNESS = 15.0  # mm to something brighter on either side; bright ventricles in a T2 lie farther in
_SHELL = 50  # voxels: fewer are too few for a median
_UNCOVERED = 0.05  # of the brain: less is the rim in which skull strippings differ
_RIM = 3  # voxels: an uncovered part that survives this erosion is thicker than such a rim


def brain_mask(volumes: Mapping[str, NDArray[np.floating]]) -> NDArray[np.bool_]:
    """The brain (X, Y, Z) in a case's skull-stripped volumes: where any has foreground, and what that encloses.

    Zeros enclosed by brain are brain: an image may show fluid, or a lesion, as black as the background.

    Args:
        volumes: (X, Y, Z) by modality, on one grid, at least one.
    """
    return _filled(np.logical_or.reduce([foreground(volume) for volume in volumes.values()]))


def foreground(volume: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Where a volume (X, Y, Z) is not background: not 0, and no ripples of a cubic interpolation.

    Interpolation by cubic splines leaves small values of both signs around the brain, in real numbers up to the
    volume's border. A volume counts as interpolated only if its negative intensities are all small and nearly all lie
    outside its brain. Its brain is then the largest connected part above the ripples, with its cavities filled.
    """
    found: NDArray[np.bool_] = volume != 0
    negative = volume < 0
    if not negative.any() or not np.isfinite(volume).all():
        return found
    bright = np.percentile(volume[found], 99)
    if bright <= 0 or volume.min() < -_DEEPEST * bright:
        return found
    brain = _filled(_largest(volume > _SMALL * bright))
    ripples = found & ~brain
    outside = np.count_nonzero(negative & ripples)
    few = np.count_nonzero(ripples) < _LEAST * np.count_nonzero(brain)
    if few or outside < 0.9 * np.count_nonzero(negative):
        return found
    return brain if _RINGING[0] < outside / np.count_nonzero(ripples) < _RINGING[1] else found


def partial_coverage(volumes: Mapping[str, NDArray[np.floating]]) -> dict[str, float]:
    """Find volumes that cover only part of the brain, e.g. half of its slices, while another one covers all of it.

    Args:
        volumes: (X, Y, Z) by modality, on one grid, at least one.

    Returns:
        The share of the brain that each such volume covers. Empty if all volumes are partial, for then none
        is better than the others.
    """
    covered = {modality: _filled(foreground(volume)) for modality, volume in volumes.items()}
    brain = np.logical_or.reduce(list(covered.values()))
    size = max(int(brain.sum()), 1)
    partial = {}
    for modality, mask in covered.items():
        beyond = brain & ~mask
        share = int(beyond.sum()) / size
        if share > _UNCOVERED and scipy.ndimage.binary_erosion(beyond, iterations=_RIM).any():
            partial[modality] = 1 - share
    return partial if len(partial) < len(volumes) else {}


def ring_darkness(volume: NDArray[np.floating], shown: NDArray[np.bool_], sizes: NDArray[np.floating]) -> float:
    """Relative intensity of the darkest shell between brighter ones. A skull between scalp and brain is such a shell.

    Args:
        volume: (X, Y, Z), background 0.
        shown: (X, Y, Z), its foreground.
        sizes: (3,) voxel sizes in mm.

    Returns:
        The minimum over all shells up to 25 mm deep of a ratio: the shell's median over the lower of two maxima, that
        of the shells within 15 mm outside of it and that of the shells within 15 mm inside. 1 if no shell lies between
        brighter ones.
    """
    steps = [max(1, round(_STEP / float(size))) for size in sizes]
    places = tuple(slice(None, None, step) for step in steps)
    thin, inside, sampling = volume[places], _filled(shown[places]), sizes * np.array(steps)
    if inside.all():
        return 1.0
    width = max(_STEP, float(np.min(sampling)))
    depths = np.ceil(scipy.ndimage.distance_transform_edt(inside, sampling)[inside] / width).astype(int)
    values = thin[inside]
    shells = [values[depths == depth] for depth in range(1, depths.max() + 1)]
    medians = [float(np.median(shell)) for shell in shells if shell.size >= _SHELL]
    between = range(1, min(len(medians) - 1, int(_SKULL_DEPTH / width)))
    near = max(1, int(_SKULL_THICKNESS / width))
    rims = [min(max(medians[max(0, k - near) : k]), max(medians[k + 1 : k + 1 + near])) for k in between]
    return min((medians[k] / rim for k, rim in zip(between, rims, strict=True) if rim > 0), default=1.0)


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest part of a mask, not empty, that is connected by faces."""
    parts, _ = scipy.ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with every cavity filled that is not connected by faces to the volume's border."""
    if not mask.any():
        return mask
    occupied = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(int(index[0]), int(index[-1]) + 1) for index in occupied)
    outside, _ = scipy.ndimage.label(~np.pad(mask[box], 1))
    whole = mask.copy()
    whole[box] = (outside != outside[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return whole
