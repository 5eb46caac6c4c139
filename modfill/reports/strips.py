"""Small pictures of a volume for web pages: its middle slices in three planes side by side, as a JPEG data URI."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["Frame", "Strip", "Volume", "draw_strip", "grey_values", "opacities"]

Volume = npt.NDArray[np.float32]

AMBER = (255, 180, 84)
INK = (14, 17, 22)
PERCENTILES = (0.5, 99.8)  # of the brain: black and white
MARGIN = 3  # voxels around the brain
GAP = 6  # pixels between the planes
BAND = 0.09  # of the frame's edge: height of the mark below them, so that it is read at whatever size they are shown
STRONGEST = 0.85  # opacity of the overlay at its limit
QUALITY = 82


@dataclass(frozen=True)
class Strip:
    """A picture: `uri` holds all of it; `width` and `height` in pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Frame:
    """The view of every volume of a case: the same slices, the same box, the same scale.

    Attributes:
        box: of the brain with a margin, start and stop per axis of the RAS grid.
        zooms: mm per voxel and RAS axis.
        edge: pixels of the brain's longest edge.
    """

    box: tuple[tuple[int, int], ...]
    zooms: tuple[float, ...]
    edge: int

    @classmethod
    def of(cls, image: nib.Nifti1Image, edge: int) -> Frame:
        """The frame of an image that is 0 outside the brain."""
        canonical = nib.as_closest_canonical(image)
        brain = np.asanyarray(canonical.dataobj) != 0
        box = []
        for axis, length in enumerate(brain.shape):
            inside = np.flatnonzero(brain.any(axis=tuple(a for a in range(3) if a != axis)))
            first, last = (inside[0], inside[-1]) if inside.size else (0, length - 1)
            box.append((max(int(first) - MARGIN, 0), min(int(last) + 1 + MARGIN, length)))
        return cls(tuple(box), tuple(float(zoom) for zoom in canonical.header.get_zooms()[:3]), edge)

    def planes(self, volume: Volume) -> list[tuple[Volume, tuple[int, int]]]:
        """Axial, coronal and sagittal slice of a RAS volume, each with its width and height in pixels.

        The patient's right is on the left, the nose on top (axial) or on the left (sagittal).
        """
        boxed = volume[tuple(slice(*ends) for ends in self.box)]
        scale = self.edge / max(size * zoom for size, zoom in zip(boxed.shape, self.zooms, strict=True))
        planes = []
        for axis in (2, 1, 0):
            across, up = (a for a in range(3) if a != axis)
            shown = np.take(boxed, boxed.shape[axis] // 2, axis)[::-1, ::-1].T
            size = [max(1, round(boxed.shape[a] * self.zooms[a] * scale)) for a in (across, up)]
            planes.append((shown, (size[0], size[1])))
        return planes


def grey_values(volume: Volume) -> Volume:
    """From 0 (black, and the background) to 1 (white) over the range of the brain's intensities.

    Args:
        volume: (X, Y, Z), 0 outside the brain.
    """
    low, high = np.percentile(volume[volume != 0], PERCENTILES)
    return np.where(volume == 0, np.float32(0), np.clip((volume - low) / max(high - low, 1e-12), 0, 1))


def opacities(volume: Volume, limit: float) -> Volume:
    """From 0 to 1 where the map's value is `limit`, above 0, or more."""
    return np.clip(volume / np.float32(limit), 0, 1)


def draw_strip(
    image: nib.Nifti1Image,
    frame: Frame,
    overlay: nib.Nifti1Image | None = None,
    limit: float = 1.0,
    mark: str = "",
) -> Strip:
    """Draw the slices of an image, from black to white over the range of its brain's intensities.

    Args:
        image: (X, Y, Z), 0 outside the brain.
        frame: of its case.
        overlay: (X, Y, Z) on the same grid, laid over in amber, the stronger the larger.
        limit: the overlay's value from which on it is strongest, above 0.
        mark: written into the picture, below the slices, so that it outlives its surroundings.
    """
    from PIL import Image, ImageDraw

    grey = grey_values(_ras(image))
    shades = [grey] * 3
    if overlay is not None:
        opacity = STRONGEST * opacities(_ras(overlay), limit)
        shades = [(1 - opacity) * grey + opacity * np.float32(part / 255) for part in AMBER]
    pictures = []
    for channels in zip(*(frame.planes(shade) for shade in shades), strict=True):
        pixels = np.stack([np.rint(255 * plane) for plane, _ in channels], axis=-1).astype(np.uint8)
        pictures.append(Image.fromarray(pixels).resize(channels[0][1], Image.Resampling.BICUBIC))
    height, band = max(picture.height for picture in pictures), max(round(BAND * frame.edge), 8) if mark else 0
    strip = Image.new("RGB", (sum(p.width for p in pictures) + 2 * GAP, height + band))
    left = 0
    for picture in pictures:
        strip.paste(picture, (left, (height - picture.height) // 2))
        left += picture.width + GAP
    if mark:
        draw = ImageDraw.Draw(strip)
        draw.rectangle((0, height, strip.width, strip.height), AMBER)
        draw.text((strip.width // 2, height + band // 2), mark, INK, anchor="mm", font_size=0.75 * band)
    return _encode(strip if overlay is not None or mark else strip.convert("L"))


def _ras(image: nib.Nifti1Image) -> Volume:
    return np.asarray(nib.as_closest_canonical(image).dataobj, np.float32)


def _encode(picture: Picture) -> Strip:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    return Strip(
        "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode(), picture.width, picture.height
    )
