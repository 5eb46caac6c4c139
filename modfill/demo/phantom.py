"""Realistic four-modality brain-tumour cases without any patient data.

The anatomy is the MNI152 template with its grey- and white-matter maps, which ship inside nilearn's wheel. It is
deformed at random, a glioblastoma is implanted, and the four modalities follow from the equations of `mr_signal`, with
partial volume, contrast agent, bias field and Rician noise.

    anatomy (tissue maps on the BraTS grid) -> tumour and vessels -> signal equations -> bias, noise -> int16 images
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from modfill.atomic import replacing, writable
from modfill.demo.mr_signal import MODALITY_SIGNALS
from modfill.errors import ModfillError

__all__ = ["Anatomy", "draw_anatomy", "make_case", "smooth_noise", "write_case"]

Volume = NDArray[np.floating]
"""An array, either over the field of view (180, 214, 155) or flat over the voxels of the brain."""

# The BraTS grid: 1 mm, LPS.
_GRID = (240, 240, 155)
_AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
# Everything is computed inside this part of the grid, which holds the whole brain.
_VIEW = (slice(30, 210), slice(16, 230), slice(0, 155))
_VIEW_SHAPE = tuple(part.stop - part.start for part in _VIEW)
# Where BraTS brains have the centre of their bounding box (voxels), and where the template has it (MNI, mm).
_BRAIN_CENTRE_VOXEL = np.array([118.5, 122.5, 77.0])
_BRAIN_CENTRE_MNI = np.array([0.0, -17.0, 5.0])
# MNI152 is larger than a head; these bring it to the mean bounding box of BraTS brains.
_MNI_PER_MM = np.array([1.06, 1.06, 1.13])


# T1-weighted intensity of the template in pure tissue, with which its local deviation from the maps is found.
_TEMPLATE_INTENSITY = {"csf": 0.24, "gm": 0.67, "wm": 0.875}


@dataclass(frozen=True)
class Anatomy:
    """Tissue of one head over the field of view of `make_case`: 1 mm, LPS.

    Attributes:
        fractions: of ``csf``, ``gm`` and ``wm`` in each voxel, 0 outside the brain.
        texture: local deviation of the template's intensity.
        brain: the mask.
        mni: MNI coordinates of each voxel in mm, (3, X, Y, Z).
        centre_distance: distance in mm to the tumour's centre.
    """

    fractions: dict[str, Volume]
    texture: Volume
    brain: NDArray[np.bool_]
    mni: Volume
    centre_distance: Volume


def make_case(seed: int = 0) -> dict[str, nib.Nifti1Image]:
    """Builds one skull-stripped brain-tumour case.

    Args:
        seed: Determines anatomy, tumour, sequence parameters, bias fields and noise.

    Returns:
        Images ``t1n``, ``t1c``, ``t2w``, ``t2f`` (scanner units, at least 1 in the brain and 0 outside it) and
        ``seg`` (0 background, 1 necrotic core, 2 oedema, 3 enhancing tumour), all int16 on the BraTS grid:
        240x240x155, 1 mm, LPS.

    Raises:
        ModfillError: If nilearn, which carries the template, is not installed.
    """
    rng = np.random.default_rng(seed)
    anatomy = draw_anatomy(rng)
    fractions, segmentation = _implant_tumour(rng, anatomy)
    _add_vessels(rng, anatomy, fractions)
    flat = {name: fraction[anatomy.brain] for name, fraction in fractions.items()}
    # Tissue is never uniform: its relaxation times vary with the template's own intensity and at random.
    lesion = 1 - sum(fractions[name] for name in ("csf", "gm", "wm"))
    myelin = anatomy.texture + 0.02 * smooth_noise(rng, 1.5) + 0.12 * lesion * smooth_noise(rng, 4)
    images = {
        modality: _to_image(_acquire(rng, signal(rng, flat, myelin[anatomy.brain]), anatomy.brain))
        for modality, signal in MODALITY_SIGNALS.items()
    }
    return images | {"seg": _to_image(segmentation)}


def write_case(folder: Path, case_id: str, images: dict[str, nib.Nifti1Image]) -> Path:
    """Writes the images of a case as ``<folder>/<case_id>/<case_id>-<key>.nii.gz``.

    Args:
        folder: Where the case folder is made; missing parents are made too.
        case_id: Name of the case.
        images: Image by key, as from `make_case`.

    Returns:
        The case folder.

    Raises:
        ModfillError: An image cannot be written.
    """
    case_folder = Path(folder) / case_id
    for key, image in images.items():
        path = case_folder / f"{case_id}-{key}.nii.gz"
        with writable(path), replacing(path) as temporary:
            nib.save(image, temporary)
    return case_folder


# Anatomy


def _load_template() -> tuple[dict[str, Volume], NDArray[np.float64]]:
    """Returns the template's maps ``t1``, ``gm`` and ``wm`` in [0, 1] and their common affine."""
    try:
        from nilearn import datasets  # late: it costs seconds and only the phantom needs it
    except ImportError as error:
        raise ModfillError("The phantom needs nilearn: pip install 'modfill[demo]'") from error
    loaders: dict[str, Callable[..., Any]] = {
        "t1": datasets.load_mni152_template,
        "gm": datasets.load_mni152_gm_template,
        "wm": datasets.load_mni152_wm_template,
    }
    images = {name: load(resolution=1) for name, load in loaders.items()}
    return {name: image.get_fdata(dtype=np.float32) for name, image in images.items()}, images["t1"].affine


