"""Muon: orthogonal updates as large as AdamW's, and a state that can be stored."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modfill.training.muon import ADAMW_SIZE, Muon, orthogonal


@pytest.mark.parametrize("shape", [(3, 12, 12), (2, 8, 40), (2, 40, 8)])
def test_updates_are_the_nearest_orthogonal_matrices(shape: tuple[int, ...]) -> None:
    """Singular values, which differ by a factor of 30, become about equal; the singular vectors stay."""
    torch.manual_seed(0)
    rank = min(shape[1:])
    left, _ = torch.linalg.qr(torch.randn(shape[0], shape[1], rank))
    right, _ = torch.linalg.qr(torch.randn(shape[0], shape[2], rank))
    values = torch.logspace(0, -1.5, rank)
    found = orthogonal(left * values @ right.mT) / (ADAMW_SIZE * max(shape[1:]) ** 0.5)
    inner = left.mT @ found @ right
    diagonal = inner.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.6 and diagonal.max() < 1.3
    torch.testing.assert_close(inner, torch.diag_embed(diagonal), rtol=0, atol=1e-3)


def test_updates_are_as_large_as_adamw_s() -> None:
    torch.manual_seed(0)
    for shape in ((1, 16, 16), (1, 16, 400), (1, 400, 16)):
        assert float(orthogonal(torch.randn(shape)).square().mean().sqrt()) == pytest.approx(ADAMW_SIZE, rel=0.25)


def test_the_scale_of_a_gradient_does_not_matter() -> None:
    gradient = torch.randn(2, 8, 12)
    torch.testing.assert_close(orthogonal(1e-3 * gradient), orthogonal(1e3 * gradient), rtol=1e-2, atol=1e-3)
    assert orthogonal(torch.zeros(1, 3, 3)).abs().max() == 0


def test_a_step_is_the_orthogonal_gradient_after_decay() -> None:
    """A convolution is one matrix of output channels by inputs, a stack is as many as it has."""
    torch.manual_seed(0)
    for shape, matrices in (((4, 3, 2, 2, 2), (1, 4, 24)), ((3, 4, 5), (3, 4, 5))):
        p, untouched = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.ones(2, 2, 2))
        before = p.detach().clone()
        optimiser = Muon([p, untouched], lr=0.1, weight_decay=0.5)
        p.grad = torch.randn(shape)
        optimiser.step()
        expected = before * (1 - 0.1 * 0.5) - 0.1 * orthogonal(p.grad.reshape(matrices)).view(shape)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-4)
        assert (untouched == 1).all(), "a parameter without a gradient stays"


def test_momentum_outlives_a_gradient_that_turns_to_0() -> None:
    p = nn.Parameter(torch.zeros(1, 4, 4))
    optimiser = Muon([p], lr=0.1)
    p.grad = torch.eye(4)[None]
    optimiser.step()
    first = p.detach().clone()
    p.grad = torch.zeros_like(p)
    optimiser.step()
    torch.testing.assert_close(p.detach(), 2 * first, rtol=0.05, atol=1e-4)


def descend(p: nn.Parameter, optimiser: Muon, gradients: Tensor) -> None:
    for gradient in gradients:
        p.grad = gradient.clone()
        optimiser.step()


def test_a_stored_state_goes_on_with_the_same_numbers() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(6, 4, 3, 3, 3, 3)
    whole, parts = (nn.Parameter(torch.ones(4, 3, 3, 3, 3)) for _ in range(2))
    descend(whole, Muon([whole], lr=0.01), gradients)
    first = Muon([parts], lr=0.01)
    descend(parts, first, gradients[:3])
    second = Muon([parts], lr=0.01)
    second.load_state_dict(first.state_dict())
    descend(parts, second, gradients[3:])
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    forgetful = nn.Parameter(torch.ones(4, 3, 3, 3, 3))
    descend(forgetful, Muon([forgetful], lr=0.01), gradients[:3])
    descend(forgetful, Muon([forgetful], lr=0.01), gradients[3:])
    assert not torch.allclose(forgetful, whole, atol=1e-4), "the momentum must matter"
