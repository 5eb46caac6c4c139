"""The benchmarks of samples: can they be told from acquired images, and is a probability that they give right?"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from benchmarks import enhancement, plausibility
from benchmarks.plausibility import ACQUIRED, described, taken_for_acquired
from tests.case_files import write_case


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two cases with a tumour."""
    for name in ("p1", "p2"):
        write_case(tmp_path / "in", name)
        first = nib.load(tmp_path / "in" / name / f"{name}-t1n.nii.gz")
        labels = np.zeros(first.shape, np.uint8)
        labels[9:16, 9:16, 8:15] = 1
        nib.save(nib.Nifti1Image(labels, first.affine), tmp_path / "in" / name / f"{name}-seg.nii.gz")
    return tmp_path / "in"


def rows(image: str, case_id: str, volume: np.ndarray) -> list[dict]:
    own = {"image": image, "case_id": case_id, "sources": "t1n", "target": "t2w"}
    return [own | row for row in described(volume, np.ones(volume.shape, bool))]


def test_a_blurred_image_is_recognised_and_one_of_the_same_kind_is_not() -> None:
    rng, frame = np.random.default_rng(0), []
    for case_id in "abc":
        acquired, alike = (gaussian_filter(rng.standard_normal((48, 48, 48)), 1) for _ in range(2))
        frame += rows(ACQUIRED, case_id, acquired) + rows("alike", case_id, alike)
        frame += rows("blurred", case_id, gaussian_filter(acquired, 1))
    known = pd.DataFrame(frame)
    assert taken_for_acquired(known, "blurred").mean() > 0.95
    assert 0.3 < taken_for_acquired(known, "alike").mean() < 0.7
    assert taken_for_acquired(known, "alike").groupby(level="case_id").size().to_dict() == {"a": 27, "b": 27, "c": 27}


def test_plausibility_describes_every_image_of_every_task_once(
    cohort: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plausibility, "CUBE", 8)
    out = tmp_path / "out"
    words = ["", "--cases", cohort, "--weights", tiny_weights, "--methods", "copy", "modfill-sample", "--out", out]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    plausibility.main()
    first = (out / "plausibility.csv").read_text()
    frame = pd.read_csv(out / "plausibility.csv")
    cubes = frame.groupby(["image", "case_id", "target"]).size()
    assert cubes.nunique() == 1 and len(cubes) == 3 * 2 * 3
    assert not frame[list(plausibility.FEATURES)].isna().any(axis=None)
    assert "| modfill-sample |" in (out / "plausibility.md").read_text()
    plausibility.main()
    assert (out / "plausibility.csv").read_text() == first


def test_the_right_probability_has_the_least_brier_score_and_the_right_volume() -> None:
    rng = np.random.default_rng(0)
    cases = {}
    for case_id in "ab":
        probability = rng.uniform(0, 1, 5000)
        drawn = {f"sample-{n}": (rng.uniform(size=5000) < probability) * 1.0 for n in range(20)}
        mean, deviation = probability, np.sqrt(probability * (1 - probability))
        cases[case_id] = {
            "enhances": rng.uniform(size=5000) < probability, "mean": mean, "deviation": deviation, **drawn,
        }  # fmt: skip
    frame = pd.DataFrame(enhancement.judged(cases)).set_index(["case_id", "statement"])
    brier = frame.brier.groupby(level="statement").mean()
    assert brier["samples"] < brier["mean"] - 0.05 < brier["others"] and brier.idxmin() in ("samples", "gaussian")
    assert frame.auc["a", "samples"] > 0.8 and frame.auc["a", "others"] == pytest.approx(0.5)
    assert frame.expected_ml["a", "samples"] == pytest.approx(frame.acquired_ml["a", "samples"], abs=0.1)


def test_enhancement_goes_on_with_the_image_where_it_was_stopped(
    cohort: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["", "--cases", cohort, "--weights", tiny_weights, "--samples", 2, "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    enhancement.main()
    kept = sorted((tmp_path / "out" / "voxels").iterdir())
    assert [path.name for path in kept[:3]] == ["p1-mean.npy", "p1-sample-1.npy", "p1-sample-2.npy"]
    mean, one, two = map(np.load, kept[:3])
    assert mean.shape == (2, 343) and one.shape == (1, 343) and not np.array_equal(one, two)
    text = (tmp_path / "out" / "enhancement.md").read_text()
    assert "| share of the samples |" in text and "| p2 |" in text
    times = {path: path.stat().st_mtime_ns for path in kept}
    kept[1].unlink()
    enhancement.main()
    assert [path for path in kept if path.stat().st_mtime_ns != times[path]] == [kept[1]]
    assert (tmp_path / "out" / "enhancement.md").read_text() == text
