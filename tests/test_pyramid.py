"""What the refiner reads of a voxel: the same in training as in use, and nothing that it should not see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from modfill.model.pyramid import FEATURES, PLACE, Pyramid, upsampled
from modfill.model.synthesiser import Synthesiser
from modfill.training.data import load_cohort
from modfill.training.latents import LatentBank
from modfill.training.points import PointBank, tasks
from tests.case_files import write_case

SHAPE = (48, 32, 32)


@pytest.fixture
def case() -> tuple[Tensor, Tensor]:
    """Two sources (2, X, Y, Z) and a brain that does not touch the border."""
    generator = torch.Generator().manual_seed(0)
    brain = torch.zeros(SHAPE, dtype=torch.bool)
    brain[5:41, 3:30, 4:29] = True
    return torch.randn(2, *SHAPE, generator=generator) * brain, brain


def everything(volumes: Tensor, brain: Tensor, mask: Tensor | None = None, slab: int = 48) -> tuple[Tensor, Tensor]:
    pyramid, mask = Pyramid(volumes, brain), brain if mask is None else mask
    parts = [pyramid.at(mask[a : a + slab], a, a + slab) for a in range(0, SHAPE[0], slab)]
    features, place = (torch.cat(piece) for piece in zip(*parts, strict=True))
    return features, place


def test_a_voxel_is_described_by_itself_first(case) -> None:
    volumes, brain = case
    features, place = everything(volumes, brain)
    assert features.shape == (int(brain.sum()), 2, FEATURES) and place.shape == (len(features), PLACE)
    torch.testing.assert_close(features[:, :, 0], volumes.movedim(0, -1)[brain])
    assert features.isfinite().all() and place.isfinite().all()


def test_slabs_give_what_the_whole_gives(case) -> None:
    for one, other in zip(everything(*case), everything(*case, slab=16), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_background_does_not_enter_the_means(case) -> None:
    volumes, brain = case
    constant = torch.full_like(volumes, 1.5) * brain
    features, _ = everything(constant, brain)
    means = [1, 10, 19]  # levels 0, 1, 2: mean, deviation, gradient, six neighbours
    torch.testing.assert_close(features[:, :, means], torch.full_like(features[:, :, means], 1.5), rtol=0, atol=0.1)
    assert features[:, :, [2, 11, 20]].abs().max() < 0.75  # a deviation only where levels are interpolated


def test_neighbours_are_the_neighbours(case) -> None:
    volumes, brain = case
    inner = brain.clone()
    inner[:6], inner[40:] = False, False
    features, _ = everything(volumes, brain, inner)
    first = 1 + 3  # after the value: mean, deviation, gradient
    before, after = (volumes.roll(step, 1).movedim(0, -1)[inner] for step in (1, -1))
    torch.testing.assert_close(features[:, :, first], before)
    torch.testing.assert_close(features[:, :, first + 1], after)


def test_a_place_is_told_in_the_brain_s_own_box(case) -> None:
    volumes, brain = case
    _, place = everything(volumes, brain)
    corners = place[:, :3].amin(0), place[:, :3].amax(0)
    torch.testing.assert_close(corners, (torch.full((3,), -1.0), torch.full((3,), 1.0)))
    moved = [x.roll((3, 1), (-3, -2)) for x in (volumes, brain)]
    torch.testing.assert_close(everything(*moved)[1][:, :4], place[:, :4])


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_upsampling_a_ramp_gives_the_ramp(factor: int) -> None:
    ramp = torch.arange(12.0).view(1, 1, 12, 1, 1).expand(1, 1, 12, 4, 4)
    whole = torch.cat([upsampled(ramp, factor, a, a + 4 * factor) for a in range(0, 12 * factor, 4 * factor)])
    assert whole.shape == (12 * factor, 4 * factor, 4 * factor, 1)
    expected = ((torch.arange(12.0 * factor) + 0.5) / factor - 0.5).clamp(0, 11)
    torch.testing.assert_close(whole[:, 0, 0, 0], expected)


def test_there_is_a_task_for_every_subset_and_what_it_lacks() -> None:
    found = tasks(4)
    assert len(found) == len(set(found)) == 28
    assert all(target not in sources for sources, target in found)


@torch.inference_mode()
def test_points_are_what_the_refiner_reads_in_use(tiny_model: Synthesiser, tmp_path: Path) -> None:
    """Every voxel of a case, drawn and in use: the same answer."""
    write_case(tmp_path / "in", "p0", shape=(44, 36, 28))
    cases = load_cohort(tmp_path / "in", tmp_path / "cache", tiny_model.preset)
    bank = LatentBank(tiny_model, cases, tmp_path / "latents")
    points = PointBank(bank, tmp_path / "points")
    points.fill()
    plain, changed = points.open()
    assert len(plain["wanted"]) == cases[0].brain.sum() == len(changed["wanted"])  # fewer than there may be of a case
    sources, target = (0, 2), 3
    volumes = {
        tiny_model.preset.modalities[m]: torch.from_numpy(cases[0].volumes[m].astype(np.float32)) for m in sources
    }
    encoded = tiny_model.encode(volumes)
    used = tiny_model.predict(encoded, target, torch.zeros_like(encoded.latents[:1]), None, "mean").volume
    column = points.tasks.index((sources, target))
    features, place, latents = (
        torch.from_numpy(plain[name].astype(np.float32)) for name in ("features", "place", "latents")
    )
    inputs = tiny_model.refiner.input_features(features[:, list(sources)], place, sources)
    drawn, _ = tiny_model.refiner.mix_latents(tiny_model.refiner(inputs), latents[:, [column]], (target,))
    expected = used[encoded.refiner_outputs.brain]
    assert float((drawn[:, 0] - expected).square().mean().sqrt()) < 0.05 * float(expected.std())  # half precision
    truth = torch.from_numpy(cases[0].volumes[target].astype(np.float32))[torch.from_numpy(np.array(cases[0].brain))]
    torch.testing.assert_close(torch.from_numpy(plain["wanted"][:, target].astype(np.float32)), truth)
    assert not np.allclose(plain["features"][:, :, 0], changed["features"][:, :, 0])
