"""The autoencoder's reconstruction is scored on the modality's own scale, so that a perfect one is perfect."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import reconstruction
from modfill.modalities import MODALITIES
from modfill.model.autoencoder import Autoencoder
from modfill.model.synthesiser import Synthesiser
from tests.case_files import write_case


def test_only_what_the_autoencoder_loses_is_lost(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_case(tmp_path / "in", "p1", affine=np.diag((-1.0, -1.0, 1.0, 1.0)))
    command = ["", "--cases", tmp_path / "in", "--weights", tiny_weights, "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])

    def measured() -> pd.DataFrame:
        reconstruction.main()
        return pd.read_csv(tmp_path / "out" / "reconstruction.csv").set_index("modality")

    lost = measured()
    monkeypatch.setattr(Synthesiser, "encode_latents", lambda self, volumes: volumes)
    monkeypatch.setattr(Autoencoder, "decode", lambda self, latent: latent)
    perfect = measured()
    assert tuple(lost.index) == tuple(perfect.index) == MODALITIES and (lost.case_id == "p1").all()
    assert (perfect.psnr > 100).all() and (perfect.ssim > 0.9999).all()
    assert (lost.psnr < 60).all() and (lost.psnr_matched > lost.psnr - 0.01).all()
