"""Training: all stages give weights that work, and a run that was killed goes on as if nothing had happened."""

from __future__ import annotations

import csv
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modfill.completer import ModalityCompleter
from modfill.errors import ModfillError
from modfill.modalities import BRATS
from modfill.model.autoencoder import Autoencoder
from modfill.model.config import PRESETS, STAGES
from modfill.training import loop, run
from modfill.training.data import load_cohort
from modfill.training.latents import digest
from modfill.training.log import Curves, Progress
from modfill.weights import checkpoint
from tests.case_files import write_case
from tests.cohort_process import start_process
from tests.short_training import STEPS, saving_often, shortened, train_and_die

TINY = PRESETS["tiny"]
SHAPE = (44, 36, 28)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three complete cases, and one of a single modality, which is no training case."""
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(3):
        write_case(folder, f"p{seed}", shape=SHAPE, seed=seed)
    write_case(folder, "p3", ("t1n",), shape=SHAPE, seed=3)
    return folder


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.PRESETS, "tiny", shortened()["tiny"])


@pytest.fixture(scope="session")
def trained(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of all stages."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(run.PRESETS, "tiny", shortened()["tiny"])
        assert run.train_preset("tiny", data=cohort, out=out) == out / "weights.safetensors"
    return out


def rows(out: Path, stage: str) -> list[dict[str, str]]:
    with (out / f"{stage}.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same_run(first: Path, second: Path) -> None:
    """Equal bit for bit: the weights, and every stage's parameters, averages and optimiser."""
    assert_same_stages(first, second, STAGES)
    assert_same_weights(*(out / "weights.safetensors" for out in (first, second)))


