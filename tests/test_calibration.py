"""What is fitted to held-out cases: brightness, expected PSNR, and how much more their residuals deviate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modfill.metrics import match, psnr
from modfill.model.config import PRESETS
from modfill.model.inference import Inference
from modfill.model.synthesiser import Synthesiser
from modfill.settings import Settings
from modfill.training.calibration import fit_to_held_out, share_of_own
from modfill.training.data import TrainingCase, brightness_of, load_cohort, tasks
from tests.case_files import write_case
from tests.conftest import awake

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingCase]:
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(2):
        write_case(folder / "in", f"p{seed}", seed=seed)
    return load_cohort(folder / "in", folder / "cache", TINY)


@torch.inference_mode()
def expected_and_observed(
    model: Synthesiser, case: TrainingCase, sources: tuple[int, ...], target: int
) -> tuple[float, float]:
    """As a completion expects it, and over the brain after the linear fit."""
    own = Inference(model, torch.device("cpu"))
    volumes, figures = {TINY.modalities[m]: case.volumes[m].astype(np.float32) for m in sources}, brightness_of(case)
    found = own.predict(
        own.encode(volumes, np.array(case.brain)), TINY.modalities[target], case_id=case.case_id, settings=Settings(),
        brightness={TINY.modalities[m]: figures[m] for m in sources},
    )  # fmt: skip
    truth, given = (case.scales[target].to_unit(x.astype(np.float32)) for x in (case.volumes[target], found.volume))
    return found.expected_psnr, psnr(truth * case.brain, match(truth, given, case.brain), case.brain)


def test_there_is_a_task_for_every_subset_and_what_it_lacks() -> None:
    found = tasks(range(4))
    assert len(found) == len(set(found)) == 28
    assert all(target not in sources for sources, target in found)


def test_expected_psnr_is_the_observed_one_on_average(held_out: list[TrainingCase]) -> None:
    """Over the tasks that are fitted, a quarter for each case, there is no straight line that is nearer."""
    model = awake(TINY)
    model.calibration.copy_(torch.tensor([30.0, -1.0]))
    fit_to_held_out(model, held_out)
    pairs = [
        expected_and_observed(model, case, sources, target)
        for index, case in enumerate(held_out)
        for sources, target in tasks(range(4))[index::4]
    ]
    expected, observed = np.array(pairs).T
    slope, intercept = np.polyfit(expected, observed, 1)
    assert observed.std() > 0.05
    assert (slope, intercept) == (pytest.approx(1, abs=0.05), pytest.approx(0, abs=0.05 * observed.mean()))
    assert expected.mean() == pytest.approx(observed.mean(), abs=0.05)


def test_the_share_of_an_image_s_own_brightness_is_the_one_that_errs_least() -> None:
    rng = np.random.default_rng(0)
    acquired = rng.normal(0, 1, (500, 2))
    expected = acquired + rng.normal(0, [2, 0.5], (500, 2))
    own = acquired + rng.normal(0, 1, (500, 2))
    np.testing.assert_allclose(share_of_own(expected, own, acquired), [0.8, 0.2], atol=0.05)
    assert share_of_own(acquired, own, acquired).tolist() == [0, 0] == share_of_own(own, own, acquired).tolist()
    assert share_of_own(expected, acquired, acquired).tolist() == [1, 1]
