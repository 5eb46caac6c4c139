"""The ablation on tiny cases: every row is trained, scored and told apart from the others."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from benchmarks import ablation
from benchmarks.baselines.trained import training_case
from modfill.cases.finding import find_cases
from modfill.cases.reading import read_case
from modfill.model.synthesiser import Encoded
from modfill.weights import checkpoint
from tests.case_files import write_case


def test_every_part_is_trained_and_scored(tmp_path: Path, tiny_weights: Path) -> None:
    for seed in (1, 2, 3):
        write_case(tmp_path / "in", f"p{seed}", shape=(32, 32, 32), seed=seed)
    cases = [read_case(files) for files in find_cases(tmp_path / "in")]
    weights, _ = checkpoint.load(tiny_weights)
    before = {name: value.clone() for name, value in weights.state_dict().items()}
    learning = [training_case(case) for case in cases[:2]]
    laboratory = ablation.Laboratory(weights, learning, learning[:1], tmp_path / "run", None, steps=2)
    models = list(laboratory.rows())
    assert all((model.refiner is None and model.unet is None) == (part != "refiner") for _, model, part in models)
    rows = [line for row in models for line in ablation.measure(*row, cases[2])]
    frame = pd.DataFrame(rows)
    assert frame.groupby("row").size().eq(16).all() and frame.row.nunique() == 8
    assert frame[["psnr", "ssim", "psnr_matched"]].notna().all(axis=None)
    one = frame[frame.sources == 1].groupby("row", sort=False).psnr.mean()
    fused, averaged = "+ tokens of the sources", "the same, sources averaged and not fused"
    assert one.drop(averaged).nunique() == 7 and one[fused] == one[averaged]  # of one source nothing is to be fused
    three = frame[frame.sources == 3].groupby("row", sort=False).psnr.mean()
    assert three.nunique() == 8
    text = ablation.summary(frame)
    assert text.count("\n") == 10 and "| (c) MS-SPADE alone | " in text
    assert all(torch.equal(value, before[name]) for name, value in weights.state_dict().items())
    trained = {path.parent.name for path in (tmp_path / "run").glob("*/*.ckpt")}
    assert trained == {"codebook", "translator", "coded-translator", "denoiser-alone", "denoiser-palette",
                       "denoiser-paper", "denoiser-coded", "denoiser-tokens"}  # fmt: skip


@torch.inference_mode()
def test_diffusion_alone_does_not_see_the_sources(tiny_weights: Path) -> None:
    model, _ = checkpoint.load(tiny_weights)
    latents = torch.randn(2, 1, model.preset.autoencoder.latent_channels, 8, 8, 8)
    for stand_in, same in ((ablation.Nothing(), True), (ablation.Sources(), False)):
        model.translator = stand_in
        given = [ablation.synthesise(model, "denoiser", Encoded((0,), one, None), 2) for one in latents]
        assert torch.equal(*given) == same
