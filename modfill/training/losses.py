"""The autoencoder's losses beside L1 (paper, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's hinge loss from its scores of real and reconstructed patches, a scalar."""
    return 0.5 * (torch.relu(1 - real).mean() + torch.relu(1 + fake).mean())
