"""Phantoms in IXI's layout: whole heads on IXI's grids, with known movements between T1 and T2. No figure is IXI's.

    label map -> deformed tissue fractions -> skull, scalp, face and neck -> signal equations -> IXI's grids, noise

T1 is sagittal, 256x256x150 voxels of 0.94 x 0.94 x 1.2 mm. T2 and PD are axial, 256x256x130 voxels of 0.94 x 0.94 x
1.25 mm, echoes of one acquisition: on one grid, and moved together. All axes are slightly oblique.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from modfill.atomic import replacing, writable
from modfill.demo.mr_signal import MODALITY_SIGNALS, mixed_signal, spin_echo
from modfill.demo.phantom import draw_anatomy, smooth_noise
from modfill.errors import ModfillError
from modfill.prepare.grid import Grid, resample
from modfill.prepare.images import save_image
from modfill.prepare.scan import inverse

__all__ = ["MOVED", "head", "write_phantom"]

Volume = NDArray[np.float32]
Matrix = NDArray[np.float64]

MOVED = "moved"
"""Folder of the archive with a JSON file for each phantom: the rigid transform from T1's world to T2's."""

FIELD = (200, 250, 250)  # voxels of 1 mm, RAS, in which a head is built
BRAIN_CENTRE = np.array([100.0, 125.0, 155.0])  # voxels of the field
DEGREES, MILLIMETRES = 6.0, 8.0  # a subject's movement between two scans, at most

# FreeSurfer's labels of the left side and of the middle; those of the right side are 39 to 44 or 36 larger.
_CSF, _WM = (4, 5, 14, 15, 24, 30, 31), (2, 7, 28, 85)
_DEEP = {10: 0.4, 11: 0.1, 12: 0.15, 13: 0.7, 16: 0.85}  # share of white matter in grey nuclei and the brainstem
_RIGHT = {**{label + 39: label for label in range(2, 9)}, **{label + 36: label for label in (13, 17, 18)},
          49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 58: 26, 60: 28, 62: 30, 63: 31}  # fmt: skip


def head(rng: np.random.Generator, labels: Path | None) -> tuple[dict[str, Volume], Volume]:
    """Build a whole head.

    Args:
        rng: of all that is random.
        labels: a whole-brain label map by FreeSurfer's numbers; None takes the anatomy of the demo's phantom.

    Returns:
        The fraction of each tissue in each voxel of `FIELD`, and the local deviation of its relaxation times.
    """
    brain = _brain_of_labels(rng, labels) if labels else _brain_of_demo(rng)
    hull = ndimage.binary_closing(sum(brain.values()) > 0.5, iterations=6)
    hull = ndimage.binary_fill_holes(hull)
    depth = ndimage.distance_transform_edt(~hull).astype(np.float32) + 0.6 * smooth_noise(rng, 12, FIELD)
    scalp = 7 + 2.5 * smooth_noise(rng, 40, FIELD)
    fractions = {**brain, "bone": _zeros(), "fat": _zeros(), "muscle": _zeros()}
    fractions["csf"] = np.where(hull | (depth < 2), 1 - brain["gm"] - brain["wm"], 0).astype(np.float32)
    inside = hull | (depth < 2)
    skull = ~inside & (depth < 8.5)
    marrow = skull & (depth > 4) & (depth < 6.5)
    cover = ~inside & ~skull & (depth < 8.5 + np.clip(scalp, 3, 14))
    soft = (_face() & ~inside & ~skull) | cover
    rim = ndimage.distance_transform_edt(soft | inside | skull)
    eyes = soft & _spheres([(68, 213, 125), (132, 213, 125)], 12)
    cavity = soft & _spheres([(100, 195, 95), (100, 175, 90), (84, 200, 95), (114, 203, 93)], 13) & (rim > 4)
    fat = soft & (rim > 2) & (rim < 7)
    soft &= ~eyes & ~cavity
    fractions["bone"] = np.where(skull, np.where(marrow, 0.5, 1.0), 0).astype(np.float32)
    fractions["fat"] = np.where(marrow, 0.5, np.where(fat & soft, 0.9, np.where(soft, 0.12, 0))).astype(np.float32)
    fractions["muscle"] = np.where(soft, np.where(fat, 0.1, 0.88), 0).astype(np.float32)
    fractions["csf"] = np.where(eyes, 1, fractions["csf"]).astype(np.float32)
    blurred = {name: ndimage.gaussian_filter(part, 0.5) for name, part in fractions.items()}
    myelin = 0.02 * smooth_noise(rng, 1.5, FIELD) + 0.04 * smooth_noise(rng, 10, FIELD)
    return blurred, myelin.astype(np.float32)


def write_phantom(number: int, out: Path, labels: Path | None = None) -> str:
    """Write the three files of a subject, in a folder for each modality, and its movement beside them.

    Args:
        number: from 1; determines everything.
        out: the folder of the archive.
        labels: as for `head`.

    Returns:
        The subject. A finished one is not made again.

    Raises:
        ModfillError: a file cannot be written.
    """
    subject = f"IXI{900 + number % 100}-Phantom-{number:04d}"
    truth = out / MOVED / f"{subject}.json"
    if truth.exists():
        return subject
    rng = np.random.default_rng(number)
    fractions, myelin = head(rng, labels)
    shown = np.sum(list(fractions.values()), axis=0) > 0.02
    flat, local = {name: part[shown] for name, part in fractions.items()}, myelin[shown]
    tr = rng.uniform(5700, 8200)  # of both echoes
    signals = {
        "t1": MODALITY_SIGNALS["t1n"](rng, flat, local),
        "t2": mixed_signal(flat, local, partial(spin_echo, tr=tr, te=rng.uniform(90, 105))),
        "pd": mixed_signal(flat, local, partial(spin_echo, tr=tr, te=rng.uniform(8, 15))),
    }
    moved = _movement(rng)
    grids = {"t1": _sagittal(rng), "t2": _axial(rng, moved)}
    with writable(out, ModfillError):
        for modality, signal in signals.items():
            grid = grids["t1" if modality == "t1" else "t2"]
            voxels = _acquired(rng, signal, shown, grid, np.eye(4) if modality == "t1" else moved)
            place = out / f"IXI-{modality.upper()}" / f"{subject}-{modality.upper()}.nii.gz"
            with replacing(place) as temporary:
                save_image(voxels, grid, temporary)
        with replacing(truth) as temporary:  # last: all files are there
            temporary.write_text(json.dumps(moved.tolist()), encoding="utf8")
    return subject


def _zeros() -> Volume:
    return np.zeros(FIELD, np.float32)


def _brain_of_labels(rng: np.random.Generator, path: Path) -> dict[str, Volume]:
    """Tissue fractions of a label map, turned, scaled, bent and perhaps mirrored at random."""
    image = nib.as_closest_canonical(nib.Nifti1Image.from_filename(path))
    labels = np.asarray(image.dataobj).astype(int)
    if rng.random() < 0.5:
        labels = labels[::-1]
    shares = np.zeros((max(int(labels.max()), 255) + 1, 3), np.float32)  # of CSF, grey and white matter by label
    shares[1:, 1] = 1
    for label in range(1, len(shares)):
        own = _RIGHT.get(label, label)
        white = 1.0 if own in _WM else _DEEP.get(own, 0.0)
        shares[label] = (1, 0, 0) if own in _CSF else (0, 1 - white, white)
    turn = Rotation.from_euler("xyz", rng.normal(0, 3, 3), degrees=True).as_matrix() / rng.normal(1, 0.03, 3)
    turn = turn / image.header.get_zooms()[:3]
    places = np.indices(FIELD, dtype=np.float32) - BRAIN_CENTRE.astype(np.float32)[:, None, None, None]
    places = np.tensordot(turn.astype(np.float32), places, axes=1)
    for axis in range(3):
        places[axis] += (
            (labels.shape[axis] - 1) / 2 + 2 * smooth_noise(rng, 30, FIELD) + 0.8 * smooth_noise(rng, 9, FIELD)
        )
    maps = (shares[labels][..., k] for k in range(3))
    names = ("csf", "gm", "wm")
    return {name: ndimage.map_coordinates(part, places, order=1) for name, part in zip(names, maps, strict=True)}


def _brain_of_demo(rng: np.random.Generator) -> dict[str, Volume]:
    """Tissue fractions of the demo's phantom, without a tumour."""
    anatomy = draw_anatomy(rng)
    centre = ndimage.center_of_mass(anatomy.brain[::-1, ::-1])
    low = np.round(BRAIN_CENTRE - centre).astype(int)
    fractions = {}
    for name, part in anatomy.fractions.items():
        fractions[name] = _zeros()
        source = part[::-1, ::-1]  # LPS -> RAS
        to = tuple(slice(max(a, 0), min(a + n, f)) for a, n, f in zip(low, source.shape, FIELD, strict=True))
        own = tuple(slice(t.start - a, t.stop - a) for a, t in zip(low, to, strict=True))
        fractions[name][to] = source[own]
    return fractions


