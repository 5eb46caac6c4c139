"""What the networks learn from: deformed, mirrored and re-contrasted cases, and tumour regions of more patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modfill.errors import ModfillError
from modfill.model.situation import place, statistics
from modfill.training import augmentation
from modfill.training.augmentation import Example, draw_sources, example, other_scanner
from modfill.training.regions import EDGES, UNIT, ZERO, Regions

SHAPE = (48, 32, 40)
FACTOR = 4
SEEDS = range(12)


@pytest.fixture
def brain() -> Tensor:
    found = torch.zeros(SHAPE, dtype=torch.bool)
    found[4:44, 2:30, 4:36] = True
    return found


def noise(brain: Tensor) -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0)) * brain


def coordinates(brain: Tensor) -> Tensor:
    """Three modalities whose values are the places of their voxels."""
    return place(brain, 1)[:3] * brain


def drawn(seed: int, volumes: Tensor, brain: Tensor, edge: int = 0) -> Example:
    return example(np.random.default_rng(seed), volumes, brain, edge, FACTOR)


def at(values: Tensor, brain: Tensor) -> tuple[Tensor, Tensor]:
    """Means over latent voxels (M, x, y, z), and which of these lie well inside the brain."""
    pool = nn.functional.avg_pool3d
    share = pool(nn.functional.avg_pool3d(brain[None].float(), FACTOR), 3, 1, 1)
    return pool(values, FACTOR), share[0] > 0.999


@pytest.mark.parametrize("edge", [0, 32])
def test_the_place_follows_the_deformation(brain: Tensor, edge: int) -> None:
    """Turned, bent and mirrored: a place is that of the anatomy that lies there, as of a mirrored head."""
    mirrored, moved = set(), 0
    for seed in SEEDS:
        found = drawn(seed, coordinates(brain), brain, edge)
        means, inside = at(found.wanted, found.brain)
        assert inside.any() and (found.place[3] == 1).all()
        sign = 1 if float((means[0] * found.place[0])[inside].sum()) > 0 else -1
        mirrored.add(sign)
        expected = found.place[:3] * torch.tensor([sign, 1, 1]).view(3, 1, 1, 1)
        apart = (means - expected)[:, inside].abs()
        assert apart.max() < 0.2 and apart.mean() < 0.03
        straight = place(brain, FACTOR)
        moved += edge == 0 and not torch.allclose(found.place * sign, straight * sign, atol=1e-3)
    assert mirrored == {-1, 1}
    assert edge or 0 < moved <= len(SEEDS)


def test_an_example_that_is_not_deformed_is_the_case_or_its_mirror_image(
    brain: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augmentation, "DEFORMED", 0.0)
    volumes, seen = noise(brain), set()
    brain[4:20, 2:10] = False  # no symmetry
    volumes = volumes * brain
    for seed in SEEDS:
        found = drawn(seed, volumes, brain)
        turned = not torch.equal(found.brain, brain)
        seen.add(turned)
        wanted, own = (x.flip(-3) if turned else x for x in (volumes, brain))
        assert torch.equal(found.brain, own)
        torch.testing.assert_close(found.wanted, wanted, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.place, place(own, FACTOR), rtol=0, atol=1e-4)
        likeness = [np.corrcoef(a[own], b[own])[0, 1] for a, b in zip(found.sources, wanted, strict=True)]
        assert min(likeness) > 0.5
    assert seen == {False, True}


def test_statistics_are_the_whole_s_under_the_other_scanner(brain: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "DEFORMED", 0.0)
    volumes = noise(brain)
    for seed in SEEDS:
        whole, crop = drawn(seed, volumes, brain), drawn(seed, volumes, brain, 32)
        torch.testing.assert_close(crop.statistics, whole.statistics, rtol=0, atol=0)
        if torch.allclose(whole.wanted, volumes, atol=1e-3):  # not mirrored
            torch.testing.assert_close(statistics(whole.sources, whole.brain), whole.statistics, rtol=0, atol=1e-3)
    assert not torch.allclose(whole.statistics, statistics(volumes, brain), atol=1e-3)


def test_examples_are_padded_and_empty_outside_the_brain(brain: Tensor) -> None:
    for seed in SEEDS:
        found = drawn(seed, noise(brain) + 5 * brain, brain, 64)
        assert found.sources.shape == found.wanted.shape == (4, 64, 64, 64)
        assert found.place.shape == (4, 16, 16, 16)
        assert (found.sources[:, ~found.brain] == 0).all() and (found.wanted[:, ~found.brain] == 0).all()
        assert 0.6 < float(found.brain.sum() / brain.sum()) < 1.5


def test_the_generator_decides_alone(brain: Tensor) -> None:
    """A bank that is filled in parts must hold what one filled at once does."""
    for seed in SEEDS:
        torch.manual_seed(1)
        one = drawn(seed, noise(brain), brain)
        torch.manual_seed(2)
        for a, b in zip(one, drawn(seed, noise(brain), brain), strict=True):
            assert torch.equal(a, b)


def test_another_scanner_changes_most_volumes_and_keeps_the_rest(brain: Tensor) -> None:
    volumes, changed = noise(brain), []
    for seed in range(40):
        found = other_scanner(np.random.default_rng(seed), volumes, brain)
        assert (found[:, ~brain] == 0).all() and found.isfinite().all()
        changed += [not torch.equal(a, b) for a, b in zip(found, volumes, strict=True)]
    assert np.mean(changed) == pytest.approx(augmentation.CHANGED, abs=0.1)


def test_each_number_of_sources_is_as_likely() -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros(4, int)
    for _ in range(600):
        available, missing = draw_sources(rng, range(4))
        assert sorted(available + missing) == [0, 1, 2, 3]
        counts[len(available)] += 1
    assert counts[0] == 0 and counts[1:].min() > 150


def stored(path: Path, **changed: np.ndarray) -> Path:
    """Two regions, of which the second is left out: 1.5 above the mean, the third modality brighter to the left."""
    intensity = np.full((2, 4, 32, 32, 32), ZERO + UNIT * 3 // 2, np.uint8)
    intensity[0, 2, :16] += UNIT
    intensity[0, :, :, :4] = 0
    intensity[1] = 255
    box = np.array([[0, 0, 0, 32, 32, 28]] * 2, np.uint8)
    np.savez(path, **{"intensity": intensity, "valid_box": box, "val": np.array([False, True])} | changed)
    return path


def test_regions_come_at_1_mm_in_ras_without_rim_or_padding(tmp_path: Path) -> None:
    volumes, brain = Regions(stored(tmp_path / "r.npz"), 4).drawn(np.random.default_rng(0), 3, torch.device("cpu"))
    assert volumes.shape == (3, 4, *EDGES) and brain.shape == (3, *EDGES)
    assert (volumes.movedim(1, 0)[:, ~brain] == 0).all()
    assert torch.allclose(volumes[:, 0][brain], torch.tensor(1.5)), "the region for validation must not be drawn"
    first, second, third = (torch.nonzero(brain[0])[:, axis] for axis in range(3))
    assert second.max() < 60 - 4 * 1.875  # the background at y = 0 is at the end once LPS is RAS
    assert third.max() < 28 * 1.21
    assert volumes[0, 2, first.max(), 20, 15] > volumes[0, 2, first.min(), 20, 15]


def test_a_file_that_is_no_regions_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ModfillError, match=r"other.npz must be an .npz with intensity, val, valid_box"):
        Regions(tmp_path / "other.npz", 4)
    with pytest.raises(ModfillError, match=r"intensity must be \(N, 4, x, y, z\)"):
        Regions(stored(tmp_path / "r.npz", intensity=np.zeros((2, 3, 8, 8, 8), np.uint8)), 4)
