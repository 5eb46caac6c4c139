"""A GPU gives the same image as the CPU; skipped where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from modfill.completer import ModalityCompleter
from modfill.settings import Settings
from tests.case_files import write_case

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("mode", ["mean", "sample"])
def test_the_gpu_gives_the_image_of_the_cpu(
    completer: ModalityCompleter, tiny_weights: Path, tmp_path: Path, mode: str
) -> None:
    """To a hundredth of the image's range, since a GPU may multiply in TF32; the noise is the same."""
    case = write_case(tmp_path / "in", "p1", ("t1n", "t2f"))
    expected = completer.complete(case, targets=["t1c"], settings=Settings(mode=mode, uncertainty=True))
    done = ModalityCompleter(tiny_weights, device="cuda").complete(
        case, out=tmp_path / "out", targets=["t1c"], settings=Settings(mode=mode, uncertainty=True)
    )
    for images, others in ((done.images, expected.images), (done.uncertainty, expected.uncertainty)):
        found, wanted = (np.asarray(each["t1c"].dataobj, np.float64) for each in (images, others))
        assert wanted.any() and found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.01 * np.ptp(wanted) + 1)
    note = json.loads((tmp_path / "out" / "p1" / "p1-t1c.json").read_text())
    assert note["Synthetic"] is True and "Threads" not in note


def test_auto_takes_the_gpu(tiny_weights: Path) -> None:
    completer = ModalityCompleter(tiny_weights)
    assert completer.networks.device.type == "cuda" and completer.networks.load().device.type == "cuda"
