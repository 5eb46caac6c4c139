"""Mean and standard deviation of a missing modality's intensities, from the sources' and from its own histogram.

The networks work on z-scores. Between its 0.5 and 99.5 percentiles each modality has a mean, a standard deviation and a
skewness. These figures are correlated within a patient, and are modelled as jointly Gaussian over the training cases.
A missing modality gets their conditional expectation, given the sources' figures, moved towards what its synthesised
image says: where the mean lies between the image's own percentiles, and how wide its histogram is between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from modfill.metrics import unit_range

FIGURES = 3  # mean and standard deviation in unit range, skewness
RIDGE = 1.0  # added to the correlations' diagonal: some 30 cases estimate them roughly only
BOUND = 2.0  # standard deviations, to which the sources' figures and the target's are clipped
LEAST = 0.02  # the smallest standard deviation in unit range


def own_brightness(volume: np.ndarray, brain: np.ndarray) -> tuple[float, float] | None:
    """Mean and standard deviation of a volume (X, Y, Z) over its brain between its own percentiles; None if flat."""
    values = unit_range(volume, brain)[brain]
    return (float(values.mean()), float(values.std())) if values.any() else None


class Brightness(nn.Module):
    """The joint distribution of the figures of all modalities.

    Attributes:
        mean: of each figure over the training cases, (M, FIGURES).
        std: likewise.
        correlation: between all of them, (M * FIGURES, M * FIGURES).
        share: (2,) how far mean and standard deviation move from the expectation, 0, to the image's own, 1.
    """

    mean: Tensor
    std: Tensor
    correlation: Tensor
    share: Tensor

    def __init__(self, modalities: int):
        super().__init__()
        self.register_buffer("mean", torch.tensor([[0.5, 0.2, 0.0]] * modalities))
        self.register_buffer("std", torch.zeros(modalities, FIGURES))
        self.register_buffer("correlation", torch.zeros(modalities * FIGURES, modalities * FIGURES))
        self.register_buffer("share", torch.zeros(2))

    def fit(self, figures: Tensor) -> None:
        """Estimate the distribution, each correlation from the cases that have both modalities.

        Args:
            figures: (N, M, FIGURES) as `IntensityScale.brightness` gives them, NaN for a missing modality.
        """
        self.mean.copy_(figures.nanmean(0))
        self.std.copy_((figures - self.mean.cpu()).square().nanmean(0).sqrt())
        apart = ((figures - self.mean.cpu()) / self.std.cpu().clamp(min=1e-4)).flatten(1)
        known = apart.isfinite().to(apart.dtype)
        apart = apart.nan_to_num(0)
        self.correlation.copy_(apart.T @ apart / (known.T @ known).clamp(min=1))

    def forward(
        self,
        figures: Sequence[tuple[float, float, float]],
        sources: Sequence[int],
        target: int,
        own: Sequence[float] | None,
    ) -> list[float]:
        """Expected mean and standard deviation of a modality in unit range.

        Args:
            figures: of each source.
            sources: indices of their modalities.
            target: index of the modality wanted.
            own: what `own_brightness` finds in the synthesised image.
        """
        expected = self.expected(figures, sources, target)
        if own is None:
            return expected
        return [e + s * (o - e) for e, o, s in zip(expected, own, self.share.tolist(), strict=True)]

    def expected(
        self, figures: Sequence[tuple[float, float, float]], sources: Sequence[int], target: int
    ) -> list[float]:
        """Expected mean and standard deviation of a modality in unit range, given those of the sources."""
        mean, std, correlation = (part.cpu().double() for part in (self.mean, self.std, self.correlation))
        observed = (torch.tensor(figures, dtype=mean.dtype) - mean[list(sources)]) / std[list(sources)].clamp(min=1e-4)
        there = [source * FIGURES + figure for source in sources for figure in range(FIGURES)]
        known = correlation[there][:, there] + RIDGE * torch.eye(len(there), dtype=mean.dtype)
        apart = torch.linalg.pinv(known) @ observed.flatten().clamp(-BOUND, BOUND)
        found = correlation[target * FIGURES : target * FIGURES + 2, there] @ apart
        unit_mean, unit_std = (mean[target, :2] + std[target, :2] * found.clamp(-BOUND, BOUND)).tolist()
        return [unit_mean, max(unit_std, LEAST)]
