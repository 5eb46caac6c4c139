"""The networks: sizes, inverses, and that every input that should matter does."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import modfill.model.refiner as refiner
import modfill.model.synthesiser as aldm
from modfill.modalities import MODALITIES
from modfill.model.config import PRESETS, Preset
from modfill.model.denoiser import alphas_bar
from modfill.model.layers import fold, unfold
from modfill.model.synthesiser import Encoded, Synthesiser, expected_mse
from modfill.model.translator import Translator
from tests.conftest import awake

SHAPE = (32, 16, 16)


def volumes(modalities: tuple[str, ...], shape: tuple[int, ...] = SHAPE, seed: int = 0) -> dict[str, Tensor]:
    """Random normalised volumes; each modality's depends on shape and seed only."""
    noise = torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed))
    return {modality: noise[MODALITIES.index(modality)] for modality in modalities}


def noise_for(encoded: Encoded, samples: int = 1) -> Tensor:
    return torch.randn(samples, *encoded.latents.shape[1:], generator=torch.Generator().manual_seed(5))


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["paper", "released"])
def test_large_presets_construct(name: str) -> None:
    with torch.device("meta"):
        model = Synthesiser(PRESETS[name])
    assert model.refiner is None
    assert model.autoencoder.factor == 4
    assert PRESETS[name].stages == ("autoencoder", "translator", "denoiser")


def test_paper_has_the_paper_s_size() -> None:
    with torch.device("meta"):
        model = Synthesiser(PRESETS["paper"])
    assert parameters(model.autoencoder) + parameters(model.translator) == pytest.approx(237e6, rel=0.06)
    assert tuple(model.autoencoder.regulariser.codebook.weight.shape) == (8192, 3)
    assert PRESETS["paper"].denoiser.channels == (128, 256, 512)
    assert (PRESETS["paper"].denoiser.steps, PRESETS["paper"].denoiser.prediction) == (1000, "epsilon")


@torch.inference_mode()
def test_paper_runs_on_a_small_volume() -> None:
    """The full chain with the paper's sizes, 4x compression included (about 10 s and 2.5 GB)."""
    torch.manual_seed(0)
    model = Synthesiser(PRESETS["paper"]).eval()
    encoded = model.encode(volumes(("t1n",), (16, 16, 16)))
    assert encoded.latents.shape == (1, 3, 4, 4, 4)
    prediction = model.predict(encoded, 2, noise_for(encoded), 2, "mean")
    assert prediction.volume.shape == (16, 16, 16)
    assert prediction.sample_std is None and prediction.volume.isfinite().all()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    assert Preset.from_json(PRESETS[name].to_json()) == PRESETS[name]
    assert sum(stage.share for stage in PRESETS[name].training.values()) == pytest.approx(1)
    assert tuple(PRESETS[name].training) == PRESETS[name].stages


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
    decoded, piece = (tiny_model.decode(z) for z in (whole, whole[:, :, :16]))
    torch.testing.assert_close(piece[:, :, :36], decoded[:, :, :36])


@torch.inference_mode()
def test_encoding_one_by_one_equals_encoding_together(tiny_model: Synthesiser) -> None:
    both = tiny_model.encode(volumes(("t1n", "t2w")))
    for row, modality in enumerate(("t1n", "t2w")):
        torch.testing.assert_close(tiny_model.encode(volumes((modality,))).latents[0], both.latents[row])
    assert both.sources == (0, 2)


