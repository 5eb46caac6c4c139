"""The benchmarks of images on a tiny case: every row is there once, is what it says, and is not done again."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter

from benchmarks import ladder, pictures, translation, uncertainty
from benchmarks.agreement import agreement, by_scale, powers, spread_by_scale
from benchmarks.cases import brain_of
from benchmarks.tables import read
from modfill.cases.finding import find_cases
from modfill.cases.reading import read_case
from modfill.metrics import unit_range
from modfill.modalities import MODALITIES
from modfill.model.device import fast_precision
from modfill.settings import Settings
from modfill.weights.networks import Networks
from tests.case_files import write_case


def started(module: object, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """Run a benchmark as its command line would."""
    monkeypatch.setattr(sys, "argv", ["", *map(str, words)])
    module.main()  # type: ignore[attr-defined]


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    write_case(tmp_path / "in", "p1", affine=np.diag((-1.0, -1.0, 1.0, 1.0)))
    return tmp_path / "in"


def test_translation_scores_every_task_once(
    cohort: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    known = ("--cases", cohort, "--train", cohort, "--weights", tiny_weights, "--out", out, "--methods")
    started(translation, monkeypatch, *known, "copy", "modfill")
    first = pd.read_csv(out / "translation.csv")
    assert list(first.columns) == list(translation.COLUMNS)
    assert first.groupby("method").size().to_dict() == {"copy": 28, "modfill": 28}
    assert not any(row.target in row.sources.split("+") for row in first.itertuples())
    started(translation, monkeypatch, *known, "copy", "modfill", "modfill-sample", "voxelwise", "voxelwise-in-case")
    again = pd.read_csv(out / "translation.csv")
    pd.testing.assert_frame_equal(again[:56], first)
    means = again.groupby("method").psnr_matched.mean()
    assert len(again) == 5 * 28 and means["modfill"] != means["modfill-sample"]
    assert means["voxelwise"] > means["copy"]  # fitted to this very case
    assert "| modfill-sample | all 28 |" in (out / "translation.md").read_text()


def test_a_table_of_an_older_version_is_not_gone_on_with(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "translation.csv"
    table.write_text("method,case_id,sources,target,psnr\ncopy,p1,t1n,t1c,20\n")
    before = table.read_text()
    with pytest.raises(ValueError, match=r"translation\.csv must have the columns .*_volume, got .*psnr; .* --out$"):
        started(translation, monkeypatch, "--cases", cohort, "--out", tmp_path, "--methods", "copy")
    assert table.read_text() == before


def test_tasks_of_one_number_of_sources(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--cases", cohort, "--methods", "copy", "--out", tmp_path)
    started(translation, monkeypatch, *options, "--sources", "3")
    first = read(tmp_path / "translation.csv")
    assert sorted(first.target) == sorted(MODALITIES) and set(first.sources.str.count(r"\+")) == {2}
    assert first.psnr_wfm.notna().all() and first.ssim_brasyn_tumour.isna().all()  # no segmentation
    assert "Scales of others" in (tmp_path / "translation.md").read_text()
    started(translation, monkeypatch, *options)
    assert len(read(tmp_path / "translation.csv")) == 28


def test_a_case_with_a_number_for_a_name_is_scored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(tmp_path / "in", "001")
    for _ in range(2):
        started(translation, monkeypatch, "--cases", tmp_path / "in", "--out", tmp_path / "out", "--methods", "copy")
    rows = read(tmp_path / "out" / "translation.csv")
    assert len(rows) == 28 and set(rows.case_id) == {"001"}


def test_pictures_show_the_tumour_upright_beside_every_method(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmentation = np.zeros((24, 28, 20), np.uint8)
    segmentation[8:12, 8:12, 13] = 3
    image = nib.Nifti1Image(segmentation, np.diag((-1.0, -1.0, 1.0, 1.0)))
    nib.save(image, next((cohort).rglob("p1*t1n*")).parent / "p1-seg.nii.gz")
    drawn, draw = [], pictures.draw
    monkeypatch.setattr(pictures, "draw", lambda rows, path: (drawn.extend(rows), draw(rows, path)))
    out = tmp_path / "new" / "a.png"
    words = ("--methods", "copy", "mean", "--sources", "t2w", "t1n", "--target", "t2f", "--out", out)
    started(pictures, monkeypatch, "--cases", cohort, *words)
    ((name, row),) = drawn
    case = read_case(find_cases(cohort)[0])
    assert name == "p1" and [title.split()[0] for title, _ in row] == ["t1n", "t2w", "t2f", "copy", "mean"]
    acquired = unit_range(case.volume("t2f"), brain_of(case))
    assert np.array_equal(row[2][1], acquired[:, :, 13])  # LPS: a row of the picture runs from right to left already
    assert not np.array_equal(row[3][1], row[4][1])
    assert out.read_bytes().startswith(b"\x89PNG")


def test_pictures_show_samples_and_where_they_differ(
    cohort: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list = []
    monkeypatch.setattr(pictures, "draw", lambda rows, path: drawn.extend(rows))
    words = ("--methods", "modfill", "--samples", 2, "--sources", "t1n", "--target", "t2f", "--out", tmp_path / "a.png")
    started(pictures, monkeypatch, "--cases", cohort, "--weights", tiny_weights, *words)
    ((_, row),) = drawn
    assert [title.split()[0] for title, _ in row] == ["t1n", "t2f", "modfill", "sample-1", "sample-2", "spread"]
    mean, one, two, spread = (picture for _, picture in row[2:])
    assert not np.array_equal(one, two) and not np.array_equal(one, mean)
    np.testing.assert_allclose(spread, abs(one - two) / 2 / pictures.WHITE, atol=1e-5)


def test_every_rung_of_the_ladder_is_another(
    cohort: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ("--cases", cohort, "--weights", tiny_weights, "--samples", 2, "--out", tmp_path / "out")
    started(ladder, monkeypatch, *known)
    frame = pd.read_csv(tmp_path / "out" / "ladder.csv")
    assert set(frame.target) == {"t1n"} and set(frame.sources) == {"t1c", "t1c+t2w+t2f"}
    assert (frame.groupby("rung").size() == 2).all() and frame.rung.nunique() == 5
    assert (frame.groupby("sources").sharpness.nunique() == 5).all()
    ceiling = frame[frame.rung == "autoencoder, given the target"]
    assert ceiling.psnr.nunique() == 1  # whatever the sources
    assert (frame[frame.rung != ceiling.rung.iloc[0]].groupby("rung").psnr.nunique() == 2).all()


def test_the_ladder_s_mean_and_sample_are_what_a_completion_gives(cohort: Path, tiny_weights: Path) -> None:
    case = read_case(find_cases(cohort)[0])
    networks = Networks(tiny_weights, "cpu").load()
    task = ladder.Task(networks, case, ("t1c", "t2w"), "t2f", 2)
    with torch.inference_mode(), fast_precision(networks.device):
        volumes = [v for _, v in task.rungs()]
    mean, *samples = (
        networks.predict(
            task.encoded, "t2f", brightness=task.prepared.brightness(), case_id=case.case_id, settings=settings
        ).volume
        for settings in (Settings(), Settings("sample"), Settings("sample", seed=1))
    )
    for volume, given in zip(volumes[1:], (mean, samples[0], np.mean(samples, axis=0)), strict=True):
        np.testing.assert_allclose(volume.numpy(), given, atol=1e-4)


def test_uncertainty_tells_each_map_image_and_scale(
    cohort: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ("--cases", cohort, "--weights", tiny_weights, "--samples", 2, "--out", tmp_path / "out")
    started(uncertainty, monkeypatch, *known)
    frame = pd.read_csv(tmp_path / "out" / "uncertainty.csv")
    assert len(frame) == 8 and set(frame.target) == set(MODALITIES)
    tumour = frame.columns.str.contains("_tumour_")  # the case has no segmentation
    assert frame.loc[:, ~tumour].notna().all(axis=None) and frame.loc[:, tumour].isna().all(axis=None)
    assert (frame.filter(regex="^(acquired|mean|sample|error|residual)_") > 0).all(axis=None)
    assert frame[[f"detail_{name}" for name in uncertainty.IMAGES]].nunique(axis=1).eq(3).all()
    assert frame[[f"{name}_correlation" for name in uncertainty.MAPS]].nunique(axis=1).eq(3).all()
    text = (tmp_path / "out" / "uncertainty.md").read_text()
    assert "| 0 to 0.7 |" in text and "| 5.6 to the whole brain |" in text and "Expected against observed" in text
    assert "| spread of the samples, brain |" in text and text.count("%") == 6  # within one and two, of three maps
    assert all(f"| {title} |" in text for title in uncertainty.IMAGES.values())


def test_uncertainty_without_samples_says_nothing_of_them_and_goes_on_where_it_was_stopped(
    cohort: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = find_cases(cohort)[0].paths
    first = nib.load(images["t1n"])
    labels = np.zeros(first.shape, np.uint8)
    labels[10:16, 10:16, 8:14] = 1
    nib.save(nib.Nifti1Image(labels, first.affine), images["t1n"].parent / "p1-seg.nii.gz")
    write_case(cohort, "p2", affine=np.diag((-1.0, -1.0, 1.0, 1.0)))
    known = ("--cases", cohort, "--weights", tiny_weights, "--samples", 0, "--out", tmp_path / "out")
    started(uncertainty, monkeypatch, *known)
    table = tmp_path / "out" / "uncertainty.csv"
    rows = table.read_text().splitlines()
    frame = pd.read_csv(table)
    assert len(frame) == 16 and frame.filter(regex="sample_|spread|draws|average|residual").isna().all(axis=None)
    assert frame[frame.case_id == "p1"].filter(regex="^map_tumour").notna().all(axis=None)
    text = (tmp_path / "out" / "uncertainty.md").read_text()
    assert "`--uncertainty`, tumour" in text and "sample" not in text and "The mean of the other cases" in text
    table.write_text("\n".join(rows[:12]) + "\n")
    started(uncertainty, monkeypatch, *known)
    assert table.read_text().splitlines() == rows


def test_an_expected_psnr_is_compared_with_the_other_cases_of_its_task() -> None:
    rows = [("a", "t1n", "t2w", 20.0, 21.0), ("b", "t1n", "t2w", 24.0, 23.0), ("a", "t1n", "t2f", 30.0, 30.0),
            ("b", "t1n", "t2f", 30.0, 30.0)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["case_id", "sources", "target", "observed", "expected_psnr"])
    expected, constant = uncertainty.expected_against_observed(frame)
    assert "mean absolute difference 0.50 dB" in expected and "wrong by 2.00 dB" in constant
    assert len(list(uncertainty.expected_against_observed(frame[frame.case_id == "a"]))) == 1


def test_uncertainty_of_one_sample_is_refused_before_anything_is_made(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        started(uncertainty, monkeypatch, "--cases", cohort, "--samples", 1, "--out", tmp_path / "out")
    assert "--samples must be 0, or 2 or more" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_map_that_is_the_error_agrees_with_it() -> None:
    error = np.random.default_rng(0).random(1000)
    assert agreement(error, error)["correlation"] == pytest.approx(1)
    assert agreement(error, error)["decile"] > 1.5
    assert agreement(1 - error, error)["decile"] < 0.6


def test_the_share_of_errors_within_a_deviation_is_the_gaussian_one_where_the_map_is_right() -> None:
    deviation = np.linspace(0.5, 2, 100_000)
    error = np.abs(np.random.default_rng(0).standard_normal(deviation.size)) * deviation
    for scale, one, two in ((1, 0.683, 0.954), (2, 0.954, 1.0), (0.5, 0.383, 0.683)):
        found = agreement(scale * deviation, error)
        assert found["within_1"] == pytest.approx(one, abs=0.01) and found["within_2"] == pytest.approx(two, abs=0.01)


def test_what_is_fine_and_what_is_coarse_is_told_apart() -> None:
    brain = np.ones((64, 64, 64), bool)
    noise = np.random.default_rng(0).standard_normal(brain.shape)
    fine, coarse = (list(by_scale(volume, brain)) for volume in (noise, np.full(brain.shape, 0.3)))
    assert np.argmax(fine) == 0 and fine[0] > 0.6
    assert coarse[-1] == pytest.approx(0.09) and max(coarse[:-1]) < 1e-9


def test_a_spread_that_lies_where_the_error_is_agrees_with_it_at_its_scale_alone() -> None:
    rng, brain = np.random.default_rng(0), np.ones((48, 48, 48), bool)
    where = np.linspace(0.2, 3, 48)[:, None, None]  # the deviation of fine noise rises from one side to the other
    known = 20 * gaussian_filter(rng.standard_normal(brain.shape), 4)
    samples = [known + where * rng.standard_normal(brain.shape) for _ in range(8)]
    even = [known + rng.standard_normal(brain.shape) for _ in range(8)]
    truth = 3 + 7 * (known + where * rng.standard_normal(brain.shape))
    finest = [next(spread_by_scale(truth, known, drawn, brain)) for drawn in (samples, even)]
    assert finest[0] > 0.4 and abs(finest[1]) < 0.05


def test_a_right_sample_has_the_power_of_the_truth_at_every_scale() -> None:
    rng, brain = np.random.default_rng(0), np.ones((48, 48, 48), bool)
    known, missing, drawn = (gaussian_filter(rng.standard_normal(brain.shape), 1.5) for _ in range(3))
    truth, mean, sample = 5 + 40 * (known + missing), 3 * known - 1, 3 * (known + drawn) - 1
    found = powers(truth, mean, sample, brain)
    for number in range(3):
        assert found[f"sample_{number}"] == pytest.approx(found[f"acquired_{number}"], rel=0.1)
        assert found[f"residual_{number}"] == pytest.approx(found[f"error_{number}"], rel=0.1)
        assert found[f"mean_{number}"] == pytest.approx(found[f"acquired_{number}"] / 2, rel=0.1)
    smooth = powers(truth, mean, 3 * gaussian_filter(known + drawn, 1.5) - 1, brain)
    assert smooth["sample_0"] < 0.5 * smooth["acquired_0"]
