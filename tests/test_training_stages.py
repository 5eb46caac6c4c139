"""One stage at a time: it is judged by itself, and it leaves alone what is not its own."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from modfill.model.config import PRESETS
from modfill.model.synthesiser import Synthesiser
from modfill.training import run
from modfill.training.data import load_cohort
from modfill.training.latents import LatentBank
from modfill.training.stages.refiner import RefinerStage
from modfill.training.stages.translation import DenoiserStage, TranslationStage, TranslatorStage
from modfill.weights import checkpoint
from tests.case_files import write_case
from tests.conftest import awake
from tests.short_training import shortened

TINY = PRESETS["tiny"]
SHAPE = (44, 36, 28)
FITTED = {"latent_std", "calibration", "unet_share", "brightness"}
FITTED_LAST = {"calibration", "unet_share"}


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
    model.latent_std.fill_(1.25)
    model.calibration.copy_(torch.tensor([3.0, 0.5]))
    model.unet_share.fill_(0.375)
    model.brightness.mean.fill_(0.625)
    checkpoint.save(model, tmp_path / "before.safetensors", TINY.stages)
    return tmp_path / "before.safetensors"


@pytest.mark.parametrize(
    ("stage", "own"),
    [("autoencoder", {"latent_std"}), ("translator", set()), ("denoiser", set()), ("refiner", FITTED_LAST),
     ("unet", FITTED_LAST)],
)  # fmt: skip
def test_one_stage_from_weights_changes_its_own_numbers_only(
    cohort: Path, tmp_path: Path, fitted_weights: Path, monkeypatch: pytest.MonkeyPatch, stage: str, own: set[str]
) -> None:
    """Bit for bit, with a cohort that is not the one the weights were fitted to."""
    monkeypatch.setitem(run.PRESETS, "tiny", shortened(steps=1)["tiny"])
    after = load_file(run.train_preset("tiny", data=cohort, out=tmp_path / "run", stage=stage, weights=fitted_weights))
    before = load_file(fitted_weights)
    assert before.keys() == after.keys()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {stage} | own
    assert checkpoint.load(tmp_path / "run" / "weights.safetensors")[1].stages == TINY.stages
    assert [path.stem for path in (tmp_path / "run").glob("*.ckpt")] == [stage]
    assert torch.load(tmp_path / "run" / f"{stage}.ckpt", weights_only=True)["step"] == 1


def test_the_translators_shortcut_is_its_own(
    cohort: Path, tmp_path: Path, fitted_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(run.PRESETS, "tiny", shortened(steps=1)["tiny"])
    after = load_file(
        run.train_preset("tiny", data=cohort, out=tmp_path / "run", stage="translator", weights=fitted_weights)
    )
    before = load_file(fitted_weights)
    names = [name for name in before if name.startswith("translator.shortcut.")]
    assert names and any(not torch.equal(before[name], after[name]) for name in names)


def test_all_stages_from_weights_fit_everything_anew(
    cohort: Path, tmp_path: Path, fitted_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(run.PRESETS, "tiny", shortened(steps=1)["tiny"])
    after = load_file(run.train_preset("tiny", data=cohort, out=tmp_path / "run", weights=fitted_weights))
    before = load_file(fitted_weights)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == FITTED | set(TINY.stages)


class Untrained(nn.Module):
    """A network that may not run yet."""

    def __getattr__(self, name: str):
        if name in ("training", "_parameters", "_buffers", "_modules"):
            return super().__getattr__(name)
        raise AssertionError(f"a network that is not trained yet was asked for {name}")

    def forward(self, *arguments: object) -> None:
        raise AssertionError("a network that is not trained yet ran")


def stage_of(name: str, model: Synthesiser, cohort: Path, cache: Path) -> TranslationStage:
    cases = load_cohort(cohort, cache, TINY)
    bank = LatentBank(model, cases, cache / "latents")
    if name == "translator":
        return TranslatorStage(model, model.translator, bank, cases)
    if name == "denoiser":
        return DenoiserStage(model, model.denoiser, bank, cases)
    stage = RefinerStage.__new__(RefinerStage)  # its points play no part in validation
    TranslationStage.__init__(stage, model, model.refiner, bank, cases)
    return stage


@pytest.mark.parametrize("name", ["translator", "denoiser", "refiner"])
@torch.no_grad()
def test_validation_runs_no_network_of_a_later_stage(name: str, cohort: Path, cache: Path) -> None:
    model = awake(TINY)
    model.unet_share.fill_(0.5)
    expected = stage_of(name, model, cohort, cache).validate()
    for later in TINY.stages[TINY.stages.index(name) + 1 :]:
        model.add_module(later, Untrained())
    assert stage_of(name, model, cohort, cache).validate() == expected


@torch.no_grad()
def test_the_refiner_is_judged_without_the_unet(cohort: Path, cache: Path) -> None:
    """Weights to go on from may hold a U-Net with a share of the answer; it says nothing of the refiner."""
    model = awake(TINY)
    values = []
    for part in (0.0, 1.0):
        model.unet_share.fill_(part)
        values.append(stage_of("refiner", model, cohort, cache).validate())
    assert values[0] == values[1]


def test_ranks_wait_for_as_long_as_a_cohort_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """1251 cases at 30 s each are ten hours; the default timeout is half an hour, or ten minutes on GPUs."""
    joined: list[timedelta] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(run.dist, "init_process_group", lambda backend, timeout: joined.append(timeout))
    run._join_group()
    assert joined[0] >= 1251 * timedelta(seconds=30)
