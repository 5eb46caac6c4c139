"""Rigid registration of two scans of one patient, and the checks that it succeeded.

Both scans are brought to isotropic voxels. A search over starting positions at 8 mm finds the neighbourhood of the
optimum, then the mutual information is maximised at 4, 2 and 1.5 mm (Mattes et al. 2003, by SimpleITK).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modfill.errors import CaseError
from modfill.prepare.scan import Matrix, Scan, as_sitk, world

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["Registration", "register"]

COARSE = 8.0  # mm, at which the starting positions are tried
LEVELS = (4.0, 2.0, 1.5)  # mm, of the refinement
ANGLES = (-24.0, 0.0, 24.0)  # degrees about each axis, of the starting positions
STARTS = 4  # of the best starting positions are optimised
BINS = 32
RESTARTS, GAIN = 12, 0.002  # at `MIDDLE`: at most so many, while each gains so many nats
SAMPLES = 25_000  # voxels of the head in which the metric is taken
SEED = 1
ITERATIONS, RELAXATION = 150, 0.8  # a step that is halved at each turn (0.5) ends short of the optimum
PERTURBATION = (np.array([4.0, -4.0, 4.0]), np.array([6.0, 6.0, -6.0]))  # degrees, mm
MIDDLE = LEVELS[0]  # mm, at which the result is judged
LEAST_OVERLAP = 0.5  # Dice of two heads; a neck in one field of view alone leaves some 0.6
MOST_APART = 2.0  # mm between the results of two starts, on average over the head
AS_GOOD = 0.9  # of the mutual information, which falls to some 0.87 in 2 mm: another result is as likely from here on


@dataclass(frozen=True, eq=False)
class Registration:
    """The position of a scan relative to the reference.

    Attributes:
        matrix: reference world -> the scan's world, RAS, mm, (4, 4).
        information: mutual information in the result, and at the scanner's own positions, in nats.
        apart: mean distance in mm over the reference's head between this result and one from a perturbed start.
        perturbed: mutual information in the result of the perturbed start, in nats.
        overlap: Dice of the two heads.
        doubts: reasons to distrust the result; empty if there are none.
    """

    matrix: Matrix
    information: tuple[float, float]
    apart: float
    perturbed: float
    overlap: float
    doubts: tuple[str, ...]


def register(reference: Scan, scan: Scan) -> Registration:
    """Find the rigid transform from the reference's world to the scan's.

    Raises:
        CaseError: an image shows no head.
    """
    import SimpleITK as sitk

    pair = _Pair(_pyramid(as_sitk(reference)), _pyramid(as_sitk(scan)))
    for one, head in zip((reference, scan), pair.heads, strict=True):
        if not sitk_array(head).any():
            raise CaseError(f"{one.path} must show a head, got nothing brighter than the rest; check the image")
    found = _refined(pair, _best_start(pair), LEVELS)
    unmoved = sitk.Euler3DTransform()
    unmoved.SetCenter(found.GetCenter())
    if pair.information(unmoved) > pair.information(found):  # the scanner's positions are right, or nearly
        found = max(found, _refined(pair, unmoved, LEVELS), key=pair.information)
    again = _refined(pair, _perturbed(found), LEVELS[:-1])
    points = head_points(pair.heads[0])
    if _apart(found, again, points) > MOST_APART:  # the descent may have ended short of the optimum
        again = _refined(pair, again, LEVELS)
    if pair.information(again) > pair.information(found):
        found, again = _refined(pair, again, LEVELS[-1:]), found
    information, perturbed = (pair.information(found), pair.information(unmoved)), pair.information(again)
    apart = _apart(found, again, points)
    overlap = _overlap(pair.heads, found)
    doubts = []
    if information[0] < information[1] and _apart(found, unmoved, points) > MOST_APART:
        doubts.append(f"mutual information {information[0]:.3f} is below that of the scanner's positions")
    if apart > MOST_APART and perturbed > AS_GOOD * information[0]:  # a worse one is a local optimum
        doubts.append(f"a perturbed start ends {apart:.1f} mm away and is as good ({perturbed:.3f})")
    if overlap < LEAST_OVERLAP:
        doubts.append(f"the heads overlap by {overlap:.2f} only (Dice)")
    return Registration(_matrix(found), information, apart, perturbed, overlap, tuple(doubts))


class _Pair:
    """Two scans at several resolutions, and their heads."""

    def __init__(self, fixed: dict[float, sitk.Image], moving: dict[float, sitk.Image]):
        self.fixed, self.moving = fixed, moving
        self.heads = [head_mask(images[MIDDLE]) for images in (fixed, moving)]
        self.volume = float(np.count_nonzero(sitk_array(self.heads[0]))) * MIDDLE**3

    def information(self, transform: sitk.Euler3DTransform) -> float:
        """Mutual information at 4 mm, in nats."""
        method = _metric(1.0)
        method.SetInitialTransform(transform, inPlace=False)
        return -_value(method, self.fixed[MIDDLE], self.moving[MIDDLE])


def sitk_array(image: sitk.Image) -> NDArray[np.generic]:
    """The voxels of an image, (Z, Y, X)."""
    import SimpleITK as sitk

    return np.asarray(sitk.GetArrayViewFromImage(image))


def _pyramid(image: sitk.Image) -> dict[float, sitk.Image]:
    return {spacing: isotropic(image, spacing) for spacing in (COARSE, *LEVELS)}


def isotropic(image: sitk.Image, spacing: float) -> sitk.Image:
    """The same field of view with voxels of `spacing` mm, smoothed where the own voxels are smaller."""
    import SimpleITK as sitk

    own = image.GetSpacing()
    sigma = [max((spacing**2 - s**2), 0) ** 0.5 / 2.355 for s in own]
    for axis, s in enumerate(sigma):
        if s > 0.2 * own[axis]:
            image = sitk.RecursiveGaussian(image, s, False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis)
    size = [max(int(round(n * s / spacing)), 4) for n, s in zip(image.GetSize(), own, strict=True)]
    new = [n * s / m for n, s, m in zip(image.GetSize(), own, size, strict=True)]
    shift = np.array(image.GetDirection()).reshape(3, 3) @ np.subtract(new, own) / 2
    origin = (np.array(image.GetOrigin()) + shift).tolist()
    return sitk.Resample(image, size, sitk.Transform(), sitk.sitkLinear, origin, new, image.GetDirection(), 0.0)


def head_mask(image: sitk.Image) -> sitk.Image:
    """The head in an image of `MIDDLE`: Otsu's threshold on the square root, the largest component, holes filled."""
    import SimpleITK as sitk

    mask = sitk.OtsuThreshold(sitk.Sqrt(sitk.Clamp(image, sitk.sitkFloat32, 0.0)), 0, 1, 64)
    mask = sitk.RelabelComponent(sitk.ConnectedComponent(mask)) == 1
    return sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(mask, [2, 2, 2]))


