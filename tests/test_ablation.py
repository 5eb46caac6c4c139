"""The ablation on a tiny case: every part that is switched off has an effect, and is switched on again."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import ablation
from modfill.model.inference import draw_noise
from modfill.model.synthesiser import Encoded, Synthesiser
from tests.case_files import write_case


def encoded_case(model: Synthesiser) -> Encoded:
    """A case of one source with an uneven brain."""
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn(32, 32, 48, generator=generator)
    volume[:9, :, 40:] = 0
    return model.encode({"t1n": volume})


@torch.inference_mode()
@pytest.mark.usefixtures("one_thread")
def test_each_part_of_the_mean_has_an_effect_and_comes_back(tiny_model: Synthesiser) -> None:
    encoded = encoded_case(tiny_model)
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    rows = dict(ablation.means(tiny_model, encoded, 2))
    assert len(rows) == 6
    for name, volume in rows.items():
        moved = (volume - rows["the mean"]).abs().max()
        assert (moved > 1e-4) == (name != "the mean"), name
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())
    assert torch.equal(tiny_model.mean(encoded, 2)[0], rows["the mean"])


@torch.inference_mode()
@pytest.mark.usefixtures("one_thread")
def test_what_the_guided_decoder_adds_is_the_same_for_every_sample(tiny_model: Synthesiser) -> None:
    encoded = encoded_case(tiny_model)
    shape = tiny_model.preset.autoencoder.latent_channels, *encoded.inputs.place.shape[2:]
    noise = torch.stack([draw_noise(shape, "case", "t2w", seed) for seed in (0, 1)])
    rows = list(ablation.samples(tiny_model, encoded, 2, noise))
    target_like, without, diffused, one, several = (volume for _, volume in rows)
    detail = tiny_model.mean(encoded, 2)[0] - target_like
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