def smooth_noise(rng: np.random.Generator, sigma: float, shape: Sequence[int] = _VIEW_SHAPE) -> Volume:
    """Returns noise of unit variance over a volume, correlated over `sigma` voxels.

    White noise on a lattice of spacing `sigma` is spread by a Gaussian, one axis at a time: much cheaper than a filter.
    """
    bases = []
    for length in shape:
        knots = np.arange(-2 * sigma, length + 3 * sigma, sigma)
        basis = np.exp(-(((np.arange(length)[:, None] - knots) / sigma) ** 2) / 2)
        bases.append((basis / np.linalg.norm(basis, axis=1, keepdims=True)).astype(np.float32))
    noise = rng.standard_normal([basis.shape[1] for basis in bases], dtype=np.float32)
    for basis in bases:
        noise = np.tensordot(noise, basis, axes=(0, 1))  # drops the first axis, appends its fine version: a cycle
    fine: Volume = np.ascontiguousarray(noise)
    return fine


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Samples the template's maps at randomly deformed places, pushed aside around a place for a tumour."""
    maps, affine = _load_template()
    mni = _draw_coordinates(rng)
    centre = _draw_tumour_centre(rng, maps["wm"], affine)
    offset = mni - centre[:, None, None, None]
    distance = np.sqrt((offset**2).sum(axis=0))
    # Mass effect: near the tumour the image shows tissue that used to lie closer to the tumour's centre.
    mni = mni - rng.uniform(0.15, 0.35) * offset * np.exp(-(distance**2) / (2 * 20.0**2))
    voxels = mni - affine[:3, 3].astype(np.float32)[:, None, None, None]  # the template is 1 mm RAS
    t1, gm, wm = (ndimage.map_coordinates(maps[name], voxels, order=1) for name in ("t1", "gm", "wm"))
    # Skull-stripping keeps the CSF inside the sulci but little of that around the brain.
    tissue = ndimage.binary_opening(gm + wm > 0.5, iterations=2)
    closed = ndimage.binary_closing(np.pad(tissue, 5), iterations=5)[5:-5, 5:-5, 5:-5]  # it would erode the border
    brain = ndimage.binary_fill_holes(_largest_part(closed))

    maps = {"csf": np.clip(1 - gm - wm, 0, 1), "gm": gm, "wm": wm}
    expected = sum(_TEMPLATE_INTENSITY[name] * fraction for name, fraction in maps.items())
    texture = np.clip(t1 - expected, -0.15, 0.15)
    # The template is a mean of 152 heads. One head has sharper borders and open sulci: the dips of the mean intensity.
    sulci = np.clip(ndimage.gaussian_filter(t1, 2.5) - t1, 0, None) * (wm < 0.2)
    maps["csf"] = maps["csf"] + rng.uniform(3.0, 5.0) * sulci
    sharp = {name: np.where(brain, fraction**1.7, 0) for name, fraction in maps.items()}
    total = np.maximum(sum(sharp.values()), 1e-6)
    return Anatomy({name: part / total for name, part in sharp.items()}, texture, brain, mni, distance)


def _draw_coordinates(rng: np.random.Generator) -> Volume:
    """Returns the MNI coordinates (3, x, y, z) in mm of each voxel of the field of view, for a random head."""
    scale = _MNI_PER_MM * rng.normal(1, 0.02, 3) * [-1, -1, 1]  # LPS voxels, RAS coordinates
    matrix = Rotation.from_euler("xyz", rng.normal(0, 2.0, 3), degrees=True).as_matrix() * scale
    start = np.array([part.start for part in _VIEW]) - _BRAIN_CENTRE_VOXEL
    steps = np.indices(_VIEW_SHAPE, dtype=np.float32)
    shift = (matrix @ start + _BRAIN_CENTRE_MNI).astype(np.float32)
    mni: Volume = np.tensordot(matrix.astype(np.float32), steps, axes=1) + shift[:, None, None, None]
    for axis in range(3):  # the shape of the head, then that of its folds
        mni[axis] += 2.5 * smooth_noise(rng, 28) + 0.9 * smooth_noise(rng, 7)
    return mni


