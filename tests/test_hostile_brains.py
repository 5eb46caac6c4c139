"""Brains that no one has, and answers that are no numbers: an honest image or a CaseError, never a wrong image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from modfill.cases.reading import case_from_arrays
from modfill.completer import ModalityCompleter
from modfill.errors import CaseError
from modfill.model.synthesiser import Prediction, Synthesiser
from modfill.settings import Settings
from tests.case_files import brain_volumes

Volume = npt.NDArray[np.float32]
Place = tuple[slice | int, ...]
CUBE = (slice(5, 15),) * 3


def volume(shape: tuple[int, int, int], *places: Place) -> Volume:
    """Random intensities from 1 to 2 at some places, 0 elsewhere."""
    made = np.zeros(shape, np.float32)
    for place in places:
        made[place] = np.random.default_rng(0).random(made[place].shape) + 1
    return made


def nearly_constant(value: float) -> Volume:
    """All but one of 1,000 voxels are equal: between the percentiles nothing is left."""
    made = np.zeros((20, 20, 20), np.float32)
    made[CUBE], made[9, 9, 9] = value, value + 1
    return made


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.3, 0.3, 0.3), (5, 5, 5), (0.5, 0.5, 10), (3, 0.1, 1)], ids=str)
@pytest.mark.parametrize(
    "brain",
    [
        volume((60, 60, 4), (slice(2, 50), slice(2, 50), 1)),
        volume((4, 60, 60), (1, slice(2, 50), slice(2, 50))),
        volume((100, 5, 5), (slice(5, 95), 2, 2)),
        volume((3, 3, 100), (1, 1, slice(5, 95))),
        volume((30, 30, 30), (slice(2, 28, 4),) * 3),
        volume((20, 20, 20), (slice(0, 4),) * 3),
        nearly_constant(7),
    ],
    ids=["plane", "side", "line", "needle", "dots", "corner", "nearly constant"],
)
@pytest.mark.usefixtures("in_float32")
def test_an_answer_wherever_there_is_a_brain(completer: ModalityCompleter, brain: Volume, spacing: tuple) -> None:
    made = completer.complete_arrays({"t1n": brain}, affine=np.diag((*spacing, 1.0)), targets=["t1c"])["t1c"]
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(made != 0, brain != 0)


@pytest.mark.usefixtures("in_float32")
def test_voxels_of_mean_intensity_belong_to_the_brain(completer: ModalityCompleter) -> None:
    """Their z-score is 0, as outside the brain; two such modalities once had no brain at all."""
    arrays = {"t1n": nearly_constant(7), "t2w": nearly_constant(3)}
    arrays["t2w"][9, 9, 9], arrays["t2w"][8, 9, 9] = 3, 9
    made = completer.complete(case_from_arrays(arrays, np.eye(4)), targets=["t1c"])
    assert np.isfinite(made.provenance["t1c"]["ExpectedPSNR"])
    assert (np.asanyarray(made.images["t1c"].dataobj)[CUBE] != 0).all()


def test_a_brain_of_which_nothing_is_left_at_1_mm_is_refused(completer: ModalityCompleter) -> None:
    brain = volume((60, 60, 60), (slice(2, 60, 5),) * 3)
    for corner in ((0, 2, 2), (2, 0, 2), (2, 2, 0)):
        brain[corner] = 1
    with pytest.raises(CaseError, match="must be thick enough for voxels of 1 mm, got 1731 voxels far apart"):
        completer.complete_arrays({"t1n": brain}, affine=np.diag((0.2, 0.2, 0.2, 1.0)))


@torch.inference_mode()
def test_half_precision_is_right_for_thin_slabs(tiny_model: Synthesiser) -> None:
    """oneDNN's bfloat16 kernels for AMX leave memory as it was where the coarsest level is one voxel wide."""
    volumes = {"t1n": torch.randn(96, 96, 16, generator=torch.Generator().manual_seed(0))}
    noise = torch.randn(4, 24, 24, 4, generator=torch.Generator().manual_seed(1))

    def predicted() -> tuple[Tensor, Tensor]:
        encoded = tiny_model.encode(volumes)
        found = tiny_model.sampled(encoded, 1, tiny_model.predict(encoded, 1), noise, 0.5, steps=2)
        assert found.residual is not None
        return found.volume, found.residual

    exact = predicted()
    for _ in range(5):
        rubbish = [torch.full((2**power,), 1e30) for power in (10, 12, 14, 16, 18)]
        del rubbish  # its memory is what an unwritten output holds
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = predicted()
        for half, whole in zip(found, exact, strict=True):
            torch.testing.assert_close(half.float(), whole, rtol=0, atol=0.3 * float(whole.std()))


def _nan(volume: Tensor) -> Tensor:
    return torch.full_like(volume, float("nan"))


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: replace(p, volume=_nan(p.volume)),
        lambda p: replace(p, squared_error=_nan(p.squared_error)),
        lambda p: replace(p, expected_mse=float("nan")),
        lambda p: replace(p, expected_mse=float("inf")),
    ],
    ids=["volume", "uncertainty", "expected PSNR", "infinite expected PSNR"],
)
def test_what_is_not_finite_is_never_given_out(
    completer: ModalityCompleter, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Prediction], Prediction]
) -> None:
    original = Synthesiser.predict
    monkeypatch.setattr(Synthesiser, "predict", lambda *arguments: spoil(original(*arguments)))
    case = case_from_arrays({"t1n": brain_volumes((14, 16, 12))["t1n"]}, np.eye(4))
    with pytest.raises(CaseError, match="a synthesised t1c must be finite"):
        completer.complete(case, targets=["t1c"], settings=Settings(uncertainty=True))


@pytest.mark.parametrize("dtype", [np.complex64, object, "U3"])
def test_what_is_no_real_number_is_refused(dtype: type) -> None:
    with pytest.raises(CaseError, match="t1n must hold real numbers, got"):
        case_from_arrays({"t1n": brain_volumes((14, 16, 12))["t1n"].astype(dtype)}, np.eye(4))
