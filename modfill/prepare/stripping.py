"""The brain in a T1-weighted scan, by deepbet or from the user's mask, and the checks that it is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from modfill.prepare.grid import Grid

__all__ = ["Brain", "brain_of", "doubts_of"]

VOLUME = (700.0, 2100.0)  # ml: brains of children and of large adults, with ventricles
LARGEST = 0.98  # of a mask in its largest component
OPEN = 6.0  # mm, a thick slice: so near the end of the field of view a head may be open, and its inside like air
RIM = 2.0  # mm from air: no brain lies so near the skin
AT_RIM = 0.02  # of a mask's surface that may lie there: holes in a dark skull
SPECK = 0.02  # of the largest component: smaller ones are noise in the air
STEP = 2  # of the voxels: every second one is enough for the checks
CUT = 0.03  # of a mask's surface on the border of the field of view


@dataclass(frozen=True, eq=False)
class Brain:
    """A brain mask on the prepared grid.

    Attributes:
        mask: (X, Y, Z) bool.
        tool: what made it.
        volume: in ml.
        doubts: reasons to distrust it; empty if there are none.
    """

    mask: NDArray[np.bool_]
    tool: str
    volume: float
    doubts: tuple[str, ...]


def brain_of(voxels: NDArray[np.float32], grid: Grid) -> tuple[NDArray[np.bool_], str]:
    """The brain by deepbet (Fisch et al. 2024), and the tool's name and version.

    Args:
        voxels: a T1-weighted head (X, Y, Z), native or with contrast agent.
        grid: its grid.
    """
    from importlib.metadata import version

    import nibabel as nib
    from deepbet import BrainExtraction

    image = nib.Nifti1Image(voxels.astype(np.float32), grid.affine)
    try:
        _, mask, _ = BrainExtraction(no_gpu=True).run(image)
    except (AssertionError, ValueError):  # deepbet finds nothing that looks like a brain
        return np.zeros(grid.shape, bool), f"deepbet {version('deepbet')}"
    return np.asarray(mask.dataobj) > 0, f"deepbet {version('deepbet')}"


def doubts_of(
    mask: NDArray[np.bool_], head: NDArray[np.float32], grid: Grid, covered: NDArray[np.bool_] | None = None
) -> tuple[str, ...]:
    """Reasons why a mask may be no brain mask; none if it is like one.

    Args:
        mask: (X, Y, Z).
        head: the scan in which it was found, on the same grid.
        grid: the grid.
        covered: the scan's own field of view on the grid, outside which nothing is air; None is the whole grid.
    """
    volume = float(mask.sum() * np.prod(grid.spacing) / 1000)
    mask, head, spacing = mask[::STEP, ::STEP, ::STEP], head[::STEP, ::STEP, ::STEP], grid.spacing * STEP
    if not mask.any():
        return ("the mask is empty",)
    doubts = []
    if not VOLUME[0] <= volume <= VOLUME[1]:
        doubts.append(f"the mask has {volume:.0f} ml; a brain has {VOLUME[0]:.0f} to {VOLUME[1]:.0f}")
    labels, count = ndimage.label(mask)
    largest = float(np.bincount(labels.ravel())[1:].max() / mask.sum()) if count else 0.0
    if largest < LARGEST:
        doubts.append(f"the mask has {count} parts, the largest with {largest:.0%} of it")
    surface = mask & ~ndimage.binary_erosion(mask, border_value=1)
    air = ~_head(head)
    inside = np.ones_like(mask) if covered is None else covered[::STEP, ::STEP, ::STEP]
    air &= ndimage.distance_transform_edt(np.pad(inside, 1), spacing)[1:-1, 1:-1, 1:-1] > OPEN
    at_rim = float((surface & _near(air, spacing)).sum() / max(surface.sum(), 1))
    if at_rim > AT_RIM:
        doubts.append(f"{at_rim:.0%} of the mask's surface reaches the border of the head")
    border = np.zeros_like(mask)
    for axis in range(3):
        border[(slice(None),) * axis + ([0, -1],)] = True
    cut = float((mask & border).sum() / (surface | (mask & border)).sum())
    if cut > CUT:
        doubts.append(f"the field of view cuts the brain ({cut:.0%} of its surface)")
    return tuple(doubts)


def _head(voxels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The head with all that it encloses; a dark skull may separate the brain from the scalp, so both are kept."""
    smooth = ndimage.gaussian_filter(voxels, 0.6)
    labels, _ = ndimage.label(smooth > 0.25 * np.percentile(smooth, 95))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    found = (sizes > SPECK * sizes.max())[labels]
    closed = ndimage.binary_closing(np.pad(found, 3), iterations=2)[3:-3, 3:-3, 3:-3]
    for axis in range(3):  # slice by slice: the neck and a cut head are open below
        for n in range(closed.shape[axis]):
            plane = (slice(None),) * axis + (n,)
            closed[plane] = ndimage.binary_fill_holes(closed[plane])
    return np.asarray(closed, dtype=bool)


def _near(air: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Voxels less than `RIM` away from air that lies inside the field of view."""
    if not air.any():
        return np.zeros_like(air)
    return np.asarray(ndimage.distance_transform_edt(~air, spacing) <= RIM)
