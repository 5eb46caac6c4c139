"""Which of two images looks more like which modality: a small rule that suspects exchanged files.

Each image is described by a few figures of its brain; for two modalities, a linear rule on the difference of their
figures says how well the names fit: about 1 where they do, negative where the exchanged names fit better. The weights
are Fisher's discriminant over 26 training cases; `benchmarks/swaps.py` makes them and measures the rule on others.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
from nibabel.affines import voxel_sizes
from scipy.ndimage import distance_transform_edt
from scipy.stats import skew

from modfill.cases.brain import brain_mask
from modfill.cases.reading import Case
from modfill.preprocessing.intensity import IntensityScale
from modfill.preprocessing.prepare import MINIMUM_BRAIN

__all__ = ["ACCURACY", "MARGIN", "WEIGHTS", "describe_pairs", "suspected_swap"]

ACCURACY = (
    "9 other cases, prepared like the training cases: no false alarm, 52 of 54 exchanges found, 43 with the right two; "
    "3 cases prepared otherwise: 1 false alarm, 18 of 18 found"
)
"""The measured worth of the rule."""

_STEP = 2.0  # mm: every second voxel of 1 mm tells enough
_RIM = (2.0, 6.0)  # mm from the background: cortex and the fluid around it
_DEEP = 16.0  # mm: white matter, deep nuclei, ventricles

MARGIN = 0.3
"""A score below minus this is a suspicion; on the training cases left out in turn: no false alarm, 152 of 156 found."""

WEIGHTS: dict[tuple[str, str], tuple[float, ...]] = {
    ("t1n", "t1c"): (-0.3064, -1.2323, 0.0105, 0.0258, 4.624, 0.0652, -0.2147, 0.5219, -0.3561),
    ("t1n", "t2w"): (-0.4174, -0.3771, -0.0324, 0.0076, -1.9601, 0.0964, -0.2563, 0.3568, -0.4667),
    ("t1n", "t2f"): (-1.562, -0.8866, -0.1111, -0.1093, -6.6405, 0.1003, -0.4849, -0.7949, 0.1656),
    ("t1c", "t2w"): (-1.0418, -0.21, -0.0478, 0.0251, -0.2883, 0.1532, 0.0417, 1.639, -0.6049),
    ("t1c", "t2f"): (-2.9862, -1.1909, -0.1148, -0.0387, -20.5724, -0.6618, -0.1957, 2.6922, 0.6425),
    ("t2w", "t2f"): (0.4002, -0.2442, 0.0503, 0.0066, -3.5648, -0.0204, -0.1, 0.2811, 0.3376),
}
"""For each two modalities, a weight for each figure of `describe_pairs`."""


def suspected_swap(case: Case) -> tuple[str, str] | None:
    """The two available modalities of the BraTS set whose files look exchanged, or None; see `ACCURACY`.

    Args:
        case: A case with its voxels. One image alone cannot be judged.
    """
    if any(pair not in WEIGHTS for pair in combinations(case.available, 2)):
        return None  # another set of modalities, for which there is no rule
    scores = {pair: float(np.dot(WEIGHTS[pair], figures)) for pair, figures in describe_pairs(case).items()}
    worst = min(scores, key=lambda pair: scores[pair], default=None)
    return worst if worst is not None and scores[worst] < -MARGIN else None


def describe_pairs(case: Case) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
    """Figures of each two available modalities, of which all change their sign when the two are exchanged.

    Args:
        case: A case with its voxels.

    Returns:
        By pair, in the order of the set, nine figures: the differences of the rim's mean, the deep part's mean,
        the skewness, the fourth moment, the share of dark voxels, the 1st and 99th percentile and the rim's standard
        deviation, all of z-scored intensities; and the skewness of the difference image. Empty without a brain.
    """
    spacing = np.asarray(voxel_sizes(next(iter(case.images.values())).affine))
    steps = tuple(slice(None, None, max(1, round(_STEP / size))) for size in spacing)
    whole = {modality: case.volume(modality) for modality in case.available}
    thin = {modality: volume[steps] for modality, volume in whole.items()}
    brain = brain_mask(whole)[steps]
    if brain.sum() < MINIMUM_BRAIN:
        return {}
    sampling = [size * step.step for size, step in zip(spacing, steps, strict=True)]
    depth = distance_transform_edt(np.pad(brain, 1), sampling)[1:-1, 1:-1, 1:-1][brain]
    scores = {m: IntensityScale.of(volume, brain).normalise(volume[brain]) for m, volume in thin.items()}
    single = {modality: _figures(values, depth) for modality, values in scores.items()}
    pairs = combinations(case.available, 2)
    return {(a, b): np.append(single[a] - single[b], skew(scores[a] - scores[b])) for a, b in pairs}


def _figures(values: npt.NDArray[np.float32], depth: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Figures of one image: z-scores of its brain's voxels, and how deep in mm each lies."""
    rim, deep = values[(depth > _RIM[0]) & (depth <= _RIM[1])], values[depth > _DEEP]
    low, high = np.percentile(values, (1, 99))
    return np.array([
        rim.mean() if rim.size else 0, deep.mean() if deep.size else 0, skew(values), np.mean(values**4),
        np.mean(values < -2), low, high, rim.std() if rim.size else 0,
    ])  # fmt: skip
