"""The translator's losses are the protocol's figures; the autoencoder's counts fine detail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from modfill.metrics import WINDOW_RADIUS, match, ssim_map
from modfill.training.losses import fine_detail, linear_fit, log_likelihood, ssim

SHAPE = (24, 20, 28)


@pytest.fixture
def rows() -> tuple[Tensor, Tensor, Tensor]:
    """Two truths in the middle of unit range, estimates of another brightness and contrast, and their brains."""
    rng = torch.Generator().manual_seed(0)
    truth = 0.5 + 0.05 * torch.randn(2, 1, *SHAPE, generator=rng)
    estimate = 3 * truth + 0.1 * torch.randn(2, 1, *SHAPE, generator=rng) - 2
    return estimate, truth, (torch.rand(2, 1, *SHAPE, generator=rng) > 0.3).float()


def test_the_fit_is_the_protocol_s(rows: tuple[Tensor, Tensor, Tensor]) -> None:
    fit, error = linear_fit(*rows)
    assert fit.shape == rows[0].shape and error.shape == (2, 1)
    for row in range(2):
        estimate, truth, brain = (x[row, 0].numpy() for x in rows)
        inside = brain > 0
        matched = match(truth, estimate, inside)
        np.testing.assert_allclose(fit[row, 0].numpy()[inside], matched[inside], atol=1e-4)
        assert float(error[row, 0]) == pytest.approx(float(((matched - truth)[inside] ** 2).mean()), rel=1e-3)


def test_a_fit_ignores_brightness_and_contrast_and_turns_no_contrast_around(
    rows: tuple[Tensor, Tensor, Tensor],
) -> None:
    estimate, truth, brain = rows
    other, error = linear_fit(5 * estimate + 1, truth, brain)
    torch.testing.assert_close(other, linear_fit(*rows)[0], rtol=1e-3, atol=1e-4)
    turned, worst = linear_fit(-estimate, truth, brain)
    mean = (truth * brain).sum((2, 3, 4), keepdim=True) / brain.sum((2, 3, 4), keepdim=True)
    torch.testing.assert_close(turned, mean.expand_as(turned))
    assert (worst > 2 * error).all()


def test_a_fit_has_a_gradient_even_of_a_constant() -> None:
    estimate = torch.zeros(1, 1, *SHAPE, requires_grad=True)
    linear_fit(estimate, torch.randn(1, 1, *SHAPE), torch.ones(1, 1, *SHAPE))[1].sum().backward()
    assert estimate.grad is not None and estimate.grad.isfinite().all()


def test_ssim_is_the_protocol_s(rows: tuple[Tensor, Tensor, Tensor]) -> None:
    """Inside; beyond the border the one mirrors, and the other has zeros."""
    _, truth, _ = rows
    other = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    found = ssim(truth, other)
    assert found.shape == truth.shape
    box = (slice(WINDOW_RADIUS, -WINDOW_RADIUS),) * 3
    for row in range(2):
        expected = ssim_map(truth[row, 0].numpy(), other[row, 0].numpy())
        np.testing.assert_allclose(found[row, 0].numpy()[box], expected[box], atol=2e-3)
    torch.testing.assert_close(ssim(truth, truth), torch.ones_like(truth))


def test_the_likelihood_is_best_where_the_expected_error_is_the_true_one() -> None:
    squared = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0)).square() * 0.3
    brain = (torch.rand(2, 1, *SHAPE, generator=torch.Generator().manual_seed(1)) > 0.3).float()
    true = ((squared * brain).sum((2, 3, 4), keepdim=True) / brain.sum((2, 3, 4), keepdim=True)).log()
    best, *others = (log_likelihood((true + off).expand_as(squared), squared, brain) for off in (0, -0.2, 0.2))
    assert best.shape == (2, 1) and all((best < other).all() for other in others)
    torch.testing.assert_close(best, true.flatten(1) + 1, rtol=1e-4, atol=1e-4)


def test_likelihood_is_a_gaussian_s() -> None:
    log_error, error = torch.randn(2, 1, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal(0.0, (0.5 * log_error).exp())
    expected = -2 * normal.log_prob(error).mean() - np.log(2 * np.pi)
    found = log_likelihood(log_error, error.square(), torch.ones(1, 1, *SHAPE))
    assert float(found.mean()) == pytest.approx(float(expected), rel=1e-4)


def test_fine_detail_counts_how_much_there_is_and_not_where() -> None:
    rng = torch.Generator().manual_seed(0)
    truth, elsewhere = (torch.randn(1, 1, *SHAPE, generator=rng) for _ in range(2))
    smooth = torch.nn.functional.avg_pool3d(truth, 3, stride=1, padding=1)
    assert float(fine_detail(truth, truth)) == 0
    assert float(fine_detail(elsewhere, truth)) < 0.3 * float(fine_detail(smooth, truth))
    brighter = truth + torch.linspace(-1, 1, SHAPE[2])
    assert float(fine_detail(brighter, truth)) < 0.1 * float(fine_detail(smooth, truth)), "coarse contrast"
    half = 0.5 * (truth + smooth)
    assert fine_detail(half, truth) < fine_detail(smooth, truth)
