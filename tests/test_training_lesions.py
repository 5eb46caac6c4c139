"""Lesion features in the translator's loss: the frozen network learns, is kept, and tells lesions from other errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from modfill.errors import ModfillError
from modfill.training import run
from modfill.training.data import load_cohort, load_lesions
from modfill.training.lesions import LesionNetwork, feature_distance
from modfill.training.stages.lesions import LesionStage
from modfill.training.stages.translator import TranslatorStage
from tests.case_files import brain_volumes, save, write_case
from tests.conftest import awake
from tests.short_training import shortened

TINY = shortened(steps=2)["tiny"]  # crops of 16 voxels
SHAPE = (44, 36, 28)


def tumour(seed: int) -> np.ndarray:
    """Labels 0 and 4, the enhancing tumour of older BraTS sets."""
    return (brain_volumes(SHAPE, seed)["t1c"] > 650).astype(np.uint8) * 4


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases; the last has no segmentation."""
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(3):
        case = write_case(folder, f"p{seed}", shape=SHAPE, affine=np.diag((-1.0, -1.0, 1.0, 1.0)), seed=seed)
        if seed < 2:
            save(case / f"p{seed}-seg.nii.gz", tumour(seed), np.diag((-1.0, -1.0, 1.0, 1.0)))
    return folder


@pytest.fixture(scope="module")
def stage(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> LesionStage:
    torch.manual_seed(0)
    cache = tmp_path_factory.mktemp("cache")
    cases = load_cohort(cohort, cache, TINY)
    return LesionStage(LesionNetwork(4), TINY, cases, load_lesions(cohort, cache, TINY, cases))


def test_labels_lie_on_the_model_s_grid(stage: LesionStage) -> None:
    assert sorted(stage.labels) == ["p0", "p1"] == [case.case_id for case in stage.cases]
    for case in stage.cases:
        labels = stage.labels[case.case_id]
        assert labels.shape == case.brain.shape and set(np.unique(labels)) == {0, 3}
        assert (labels > 0).sum() == (tumour(int(case.case_id[1])) > 0).sum()
        assert case.volumes[1][labels > 0].min() > case.volumes[1][(labels == 0) & case.brain].max() - 0.05


def test_the_network_learns_lesions(stage: LesionStage) -> None:
    optimiser = torch.optim.Adam(stage.parameters(), 3e-3)
    dice = []
    for step in range(16):
        loss, parts = stage(stage.batch(np.random.default_rng(step)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        dice.append(float(parts["dice"].detach()))
    assert np.mean(dice[-4:]) > np.mean(dice[:4]) + 0.02 and 0 <= stage.validate() <= 1


def test_features_differ_for_another_estimate_only_and_have_its_gradient(stage: LesionStage) -> None:
    network = stage.network.requires_grad_(False)
    volumes, target = stage.batch(np.random.default_rng(0))["volumes"], torch.tensor([1, 3])
    truth = volumes[[0, 1], target][:, None]
    assert float(feature_distance(network, volumes, target, truth).abs().max()) == 0
    estimate = (0.5 * truth).requires_grad_()
    distance = feature_distance(network, volumes, target, estimate)
    distance.sum().backward()
    assert (distance > 0).all() and estimate.grad is not None and estimate.grad.abs().amax((1, 2, 3, 4)).min() > 0


def test_the_translator_s_loss_counts_lesions_by_their_weight(stage: LesionStage) -> None:
    def loss(lesions: tuple[LesionNetwork, float] | None) -> tuple[float, dict]:
        trained = TranslatorStage(model, stage.cases, stage.cases, None, lesions)
        assert all(name.startswith("part.") for name, _ in trained.named_parameters()), "the network stays frozen"
        with torch.no_grad():
            total, parts = trained(trained.batch(np.random.default_rng(1)))
        return float(total), parts

    model = awake(TINY)
    (without, _), (with_them, parts) = loss(None), loss((stage.network, 0.5))
    assert float(parts["lesions"]) > 0
    assert with_them - without == pytest.approx(0.5 * float(parts["lesions"]), rel=1e-3)


def test_the_chain_trains_the_network_before_the_translator_and_goes_on(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(run.PRESETS, "tiny", TINY)
    run.train_preset("tiny", data=cohort, out=tmp_path, stage="autoencoder", validate=cohort)
    options = {"data": cohort, "out": tmp_path, "stage": "translator", "validate": cohort, "lesions": 0.2}
    run.train_preset("tiny", **options)
    state = torch.load(tmp_path / "lesions.ckpt", weights_only=True)
    assert state["step"] == 1 and "validation_dice" in (tmp_path / "lesions.csv").read_text()
    assert ",lesions," in (tmp_path / "translator.csv").read_text()
    run.train_preset("tiny", **options)
    again = torch.load(tmp_path / "lesions.ckpt", weights_only=True)
    assert again["step"] == 1 and all(torch.equal(v, again["ema"][name]) for name, v in state["ema"].items())


def test_segmentations_must_be_there_and_fit(tmp_path: Path) -> None:
    case = write_case(tmp_path / "in", "p0")
    cases = load_cohort(tmp_path / "in", tmp_path / "cache", TINY)
    with pytest.raises(ModfillError, match="found none"):
        load_lesions(tmp_path / "in", tmp_path / "cache", TINY, cases)
    save(case / "p0-seg.nii.gz", np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(ModfillError, match="must be on the grid of its images, 24x28x20, got 4x4x4"):
        load_lesions(tmp_path / "in", tmp_path / "cache", TINY, cases)