def centre_of(mask: sitk.Image) -> list[float]:
    """The centroid of a mask, LPS, mm."""
    import SimpleITK as sitk

    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(sitk.Cast(mask, sitk.sitkUInt8))
    return list(shape.GetCentroid(1))


def head_points(mask: sitk.Image) -> NDArray[np.float64]:
    """Some hundred points of a mask, LPS, mm, (N, 3)."""
    import SimpleITK as sitk

    index = np.argwhere(sitk.GetArrayFromImage(mask))[::97, ::-1]
    return np.array([mask.TransformIndexToPhysicalPoint([int(i) for i in one]) for one in index])


def _metric(sampled: float, head: sitk.Image | None = None) -> sitk.ImageRegistrationMethod:
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricUseFixedImageGradientFilter(False)  # gradients where they are needed, not of the whole image
    method.SetMetricUseMovingImageGradientFilter(False)
    if sampled < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(sampled, SEED)
    if head is not None:
        method.SetMetricFixedMask(sitk.BinaryDilate(head, [2, 2, 2]))
    return method


def _value(method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image) -> float:
    """The metric, the lower the better; 0 where the fields of view do not overlap."""
    try:
        return float(method.MetricEvaluate(fixed, moving))
    except RuntimeError:
        return 0.0


def _best_start(pair: _Pair) -> sitk.Euler3DTransform:
    """The best of many starting positions at 8 mm: the scanner's or the heads' centres, and rotations about them."""
    import SimpleITK as sitk

    centres = [centre_of(head) for head in pair.heads]
    apart = np.subtract(centres[1], centres[0])
    tried: list[tuple[float, int, sitk.Euler3DTransform]] = []
    for shift, angles in itertools.product((np.zeros(3), apart), itertools.product(ANGLES, repeat=3)):
        start = sitk.Euler3DTransform(centres[0], *np.deg2rad(angles).tolist(), shift.tolist())
        method = _metric(1.0, pair.heads[0])
        method.SetInitialTransform(start, inPlace=False)
        tried.append((_value(method, pair.fixed[COARSE], pair.moving[COARSE]), len(tried), start))
    ended = [_optimised(pair, COARSE, start) for _, _, start in sorted(tried)[:STARTS]]
    return max(ended, key=pair.information)