def _draw_tumour_centre(rng: np.random.Generator, wm: Volume, affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Returns the MNI coordinates (mm) of a place deep in the white matter of one cerebral hemisphere."""
    deep = ndimage.uniform_filter(wm, 9) > 0.8
    places = np.argwhere(deep) + affine[:3, 3]
    places = places[(np.abs(places[:, 0]) > 20) & (places[:, 2] > -5)]
    centre: NDArray[np.float32] = places[rng.integers(len(places))].astype(np.float32)
    return centre


# Tumour and vessels


def _implant_tumour(rng: np.random.Generator, anatomy: Anatomy) -> tuple[dict[str, Volume], NDArray[np.int16]]:
    """Replaces tissue by necrosis, enhancing rim and oedema; returns all tissue fractions and the segmentation."""
    wm, gm = anatomy.fractions["wm"], anatomy.fractions["gm"]
    distance = anatomy.centre_distance * np.exp(0.16 * smooth_noise(rng, 9) + 0.05 * smooth_noise(rng, 3))
    radius = rng.uniform(12, 20)
    rim_width = rng.uniform(2.5, 4.5) * np.exp(0.35 * smooth_noise(rng, 6))
    tumour = _inside(radius - distance) * anatomy.brain
    necrosis = _inside(radius - rim_width - distance) * anatomy.brain

    # Oedema runs far along white matter and hardly enters the cortex.
    reach = radius + rng.uniform(12, 26) * (0.1 + 0.9 * ndimage.gaussian_filter(wm, 1.5))
    edge = anatomy.centre_distance * np.exp(0.2 * smooth_noise(rng, 12))
    spread = _inside((reach - edge) / 2)
    spread *= _largest_part((spread > 0.5) & (wm + 0.5 * gm > 0.4) | (tumour > 0.5))
    water = spread * rng.uniform(0.65, 0.9)
    oedema = (1 - tumour) * water * (wm + 0.6 * gm)

    # Parts of the rim have an intact blood-brain barrier: they look like oedema.
    leaky = np.clip(0.7 + 0.35 * smooth_noise(rng, 3), 0.2, 1)
    rim = (tumour - necrosis) * leaky
    fractions = {
        "csf": anatomy.fractions["csf"] * (1 - tumour),
        "gm": gm * (1 - tumour) * (1 - 0.6 * water),
        "wm": wm * (1 - tumour) * (1 - water),
        "oedema": oedema + (tumour - necrosis) * (1 - leaky),
        "necrosis": necrosis,
        "rim": rim,
    }
    segmentation = np.zeros(_VIEW_SHAPE, np.int16)
    segmentation[oedema > 0.35] = 2  # about half of what white matter can hold
    segmentation[tumour > 0.5] = 3
    segmentation[necrosis > 0.5] = 1
    return fractions, segmentation


def _inside(depth: Volume) -> Volume:
    """Returns the fraction of a voxel inside a border, from its depth (mm) below it."""
    fraction: Volume = 1 / (1 + np.exp(-np.clip(depth / 0.4, -30, 30)))
    return fraction


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the largest connected part of a mask."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest: NDArray[np.bool_] = labels == sizes.argmax()
    return largest


def _add_vessels(rng: np.random.Generator, anatomy: Anatomy, fractions: dict[str, Volume]) -> None:
    """Puts blood into `fractions`: thin winding vessels in the sulci and the superior sagittal sinus."""
    # Two random surfaces meet in winding curves; the vessels follow those that run through CSF.
    first, second = smooth_noise(rng, 7), smooth_noise(rng, 7)
    curves = np.exp(-(first**2 + second**2) / (2 * 0.16**2)) * np.clip(2.5 * fractions["csf"], 0, 1)
    surface = anatomy.brain & ~ndimage.binary_erosion(anatomy.brain, iterations=4)
    sinus = np.exp(-((anatomy.mni[0] / 2.2) ** 2) / 2) * (surface & (anatomy.mni[2] > 0))
    blood = np.clip(np.maximum(curves, sinus), 0, 1) * anatomy.brain
    for name in fractions:
        fractions[name] = fractions[name] * (1 - blood)
    fractions["blood"] = blood


# Image


def _acquire(rng: np.random.Generator, signal: Volume, brain: NDArray[np.bool_]) -> NDArray[np.int16]:
    """Adds bias field and Rician noise to the brain's signal and scales it to a scanner's integers."""
    volume = np.zeros(_VIEW_SHAPE, np.float32)
    volume[brain] = signal / np.median(signal)
    volume *= np.exp(rng.uniform(0.04, 0.12) * smooth_noise(rng, 60))
    # Noise is white in the scanner; the resampling that every prepared case has been through correlates it.
    real, imaginary = (ndimage.gaussian_filter(rng.standard_normal(_VIEW_SHAPE, np.float32), 0.6) for _ in range(2))
    deviation = rng.uniform(0.03, 0.08)
    volume = np.hypot(volume + deviation * real, deviation * imaginary)
    scaled = np.rint(volume * rng.uniform(300, 1000))
    return np.where(brain, np.clip(scaled, 1, np.iinfo(np.int16).max), 0).astype(np.int16)


def _to_image(values: NDArray[np.int16]) -> nib.Nifti1Image:
    """Puts values over the field of view into the BraTS grid."""
    grid = np.zeros(_GRID, np.int16)
    grid[_VIEW] = values
    image = nib.Nifti1Image(grid, _AFFINE)
    image.set_qform(_AFFINE, code=1)
    image.set_sform(_AFFINE, code=1)
    return image