def _face() -> NDArray[np.bool_]:
    """Face, jaw and neck."""
    x, y, z = np.ogrid[: FIELD[0], : FIELD[1], : FIELD[2]]
    face = ((x - 100) / 60) ** 2 + ((y - 165) / 62) ** 2 + ((z - 85) / 72) ** 2 < 1
    neck = (((x - 100) / 55) ** 2 + ((y - 105) / 58) ** 2 < 1) & (z < 110)
    nose = ((x - 100) / 12) ** 2 + ((y - 226) / 18) ** 2 + ((z - 100) / 22) ** 2 < 1
    return np.asarray(face | neck | nose)


def _spheres(centres: list[tuple[int, int, int]], radius: float) -> NDArray[np.bool_]:
    x, y, z = np.ogrid[: FIELD[0], : FIELD[1], : FIELD[2]]
    found = np.zeros(FIELD, bool)
    for a, b, c in centres:
        found |= (x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 < radius**2
    return found


def _movement(rng: np.random.Generator) -> Matrix:
    """A small rigid transform about the head's centre, which is the origin of the world."""
    axis, way = rng.normal(size=(2, 3))
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_rotvec(
        axis / np.linalg.norm(axis) * np.deg2rad(rng.uniform(0.3, 1) * DEGREES)
    ).as_matrix()
    moved[:3, 3] = way / np.linalg.norm(way) * rng.uniform(0.3, 1) * MILLIMETRES
    return moved


def _grid(axes: Mapping[int, tuple[float, float]], shape: tuple[int, int, int], turn: Matrix, centre: Matrix) -> Grid:
    """A grid whose voxel axis k runs along world axis `axes[k]`, given as (world axis, signed spacing in mm)."""
    affine = np.eye(4)
    for k, (world_axis, spacing) in axes.items():
        affine[:3, k] = turn[:, int(world_axis)] * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def _oblique(rng: np.random.Generator) -> Matrix:
    return np.asarray(Rotation.from_euler("xyz", rng.normal(0, 3, 3), degrees=True).as_matrix())


def _sagittal(rng: np.random.Generator) -> Grid:
    """T1: axes to the back, up and to the right."""
    axes = {0: (1, -0.9375), 1: (2, 0.9375), 2: (0, 1.2)}
    return _grid(axes, (256, 256, 150), _oblique(rng), np.array([0.0, 3.0, -22.0]) + rng.uniform(-4, 4, 3))


def _axial(rng: np.random.Generator, moved: Matrix) -> Grid:
    """T2 and PD: axes to the left, to the back and up, from the vertex down to the foramen magnum."""
    axes = {0: (0, -0.9375), 1: (1, -0.9375), 2: (2, 1.25)}
    centre = moved[:3, 3] + np.array([0.0, 3.0, 13.0]) + rng.uniform(-3, 3, 3)
    return _grid(axes, (256, 256, 130), _oblique(rng), centre)


def _acquired(
    rng: np.random.Generator, signal: NDArray[np.floating], shown: NDArray[np.bool_], grid: Grid, moved: Matrix
) -> NDArray[np.int16]:
    """The signal of a moved head on a scanner's grid, with a bias field and Rician noise of 2 to 4 %."""
    voxels = _zeros()
    voxels[shown] = signal / np.percentile(signal, 75)
    voxels *= np.exp(rng.uniform(0.04, 0.1) * smooth_noise(rng, 60, FIELD))
    own = np.eye(4)
    own[:3, 3] = -BRAIN_CENTRE
    sampled = resample(voxels, Grid(FIELD, own), grid, inverse(moved), order=1)
    level = rng.uniform(0.02, 0.04)
    real, imaginary = (level * rng.standard_normal(grid.shape, np.float32) for _ in range(2))
    return np.asarray(np.rint(np.hypot(sampled + real, imaginary) * rng.uniform(250, 500)), np.int16)
