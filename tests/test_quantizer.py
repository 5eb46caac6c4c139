"""The two regularisations of the latent space."""

from __future__ import annotations

import pytest
import torch

from modfill.model.quantizer import GaussianRegulariser, VectorQuantizer


@pytest.fixture
def quantizer() -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(50, 3, 0.25)


def test_latents_become_their_nearest_codes(quantizer: VectorQuantizer) -> None:
    z = torch.randn(2, 3, 4, 5, 6)
    quantised, _ = quantizer.eval()(z)
    flat = z.movedim(1, -1).reshape(-1, 3)
    nearest = torch.cdist(flat, quantizer.codebook.weight).argmin(1)  # brute force
    expected = quantizer.codebook.weight[nearest].reshape(2, 4, 5, 6, 3).movedim(-1, 1)
    torch.testing.assert_close(quantised, expected)
    torch.testing.assert_close(quantizer(quantised)[0], quantised)  # a code stays itself


def test_gradients_pass_straight_through(quantizer: VectorQuantizer) -> None:
    z = torch.randn(1, 3, 4, 4, 4, requires_grad=True)
    weights = torch.randn(1, 3, 4, 4, 4)
    (quantizer(z)[0] * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights)


def test_loss_pulls_codes_to_latents_and_latents_to_codes(quantizer: VectorQuantizer) -> None:
    z = torch.randn(1, 3, 4, 4, 4, requires_grad=True)
    quantised, loss = quantizer.eval()(z)
    torch.testing.assert_close(loss, 1.25 * (quantised - z).square().mean())
    loss.backward()
    torch.testing.assert_close(z.grad, 0.25 * 2 * (z - quantised).detach() / z.numel())
    assert quantizer.codebook.weight.grad.abs().sum() > 0


def test_codes_that_nobody_uses_are_revived(quantizer: VectorQuantizer) -> None:
    z = torch.full((1, 3, 4, 4, 4), 5.0)
    quantizer.train()
    for _ in range(202):
        quantizer(z)
    assert (quantizer.codebook.weight == 5.0).all(1).sum() >= 49
    before = quantizer.codebook.weight.detach().clone()
    quantizer.eval()
    for _ in range(3):
        quantizer(torch.zeros(1, 3, 2, 2, 2))
    torch.testing.assert_close(quantizer.codebook.weight.detach(), before, rtol=0, atol=0)


def test_gaussian_is_sampled_in_training_and_its_mean_otherwise() -> None:
    regulariser = GaussianRegulariser(4)
    with torch.no_grad():
        regulariser.log_variance.fill_(-2.0)
    z = torch.randn(1, 4, 24, 24, 24)
    torch.testing.assert_close(regulariser.eval()(z)[0], z, rtol=0, atol=0)
    torch.manual_seed(0)
    difference = regulariser.train()(z)[0] - z
    assert float(difference.detach().std()) == pytest.approx(2.718281828**-1, rel=0.02)


def test_divergence_is_torch_s() -> None:
    regulariser = GaussianRegulariser(2)
    with torch.no_grad():
        regulariser.log_variance.copy_(torch.tensor([-1.0, 0.5]))
    z = torch.randn(1, 2, 3, 4, 5)
    deviation = (0.5 * regulariser.log_variance).exp().view(-1, 1, 1, 1).expand_as(z)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(z, deviation), normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(regulariser(z)[1], expected)
