"""The translator and its guided decoder: crops match wholes, and nothing that is missing is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import modfill.model.decoder as decoding
from modfill.model.situation import BINS, PLACES, of_available, place, statistics, statistics_length
from modfill.model.synthesiser import Synthesiser
from modfill.model.translator import Inputs, Translator

SHAPE = (48, 32, 16)
FACTOR = 4


@pytest.fixture
def translator(tiny_model: Synthesiser) -> Translator:
    return tiny_model.translator


def inputs_of(shape: tuple[int, ...] = SHAPE, sources: tuple[int, ...] = (0, 1, 2, 3), seed: int = 0) -> Inputs:
    """Random volumes; the brain is everything."""
    volumes = torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed))
    available = torch.zeros(4)
    available[list(sources)] = 1
    volumes = volumes * available[:, None, None, None]
    brain = torch.ones(shape, dtype=torch.bool)
    return Inputs(
        volumes[None], brain[None, None].float(), available[None], place(brain, FACTOR)[None],
        statistics(volumes, brain)[None],
    )  # fmt: skip


def targets(*indices: int) -> Tensor:
    return torch.tensor(indices)


@torch.inference_mode()
def test_a_crop_is_answered_like_its_part_of_the_whole(translator: Translator) -> None:
    """Away from the cut: what looks at the whole is told by place and statistics alone."""
    whole = inputs_of((304, 16, 16))
    box = (slice(0, 160), slice(0, 16), slice(0, 16))
    crop = whole._replace(
        volumes=whole.volumes[:, :, :160], brain=whole.brain[:, :, :160],
        place=place(whole.brain[0, 0] > 0, FACTOR, box)[None],
    )  # fmt: skip
    for one, other in zip(translator(crop, targets(2)), translator(whole, targets(2)), strict=True):
        torch.testing.assert_close(one[:, :, :24], other[:, :, :24], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(one[:, :, 159], other[:, :, 159], atol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("slab", [16, 64])
def test_decoding_the_brain_in_slabs_equals_decoding_every_voxel(
    translator: Translator, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "SLAB", slab)
    inputs = inputs_of()
    brain = torch.rand(SHAPE, generator=torch.Generator().manual_seed(2)) > 0.4
    brain[16:32] = False  # a slab without brain
    features = translator.encode(inputs)
    half = translator.decoder.at_half(translator.translate(features, targets(1)), features.half)
    dense = translator.decoder(half, inputs.volumes, targets(1))
    for every, inside in zip(dense, translator.decoder.inside(half, inputs.volumes, brain, 1), strict=True):
        assert inside.shape == SHAPE and (inside[~brain] == 0).all() and (inside[brain] != 0).all()
        torch.testing.assert_close(inside[brain], every[0, 0][brain], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_rows_with_targets_of_their_own_equal_single_ones(translator: Translator) -> None:
    rows = [inputs_of(sources=sources, seed=seed) for seed, sources in enumerate([(0,), (1, 2), (0, 1, 2)])]
    which = (2, 0, 3)
    together = translator(Inputs(*(torch.cat(parts) for parts in zip(*rows, strict=True))), targets(*which))
    for index, (row, target) in enumerate(zip(rows, which, strict=True)):
        for one, both in zip(translator(row, targets(target)), together, strict=True):
            torch.testing.assert_close(one[0], both[index], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_target_switches_the_latent_features_and_the_decoder(translator: Translator) -> None:
    inputs = inputs_of(sources=(0, 2))
    features = translator.encode(inputs)
    one, other = (translator.translate(features, targets(target)) for target in (1, 3))
    assert one.shape == features.latent.shape and not torch.allclose(one, other, atol=1e-3)
    half = translator.decoder.at_half(one, features.half)
    first, second = (translator.decoder(half, inputs.volumes, targets(target))[0] for target in (1, 3))
    assert not torch.allclose(first, second, atol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["volumes", "available", "place", "statistics"])
def test_every_input_matters(translator: Translator, name: str) -> None:
    inputs = inputs_of(sources=(0, 2))
    before = getattr(inputs, name)
    changed = torch.tensor([[1.0, 0, 1, 1]]) if name == "available" else before * 0.5
    for one, other in zip(
        translator(inputs, targets(1)), translator(inputs._replace(**{name: changed}), targets(1)), strict=True
    ):
        assert not torch.allclose(one, other, atol=1e-4)


@torch.inference_mode()
def test_the_statistics_of_a_missing_modality_are_not_read(translator: Translator) -> None:
    """In training they are those of all modalities, in use those of the sources."""
    volumes, brain = torch.randn(4, *SHAPE), torch.ones(SHAPE, dtype=torch.bool)
    every = statistics(volumes, brain)[None]
    inputs = inputs_of(sources=(0, 2))
    given = volumes * inputs.available[0, :, None, None, None]
    known = [inputs._replace(statistics=found) for found in (every, statistics(given, brain)[None])]
    assert not torch.equal(known[0].statistics, known[1].statistics)
    for one, other in zip(*(translator(row, targets(1)) for row in known), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_moments_are_those_of_the_voxels_of_the_brain() -> None:
    volumes = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    brain = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) > 0.3
    found = statistics(volumes, brain)
    assert found.shape == (statistics_length(3),) and found[-1] == 1
    a, _, c = volumes[:, ::2, ::2, ::2].clamp(-4, 4).double()[:, brain[::2, ::2, ::2]].numpy()
    expected = [np.mean(a * c), np.mean(a**2 * c) / 2, np.mean(a * c**2) / 2]
    np.testing.assert_allclose(found[3 * BINS + 3 : 3 * BINS + 6], expected, atol=1e-5)
    outside = torch.where(brain, volumes, 5.0)
    torch.testing.assert_close(statistics(outside, brain), found)


def test_a_histogram_is_largest_where_the_voxels_are() -> None:
    brain = torch.ones(SHAPE, dtype=torch.bool)
    for value, expected in ((-3.0, 0), (4.0, BINS - 1), (-3 + 7 * 5 / 15, 5)):
        volumes = torch.full((2, *SHAPE), value)
        volumes[1] = 0
        assert int(statistics(volumes, brain)[:BINS].argmax()) == expected


def test_of_a_missing_modality_nothing_is_left() -> None:
    brain = torch.ones(SHAPE, dtype=torch.bool)
    volumes = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    available = torch.tensor([[1.0, 0, 1, 1]])
    before = of_available(statistics(volumes, brain)[None], available)
    for modality in range(4):
        other = volumes.clone()
        other[modality] += 0.5
        after = of_available(statistics(other, brain)[None], available)
        assert torch.equal(before, after) == (modality == 1)
    assert before[0, -1] == 1 and of_available(torch.zeros_like(before), available).abs().sum() == 0


def test_a_place_is_told_in_the_brain_s_own_box() -> None:
    brain = torch.zeros(SHAPE, dtype=torch.bool)
    brain[8:40, 4:28, 4:12] = True
    found = place(brain, FACTOR)
    assert found.shape == (PLACES, 12, 8, 4) and (found[3] == 1).all()
    torch.testing.assert_close(found[0, :, 0, 0], (torch.arange(12) * 4 + 2 - 8) / 16 - 1)
    inside = found[:3, 2:10, 1:7, 1:3].flatten(1)
    for axis, edge in enumerate((32, 24, 8)):
        assert float(inside[axis].min()) == pytest.approx(-1 + 4 / edge)
        assert float(inside[axis].max()) == pytest.approx(1 - 4 / edge)
    moved = place(brain.roll((4, -4), (0, 1)), FACTOR)
    torch.testing.assert_close(moved[:, 3:11, 0:6, 1:3], found[:, 2:10, 1:7, 1:3])


def test_a_crop_has_the_places_of_the_whole() -> None:
    brain = torch.rand(SHAPE) > 0.5
    box = (slice(8, 40), slice(0, 16), slice(4, 16))
    torch.testing.assert_close(place(brain, FACTOR, box), place(brain, FACTOR)[:, 2:10, 0:4, 1:4])