@cache
def kept(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint that does not change any more: loading takes longer than comparing."""
    return torch.load(checkpoint, weights_only=True)


def assert_same_stages(first: Path, second: Path, stages: Sequence[str]) -> None:
    """As `assert_same_run`, of these stages; the first folder is that of the uninterrupted run."""
    for stage in stages:
        one, other = kept(first / f"{stage}.ckpt"), torch.load(second / f"{stage}.ckpt", weights_only=True)
        assert one["step"] == other["step"] == STEPS
        for part in ("parameters", "ema", "buffers"):
            assert one[part].keys() == other[part].keys()
            for name, value in one[part].items():
                torch.testing.assert_close(other[part][name], value, rtol=0, atol=0, msg=f"{stage} {part} {name}")
        for mine, yours in zip(one["optimisers"], other["optimisers"], strict=True):
            assert mine["state"] and mine["state"].keys() == yours["state"].keys()
            for index, moments in mine["state"].items():
                for name, value in moments.items():
                    torch.testing.assert_close(yours["state"][index][name], value, rtol=0, atol=0)


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=0, msg=name)


def test_weights_load_and_complete_a_case(trained: Path, case_folder: Path) -> None:
    completer = ModalityCompleter(trained / "weights.safetensors", device="cpu")
    assert completer.networks.preset == run.PRESETS["tiny"]
    assert checkpoint.load(trained / "weights.safetensors")[1].stages == STAGES
    done = completer.complete(case_folder)
    assert tuple(done.images) == ("t1c", "t2w")
    assert all(np.asanyarray(image.dataobj).std() > 0 for image in done.images.values())


def test_weights_of_another_preset_are_refused(
    tiny_weights: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(TINY, name="other", autoencoder=replace(TINY.autoencoder, latent_channels=6))
    monkeypatch.setitem(run.PRESETS, "other", other)
    with pytest.raises(ModfillError, match=r"tiny.safetensors must be of preset other, got one of tiny"):
        run.train_preset("other", data=cohort, out=tmp_path, weights=tiny_weights)


def test_weights_are_the_averages_and_know_the_cohort(trained: Path, cohort: Path) -> None:
    model, _ = checkpoint.load(trained / "weights.safetensors")
    for stage in STAGES:
        state = torch.load(trained / f"{stage}.ckpt", weights_only=True)
        assert any(not torch.equal(state["ema"][name], value) for name, value in state["parameters"].items())
        prefix = "autoencoder." if stage == "autoencoder" else "part."
        for name, value in getattr(model, stage).named_parameters():
            torch.testing.assert_close(value.detach(), state["ema"][prefix + name].half().float(), rtol=0, atol=0)
    cases = load_cohort(cohort, trained / "cache" / "train", model.preset)
    assert [case.case_id for case in cases] == ["p0", "p1", "p2"]  # p3 has no target
    expected = np.mean([[(s.unit_mean, s.unit_std) for s in case.scales] for case in cases[1:]], axis=0)  # p0 held out
    np.testing.assert_allclose(model.brightness.mean[:, :2].numpy(), expected, atol=1e-3)
    assert model.brightness.std[:, :2].all() and not torch.equal(model.brightness.correlation, torch.eye(12))
    assert all(bool((getattr(model.denoiser, name) != 1).all()) for name in ("centre", "spread", "residual"))
    assert model.calibration.tolist() != [0.0, 1.0]


@pytest.mark.parametrize("stage", STAGES)
def test_curves_have_losses_and_validation(trained: Path, stage: str) -> None:
    names = {row["name"] for row in rows(trained, stage)}
    assert {"loss", "learning_rate", "validation_psnr"} <= names
    last = [row for row in rows(trained, stage) if row["name"] == "validation_psnr"][-1]
    assert int(last["step"]) == STEPS and 0 < float(last["value"]) < 80
    assert list((trained / "tensorboard" / stage).iterdir())


def test_curves_need_no_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    curves = Curves(tmp_path, "translator")
    curves.validated(Progress(step=3), 25.0)
    curves.close()
    assert (tmp_path / "translator.csv").read_text().splitlines()[1:] == ["3,0.0,validation_psnr,25"]
    assert not (tmp_path / "tensorboard").exists()


def test_the_autoencoder_learns(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.PRESETS, "tiny", shortened(150)["tiny"])
    losses: list[float] = []
    descend = loop._descend

    def recorded(loss: torch.Tensor, *arguments) -> None:
        losses.append(float(loss.detach()))
        descend(loss, *arguments)

    monkeypatch.setattr(loop, "_descend", recorded)
    run.train_preset("tiny", data=cohort, out=tmp_path, stage="autoencoder")
    assert len(losses) == 150
    assert np.mean(losses[-30:]) < 0.8 * np.mean(losses[:10])


class Interrupted(Exception):
    pass


def test_a_run_interrupted_everywhere_gives_the_same_numbers(
    trained: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after every second checkpoint in each of the three stages, and started again."""
    saves: list[str] = []

    def interrupt(path: Path) -> None:
        saves.append(path.stem)
        if saves.count(path.stem) == 2:
            raise Interrupted

    often = saving_often(interrupt)
    monkeypatch.setattr(loop, "_save", often["save"])
    monkeypatch.setattr(run, "train", often["train"])
    for stage in STAGES:
        with pytest.raises(Interrupted):
            run.train_preset("tiny", data=cohort, out=tmp_path)
        assert saves[-1] == stage
    run.train_preset("tiny", data=cohort, out=tmp_path)
    assert_same_run(trained, tmp_path)


@pytest.mark.parametrize("stage", ["autoencoder", pytest.param("denoiser", marks=pytest.mark.slow)])
def test_a_killed_process_gives_the_same_numbers(trained: Path, cohort: Path, tmp_path: Path, stage: str) -> None:
    killed = start_process(train_and_die, cohort, tmp_path, stage, torch.get_num_threads())
    killed.join(300)
    assert killed.exitcode == -signal.SIGKILL
    assert not (tmp_path / "weights.safetensors").exists()
    assert torch.load(tmp_path / f"{stage}.ckpt", weights_only=True)["step"] == 2
    run.train_preset("tiny", data=cohort, out=tmp_path, stage=stage)
    assert_same_stages(trained, tmp_path, STAGES[: STAGES.index(stage) + 1])


def test_a_finished_run_is_left_as_it_is(trained: Path, cohort: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "again")
    run.train_preset("tiny", data=cohort, out=tmp_path / "again")
    assert_same_run(trained, tmp_path / "again")


def test_the_seed_decides(trained: Path, cohort: Path, tmp_path: Path) -> None:
    run.train_preset("tiny", data=cohort, out=tmp_path, stage="autoencoder", seed=1)
    one, other = (torch.load(out / "autoencoder.ckpt", weights_only=True)["ema"] for out in (trained, tmp_path))
    assert any(not torch.allclose(one[name], other[name]) for name in one)


def test_stages_one_by_one_give_the_weights_of_all_together(trained: Path, cohort: Path, tmp_path: Path) -> None:
    for stage in STAGES:
        weights = run.train_preset("tiny", data=cohort, out=tmp_path, stage=stage)
        assert checkpoint.load(weights)[1].stages[-1] == stage
    assert_same_run(trained, tmp_path)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_needs_the_earlier_ones(cohort: Path, tmp_path: Path, stage: str) -> None:
    with pytest.raises(ModfillError, match="train stage 'autoencoder' first"):
        run.train_preset("tiny", data=cohort, out=tmp_path, stage=stage)
    assert not (tmp_path / "weights.safetensors").exists()


def test_a_stage_trained_again_leaves_a_model_fitted_to_the_held_out_cases(
    trained: Path, cohort: Path, tmp_path: Path
) -> None:
    """The calibration may not fall back to that of a new model."""
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "translator.ckpt").unlink()
    model, file = checkpoint.load(run.train_preset("tiny", data=cohort, out=tmp_path / "run", stage="translator"))
    assert file.stages == STAGES
    assert model.calibration.tolist() != [0.0, 1.0]


