"""The examples run, as scripts, on small cases with tiny weights; in this process, which has imported torch."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.case_files import MODALITIES, brain_volumes, save, write_case

EXAMPLES = Path(__file__).parents[1] / "examples"
Run = Callable[..., list[str]]


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Three cases with segmentations; the first is complete."""
    for number, present in enumerate((MODALITIES, ("t1n", "t2f"), ("t1c",))):
        case = write_case(tmp_path / "cases", f"p{number}", present, seed=number)
        save(case / f"p{number}-seg.nii.gz", (brain_volumes(seed=number)["t1c"] > 600).astype(np.uint8))
    return tmp_path / "cases"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run an example in `tmp_path` and return what it printed, by line."""

    def call(name: str, *arguments: str | Path) -> list[str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return call


def test_complete_folder(run: Run, cohort: Path, tiny_weights: Path, tmp_path: Path) -> None:
    (cohort / "p3").mkdir()
    save(cohort / "p3" / "p3-t1n.nii.gz", np.zeros((8, 8, 8), np.int16))
    lines = run("complete_folder.py", cohort, "--out", tmp_path / "out", "--weights", tiny_weights)
    assert [line for line in lines if line.startswith("p")] == [
        "p0: synthesised nothing",
        "p1: synthesised t1c, t2w",
        "p2: synthesised t1n, t2w, t2f",
    ]
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 5
    assert any("case p3: " in line and "all zero" in line for line in lines)


def test_torchio_training(run: Run, cohort: Path, tiny_weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchio")
    lines = run("torchio_training.py", cohort, "--weights", tiny_weights, "--cache", tmp_path / "cache")
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 5


def test_monai_pipeline(run: Run, cohort: Path, tiny_weights: Path, tmp_path: Path) -> None:
    lines = run("monai_pipeline.py", cohort, "--weights", tiny_weights, "--cache", tmp_path / "cache")
    assert lines == [
        "p0: acquired t1n, t1c, t2w, t2f; segmentation (24, 28, 20)",
        "p1: acquired t1n, t2f; segmentation (24, 28, 20)",
        "p2: acquired t1c; segmentation (24, 28, 20)",
    ]


def test_examples_stay_short() -> None:
    lengths = {path.name: len(path.read_text(encoding="utf8").splitlines()) for path in EXAMPLES.glob("*.py")}
    assert len(lengths) >= 3 and {name: length for name, length in lengths.items() if length >= 60} == {}
