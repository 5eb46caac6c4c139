"""DDIM against an oracle that knows the clean latent, and noise that depends on nothing but its name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modfill.model.config import DenoiserConfig
from modfill.model.denoiser import alphas_bar
from modfill.model.sampling import ddim, generator

ALPHAS = alphas_bar(DenoiserConfig())
CLEAN = torch.randn(2, 4, 3, 4, 5, generator=torch.Generator().manual_seed(3))
NOISE = torch.randn(2, 4, 3, 4, 5, generator=torch.Generator().manual_seed(4))


def oracle(prediction: str, seen: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """A perfect network: from any noisy latent it tells the clean one, or the noise that is in it."""

    def predict(x: Tensor, step: Tensor) -> Tensor:
        assert step.shape == (len(x),)
        seen.append(int(step[0]))
        alpha = ALPHAS[step].view(-1, 1, 1, 1, 1)
        return CLEAN if prediction == "sample" else (x - alpha.sqrt() * CLEAN) / (1 - alpha).sqrt()

    return predict


@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_an_oracle_is_followed_to_the_clean_latent(prediction: str, steps: int) -> None:
    seen: list[int] = []
    result = ddim(oracle(prediction, seen), NOISE, ALPHAS, steps, prediction)
    torch.testing.assert_close(result, CLEAN, rtol=1e-3, atol=2e-3)
    assert len(seen) == steps and seen[0] == 999 and min(seen) >= 0
    assert seen == sorted(seen, reverse=True) and len(set(seen)) >= steps - 1


@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
def test_every_step_sees_the_noise_level_it_is_told(prediction: str) -> None:
    """With the true noise known, each intermediate latent is the forward process at that step."""

    def predict(x: Tensor, step: Tensor) -> Tensor:
        alpha = ALPHAS[step].view(-1, 1, 1, 1, 1)
        torch.testing.assert_close(x, alpha.sqrt() * CLEAN + (1 - alpha).sqrt() * NOISE, rtol=1e-3, atol=1e-3)
        return CLEAN if prediction == "sample" else NOISE

    start = ALPHAS[-1].sqrt() * CLEAN + (1 - ALPHAS[-1]).sqrt() * NOISE
    torch.testing.assert_close(ddim(predict, start, ALPHAS, 7, prediction), CLEAN, rtol=1e-3, atol=2e-3)


def test_sampling_is_deterministic_and_keeps_the_noise() -> None:
    kept = NOISE.clone()
    results = [ddim(lambda x, _: torch.tanh(x), NOISE, ALPHAS, 5, "sample") for _ in range(2)]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    torch.testing.assert_close(NOISE, kept, rtol=0, atol=0)
    assert not torch.allclose(results[0], ddim(lambda x, _: torch.tanh(x), -NOISE, ALPHAS, 5, "sample"))


def drawn(*name) -> Tensor:
    return torch.randn(8, generator=generator(*name))


def test_noise_is_independent_of_order_and_global_state() -> None:
    names = [(0, "p1", "t1c", 0), (0, "p1", "t1c", 1), (0, "p1", "t2w", 0), (0, "p2", "t1c", 0), (1, "p1", "t1c", 0)]
    forward = {name: drawn(*name) for name in names}
    torch.manual_seed(1)
    for name in reversed(names):
        torch.testing.assert_close(drawn(*name), forward[name], rtol=0, atol=0)
    assert len({tuple(values.tolist()) for values in forward.values()}) == len(names)


def test_drawing_noise_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    drawn(0, "p1", "t1c", 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_the_same_on_every_machine() -> None:
    assert generator(0, "p1", "t1c", 0).initial_seed() == 7907153436236133173
    assert drawn(0, "p1", "t1c", 0)[:2].tolist() == pytest.approx([-0.1040, 0.7051], abs=1e-3)
