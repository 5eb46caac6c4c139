"""How bright a missing modality is taken to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modfill.completer import ModalityCompleter
from modfill.model.brightness import BOUND, Brightness, own_brightness
from modfill.model.synthesiser import Encoded, Prediction, Synthesiser
from modfill.preprocessing.intensity import IntensityScale
from tests.case_files import brain_volumes

MEAN = torch.tensor([[0.6, 0.2, -0.5], [0.4, 0.15, 0.5], [0.3, 0.17, 1.0], [0.5, 0.17, 0.0]])
STD = torch.tensor([0.06, 0.02, 0.4])


def cohort(cases: int, seed: int = 0) -> torch.Tensor:
    """Figures (N, 4, 3): T1 and T1ce go together, T2 and FLAIR each go their own way."""
    apart = torch.randn(cases, 4, 3, generator=torch.Generator().manual_seed(seed))
    apart[:, 1] = 0.9 * apart[:, 0] + 0.44 * apart[:, 1]
    return MEAN + STD * apart


@pytest.fixture
def learnt() -> Brightness:
    fresh = Brightness(4)
    fresh.fit(cohort(400))
    return fresh


def said(own: Brightness, case: torch.Tensor, sources: list[int], target: int) -> torch.Tensor:
    return torch.tensor(own.expected([tuple(case[m].tolist()) for m in sources], sources, target))


def test_nothing_learnt_is_the_average() -> None:
    assert said(Brightness(4), cohort(1)[0], [0, 2], 3).tolist() == pytest.approx([0.5, 0.2])


def test_what_goes_together_is_inferred_and_what_does_not_is_the_average(learnt: Brightness) -> None:
    cases = cohort(200, seed=1)
    for sources, target, left in (([0], 1, 0.75), ([0, 2, 3], 1, 0.75), ([2], 3, 1.01), ([0, 1], 2, 1.02)):
        found = torch.stack([said(learnt, case, sources, target) for case in cases])
        error = (found - cases[:, target, :2]).square().mean(0)
        average = (MEAN[target, :2] - cases[:, target, :2]).square().mean(0)
        assert (error < left * average).all(), (sources, target)


def test_the_strange_moves_an_answer_so_far_and_no_further(learnt: Brightness) -> None:
    strange, stranger = (MEAN + shift * STD for shift in (BOUND + 0.5, 1e6))
    assert said(learnt, stranger, [0], 1).tolist() == said(learnt, strange, [0], 1).tolist()
    assert (said(learnt, stranger, [0], 1) - MEAN[1, :2]).div(STD[:2]).max() <= BOUND
    assert said(learnt, MEAN - 1e6 * STD, [0], 1)[1] > 0


def test_an_image_of_its_own_histogram_moves_the_answer_by_its_share(learnt: Brightness) -> None:
    case = cohort(1, seed=2)[0]
    figures, own = [tuple(case[0].tolist())], (0.9, 0.1)
    expected = learnt.expected(figures, [0], 2)
    assert learnt(figures, [0], 2, own) == learnt(figures, [0], 2, None) == expected
    learnt.share.copy_(torch.tensor([0.5, 1.0]))
    assert learnt(figures, [0], 2, own) == pytest.approx([(expected[0] + 0.9) / 2, 0.1])
    assert learnt(figures, [0], 2, None) == expected


def test_an_image_s_own_brightness_is_measured_as_that_of_a_source() -> None:
    volume, brain = np.random.default_rng(0).gamma(2, 1, (20, 20, 20)), np.zeros((20, 20, 20), bool)
    brain[3:17, 2:, :15] = True
    scale = IntensityScale.of(volume, brain)
    for own in (volume, 3 * volume - 5):
        assert own_brightness(own, brain) == pytest.approx((scale.unit_mean, scale.unit_std), rel=1e-5)
    assert own_brightness(np.full(brain.shape, 0.3), brain) is None


@pytest.mark.parametrize("cases", [1, 2])
def test_few_cases_give_numbers(cases: int) -> None:
    few = Brightness(4)
    few.fit(cohort(cases))
    assert said(few, cohort(1, seed=3)[0], [0, 1, 2], 3).isfinite().all()


def test_the_figures_do_not_depend_on_the_scanner_s_numbers() -> None:
    volume, brain = np.random.default_rng(0).gamma(2, 1, (20, 20, 20)), np.ones((20, 20, 20), bool)
    found = []
    for own in (volume, 300 * volume + 70):
        scale = IntensityScale.of(own, brain)
        found.append(scale.brightness(scale.normalise(own), brain))
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    assert found[0][2] > 0.5  # a long bright tail


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_a_synthetic_image_is_as_bright_as_is_said_of_it(
    completer: ModalityCompleter, monkeypatch: pytest.MonkeyPatch, power: float
) -> None:
    """Where the networks say 0, the mean, everywhere. A source of another contrast has another answer.

    A flat image tells nothing of its brightness.
    """

    def flat(model: Synthesiser, encoded: Encoded, *_: object) -> Prediction:
        return Prediction(torch.zeros(encoded.brain.shape), encoded.brain.float(), 1.0)

    monkeypatch.setattr(Synthesiser, "predict", flat)
    source = brain_volumes()["t1n"].astype(np.float64) ** power
    scale, own = IntensityScale.of(source, source != 0), completer.networks.load().model.brightness
    made = completer.complete_arrays({"t1n": source}, affine=np.eye(4), targets=["t2w"])["t2w"]
    unit = (made[source != 0] - scale.low) / (scale.high - scale.low)
    normalised = scale.normalise(source)
    mean, _ = own.expected([scale.brightness(normalised, source != 0)], [0], 2)
    assert abs(mean - own.mean[2, 0]) > 1e-3
    np.testing.assert_allclose(unit, mean, atol=2e-4)
