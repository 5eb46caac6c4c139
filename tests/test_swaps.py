"""The rule that suspects exchanged files: how its weights are made, and that its stated accuracy is true."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.swaps import PAIRS, fit, left_out, measure, whole_cases
from modfill.reports.swaps import ACCURACY, WEIGHTS

DATA = Path(os.environ.get("MODFILL_DATA", Path(__file__).parents[2] / "shared" / "data"))


def test_weights_tell_apart_what_they_were_made_from() -> None:
    rng = np.random.default_rng(0)
    centre = rng.standard_normal(9)
    cases = [{pair: centre + 0.3 * rng.standard_normal(9) for pair in PAIRS} for _ in range(12)]
    for pair, weights in fit(cases).items():
        scores = [float(np.dot(weights, case[pair])) for case in cases]
        assert np.mean(scores) == pytest.approx(1, abs=0.01) and min(scores) > 0
    assert all(left_out(cases))


def test_every_pair_has_its_weights() -> None:
    assert set(WEIGHTS) == set(PAIRS) and {len(weights) for weights in WEIGHTS.values()} == {9}


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="real cases not found; set MODFILL_DATA to their folder")
def test_the_stated_accuracy_is_what_is_measured() -> None:
    alike = measure([case for split in ("val", "test") for case in whole_cases(DATA / split)])
    assert "9 cases with four modalities: 0 intact cases suspected\n52 of 54 exchanges found, 43 with" in alike
    otherwise = measure(list(whole_cases(DATA / "external")))
    assert "3 cases with four modalities: 1 intact cases suspected\n18 of 18 exchanges found" in otherwise
    assert ACCURACY.startswith("9 other cases") and "52 of 54" in ACCURACY and "18 of 18" in ACCURACY
