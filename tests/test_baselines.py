"""The rivals: they learn, they go back to the case's grid, and they say when they were never trained; and the yardstick
that knows its target, but not what it is to say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.baselines import trained
from benchmarks.baselines.in_case import InCase
from benchmarks.baselines.network import NetworkStage
from benchmarks.baselines.trained import STAGES, Trained, fit_any, training_case
from modfill.cases.reading import Case, case_from_arrays
from modfill.errors import ModfillError
from tests.case_files import brain_volumes

AFFINE = np.diag((-1.0, -1.0, 1.0, 1.0))
WINDOWS = {"pix2pix2d": (32, 48, 1)}


def learnable_case(seed: int) -> Case:
    """A case whose FLAIR is the negative of its T1."""
    volumes = brain_volumes((30, 34, 28), seed)
    inside = volumes["t1n"] > 0
    volumes["t2f"] = np.where(inside, volumes["t1n"].max() + 1 - volumes["t1n"], 0).astype(np.int16)
    return case_from_arrays(volumes, AFFINE, f"p{seed}")


def without(case: Case, modality: str) -> Case:
    """The case without one of its modalities."""
    kept = {m: image for m, image in case.images.items() if m != modality}
    return Case(case.case_id, kept, {}, {})


@pytest.mark.parametrize("name", ["unet", "unet-plain", "pix2pix3d", "pix2pix2d"])
def test_each_learns_an_inverse_contrast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    stage: type[NetworkStage] = type(STAGES[name]([], []))
    quick = replace(
        stage.config,
        steps=16 if name == "unet" else 32,
        learning_rate=5e-3,
        warmup=3,
        ema=0.7,
        crops=3 if name == "pix2pix2d" else 1,
    )
    monkeypatch.setattr(stage, "config", quick)
    monkeypatch.setattr(stage, "window", WINDOWS.get(name, (64, 32, 32)))
    # a window of 64 ends at an edge of 2, where bfloat16 gradients on the CPU cannot be trusted (see training.run)
    monkeypatch.setattr(trained, "half_is_fast", lambda device: False)
    first, second, held_out = (training_case(learnable_case(seed)) for seed in (1, 2, 3))
    fit_any(name, tmp_path, minutes=None, cases=[first, second], held_out=[held_out])
    case = learnable_case(4)
    given = Trained(name, tmp_path).complete(without(case, "t2f"), ["t2f"])["t2f"]
    brain = case.volume("t1n") > 0
    assert given.shape == brain.shape and not given[~brain].any() and given.min() >= 0 and given.max() <= 1
    assert np.corrcoef(given[brain], case.volume("t2f")[brain])[0, 1] > (0.9 if name == "unet" else 0.3)


def test_an_untrained_one_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModfillError, match=r"unet\.safetensors must be a trained unet, got no file"):
        Trained("unet", tmp_path).complete(without(learnable_case(1), "t1c"), ["t1c"])


def test_the_yardstick_knows_the_target_everywhere_but_in_the_voxel_itself() -> None:
    case = learnable_case(1)
    brain = case.volume("t1n") > 0

    def yardstick(flair: np.ndarray) -> np.ndarray:
        images = {m: case.images[m].get_fdata() for m in case.available} | {"t2f": flair}
        whole = case_from_arrays(images, AFFINE, "p")
        method = InCase()
        method.fit([whole])
        return method.complete(without(whole, "t2f"), ["t2f"])["t2f"]

    flair = case.volume("t2f").astype(np.float64)
    given = yardstick(flair)
    assert given.shape == brain.shape and not given[~brain].any() and given.min() >= 0 and given.max() <= 1
    assert np.corrcoef(given[brain], flair[brain])[0, 1] > 0.95
    place = tuple(np.argwhere(brain & (flair == np.median(flair[brain])))[0])
    flair[place] += 5
    moved = yardstick(flair)
    assert moved[place] == pytest.approx(given[place]) and np.abs(moved - given).max() > 0
