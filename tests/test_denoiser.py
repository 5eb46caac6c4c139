"""The denoiser: right at both ends of the noise levels, and it reads what it is given and nothing that is missing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modfill.model.config import PRESETS
from modfill.model.denoiser import EXTRA, Condition, Denoiser
from modfill.model.synthesiser import Synthesiser
from tests.conftest import awake

GRID = (8, 4, 4)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


NOISY = drawn(1, 4, *GRID, seed=1)
CONDITION = Condition(
    drawn(1, 4, *GRID, seed=2), drawn(1, 4, 4, *GRID, seed=3), drawn(1, EXTRA, *GRID, seed=4),
    torch.tensor([[1.0, 0, 0, 1]]), torch.tensor([1]),
)  # fmt: skip


@torch.inference_mode()
def denoised(model: Synthesiser, condition: Condition = CONDITION, sigma: float = 0.7, noisy: Tensor = NOISY) -> Tensor:
    return model.denoiser(noisy, torch.full((len(noisy),), sigma), condition)


def test_without_noise_the_input_is_the_answer(tiny_model: Synthesiser) -> None:
    torch.testing.assert_close(denoised(tiny_model, sigma=1e-4), NOISY, rtol=0, atol=1e-2)
    assert not torch.allclose(denoised(tiny_model), NOISY, atol=0.1)


def test_in_noise_alone_the_input_does_not_matter(tiny_model: Synthesiser) -> None:
    """At the highest level the network sees noise of unit variance whatever the residual was."""
    first, second = (denoised(tiny_model, sigma=80.0, noisy=80 * NOISY + residual) for residual in (-1.0, 1.0))
    assert float((first - second).abs().max()) < 0.2 * float(first.std())


def test_a_new_denoiser_knows_that_residuals_have_unit_variance() -> None:
    fresh = Denoiser(PRESETS["tiny"].denoiser, 4, 4)
    for sigma in (0.1, 1.0, 30.0):
        level = torch.tensor([sigma])
        torch.testing.assert_close(fresh(NOISY, level, CONDITION), NOISY / (1 + sigma**2))


CHANGES = {
    "mean": CONDITION.mean + 1,
    "extra": CONDITION.extra + 1,
    "available": torch.tensor([[1.0, 0, 1, 1]]),
    "target": torch.tensor([2]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_part_of_the_condition_matters(tiny_model: Synthesiser, name: str) -> None:
    other = denoised(tiny_model, CONDITION._replace(**{name: CHANGES[name]}))
    assert float((other - denoised(tiny_model)).abs().max()) > 1e-3


@pytest.mark.parametrize("modality", range(4))
def test_a_source_matters_if_it_is_available(tiny_model: Synthesiser, modality: int) -> None:
    sources = CONDITION.sources.clone()
    sources[:, modality] += 1
    other = denoised(tiny_model, CONDITION._replace(sources=sources))
    assert torch.equal(other, denoised(tiny_model)) == (modality not in (0, 3))


def test_the_noise_level_matters_beyond_the_scaling(tiny_model: Synthesiser) -> None:
    one, other = ((denoised(tiny_model, sigma=s, noisy=NOISY * (s**2 + 1) ** 0.5) - NOISY / (s**2 + 1) ** 0.5)
                  * (s**2 + 1) ** 0.5 / s for s in (0.3, 3.0))  # fmt: skip
    assert float((one - other).abs().max()) > 1e-3


def test_rows_are_independent(tiny_model: Synthesiser) -> None:
    rows = [CONDITION, CONDITION._replace(target=torch.tensor([2]), available=torch.tensor([[0.0, 1, 0, 1]]))]
    both_rows = Condition(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
    together = denoised(tiny_model, both_rows, noisy=NOISY.expand(2, *NOISY.shape[1:]))
    for row, both in zip(rows, together, strict=True):
        torch.testing.assert_close(denoised(tiny_model, row)[0], both, rtol=1e-4, atol=1e-5)


def test_latents_are_normalised_by_the_training_cases_figures() -> None:
    model = awake(PRESETS["tiny"])
    before = denoised(model)
    model.denoiser.centre.fill_(2.0)
    model.denoiser.spread.fill_(3.0)
    scaled = CONDITION._replace(mean=CONDITION.mean * 3 + 2, sources=CONDITION.sources * 3 + 2)
    torch.testing.assert_close(denoised(model, scaled), before, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_latents_are_scaled_by_the_residuals_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    model = awake(PRESETS["tiny"])
    monkeypatch.setattr(
        model.autoencoder, "decode", lambda latent: torch.nn.functional.interpolate(latent[:, :1], scale_factor=4)
    )
    encoded = model.encode({"t1n": drawn(32, 16, 16, seed=0)})
    given = encoded, 2, model.predict(encoded, 2), drawn(2, 4, 8, 4, 4, seed=6)
    seen: list[Tensor] = []
    decode = model.autoencoder.decode
    monkeypatch.setattr(model.autoencoder, "decode", lambda latent: seen.append(latent) or decode(latent))
    model.residuals(*given, 0.3)
    model.denoiser.residual[0] = 1.5
    model.residuals(*given, 0.3)
    mean, *plain = (latent[0] for latent in seen[:3])
    scaled = [latent[0] for latent in seen[4:]]
    for before, after in zip(plain, scaled, strict=True):
        torch.testing.assert_close((after - mean)[0], 1.5 * (before - mean)[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(after[1:], before[1:])
        assert (before - mean).std() > 0.01


@torch.inference_mode()
def test_the_condition_is_what_the_model_knows(tiny_model: Synthesiser) -> None:
    brain = torch.zeros(32, 16, 16, dtype=torch.bool)
    brain[:18] = True
    encoded = tiny_model.encode({"t1n": drawn(32, 16, 16, seed=0), "t2f": drawn(32, 16, 16, seed=1)}, brain)
    mean, error = tiny_model.mean(encoded, 2)
    condition = tiny_model.condition(encoded, 2, mean, error)
    assert condition.target.tolist() == [2] and condition.available.tolist() == [[1, 0, 0, 1]]
    torch.testing.assert_close(condition.mean, tiny_model.encode_latents(mean[None, None]))
    for source in range(4):
        own = tiny_model.encode_latents(encoded.inputs.volumes[:, source : source + 1]) * (source in (0, 3))
        torch.testing.assert_close(condition.sources[:, source], own)
    inside, deviation = condition.extra[0, 0], condition.extra[0, 1]
    assert (inside[:5] == 1).all() and (inside[5:] == 0).all() and (deviation[5:] == 0).all()
    torch.testing.assert_close(deviation[0, 0, 0], 0.5 * error[:4, :4, :4].log().mean())
    torch.testing.assert_close(deviation[4, 0, 0], 0.5 * error[16:18, :4, :4].log().mean())
    torch.testing.assert_close(condition.extra[:, 2:], encoded.inputs.place)
