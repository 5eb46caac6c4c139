"""A picture of a prepared case: every scan with the outline of the brain mask, and with the edges of the first scan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from modfill.prepare.scan import Matrix

__all__ = ["draw"]

_TILE = 220  # pixels
_BRIGHTEST = 1.3  # of the brain's 99th percentile: the scalp's fat would leave the brain dark
_EDGE_QUANTILE = 0.8  # of the edges inside the brain, before they are thinned
_OUTLINE = (255, 80, 60)
_EDGES = (90, 220, 120)


def draw(
    heads: Mapping[str, NDArray[np.float32]],
    brain: NDArray[np.bool_],
    affine: Matrix,
    names: Mapping[str, str],
    path: Path,
    *,
    mask: str = "brain mask",
) -> None:
    """One row for each scan: three planes with the mask's outline, and two with the edges of the first scan.

    Args:
        heads: scans on the prepared grid (X, Y, Z), skull on.
        brain: the mask, likewise.
        affine: of the grid; the planes are shown axial, coronal and sagittal whatever its axes are.
        names: a title for each scan.
        path: a PNG file.
        mask: what the title calls the mask.
    """
    axes = nib.io_orientation(affine)
    heads = {modality: nib.apply_orientation(voxels, axes) for modality, voxels in heads.items()}
    brain = nib.apply_orientation(brain, axes)
    centre = [int(round(c)) for c in (ndimage.center_of_mass(brain) if brain.any() else np.array(brain.shape) / 2)]
    first = next(iter(heads.values()))
    sheet = Image.new("RGB", (5 * _TILE, len(heads) * (_TILE + 16)), "black")
    pen = ImageDraw.Draw(sheet)
    for row, (modality, voxels) in enumerate(heads.items()):
        top = row * (_TILE + 16)
        title = f"{names[modality]}: {mask} in red; on the right, edges of {names[next(iter(heads))]} in green"
        title += "" if row else "; the patient's left is on the left"
        pen.text((4, top + 2), title, fill="white")
        inside = voxels[brain] if brain.any() else voxels
        white = _BRIGHTEST * float(np.percentile(inside, 99)) or 1.0
        for column, axis in enumerate((2, 1, 0)):
            tile = _tile(_plane(voxels, axis, centre), white, _border(_plane(brain, axis, centre)), _OUTLINE)
            sheet.paste(tile, (column * _TILE, top + 16))
        for column, axis in enumerate((2, 0), start=3):
            edges = _strong_edges(_plane(first, axis, centre), _plane(brain, axis, centre))
            sheet.paste(_tile(_plane(voxels, axis, centre), white, edges, _EDGES), (column * _TILE, top + 16))
    sheet.save(path, format="PNG")


def _plane(volume: NDArray[np.generic], axis: int, centre: list[int]) -> NDArray[np.generic]:
    return np.rot90(np.take(volume, centre[axis], axis=axis))


def _border(mask: NDArray[np.generic]) -> NDArray[np.bool_]:
    inside = mask.astype(bool)
    return np.asarray(inside & ~ndimage.binary_erosion(inside))


def _strong_edges(plane: NDArray[np.generic], brain: NDArray[np.generic]) -> NDArray[np.bool_]:
    """The strongest edges inside the brain, one pixel wide: where the gradient is largest along itself."""
    inside = ndimage.binary_erosion(brain.astype(bool), iterations=3)
    slope = np.stack([ndimage.gaussian_filter(plane.astype(np.float32), 1.0, order=o) for o in ((1, 0), (0, 1))])
    strength = np.linalg.norm(slope, axis=0)
    limit = np.quantile(strength[inside], _EDGE_QUANTILE) if inside.any() else np.inf
    step = slope / np.maximum(strength, 1e-6)
    here = np.indices(strength.shape)
    before, after = (ndimage.map_coordinates(strength, here + way * step, order=1) for way in (-1, 1))
    return np.asarray(inside & (strength > limit) & (strength >= before) & (strength >= after))


def _tile(
    plane: NDArray[np.generic], white: float, marked: NDArray[np.bool_], colour: tuple[int, int, int]
) -> Image.Image:
    grey = (np.clip(plane.astype(np.float32) / white, 0, 1) * 255).astype(np.uint8)
    rgb = np.stack([grey] * 3, axis=-1)
    rgb[marked] = colour
    image = Image.fromarray(rgb)
    scale = _TILE / max(image.size)
    image = image.resize(
        (max(int(image.width * scale), 1), max(int(image.height * scale), 1)), Image.Resampling.LANCZOS
    )
    tile = Image.new("RGB", (_TILE, _TILE), "black")
    tile.paste(image, ((_TILE - image.width) // 2, (_TILE - image.height) // 2))
    return tile
