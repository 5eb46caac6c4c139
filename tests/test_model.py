"""The whole model: sizes, what it answers from which sources, and what it says of its own error."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modfill.modalities import MODALITIES
from modfill.model import synthesiser
from modfill.model.config import PRESETS, STAGES, Preset
from modfill.model.layers import VoxelNorm, fold, unfold
from modfill.model.synthesiser import Encoded, Prediction, Synthesiser, coarse, expected_mse, unexplained_variance
from tests.conftest import awake

SHAPE = (32, 16, 16)


def volumes(modalities: tuple[str, ...], shape: tuple[int, ...] = SHAPE, seed: int = 0) -> dict[str, Tensor]:
    """Random normalised volumes; each modality's depends on shape and seed only."""
    noise = torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed))
    return {modality: noise[MODALITIES.index(modality)] for modality in modalities}


def noise_for(encoded: Encoded, samples: int = 1) -> Tensor:
    shape = (samples, 4, *(edge // 4 for edge in encoded.brain.shape))
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def sample(model: Synthesiser, encoded: Encoded, target: int, steps: int = 2) -> Prediction:
    return model.sampled(encoded, target, model.predict(encoded, target), noise_for(encoded)[0], 0.3, steps=steps)


def changed(first: Tensor, second: Tensor) -> bool:
    return float((first - second).abs().max()) > 1e-3 * float(first.std())


def test_paper_has_the_paper_s_sizes() -> None:
    with torch.device("meta"):
        model = Synthesiser(PRESETS["paper"])
    assert tuple(model.autoencoder.regulariser.codebook.weight.shape) == (8192, 3)
    assert model.autoencoder.factor == 4
    assert sum(p.numel() for p in model.autoencoder.parameters()) > 100e6
    assert PRESETS["paper"].denoiser.channels == (128, 256, 512)


@torch.inference_mode()
def test_paper_runs_on_a_small_volume() -> None:
    """The full chain with the paper's sizes, 4x compression included."""
    torch.manual_seed(0)
    model = Synthesiser(PRESETS["paper"]).eval()
    encoded = model.encode(volumes(("t1n",), (16, 16, 16)))
    prediction = model.sampled(encoded, 2, model.predict(encoded, 2), torch.randn(3, 4, 4, 4), 0.5, steps=2)
    assert prediction.volume.shape == (16, 16, 16)
    assert prediction.residual is not None and prediction.volume.isfinite().all()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    assert Preset.from_json(PRESETS[name].to_json()) == PRESETS[name]
    assert sum(stage.share for stage in PRESETS[name].training.values()) == pytest.approx(1)
    assert tuple(PRESETS[name].training) == STAGES


def test_sizes_that_do_not_fit_together_are_refused() -> None:
    tiny = PRESETS["tiny"]
    with pytest.raises(ValueError, match="a quarter of the volume's, got 1 / 6"):
        replace(tiny, autoencoder=replace(tiny.autoencoder, fold=3))
    with pytest.raises(ValueError, match="channels of the denoiser must be 3"):
        replace(tiny, denoiser=replace(tiny.denoiser, channels=(8, 8)))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_unfold_inverts_fold(factor: int) -> None:
    x = torch.randn(2, 3, 8, 4, 12)
    folded = fold(x, factor)
    assert folded.shape == (2, 3 * factor**3, 8 // factor, 4 // factor, 12 // factor)
    torch.testing.assert_close(unfold(folded, factor), x, rtol=0, atol=0)


def test_fold_keeps_neighbours_together() -> None:
    x = torch.randn(1, 2, 4, 4, 4)
    corner = fold(x, 2)[0, :, 1, 0, 1]
    torch.testing.assert_close(corner.reshape(2, -1), x[0, :, 2:4, 0:2, 2:4].reshape(2, -1), rtol=0, atol=0)


@torch.inference_mode()
def test_a_crop_gives_the_latents_of_the_whole(tiny_model: Synthesiser) -> None:
    """Stages are trained on crops: with voxelwise normalisation only the receptive field at the cut may differ."""
    volume = torch.randn(1, 1, 96, 16, 16)
    whole, crop = (tiny_model.autoencoder.encode(v) for v in (volume, volume[:, :, :64]))
    torch.testing.assert_close(crop[:, :, :9], whole[:, :, :9])
    assert not torch.allclose(crop[:, :, -1], whole[:, :, 15])
    decoded, piece = (tiny_model.autoencoder.decode(z) for z in (whole, whole[:, :, :16]))
    torch.testing.assert_close(piece[:, :, :36], decoded[:, :, :36])


SUBSETS = [subset for size in (1, 2, 3) for subset in itertools.combinations(MODALITIES, size)]


@torch.inference_mode()
@pytest.mark.parametrize("available", SUBSETS, ids="+".join)
def test_any_subset_gives_all_that_is_missing(tiny_model: Synthesiser, available: tuple[str, ...]) -> None:
    encoded = tiny_model.encode(volumes(available, (16, 16, 32)))
    assert [MODALITIES[source] for source in encoded.sources] == list(available)
    answers = []
    for target, modality in enumerate(MODALITIES):
        if modality not in available:
            mean = tiny_model.predict(encoded, target)
            answers += [mean.volume, sample(tiny_model, encoded, target, steps=1).volume]
    assert len(answers) == 2 * (4 - len(available))
    assert all(answer.shape == (16, 16, 32) and answer.isfinite().all() for answer in answers)
    assert all(changed(a, b) for a, b in itertools.combinations(answers[::2], 2))


@torch.inference_mode()
def test_all_four_can_be_seen(tiny_model: Synthesiser) -> None:
    """The 15th subset: nothing is missing, and a modality is reconstructed in the presence of all."""
    encoded = tiny_model.encode(volumes(MODALITIES))
    assert encoded.sources == [0, 1, 2, 3]
    assert sample(tiny_model, encoded, 0, steps=1).volume.shape == SHAPE


@torch.inference_mode()
def test_every_source_matters(tiny_model: Synthesiser) -> None:
    case = volumes(("t1n", "t2w"))
    answer = tiny_model.mean(tiny_model.encode(case), 3)[0]
    for modality in case:
        other = case | {modality: case[modality].flip(0)}
        assert changed(answer, tiny_model.mean(tiny_model.encode(other), 3)[0])


@torch.inference_mode()
def test_only_the_brain_is_read_and_written(tiny_model: Synthesiser) -> None:
    case, brain = volumes(("t1n", "t2f")), torch.zeros(SHAPE, dtype=torch.bool)
    brain[5:29, 3:12, 2:14] = True
    outside = {m: torch.where(brain, volume, 7.0) for m, volume in case.items()}
    first, second = (
        sample(tiny_model, encoded, 1) for encoded in (tiny_model.encode(given, brain) for given in (case, outside))
    )
    torch.testing.assert_close(second.volume, first.volume, rtol=0, atol=0)
    assert first.added_mse == second.added_mse
    for volume in (first.volume, first.squared_error, first.deviation(0.5)):
        assert (volume[~brain] == 0).all() and (volume[brain] != 0).all()
    assert (first.squared_error[brain] > 0).all() and (first.deviation(0.5)[brain] > 0).all()


@torch.inference_mode()
def test_modes(tiny_model: Synthesiser) -> None:
    encoded = tiny_model.encode(volumes(("t1n",)))
    noise = noise_for(encoded, 3)
    alone = tiny_model.predict(encoded, 1)
    one = tiny_model.sampled(encoded, 1, alone, noise[0], 0.3, steps=4)
    residuals = tiny_model.residuals(encoded, 1, alone, noise, 0.3, steps=4)
    assert residuals.shape == (3, *SHAPE) and all(changed(a, b) for a, b in itertools.pairwise(residuals))
    torch.testing.assert_close(alone.volume, tiny_model.mean(encoded, 1)[0], rtol=0, atol=0)
    torch.testing.assert_close(one.volume, alone.volume + residuals[0])
    assert alone.residual is None and one.residual is not None
    torch.testing.assert_close(one.residual, residuals[0])
    assert alone.added_mse == 0 < one.added_mse <= 0.3 + 1e-5, "the truth is nearest to the mean"
    assert one.expected_mse == alone.expected_mse


def test_the_norm_of_a_cpu_is_pytorch_s_own() -> None:
    norm = VoxelNorm(6)
    assert norm.scale is not None
    torch.nn.init.uniform_(norm.scale, 0.5, 2)
    x = torch.randn(2, 6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    x[0, :, 0, 0, 0] = 0  # as outside the brain
    x.requires_grad_()
    expected = torch.nn.functional.rms_norm(x.movedim(1, -1), (6,), norm.scale, 1e-6).movedim(-1, 1)
    torch.testing.assert_close(norm(x), expected)
    slopes = [torch.autograd.grad(y.square().sum(), x)[0] for y in (norm(x), expected)]
    torch.testing.assert_close(*slopes)


@torch.inference_mode()
def test_a_sample_deviates_from_the_mean_as_much_as_the_mean_is_expected_to_err(tiny_model: Synthesiser) -> None:
    case, brain = volumes(("t1n",)), torch.zeros(SHAPE, dtype=torch.bool)
    brain[5:29, 3:12, 2:14] = True
    encoded = tiny_model.encode(case, brain)
    mean = tiny_model.predict(encoded, 1)
    for mse in (0.1, 0.4):
        for residual in tiny_model.residuals(encoded, 1, mean, noise_for(encoded, 2), mse, steps=2):
            assert float(residual[brain].square().mean()) == pytest.approx(mse, rel=1e-3)
            assert not residual[~brain].any()


def test_coarse_is_the_whole_of_what_is_constant_and_little_of_noise() -> None:
    inside = torch.zeros(1, 1, 24, 24, 16)
    inside[..., 3:20, 2:21, 4:13] = 1
    torch.testing.assert_close(
        coarse(torch.full((1, 2, 24, 24, 16), 3.0), inside), (3 * inside).expand(-1, 2, -1, -1, -1)
    )
    noise = torch.randn(1, 2, 24, 24, 16, generator=torch.Generator().manual_seed(1))
    smooth = coarse(noise, inside)
    assert float((smooth * inside).std()) < 0.2 * float((noise * inside).std())
    torch.testing.assert_close(smooth, coarse(noise * inside, inside), msg="outside of the brain counts for nothing")


@torch.inference_mode()
def test_what_is_coarse_in_a_draw_is_doubled(tiny_model: Synthesiser, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = tiny_model.encode(volumes(("t1n",)))
    mean, noise, seen = tiny_model.predict(encoded, 1), noise_for(encoded), []
    decode = tiny_model.autoencoder.decode
    monkeypatch.setattr(synthesiser, "sample", lambda denoise, one, steps: torch.ones_like(one))
    monkeypatch.setattr(tiny_model.autoencoder, "decode", lambda latent: seen.append(latent) or decode(latent))
    tiny_model.residuals(encoded, 1, mean, noise, 0.3)
    before, after = seen
    apart = (after - before) / tiny_model.denoiser.residual[:, None, None, None]
    inside = tiny_model.condition(encoded, 1, mean.volume, mean.squared_error).extra[:, :1] > 0
    torch.testing.assert_close(apart, torch.where(inside, 2.0, 1.0).expand_as(apart), rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_a_sample_depends_on_its_own_noise_only(tiny_model: Synthesiser) -> None:
    encoded = tiny_model.encode(volumes(("t1n",)))
    noise = noise_for(encoded, 3)
    given = encoded, 1, tiny_model.predict(encoded, 1)
    together, alone = (tiny_model.residuals(*given, each, 0.3) for each in (noise, noise[1:2]))
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_deviation_is_where_the_translator_expects_errors_and_adds_up_to_the_error(
    tiny_model: Synthesiser,
) -> None:
    encoded = tiny_model.encode(volumes(("t1n",)))
    found = tiny_model.predict(encoded, 1)
    squared = found.deviation(0.4).square()
    ratio = squared / found.squared_error
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
    assert found.expected_mse == pytest.approx(expected_mse(found.volume.flatten(), float(found.squared_error.mean())))
    assert float(squared.mean()) == pytest.approx(0.4, rel=1e-3)
    one = sample(tiny_model, encoded, 1)
    assert one.residual is not None
    torch.testing.assert_close(one.deviation(0.4).square(), squared + one.residual.square())


def test_expected_psnr_follows_the_error_the_width_of_the_histogram_and_the_calibration() -> None:
    model = awake(PRESETS["tiny"])
    assert model.expected_psnr(0.25, 0.2) == pytest.approx(20)
    assert model.expected_psnr(0.25, 0.02) == pytest.approx(40)
    model.calibration.copy_(torch.tensor([3.0, 0.5]))
    assert model.expected_psnr(0.25, 0.2) == pytest.approx(13)


def test_what_an_estimate_does_not_vary_it_does_not_know() -> None:
    """The mean given what is seen, of a target of variance 1, has the error that its own variance leaves."""
    seen, unseen = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0))
    for known in (0.2, 0.5, 0.9):
        estimate, truth = known**0.5 * seen, known**0.5 * seen + (1 - known) ** 0.5 * unseen
        error = (estimate - truth).square().mean()
        assert expected_mse(estimate + 7, 1 - known) == pytest.approx(float(error), rel=0.03)
    assert expected_mse(3 * seen, 0.2) == expected_mse(2 * seen, 0.2) == pytest.approx(0.1), "never less than none"


def test_a_linear_fit_takes_out_what_a_residual_shares_with_the_mean() -> None:
    mean, other = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0))
    assert unexplained_variance(0.5 * mean + 2, mean) == pytest.approx(0, abs=1e-5)
    assert unexplained_variance(0.5 * mean + 0.3 * other, mean) == pytest.approx(0.09, rel=0.02)