@torch.inference_mode()
def test_latents_are_scaled_and_decoded_unscaled(tiny_model: Synthesiser) -> None:
    model = awake(PRESETS["tiny"])
    volume = torch.randn(1, 1, *SHAPE)
    latent, decoded = model.encode_latents(volume), model.decode(model.encode_latents(volume))
    model.latent_std.fill_(3.0)
    torch.testing.assert_close(model.encode_latents(volume), latent / 3)
    torch.testing.assert_close(model.decode(latent / 3), decoded, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_fusing_one_source_is_its_translation(tiny_model: Synthesiser) -> None:
    latents = torch.randn(1, 4, 8, 4, 4)
    fused, translated = tiny_model.translator.fuse(latents, (0,), 2)
    torch.testing.assert_close(fused, translated)
    linear = tiny_model.translator.shortcut(latents, (0,), 2)
    torch.testing.assert_close(fused, tiny_model.translator(latents, 2)[0] + linear)
    assert linear.std() > 0
    assert not torch.allclose(fused, tiny_model.translator.fuse(latents, (0,), 1)[0], atol=1e-2)


@torch.inference_mode()
def test_fusion_lies_between_the_translations(tiny_model: Synthesiser) -> None:
    latents = torch.randn(3, 4, 8, 4, 4)
    translator = Translator(replace(PRESETS["tiny"].translator, shortcut=False), 4, 4)
    fused, translated = translator.fuse(latents, (0, 2, 3), 1)
    assert (fused <= translated.amax(0) + 1e-5).all() and (fused >= translated.amin(0) - 1e-5).all()
    shuffled, _ = translator.fuse(latents[[2, 0, 1]], (3, 0, 2), 1)
    torch.testing.assert_close(shuffled, fused)
    assert not torch.allclose(fused, translated.mean(0, keepdim=True), atol=1e-3)  # weights are learned, not equal


@pytest.fixture
def denoised(tiny_model: Synthesiser):
    """The denoiser on fixed inputs, as a function of target and sources (and of a change to the inputs)."""
    x, like = torch.randn(2, 1, 4, 8, 4, 4, generator=torch.Generator().manual_seed(1))

    def run(
        target: int, sources: list[int], step: int = 500, model: Synthesiser = tiny_model, more: float = 0.0
    ) -> Tensor:
        context = model.denoiser.context(target, sources)
        with torch.inference_mode():
            return model.denoiser(x, torch.tensor([step]), like + more, context)

    return run


def changed(first: Tensor, second: Tensor) -> bool:
    return float((first - second).abs().max()) > 1e-3 * float(first.std())


def test_the_denoiser_listens_to_every_token(denoised) -> None:
    reference = denoised(1, [0])
    assert reference.std() > 0
    torch.testing.assert_close(denoised(1, [0]), reference, rtol=0, atol=0)
    assert changed(reference, denoised(2, [0]))  # another target
    assert changed(reference, denoised(1, [3]))  # another source
    assert changed(reference, denoised(1, [0, 3]))  # one source more
    assert changed(reference, denoised(1, [0], step=20))
    assert changed(reference, denoised(1, [0], more=1.0))  # another target-like latent
    torch.testing.assert_close(denoised(1, [3, 0]), denoised(1, [0, 3]))  # sources are a set


def test_with_the_paper_s_single_token_sources_do_not_matter(denoised) -> None:
    preset = PRESETS["tiny"]
    model = awake(replace(preset, denoiser=replace(preset.denoiser, source_tokens=False)))
    torch.testing.assert_close(denoised(1, [0], model=model), denoised(1, [2, 3], model=model), rtol=0, atol=0)
    assert changed(denoised(1, [0], model=model), denoised(2, [0], model=model))


def test_noise_schedule_is_the_paper_s(tiny_model: Synthesiser) -> None:
    alphas = alphas_bar(PRESETS["paper"].denoiser)
    assert alphas.shape == (1000,) and (alphas.diff() < 0).all()
    assert float(alphas[0]) == pytest.approx(1 - 0.0015, abs=1e-6)
    assert float(1 - alphas[-1] / alphas[-2]) == pytest.approx(0.0195, abs=1e-4)
    ending_in_noise = tiny_model.denoiser.alphas_bar
    assert float(ending_in_noise[-1]) == 0 and (ending_in_noise.diff() < 0).all()
    assert float(ending_in_noise[0]) == pytest.approx(1 - 0.0015, abs=1e-6)
    latent, noise = torch.randn(2, 1, 4, 4, 4, 4)
    torch.testing.assert_close(tiny_model.denoiser.noised(latent, noise, torch.tensor([0])), latent, atol=0.25, rtol=0)


SUBSETS = [subset for size in (1, 2, 3) for subset in itertools.combinations(MODALITIES, size)]


@torch.inference_mode()
@pytest.mark.parametrize("available", SUBSETS, ids="+".join)
def test_any_subset_gives_all_that_is_missing(tiny_model: Synthesiser, available: tuple[str, ...]) -> None:
    encoded = tiny_model.encode(volumes(available, (16, 16, 32)))
    answers = [
        tiny_model.predict(encoded, target, noise_for(encoded), 1, "mean").volume
        for target, modality in enumerate(MODALITIES)
        if modality not in available
    ]
    assert len(answers) == 4 - len(available)
    assert all(answer.shape == (16, 16, 32) and answer.isfinite().all() for answer in answers)
    assert all(changed(a, b) for a, b in itertools.combinations(answers, 2))


@torch.inference_mode()
def test_all_four_can_be_seen(tiny_model: Synthesiser) -> None:
    """The 15th subset: nothing is missing, and a modality is reconstructed in the presence of all."""
    encoded = tiny_model.encode(volumes(MODALITIES))
    assert encoded.latents.shape == (4, 4, 8, 4, 4)
    assert tiny_model.predict(encoded, 0, noise_for(encoded), 1, "mean").volume.shape == SHAPE


@torch.inference_mode()
@pytest.mark.parametrize("slab", [16, 32])
def test_slabs_give_the_volume_of_one_piece(
    tiny_model: Synthesiser, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    for thickness in (64, slab):
        monkeypatch.setattr(aldm, "SLAB", thickness)
        monkeypatch.setattr(refiner, "SLAB", thickness)
        encoded = tiny_model.encode(volumes(("t1n", "t2f"), (48, 16, 32)))
        answers.append(tiny_model.predict(encoded, 1, noise_for(encoded), 1, "mean").volume)
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_samples_have_a_spread_and_modes_differ(tiny_model: Synthesiser) -> None:
    encoded = tiny_model.encode(volumes(("t1n",)))
    noise = noise_for(encoded, 3)
    mean, sample = (tiny_model.predict(encoded, 1, noise, 4, mode) for mode in ("mean", "sample"))
    assert mean.sample_std is None, "the refiner knows better"
    assert sample.sample_std is not None and (sample.sample_std >= 0).all() and sample.sample_std.mean() > 0
    assert changed(mean.volume, sample.volume)
    assert tiny_model.predict(encoded, 1, noise[:1], 1, "sample").sample_std is None


@torch.inference_mode()
def test_deviation_is_the_refiner_s_where_and_the_image_s_variance_how_much(tiny_model: Synthesiser) -> None:
    encoded = tiny_model.encode(volumes(("t1n",)))
    assert encoded.refiner_outputs is not None
    brain, noise = encoded.refiner_outputs.brain, noise_for(encoded)
    found = tiny_model.predict(encoded, 1, noise, None, "mean")
    assert found.deviation is not None and (found.deviation[~brain] == 0).all() and (found.deviation[brain] > 0).all()
    _, said = tiny_model.refine(encoded, 1, *tiny_model.estimate(encoded, 1, torch.zeros_like(noise), 1))
    assert said is not None
    ratio = found.deviation[brain].square() / said[brain]
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
    assert found.expected_mse == pytest.approx(expected_mse(found.volume[brain], float(said[brain].mean())), rel=1e-3)
    assert float(found.deviation[brain].square().mean()) == pytest.approx(found.expected_mse, rel=1e-3)


@torch.inference_mode()
def test_encoding_reports_its_progress_and_it_changes_nothing(tiny_model: Synthesiser) -> None:
    """Fractions ascend to 1, each part of the work reports, and no step is most of the whole."""
    case, told = volumes(("t1n", "t2f"), (64, 48, 32)), list[float]()
    with_progress, without = tiny_model.encode(case, progress=told.append), tiny_model.encode(case)
    assert told == sorted(told) and told[0] > 0 and told[-1] == pytest.approx(1)
    assert max(b - a for a, b in itertools.pairwise([0.0, *told])) < 0.5
    assert torch.equal(with_progress.latents, without.latents)
    assert with_progress.unet_output is not None and without.unet_output is not None
    assert torch.equal(with_progress.unet_output, without.unet_output)


def test_edges_fit_every_network() -> None:
    """A fold of 3 asks for multiples of 12; the refiner for multiples of 16 besides."""
    preset = replace(PRESETS["tiny"], autoencoder=replace(PRESETS["tiny"].autoencoder, fold=3))
    assert preset.multiple == 48
    assert PRESETS["tiny"].multiple == PRESETS["small"].multiple == 16