def test_latents_of_every_rank_have_one_name() -> None:
    """Ranks see other voxels, and count for themselves how long a code was not used."""
    codes = Autoencoder(replace(TINY.autoencoder, codes=8))
    before = digest(codes)
    codes.regulariser.unused_for += 1
    assert digest(codes) == before
    codes.regulariser.codebook.weight.data += 1
    assert digest(codes) != before


def test_mistakes_are_told(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(ModfillError, match="preset must be one of tiny, small, paper, got 'huge'"):
        run.train_preset("huge", data=cohort, out=tmp_path)
    for minutes in (0, -1, float("nan")):
        with pytest.raises(ModfillError, match="minutes must be more than 0, got"):
            run.train_preset("tiny", data=cohort, out=tmp_path, minutes=minutes)
    with pytest.raises(ModfillError, match="stage must be one of autoencoder, translator, denoiser, got 'polisher'"):
        run.train_preset("tiny", data=cohort, out=tmp_path, stage="polisher")
    with pytest.raises(ModfillError, match="needs cases with two or more of"):
        run.train_preset("tiny", data=cohort / "p3", out=tmp_path)
    with pytest.raises(ModfillError, match="validate=DIR"):
        run.train_preset("tiny", data=cohort / "p1", out=tmp_path / "one")


@pytest.mark.parametrize("change", [{"latent_channels": 6}, {"blocks": 2}])
def test_a_run_of_another_preset_is_told(
    trained: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict
) -> None:
    (tmp_path / "autoencoder.ckpt").write_bytes((trained / "autoencoder.ckpt").read_bytes())
    other = replace(TINY, autoencoder=replace(TINY.autoencoder, **change))
    monkeypatch.setitem(run.PRESETS, "tiny", shortened(preset=other)["tiny"])
    with pytest.raises(ModfillError, match="autoencoder.ckpt"):
        run.train_preset("tiny", data=cohort, out=tmp_path, stage="autoencoder")


@pytest.mark.parametrize("stage", [None, "translator"])
def test_a_run_goes_on_with_what_it_began_with(trained: Path, cohort: Path, tmp_path: Path, stage: str | None) -> None:
    """All stages, and one alone after a finished one: neither mixes two runs."""
    shutil.copytree(trained, tmp_path / "run")
    write_case(tmp_path / "val", "v0", shape=SHAPE, seed=9)
    turned = replace(BRATS, modalities=BRATS.modalities[::-1])
    before = (tmp_path / "run" / "weights.safetensors").read_bytes()
    for other, reason in (
        ({"modality_set": turned}, "the modalities must be t2f, t2w, t1c, t1n, got t1n, t1c, t2w, t2f when the run"),
        ({"validate": tmp_path / "val"}, r"the cases must be 3 and 1 held out \(.*, got 2 and 1 held out"),
        ({"seed": 1}, "the seed must be 1, got 0 when the run began; give that again or choose another run folder"),
    ):
        with pytest.raises(ModfillError, match=reason):
            run.train_preset("tiny", **{"data": cohort, "out": tmp_path / "run", "stage": stage, **other})
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == before


def test_validation_cases_may_be_given(cohort: Path, tmp_path: Path) -> None:
    write_case(tmp_path / "val", "v0", shape=SHAPE, seed=9)
    run.train_preset("tiny", data=cohort, out=tmp_path / "run", validate=tmp_path / "val", stage="autoencoder")
    cached = {path.name.split("-")[0] for path in (tmp_path / "run" / "cache").rglob("*.json")}
    assert cached == {"p0", "p1", "p2", "v0"}


def test_a_codebook_and_a_discriminator_train_and_resume(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the paper's preset has them: codes, a patch-GAN from step 2, whole volumes."""
    paper_like = replace(
        TINY, autoencoder=replace(TINY.autoencoder, codes=64, shortcut=False),
        losses=replace(TINY.losses, adversarial=0.8, adversarial_from=1),
    )  # fmt: skip
    monkeypatch.setitem(run.PRESETS, "tiny", shortened(preset=paper_like, crop=0)["tiny"])
    assert checkpoint.load(run.train_preset("tiny", data=cohort, out=tmp_path / "whole"))[1].stages == STAGES
    saves: list[Path] = []

    def interrupt(path: Path) -> None:
        saves.append(path)
        if len(saves) == 2:
            raise Interrupted

    often = saving_often(interrupt)
    monkeypatch.setattr(loop, "_save", often["save"])
    monkeypatch.setattr(run, "train", often["train"])
    with pytest.raises(Interrupted):
        run.train_preset("tiny", data=cohort, out=tmp_path / "parts", stage="autoencoder")
    run.train_preset("tiny", data=cohort, out=tmp_path / "parts", stage="autoencoder")
    assert_same_stages(tmp_path / "whole", tmp_path / "parts", ["autoencoder"])
    assert "adversarial" in {row["name"] for row in rows(tmp_path / "parts", "autoencoder")}
