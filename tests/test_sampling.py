"""DPM-Solver++ against denoisers that are known exactly, and noise that depends on nothing but its name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modfill.model.sampling import HIGHEST, LOWEST, generator, noise_levels, sample

CLEAN = torch.randn(2, 4, 3, 4, 5, generator=torch.Generator().manual_seed(3))
NOISE = torch.randn(2, 4, 3, 4, 5, generator=torch.Generator().manual_seed(4))
MEAN, DEVIATION = 0.7, 1.3


@pytest.mark.parametrize("steps", [1, 2, 12, 1000])
def test_levels_descend_to_0(steps: int) -> None:
    levels = noise_levels(steps)
    assert len(levels) == steps + 1 and levels[0] == pytest.approx(HIGHEST) and levels[-1] == 0
    assert all(a > b for a, b in zip(levels, levels[1:], strict=False))
    assert steps == 1 or levels[-2] == pytest.approx(LOWEST)


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_every_step_sees_the_noise_level_it_is_told(steps: int) -> None:
    """With the clean latent known, each intermediate one lies on the line from noise to clean."""
    seen: list[float] = []

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (len(x),)
        expected = sigma[0] * NOISE + (1 - sigma[0] / HIGHEST) * CLEAN
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-3)
        seen.append(float(sigma[0]))
        return CLEAN

    torch.testing.assert_close(sample(predict, NOISE, steps), CLEAN)
    assert seen == pytest.approx(noise_levels(steps)[:-1])


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of voxels that are normal with `MEAN` and `DEVIATION`."""
    level = sigma.view(-1, 1, 1, 1, 1).square()
    return (DEVIATION**2 * x + level * MEAN) / (DEVIATION**2 + level)


def flow(noise: Tensor) -> Tensor:
    """Where the probability flow of that Gaussian ends."""
    return MEAN + DEVIATION * (HIGHEST * noise - MEAN) / (DEVIATION**2 + HIGHEST**2) ** 0.5


def test_the_distribution_of_a_gaussian_is_reached() -> None:
    noise = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    for steps, error in ((12, 0.1), (40, 0.01)):
        found = sample(gaussian, noise, steps)
        assert float(found.mean()) == pytest.approx(MEAN, abs=0.03)
        assert float(found.std()) == pytest.approx(DEVIATION, rel=error)
    torch.testing.assert_close(sample(gaussian, noise, 200), flow(noise), rtol=0, atol=5e-3)


def test_twice_the_steps_leave_a_quarter_of_the_error() -> None:
    """As a solver of second order does; one of first order leaves half."""
    coarse, fine = (float((sample(gaussian, NOISE, steps) - flow(NOISE)).std()) for steps in (15, 30))
    assert fine < 0.35 * coarse


def test_sampling_is_deterministic_and_keeps_the_noise() -> None:
    kept = NOISE.clone()
    results = [sample(lambda x, _: torch.tanh(x), NOISE, 5) for _ in range(2)]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    torch.testing.assert_close(NOISE, kept, rtol=0, atol=0)
    assert not torch.allclose(results[0], sample(lambda x, _: torch.tanh(x), -NOISE, 5))


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        sample(gaussian, NOISE, 0)


def drawn(*name) -> Tensor:
    return torch.randn(8, generator=generator(*name))


def test_noise_is_independent_of_order_and_global_state() -> None:
    names = [("p1", "t1c", 0), ("p1", "t1c", 1), ("p1", "t2w", 0), ("p2", "t1c", 0)]
    forward = {name: drawn(*name) for name in names}
    torch.manual_seed(1)
    for name in reversed(names):
        torch.testing.assert_close(drawn(*name), forward[name], rtol=0, atol=0)
    assert len({tuple(values.tolist()) for values in forward.values()}) == len(names)


def test_drawing_noise_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    drawn("p1", "t1c", 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_the_same_on_every_machine() -> None:
    assert generator("p1", "t1c", 0).initial_seed() == 5426002541126837597
    assert drawn("p1", "t1c", 0)[:2].tolist() == pytest.approx([-0.9141, 0.4888], abs=1e-3)
