"""The examples run, as scripts, on small cases with tiny weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.case_files import MODALITIES, brain_volumes, save, write_case

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Three cases with segmentations; the first is complete."""
    for number, present in enumerate((MODALITIES, ("t1n", "t2f"), ("t1c",))):
        case = write_case(tmp_path / "cases", f"p{number}", present, seed=number)
        save(case / f"p{number}-seg.nii.gz", (brain_volumes(seed=number)["t1c"] > 600).astype(np.uint8))
    return tmp_path / "cases"


def run(name: str, cwd: Path, *arguments: str | Path) -> list[str]:
    """Run an example and return what it printed, by line."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_complete_folder(cohort: Path, tiny_weights: Path, tmp_path: Path) -> None:
    (cohort / "p3").mkdir()
    save(cohort / "p3" / "p3-t1n.nii.gz", np.zeros((8, 8, 8), np.int16))
    lines = run("complete_folder.py", tmp_path, cohort, "--out", tmp_path / "out", "--weights", tiny_weights)
    assert [line for line in lines if line.startswith("p")] == [
        "p0: synthesised nothing",
        "p1: synthesised t1c, t2w",
        "p2: synthesised t1n, t2w, t2f",
    ]
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 5
    assert any("case p3: " in line and "all zero" in line for line in lines)


def test_torchio_training(cohort: Path, tiny_weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchio")
    lines = run("torchio_training.py", tmp_path, cohort, "--weights", tiny_weights, "--cache", tmp_path / "cache")
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 5


def test_monai_pipeline(cohort: Path, tiny_weights: Path, tmp_path: Path) -> None:
    lines = run("monai_pipeline.py", tmp_path, cohort, "--weights", tiny_weights, "--cache", tmp_path / "cache")
    assert lines == [
        "p0: acquired t1n, t1c, t2w, t2f; segmentation (24, 28, 20)",
        "p1: acquired t1n, t2f; segmentation (24, 28, 20)",
        "p2: acquired t1c; segmentation (24, 28, 20)",
    ]


def test_examples_stay_short() -> None:
    lengths = {path.name: len(path.read_text(encoding="utf8").splitlines()) for path in EXAMPLES.glob("*.py")}
    assert len(lengths) >= 3 and {name: length for name, length in lengths.items() if length >= 60} == {}