def _optimised(pair: _Pair, spacing: float, start: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
    """Maximise the mutual information at one resolution."""
    import SimpleITK as sitk

    method = _metric(min(1.0, SAMPLES * spacing**3 / max(pair.volume, 1.0)), pair.heads[0])
    method.SetOptimizerAsRegularStepGradientDescent(spacing / 2, spacing / 200, ITERATIONS, RELAXATION)
    method.SetOptimizerScalesFromPhysicalShift()
    transform = sitk.Euler3DTransform(start)
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(pair.fixed[spacing], pair.moving[spacing])
    except RuntimeError:  # the fields of view do not overlap
        return start
    return transform


def _refined(pair: _Pair, start: sitk.Euler3DTransform, levels: tuple[float, ...]) -> sitk.Euler3DTransform:
    """Maximise the mutual information from coarse to fine; at `MIDDLE` from each result again, until nothing is gained.

    Gradient descent takes small steps along a valley and ends there; a new start takes large ones again.
    """
    for spacing in levels:
        before = pair.information(start)
        start = _optimised(pair, spacing, start)
        for _ in range(RESTARTS if spacing == MIDDLE else 0):
            if (now := pair.information(start)) < before + GAIN:
                break
            before, start = now, _optimised(pair, spacing, start)
    return start


def _perturbed(transform: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
    import SimpleITK as sitk

    angles = np.array([transform.GetAngleX(), transform.GetAngleY(), transform.GetAngleZ()])
    shift = np.array(transform.GetTranslation()) + PERTURBATION[1]
    turned = angles + np.deg2rad(PERTURBATION[0])
    return sitk.Euler3DTransform(transform.GetCenter(), *turned.tolist(), shift.tolist())


def _apart(one: sitk.Euler3DTransform, other: sitk.Euler3DTransform, points: NDArray[np.float64]) -> float:
    """Mean distance in mm between two transforms of points, LPS, (N, 3)."""
    moved = [np.array([transform.TransformPoint(point) for point in points.tolist()]) for transform in (one, other)]
    return float(np.linalg.norm(moved[0] - moved[1], axis=1).mean())


def _overlap(heads: list[sitk.Image], transform: sitk.Euler3DTransform) -> float:
    """Dice of the two heads where both fields of view reach."""
    import SimpleITK as sitk

    other = sitk.Resample(heads[1], heads[0], transform, sitk.sitkNearestNeighbor, 0)
    covered = sitk.Resample(heads[1] * 0 + 1, heads[0], transform, sitk.sitkNearestNeighbor, 0)
    a, b, c = (sitk.GetArrayFromImage(image).astype(bool) for image in (heads[0], other, covered))
    a = a & c
    return 2 * float((a & b).sum()) / max(float(a.sum() + b.sum()), 1)


def _matrix(transform: sitk.Euler3DTransform) -> Matrix:
    """As a matrix between RAS worlds."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    centre = np.array(transform.GetCenter())
    matrix[:3, 3] = np.array(transform.GetTranslation()) + centre - matrix[:3, :3] @ centre
    return world(matrix)
