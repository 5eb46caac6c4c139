"""Losses: the autoencoder's beside L1 (paper, section 3.1), and the translator's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modfill.metrics import C1, C2, WINDOW_RADIUS, WINDOW_SIGMA

BLOCK = 4  # edge in voxels
SMALLEST = 1e-4  # added to a mean square before its root


def multiscale_gradient(prediction: Tensor, target: Tensor, scales: int = 3) -> Tensor:
    """L1 of the spatial gradients at successively halved resolutions, a scalar.

    It stands for the perceptual loss, whose published weights would have to be downloaded: like those, it measures
    edges and texture at several scales instead of intensities.
    """
    total = prediction.new_zeros(())
    for scale in range(scales):
        if scale:
            prediction, target = (nn.functional.avg_pool3d(x, 2) for x in (prediction, target))
        for axis in (2, 3, 4):
            total = total + (prediction.diff(dim=axis) - target.diff(dim=axis)).abs().mean()
    return total / (3 * scales)


def fine_detail(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference in the amount of fine detail, a scalar.

    Fine detail is what a Gaussian of one voxel removes, as in `modfill.metrics.sharpness`. Its amount is the root mean
    square in blocks of `BLOCK` voxels. L1 alone prefers smooth images, because detail that is slightly out of place
    costs more than none.

    Args:
        prediction: (B, 1, X, Y, Z).
        target: likewise.
    """
    volumes = torch.cat([prediction, target], dim=1).float()
    with torch.autocast(volumes.device.type, enabled=False):
        fine = volumes - _smoothed(volumes, sigma=1.0, radius=3)
    given, wanted = (nn.functional.avg_pool3d(fine.square(), BLOCK) + SMALLEST).sqrt().unbind(1)
    return (given - wanted).abs().mean()


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's hinge loss from its scores of real and reconstructed patches, a scalar."""
    return 0.5 * (torch.relu(1 - real).mean() + torch.relu(1 + fake).mean())


def linear_fit(estimate: Tensor, truth: Tensor, brain: Tensor) -> tuple[Tensor, Tensor]:
    """Fit intensities linearly over the brain, with a slope of at least 0: the protocol's "matched".

    Args:
        estimate: (B, 1, X, Y, Z).
        truth: likewise.
        brain: likewise, 1 inside.

    Returns:
        The fitted estimate (B, 1, X, Y, Z), and its mean squared error over the brain (B, 1).
    """

    def mean(x: Tensor) -> Tensor:
        return brain_mean(x, brain)[:, :, None, None, None]

    given, wanted = estimate - mean(estimate), truth - mean(truth)
    slope = (mean(given * wanted) / mean(given.square()).clamp(min=1e-6)).clamp(min=0)
    fit = slope * given + mean(truth)
    return fit, mean((fit - truth).square()).flatten(1)


def log_likelihood(log_error: Tensor, squared_error: Tensor, brain: Tensor) -> Tensor:
    """Negative logarithm of a Gaussian's likelihood, averaged over the brain, but for constants: (B, 1).

    Args:
        log_error: logarithm of the expected squared error, (B, 1, X, Y, Z).
        squared_error: the true one, likewise.
        brain: likewise, 1 inside.
    """
    return brain_mean(log_error + squared_error * (-log_error).exp(), brain)


def brain_mean(x: Tensor, brain: Tensor) -> Tensor:
    """Mean of x (B, 1, X, Y, Z) over the brain, likewise, 1 inside: (B, 1), 0 without brain."""
    return (x * brain).sum((2, 3, 4)) / brain.sum((2, 3, 4)).clamp(min=1)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of volumes in unit range at every voxel, (B, 1, X, Y, Z), with the Gaussian window of `modfill.metrics`."""
    with torch.autocast(a.device.type, enabled=False):
        moments = _smoothed(torch.cat([a, b, a * a, b * b, a * b], dim=1).float(), WINDOW_SIGMA, WINDOW_RADIUS)
    mean_a, mean_b, square_a, square_b, product = moments.chunk(5, dim=1)
    variances = square_a - mean_a.square() + square_b - mean_b.square()
    covariance = product - mean_a * mean_b
    return ((2 * mean_a * mean_b + C1) * (2 * covariance + C2)) / (
        (mean_a.square() + mean_b.square() + C1) * (variances + C2)
    )


def _smoothed(x: Tensor, sigma: float, radius: int) -> Tensor:
    """A Gaussian of `sigma` voxels along every axis, by products with banded matrices; zeros beyond the edges."""
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    total = (-offsets.square() / (2 * sigma**2)).exp().sum()
    for axis in (2, 3, 4):
        places = torch.arange(x.shape[axis], device=x.device)
        apart = places[:, None] - places
        band = (-apart.square() / (2 * sigma**2)).exp() * (apart.abs() <= radius) / total
        x = (x.movedim(axis, -1) @ band).movedim(-1, axis)
    return x
