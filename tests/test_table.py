"""The voxelwise table: conditional means of the training voxels, looked up with linear interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.baselines.table import REACH, VoxelwiseTable, fit_tables


@pytest.fixture(scope="module")
def table() -> VoxelwiseTable:
    """Fitted on two cases in which the last modality is a known function of the others."""
    rng = np.random.default_rng(0)
    fitted = VoxelwiseTable(4)
    fit_tables(fitted, (_case(rng, 300_000) for _ in range(2)))
    return fitted


def _case(rng: np.random.Generator, voxels: int) -> np.ndarray:
    a, b, c = rng.normal(size=(3, voxels))
    return np.stack([a, b, c, np.tanh(a) - 0.5 * b + 0.25 * c])


@pytest.mark.parametrize(
    ("sources", "expected"),
    [((0,), lambda a, b, c: np.tanh(a)), ((1,), lambda a, b, c: -0.5 * b),
     ((0, 1), lambda a, b, c: np.tanh(a) - 0.5 * b), ((0, 1, 2), lambda a, b, c: np.tanh(a) - 0.5 * b + 0.25 * c)],
)  # fmt: skip
def test_it_gives_the_mean_of_the_target_where_the_sources_are_so(table: VoxelwiseTable, sources, expected) -> None:
    points = np.random.default_rng(1).uniform(-1, 1, (3, 5, 6, 7))
    volumes = torch.zeros(1, 4, 5, 6, 7)
    volumes[0, list(sources)] = torch.from_numpy(points[list(sources)]).float()
    found = table(volumes, sources, 3)
    assert found.shape == (1, 1, 5, 6, 7)
    np.testing.assert_allclose(found[0, 0], expected(*points), atol=0.15)  # smoothing flattens curves, bins are coarse


def test_only_the_sources_matter(table: VoxelwiseTable) -> None:
    volumes = torch.randn(1, 4, 4, 4, 4)
    other = volumes.clone()
    other[:, [1, 3]] += 1
    torch.testing.assert_close(table(volumes, (0, 2), 3), table(other, (0, 2), 3))


def test_values_out_of_reach_are_those_at_the_border(table: VoxelwiseTable) -> None:
    volumes = torch.zeros(1, 4, 2, 2, 2)
    volumes[:, 0] = 50.0
    border = torch.zeros_like(volumes)
    border[:, 0] = REACH
    torch.testing.assert_close(table(volumes, (0,), 3), table(border, (0,), 3))
