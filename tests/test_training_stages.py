"""One stage at a time: it is judged by itself, and it leaves alone what is not its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from modfill.model.config import PRESETS, STAGES
from modfill.training import run
from modfill.training.data import load_cohort
from modfill.training.latents import LatentBank
from modfill.training.loop import Stage
from modfill.training.muon import Muon
from modfill.training.regions import Regions
from modfill.training.stages.autoencoder import AutoencoderStage
from modfill.training.stages.denoiser import DenoiserStage
from modfill.training.stages.translator import TranslatorStage
from modfill.weights import checkpoint
from tests.case_files import write_case
from tests.conftest import awake
from tests.short_training import shortened
from tests.test_augmentation import stored

TINY = PRESETS["tiny"]
SHAPE = (44, 36, 28)
FIGURES = {"denoiser.centre", "denoiser.spread", "denoiser.residual"}  # of the denoiser's stage
FITTED_LAST = {"brightness.share", "calibration"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(2):
        write_case(folder, f"p{seed}", shape=SHAPE, seed=seed)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def fitted_weights(tmp_path: Path) -> Path:
    """Weights whose fitted numbers are those of no cohort."""
    model = awake(TINY, seed=3)
    model.calibration.copy_(torch.tensor([3.0, 0.5]))
    model.brightness.mean.fill_(0.625)
    checkpoint.save(model, tmp_path / "before.safetensors", STAGES)
    return tmp_path / "before.safetensors"


def changed(before: Path, after: Path) -> set[str]:
    one, other = load_file(before), load_file(after)
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


@pytest.mark.parametrize("stage", STAGES)
def test_one_stage_from_weights_changes_its_own_numbers_only(
    cohort: Path, tmp_path: Path, fitted_weights: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Bit for bit, with a cohort that is not the one the weights were fitted to."""
    monkeypatch.setitem(run.PRESETS, "tiny", shortened(steps=1)["tiny"])
    after = run.train_preset("tiny", data=cohort, out=tmp_path / "run", stage=stage, weights=fitted_weights)
    found = changed(fitted_weights, after)
    assert {name.split(".")[0] for name in found - FITTED_LAST} == {stage} and found >= FITTED_LAST
    assert FIGURES.issubset(found) == (stage == "denoiser")
    assert checkpoint.load(after)[1].stages == STAGES
    assert [path.stem for path in (tmp_path / "run").glob("*.ckpt")] == [stage]
    assert torch.load(tmp_path / "run" / f"{stage}.ckpt", weights_only=True)["step"] == 1


def test_all_stages_from_weights_fit_everything_anew(
    cohort: Path, tmp_path: Path, fitted_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(run.PRESETS, "tiny", shortened(steps=1)["tiny"])
    found = changed(fitted_weights, run.train_preset("tiny", data=cohort, out=tmp_path / "run", weights=fitted_weights))
    assert found >= FITTED_LAST | FIGURES | {"brightness.mean", "brightness.std", "brightness.correlation"}
    assert {name.split(".")[0] for name in found} == {"calibration", "brightness", *STAGES}


class Untrained(nn.Module):
    """A network that may not run yet."""

    def forward(self, *arguments: object) -> None:
        raise AssertionError("a network that is not trained yet ran")


@torch.no_grad()
def test_the_translator_is_judged_without_autoencoder_and_denoiser(cohort: Path, cache: Path) -> None:
    model, cases = awake(TINY), load_cohort(cohort, cache, TINY)
    expected = TranslatorStage(model, cases, cases).validate()
    model.autoencoder, model.denoiser = Untrained(), Untrained()
    assert TranslatorStage(model, cases, cases).validate() == expected


def translator_stage(cohort: Path, cache: Path, regions: Regions | None = None) -> TranslatorStage:
    cases = load_cohort(cohort, cache, TINY)
    return TranslatorStage(awake(TINY), cases, cases, regions)


def denoiser_stage(cohort: Path, cache: Path) -> DenoiserStage:
    model, cases = awake(TINY), load_cohort(cohort, cache, TINY)
    bank = LatentBank(model, cases, cache / "latents", 2)
    bank.fill()
    return DenoiserStage(model, bank, cases)


@pytest.mark.parametrize("make", [translator_stage, denoiser_stage])
def test_every_parameter_has_one_optimiser_and_a_gradient(make, cohort: Path, cache: Path) -> None:
    stage: Stage = make(cohort, cache)
    parameters = dict(stage.named_parameters())
    assert parameters and all(name.startswith("part.") for name in parameters)
    optimisers = stage.optimisers(parameters)
    held = [id(p) for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in parameters.values())
    (muon,) = [optimiser for optimiser in optimisers if isinstance(optimiser, Muon)]
    inner = sum(p.numel() for group in muon.param_groups for p in group["params"])
    assert inner > 0.5 * sum(p.numel() for p in parameters.values())
    loss, _ = stage(stage.batch(np.random.default_rng(1)))
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in parameters.values())


