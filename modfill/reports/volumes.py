"""Whole volumes for the viewer of a page: the slices of the brain's box side by side, as one grey WebP data URI."""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel import orientations

from modfill.reports.strips import Frame, Volume

__all__ = ["EncodedVolume", "Grid", "encode_image", "encode_map"]

AXES = ("L", "P", "I")  # with these, x right and y down, every plane is shown as radiologists expect it
MOST_OF_IMAGE = 208  # voxels along an axis, more are averaged; the longest brain has about 190 of 1 mm
MOST_OF_MAP = 104  # maps of uncertainty are smooth
IMAGE_QUALITY = 60  # of WebP: 0.25 MB an image of 1 mm, at 31 to 35 dB
MAP_QUALITY = 50


@dataclass(frozen=True)
class EncodedVolume:
    """A volume: `uri` holds its slices from head to feet, row by row; `shape` is that of the volume."""

    uri: str
    shape: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Grid:
    """The grid of a case's volumes in the viewer: the box of the brain, axes towards the patient's left, back and feet.

    Attributes:
        orientation: (3, 2) from the file's axes to these, as ``nibabel.orientations`` writes it.
        start: First voxel of the box.
        size: Voxels of the box, along each axis a multiple of `map_steps`; beyond the image it is empty.
        steps: Voxels that are averaged into one of an image, along each axis.
        map_steps: The same of a map, multiples of `steps`.
        spacing: mm between the averaged voxels of an image.
        to_voxel: (4, 4) from averaged voxels of an image to voxels of the file.
        to_world: (4, 4) from the same to mm.
    """

    orientation: npt.NDArray[np.float64]
    start: tuple[int, ...]
    size: tuple[int, ...]
    steps: tuple[int, ...]
    map_steps: tuple[int, ...]
    spacing: tuple[float, ...]
    to_voxel: npt.NDArray[np.float64]
    to_world: npt.NDArray[np.float64]

    @classmethod
    def of(cls, image: nib.Nifti1Image, frame: Frame) -> Grid:
        """The grid of an image and the frame of its case."""
        orientation = orientations.ornt_transform(
            orientations.io_orientation(image.affine), orientations.axcodes2ornt(AXES)
        )
        to_file = orientations.inv_ornt_aff(orientation, image.shape)
        shape = np.array(image.shape)[np.argsort(orientation[:, 0])]
        # the frame counts from the other end of each axis
        start = np.array([length - stop for length, (_, stop) in zip(shape, frame.box, strict=True)])
        lengths = np.array([stop - first for first, stop in frame.box])
        steps = -(-lengths // MOST_OF_IMAGE)
        map_steps = steps * -(-lengths // (steps * MOST_OF_MAP))
        centred = nib.affines.from_matvec(np.diag(steps), start + (steps - 1) / 2)
        return cls(
            orientation,
            tuple(start.tolist()),
            tuple((-(-lengths // map_steps) * map_steps).tolist()),
            tuple(steps.tolist()),
            tuple(map_steps.tolist()),
            tuple(float(zoom) * int(step) for zoom, step in zip(frame.zooms, steps, strict=True)),
            to_file @ centred,
            image.affine @ to_file @ centred,
        )

    def as_json(self) -> str:
        """Spacing and the first three rows of both matrices, as the viewer reads them."""
        rows = {"voxel": self.to_voxel, "world": self.to_world}
        facts = {name: np.round(matrix[:3], 5).tolist() for name, matrix in rows.items()}
        return json.dumps({"spacing": self.spacing, **facts}, separators=(",", ":"))

    def averaged(self, volume: Volume, steps: tuple[int, ...]) -> Volume:
        """The box of a volume in the file's orientation, averaged over blocks of `steps` voxels."""
        turned = orientations.apply_orientation(volume, self.orientation)
        ends = [first + size for first, size in zip(self.start, self.size, strict=True)]
        boxed = turned[tuple(slice(*pair) for pair in zip(self.start, ends, strict=True))]
        whole = np.pad(boxed, [(0, size - found) for size, found in zip(self.size, boxed.shape, strict=True)])
        (x, y, z), (dx, dy, dz) = self.size, steps
        return whole.reshape(x // dx, dx, y // dy, dy, z // dz, dz).mean(axis=(1, 3, 5), dtype=np.float32)


def encode_image(grey: Volume, grid: Grid) -> EncodedVolume:
    """Encode an image (X, Y, Z) in the file's orientation, from 0 (black) to 1 (white)."""
    return _encode(grid.averaged(grey, grid.steps), IMAGE_QUALITY)


def encode_map(opacity: Volume, grid: Grid) -> EncodedVolume:
    """Encode a map (X, Y, Z) in the file's orientation, from 0 to 1, on a coarser grid than images."""
    return _encode(grid.averaged(opacity, grid.map_steps), MAP_QUALITY)


def _encode(volume: Volume, quality: int) -> EncodedVolume:
    from PIL import Image

    width, height, depth = volume.shape
    columns = math.ceil(math.sqrt(depth))
    rows = math.ceil(depth / columns)
    tiles = np.zeros((rows * columns, height, width), np.uint8)
    tiles[:depth] = np.rint(255 * volume.transpose(2, 1, 0))
    mosaic = tiles.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    stream = io.BytesIO()
    Image.fromarray(mosaic).save(stream, "WEBP", quality=quality)
    uri = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
    return EncodedVolume(uri, (width, height, depth))
