"""The ablation on a tiny case: every part that is switched off has an effect, and is switched on again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import ablation
from benchmarks.ladder import Task
from modfill.cases.finding import find_cases
from modfill.cases.reading import read_case
from modfill.model.inference import Inference
from modfill.model.synthesiser import Synthesiser
from tests.case_files import write_case


def task_of(model: Synthesiser, folder: Path) -> Task:
    """T2 from T1 of a case, with two samples."""
    write_case(folder, "p", shape=(34, 30, 44), affine=np.diag((-1.0, -1.0, 1.0, 1.0)))
    case = read_case(find_cases(folder)[0])
    return Task(Inference(model, torch.device("cpu")), case, ("t1n",), "t2w", 2)


@torch.inference_mode()
@pytest.mark.usefixtures("one_thread", "in_float32")
def test_each_part_of_the_mean_has_an_effect_and_comes_back(tiny_model: Synthesiser, tmp_path: Path) -> None:
    task = task_of(tiny_model, tmp_path)
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    rows = dict(ablation.means(task))
    assert len(rows) == 6
    for name, volume in rows.items():
        moved = (volume - rows["the mean"]).abs().max()
        assert (moved > 1e-4) == (name != "the mean"), name
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())
    assert torch.equal(tiny_model.mean(task.encoded, 2)[0], rows["the mean"])


@torch.inference_mode()
@pytest.mark.usefixtures("one_thread", "in_float32")
def test_what_the_guided_decoder_adds_is_the_same_for_every_sample(tiny_model: Synthesiser, tmp_path: Path) -> None:
    task = task_of(tiny_model, tmp_path)
    rows = list(ablation.samples(task))
    target_like, without, diffused, one, several = (volume for _, volume in rows)
    detail = task.mean.volume - target_like
    torch.testing.assert_close(one - diffused, detail, atol=1e-4, rtol=0)
    assert (without - diffused).abs().max() > 1e-4, "the sources' tokens must count"
    assert (diffused - target_like).abs().max() > 1e-4 and (several - one).abs().max() > 1e-4


@torch.no_grad()
def test_a_part_is_off_though_autocast_has_met_it() -> None:
    layer, x = torch.nn.Linear(4, 4), torch.ones(1, 4)
    with torch.autocast("cpu", torch.bfloat16):
        whole = layer(x)
        with ablation.switched_off(layer):
            assert not layer(x).any()
        assert torch.equal(layer(x), whole) and whole.any()


def test_every_part_is_scored_in_both_tasks(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_case(tmp_path / "in", "p1", affine=torch.diag(torch.tensor((-1.0, -1.0, 1.0, 1.0))).numpy())
    words = ("--cases", tmp_path / "in", "--weights", tiny_weights, "--samples", 2, "--out", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["", *map(str, words)])
    ablation.main()
    frame = pd.read_csv(tmp_path / "out" / "ablation.csv")
    assert (frame.groupby("rung").size() == 2).all() and frame.rung.nunique() == 11
    assert frame.groupby("sources").sharpness.nunique().eq(11).all()
    lines = (tmp_path / "out" / "ablation.md").read_text().splitlines()
    assert len(lines) == 13 and lines[2].startswith("| the mean |") and lines[2].endswith("| +0.00 |")