def test_the_translator_trains_on_what_is_hidden_and_in_the_brain(cohort: Path, cache: Path, tmp_path: Path) -> None:
    stage = translator_stage(cohort, cache, Regions(stored(tmp_path / "r.npz"), 4))
    for seed in range(3):
        batch = stage.batch(np.random.default_rng(seed))
        for inputs, target, wanted in batch.values():
            assert wanted.shape == inputs.volumes.shape
            for row in range(len(target)):
                available = inputs.available[row] > 0
                assert 0 < available.sum() < 4 and not available[target[row]]
                assert (inputs.volumes[row, ~available] == 0).all() and inputs.volumes[row, available].any()
                outside = inputs.brain[row, 0] == 0
                assert (inputs.volumes[row, :, outside] == 0).all() and (wanted[row, :, outside] == 0).all()
        assert not batch["regions"][0].place.any() and not batch["regions"][0].statistics.any()


def test_the_translator_s_loss_is_least_for_the_truth(cohort: Path, cache: Path, tmp_path: Path) -> None:
    stage = translator_stage(cohort, cache, Regions(stored(tmp_path / "r.npz"), 4))
    stage.config = replace(stage.config, crop=0)
    batch = stage.batch(np.random.default_rng(0))
    wanted = {id(inputs): volumes[range(len(target)), target][:, None] for inputs, target, volumes in batch.values()}
    losses = []
    for noise in (0.0, 0.3, 1.0):
        stage.part.forward = lambda inputs, target, noise=noise: (
            wanted[id(inputs)] + noise * torch.randn(inputs.brain.shape), torch.zeros(inputs.brain.shape)
        )  # fmt: skip
        loss, parts = stage(batch)
        losses.append(float(loss))
        assert float(parts["plain"]) == pytest.approx(noise**2, rel=0.05, abs=1e-6)
    assert losses == sorted(losses)


def test_the_autoencoder_pays_for_fine_detail_that_is_lost(cohort: Path, cache: Path) -> None:
    model, cases = awake(TINY), load_cohort(cohort, cache, TINY)
    losses = {}
    for weight in (0.0, 2.0):
        preset = replace(TINY, losses=replace(TINY.losses, detail=weight))
        stage = AutoencoderStage(model.autoencoder, preset, cases, cases)
        loss, parts = stage(stage.batch(np.random.default_rng(0)))
        losses[weight] = float(loss.detach())
        assert ("detail" in parts) == (weight > 0)
    assert float(parts["detail"].detach()) > 0
    assert losses[2.0] - losses[0.0] == pytest.approx(2 * float(parts["detail"].detach()), rel=1e-3)


def test_the_denoiser_s_loss_is_0_for_the_residual_and_counts_all_levels(cohort: Path, cache: Path) -> None:
    stage = denoiser_stage(cohort, cache)
    batch = stage.batch(np.random.default_rng(0))
    condition, clean = batch["condition"], batch["clean"]
    residual = (clean - condition.mean) / stage.part.residual[:, None, None, None]
    inside = condition.extra[:, :1].expand_as(residual) > 0
    assert float(residual[inside].std()) == pytest.approx(1, abs=0.4)
    stage.part.forward = lambda noisy, sigma, condition: torch.where(inside, residual, 99)
    assert float(stage(batch)[0]) == pytest.approx(0, abs=1e-6)
    stage.part.forward = lambda noisy, sigma, condition: (
        residual + sigma.view(-1, 1, 1, 1, 1) / (1 + sigma.view(-1, 1, 1, 1, 1).square()) ** 0.5
    )
    assert float(stage(batch)[0]) == pytest.approx(1, rel=1e-3), "an error in keeping with its level"


def test_cases_of_any_size_train_the_denoiser_together(tmp_path: Path) -> None:
    for seed, shape in enumerate(((24, 28, 20), (40, 24, 52))):
        write_case(tmp_path / "in", f"p{seed}", shape=shape, seed=seed)
    stage = denoiser_stage(tmp_path / "in", tmp_path / "cache")
    small, large = (stage.bank._row(index, *stage.bank._task(index)[1:], 0) for index in (0, 1))
    assert small[0].shape != large[0].shape
    drawn = iter((small, large))
    stage.bank.row = lambda rng: next(drawn)
    batch = stage.batch(np.random.default_rng(0))
    for part, rows in ((batch["clean"], (small[5], large[5])), (batch["condition"].extra, (small[2], large[2]))):
        for found, row in zip(part, rows, strict=True):
            own = tuple(slice(n) for n in row.shape)
            assert torch.equal(found[own], row) and found.count_nonzero() == row.count_nonzero()
    assert torch.isfinite(stage(batch)[0])


def test_ranks_wait_for_as_long_as_a_cohort_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """1251 cases at 30 s each are ten hours; the default timeout is half an hour, or ten minutes on GPUs."""
    joined: list[timedelta] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(run.dist, "init_process_group", lambda backend, timeout: joined.append(timeout))
    run._join_group()
    assert joined[0] >= 1251 * timedelta(seconds=30)
