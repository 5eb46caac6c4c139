"""The U-Net beside the refiner, and what it learns from: crops that match wholes, bent heads, tumour regions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from modfill.errors import ModfillError
from modfill.model.config import PRESETS, Preset, UNetConfig
from modfill.model.synthesiser import Synthesiser, expected_mse
from modfill.model.unet import UNet
from modfill.preprocessing.intensity import IntensityScale
from modfill.training import run
from modfill.training.augmentation import deformed
from modfill.training.calibration import HeldOut, fit_calibration, unet_shares
from modfill.training.data import TrainingCase
from modfill.training.regions import EDGES, UNIT, ZERO, Regions
from modfill.training.stages.unet import Crops, UNetStage
from modfill.weights import checkpoint
from tests.case_files import write_case
from tests.short_training import shortened

SHAPE = (48, 32, 32)


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig((8, 16)), 4).eval()


def predict(unet: UNet, volumes: torch.Tensor, sources: tuple[int, ...]) -> torch.Tensor:
    brain = torch.ones(volumes.shape[1:], dtype=torch.bool)
    with torch.no_grad():
        return unet.predict(volumes[list(sources)], brain, sources)


def test_every_source_matters_and_none_that_is_missing(unet: UNet) -> None:
    volumes = torch.randn(4, *SHAPE)
    answer = predict(unet, volumes, (0, 2))
    assert answer.shape == (4, *SHAPE) and answer.dtype == torch.float32
    for m in range(4):
        changed = volumes.clone()
        changed[m] += 1
        assert torch.equal(predict(unet, changed, (0, 2)), answer) == (m not in (0, 2))
    assert not torch.allclose(predict(unet, volumes, (0, 1)), predict(unet, volumes[[0, 2, 1, 3]], (0, 2)))


def test_a_crop_is_answered_like_its_part_of_the_whole(unet: UNet) -> None:
    """Away from its border: no norm may look at the volume as a whole."""
    volumes = torch.randn(4, 96, 32, 32)
    whole, crop = predict(unet, volumes, (0, 1, 2)), predict(unet, volumes[:, :48], (0, 1, 2))
    assert torch.allclose(whole[:, :16], crop[:, :16], atol=1e-4)


def test_slabs_give_what_the_whole_gives(unet: UNet) -> None:
    volumes, brain = torch.randn(1, 4, *SHAPE), torch.ones(1, *SHAPE, dtype=torch.bool)
    with torch.no_grad():
        slabs = unet(volumes, brain, torch.ones(1, 4))
    assert torch.allclose(slabs, unet(volumes, brain, torch.ones(1, 4)), atol=1e-5)


def test_its_share_mixes_it_into_the_answer() -> None:
    torch.manual_seed(0)
    model = Synthesiser(PRESETS["tiny"]).eval()
    volumes = {"t1n": torch.randn(32, 32, 32)}
    answers = []
    for part in (0.0, 1.0, 0.25):
        model.unet_share.fill_(part)
        with torch.inference_mode():
            encoded = model.encode(volumes)
            answers.append(model.predict(encoded, 2, torch.zeros_like(encoded.latents[:1]), None, "mean").volume)
    refined, second, mixed = answers
    assert encoded.unet_output is not None and torch.allclose(second, encoded.unet_output[2], atol=1e-6)
    assert torch.allclose(mixed, 0.75 * refined + 0.25 * second, atol=1e-5)


def test_no_unet_without_a_refiner() -> None:
    with pytest.raises(ValueError, match="must have a refiner"):
        replace(PRESETS["tiny"], refiner=None)


def test_weights_may_have_no_unet(tmp_path: Path) -> None:
    preset = replace(PRESETS["tiny"], unet=None)
    assert Preset.from_json(preset.to_json()) == preset
    checkpoint.save(Synthesiser(preset), tmp_path / "plain.safetensors", preset.stages)
    assert checkpoint.load(tmp_path / "plain.safetensors")[0].unet is None


def test_a_unet_is_trained_onto_weights_that_lack_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = shortened()["tiny"]
    monkeypatch.setitem(run.PRESETS, "tiny", preset)
    for seed in range(2):
        write_case(tmp_path / "cases", f"p{seed}", shape=(44, 36, 28), seed=seed)
    without = Synthesiser(replace(preset, unet=None))
    checkpoint.save(without, tmp_path / "old.safetensors", without.preset.stages)
    path = run.train_preset(
        "tiny", data=tmp_path / "cases", out=tmp_path / "run", stage="unet", weights=tmp_path / "old.safetensors"
    )
    model, file = checkpoint.load(path)
    assert file.stages == preset.stages
    assert all(
        torch.equal(p.half(), q.half())
        for p, q in zip(model.refiner.parameters(), without.refiner.parameters(), strict=True)
    )


def test_only_what_was_hidden_counts_and_a_scanner_s_scale_does_not() -> None:
    torch.manual_seed(0)
    stage = UNetStage(Synthesiser(PRESETS["tiny"]), [], [])
    wanted, brain = torch.randn(1, 4, *SHAPE), torch.rand(1, *SHAPE) > 0.5
    crops = Crops(torch.zeros_like(wanted), wanted, brain, torch.tensor([[1.0, 1, 1, 0]]))
    given = torch.randn_like(wanted)
    given[:, 3] = 0.5 * wanted[:, 3] + 2
    stage.part.forward = lambda *_: torch.where(brain[:, None], given, 99)
    fitted, error = stage._errors(crops)
    assert float(fitted) == pytest.approx(0, abs=1e-5)
    assert float(error) == pytest.approx(float((given - wanted)[:, 3][brain].square().mean()), rel=1e-4)


def test_a_bent_head_is_the_same_head() -> None:
    rng = np.random.default_rng(0)
    brain = torch.zeros(60, 60, 60, dtype=torch.bool)
    brain[10:50, 10:50, 10:50] = True
    volumes = torch.stack([brain * 2.0, brain * torch.linspace(-1, 1, 60)[:, None, None]])
    box = (slice(6, 54), slice(0, 60), slice(8, 40))
    bent, inside = deformed(rng, volumes, brain, box)
    assert bent.shape == (2, 48, 60, 32) and inside.shape == bent.shape[1:]
    assert 0.7 < float(inside.float().mean() / brain[box].float().mean()) < 1.3
    assert not torch.equal(inside, brain[box])
    assert (bent[:, ~inside] == 0).all() and float(bent[0][inside].median()) == pytest.approx(2)
    middle = bent[1].sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)  # still rises along the first axis
    assert float(np.corrcoef(np.arange(20), middle[14:34])[0, 1]) > 0.9


def stored(path: Path, **changed: np.ndarray) -> Path:
    """Two regions, of which the second is left out: 1.5 above the mean, the third modality brighter to the left."""
    intensity = np.full((2, 4, 32, 32, 32), ZERO + UNIT * 3 // 2, np.uint8)
    intensity[0, 2, :16] += UNIT
    intensity[0, :, :, :4] = 0
    intensity[1] = 255
    box = np.array([[0, 0, 0, 32, 32, 28]] * 2, np.uint8)
    np.savez(path, **{"intensity": intensity, "valid_box": box, "val": np.array([False, True])} | changed)
    return path


def test_regions_come_at_1_mm_in_ras_without_rim_or_padding(tmp_path: Path) -> None:
    volumes, brain = Regions(stored(tmp_path / "r.npz")).drawn(np.random.default_rng(0), 3, torch.device("cpu"))
    assert volumes.shape == (3, 4, *EDGES) and brain.shape == (3, *EDGES)
    assert (volumes.movedim(1, 0)[:, ~brain] == 0).all()
    assert torch.allclose(volumes[:, 0][brain], torch.tensor(1.5)), "the region for validation must not be drawn"
    first, second, third = (torch.nonzero(brain[0])[:, axis] for axis in range(3))
    assert second.max() < 60 - 4 * 1.875  # the background at y = 0 is at the end once LPS is RAS
    assert third.max() < 28 * 1.21
    assert volumes[0, 2, first.max(), 20, 15] > volumes[0, 2, first.min(), 20, 15]


def test_a_file_that_is_no_regions_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ModfillError, match=r"other.npz must be an .npz with intensity, val, valid_box"):
        Regions(tmp_path / "other.npz")
    with pytest.raises(ModfillError, match=r"intensity must be \(N, 4, x, y, z\)"):
        Regions(stored(tmp_path / "r.npz", intensity=np.zeros((2, 3, 8, 8, 8), np.uint8)))


def answers(scale: IntensityScale) -> list[HeldOut]:
    rng = torch.Generator().manual_seed(0)
    truth, noise, other = torch.randn(3, 20_000, generator=rng)
    return [
        HeldOut(target, truth + 0.3 * noise + 1, truth + 0.3 * weight * other - 2, truth, 0.2, scale)
        for target, weight in enumerate((1.0, 2.0))
    ]


def test_the_share_is_the_one_of_independent_errors() -> None:
    found = unet_shares(answers(IntensityScale(0, 1, 0.5, 0.2)), 2)
    assert found.tolist() == pytest.approx([0.5, 0.2], abs=0.02)  # weights as the inverse variances


def test_the_calibration_is_of_the_mixture_and_of_contrast_alone() -> None:
    few = answers(IntensityScale(0, 1, 0.5, 0.05))
    model = SimpleNamespace(
        unet_share=torch.tensor([1.0, 0.0]), preset=SimpleNamespace(normalisation="zscore"),
        psnr_of=lambda target, error: 20.0 + error + target,
    )  # fmt: skip
    given = few[0].unet, few[1].refined
    expected = [20.0 + expected_mse(g, 0.2) + n for n, g in enumerate(given)]
    observed = []
    for answer, one in zip(few, given, strict=True):
        unexplained = 1 - float(np.corrcoef(one, answer.truth)[0, 1]) ** 2
        observed.append(-10 * np.log10(float(answer.truth.var()) * unexplained * 0.05**2))
    intercept, slope = fit_calibration(model, few)
    assert [intercept + slope * e for e in expected] == pytest.approx(observed, abs=2e-3)


def test_what_an_estimate_does_not_vary_it_does_not_know() -> None:
    """The mean given what is seen, of a target of variance 1, has the error that its own variance leaves."""
    model = Synthesiser(PRESETS["tiny"])
    seen, unseen = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0))
    for known in (0.2, 0.5, 0.9):
        estimate, truth = known**0.5 * seen, known**0.5 * seen + (1 - known) ** 0.5 * unseen
        error = (float(model.brightness.mean[1, 1]) * (estimate - truth)).square().mean()
        own = expected_mse(estimate + 7, 1 - known)
        assert model.psnr_of(1, own) == pytest.approx(-10 * float(error.log10()), abs=0.1)
    assert expected_mse(3 * seen, 0.2) == expected_mse(2 * seen, 0.2) == pytest.approx(0.1), "never less than none"


def test_training_cases_are_drawn_whole_or_bent_and_padded() -> None:
    volumes, brain = np.zeros((4, 24, 40, 40), np.float16), np.ones((24, 40, 40), bool)
    volumes[:] = np.arange(1, 5)[:, None, None, None]
    case = TrainingCase("p", volumes, brain, (IntensityScale(0, 1, 0.5, 0.2),) * 4)
    stage = UNetStage(Synthesiser(PRESETS["tiny"]), [case], [])
    for seed in range(4):
        crops = stage.batch(np.random.default_rng(seed))["crops"]
        assert crops.sources.shape == (2, 4, 32, 32, 32) and float(crops.available.sum(1).min()) > 0
        assert float(crops.available.sum(1).max()) < 4
        given = crops.available[:, :, None, None, None].expand_as(crops.sources).bool()
        assert (crops.sources[~given] == 0).all()
        assert (crops.sources[~crops.brain[:, None].expand_as(crops.sources)] == 0).all()
        assert crops.brain.float().mean() > 0.4
