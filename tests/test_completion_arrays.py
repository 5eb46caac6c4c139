"""Completion of arrays, number types, other grids, and uncertainty."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from torch import Tensor

from modfill.cases.reading import case_from_arrays
from modfill.completer import ModalityCompleter
from modfill.errors import CaseError
from modfill.model.denoiser import Condition, Denoiser
from modfill.settings import Settings
from tests.case_files import brain_volumes, oblique_affine, save


def sources(dtype: npt.DTypeLike = np.int16, factor: float = 1.0) -> dict[str, npt.NDArray[np.generic]]:
    volumes = brain_volumes()
    return {m: (volumes[m] * factor).astype(dtype) for m in ("t1n", "t2f")}


def test_arrays_give_what_files_give(completer: ModalityCompleter, case_folder: Path) -> None:
    affine = nib.load(case_folder / "p1-t1n.nii.gz").affine
    arrays = completer.complete_arrays(
        sources(), affine=affine, case_id="p1", settings=Settings(mode="sample", steps=2, seed=4)
    )
    files = completer.complete(case_folder, settings=Settings(mode="sample", steps=2, seed=4))
    assert list(arrays) == list(files.images) == ["t1c", "t2w"]
    for modality, array in arrays.items():
        np.testing.assert_array_equal(array, np.asanyarray(files.images[modality].dataobj))


def test_arrays_are_left_alone_and_their_voxels_hashed(completer: ModalityCompleter) -> None:
    arrays = sources()
    completer.complete_arrays(arrays, affine=oblique_affine())
    for modality, array in sources().items():
        np.testing.assert_array_equal(arrays[modality], array)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
def test_integers_give_integers(completer: ModalityCompleter, dtype: type) -> None:
    arrays = sources(dtype, 0.2)
    for array in completer.complete_arrays(arrays, affine=oblique_affine()).values():
        assert array.dtype == dtype
        np.testing.assert_array_equal(array != 0, np.any([v != 0 for v in arrays.values()], axis=0))
        assert len(np.unique(array)) > 10


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("factor", [1e-3, 1.0])
def test_floats_give_float32(completer: ModalityCompleter, dtype: type, factor: float) -> None:
    arrays = sources(dtype, factor)
    for array in completer.complete_arrays(arrays, affine=oblique_affine()).values():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array != 0, arrays["t1n"] != 0)
        inside = array[array != 0]
        assert factor * 100 < inside.min() < inside.mean() < inside.max() < factor * 1000
        assert len(np.unique(inside)) > 1000


def test_negative_floats_as_z_scores_are_allowed(completer: ModalityCompleter) -> None:
    arrays = {m: np.where(v != 0, (v - 480) / 100, 0).astype(np.float32) for m, v in sources(np.float32).items()}
    array = completer.complete_arrays(arrays, affine=oblique_affine())["t1c"]
    brain = np.any([v != 0 for v in arrays.values()], axis=0)
    assert (array[brain] < 0).any() and (array[brain] > 0).any()
    np.testing.assert_array_equal(array != 0, brain)


def _saved_with_slope(path: Path, volume: npt.NDArray[np.generic]) -> None:
    image = nib.Nifti1Image(volume * np.float64(0.001), oblique_affine())
    image.set_data_dtype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def test_intensities_below_1_in_scaled_integer_files_survive(completer: ModalityCompleter, tmp_path: Path) -> None:
    """int16 on disk with scl_slope, as fsl and nibabel write floats: 0.3 to 0.8 must not be rounded to 1."""
    for modality, volume in sources().items():
        _saved_with_slope(tmp_path / "p1" / f"p1-{modality}.nii.gz", volume)
    done = completer.complete(tmp_path / "p1", out=tmp_path / "out", targets=["t1c"])
    values = nib.load(done.paths["t1c"]).get_fdata()
    assert len(np.unique(values)) > 100
    assert 0.1 < values[values != 0].mean() < 1
    low, high = done.provenance["t1c"]["UnitRange"]
    assert low - 1e-3 <= values[values != 0].min() and values.max() <= high + 1e-3


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 4.0), (0.6, 0.6, 0.6)])
def test_other_spacings_come_back_on_their_own_grid(completer: ModalityCompleter, spacing: tuple[float, ...]) -> None:
    affine = oblique_affine() @ np.diag((*(np.array(spacing) / (1.0, 1.1, 1.3)), 1.0))
    arrays = sources()
    array = completer.complete_arrays(arrays, affine=affine)["t1c"]
    assert array.shape == arrays["t1n"].shape
    np.testing.assert_array_equal(array != 0, arrays["t1n"] != 0)


def test_a_brain_that_touches_the_borders(completer: ModalityCompleter) -> None:
    extents = [(int(axis.min()), int(axis.max()) + 1) for axis in np.nonzero(sources()["t1n"])]
    box = tuple(slice(start, stop) for start, stop in extents)
    arrays = {m: v[box] for m, v in sources().items()}
    array = completer.complete_arrays(arrays, affine=oblique_affine())["t1c"]
    np.testing.assert_array_equal(array != 0, arrays["t1n"] != 0)


@pytest.mark.parametrize("layout", ["C", "F"])
def test_memory_layout_does_not_matter(completer: ModalityCompleter, layout: str) -> None:
    arrays = {m: np.asarray(v, order=layout) for m, v in sources().items()}  # type: ignore[call-overload]
    reference = completer.complete_arrays(sources(), affine=oblique_affine())["t1c"]
    again = completer.complete_arrays(arrays, affine=oblique_affine())["t1c"]
    np.testing.assert_array_equal(again, reference)


@pytest.mark.parametrize("mode", ["mean", "sample"])
def test_uncertainty_comes_with_the_image_where_it_is_asked_for(
    completer: ModalityCompleter, case_folder: Path, mode: str
) -> None:
    assert completer.complete(case_folder, targets=["t1c"], settings=Settings(mode=mode)).uncertainty == {}
    done = completer.complete(case_folder, targets=["t1c"], settings=Settings(uncertainty=True, mode=mode))
    image = done.uncertainty["t1c"]
    values, brain = np.asanyarray(image.dataobj), np.asanyarray(done.images["t1c"].dataobj) != 0
    assert values.shape == brain.shape and image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(image.affine, done.images["t1c"].affine)
    assert (values >= 0).all() and (values[~brain] == 0).all() and (values[brain] > 0).mean() > 0.9


def test_no_sample_is_drawn_that_nothing_depends_on(
    completer: ModalityCompleter, case_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoise, drawn = Denoiser.forward, []

    def counted(denoiser: Denoiser, noisy: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        drawn.append(len(noisy))
        return denoise(denoiser, noisy, sigma, condition)

    monkeypatch.setattr(Denoiser, "forward", counted)

    def evaluations(settings: Settings) -> int:
        drawn.clear()
        completer.complete(case_folder, targets=["t1c"], settings=settings)
        return sum(drawn)

    assert evaluations(Settings(uncertainty=True)) == 0
    assert evaluations(Settings("sample", uncertainty=True)) == completer.networks.preset.denoiser.sampling_steps
    assert evaluations(Settings("sample", 2)) == 2


def test_a_sample_is_less_sure_than_the_mean(completer: ModalityCompleter) -> None:
    """Its departure from the mean adds to what is to be expected, voxel by voxel and on the whole."""
    case = case_from_arrays(sources(np.float32), np.eye(4), "p1")
    mean, sample = (
        completer.complete(case, settings=Settings(mode=mode, uncertainty=True)) for mode in ("mean", "sample")
    )
    assert sample.provenance["t1c"]["ExpectedPSNR"] < mean.provenance["t1c"]["ExpectedPSNR"]
    known, less = (np.asanyarray(done.uncertainty["t1c"].dataobj) for done in (mean, sample))
    images = [np.asanyarray(done.images["t1c"].dataobj) for done in (mean, sample)]
    low, high = sample.provenance["t1c"]["UnitRange"]
    kept = np.all([(image > 1.001 * low) & (image < 0.999 * high) for image in images], axis=0)  # not clipped
    assert kept.sum() > 1000
    departure = np.sqrt(less[kept].astype(float) ** 2 - known[kept].astype(float) ** 2)
    np.testing.assert_allclose(departure, abs(images[1] - images[0])[kept], atol=0.02 * (high - low))


def test_uncertainty_is_in_the_image_s_intensities(completer: ModalityCompleter) -> None:
    """Ten times the intensities give ten times the uncertainty."""
    spreads = []
    for factor in (1.0, 10.0):
        case = case_from_arrays(sources(np.float32, factor), oblique_affine(), "p1")
        done = completer.complete(case, targets=["t1c"], settings=Settings(uncertainty=True))
        spreads.append(np.asanyarray(done.uncertainty["t1c"].dataobj))
    np.testing.assert_allclose(spreads[1].mean(), 10 * spreads[0].mean(), rtol=0.02)


def test_too_small_a_brain_is_refused(completer: ModalityCompleter) -> None:
    volume = np.zeros((12, 12, 12), np.int16)
    volume[4:7, 4:7, 4:7] = np.arange(27).reshape(3, 3, 3) + 1
    with pytest.raises(CaseError, match="at least 64 voxels"):
        completer.complete_arrays({"t1n": volume}, affine=np.eye(4))


def test_an_unusable_image_is_not_quietly_replaced(completer: ModalityCompleter, case_folder: Path) -> None:
    save(case_folder / "p1-t2w.nii.gz", np.zeros((24, 28, 20), np.int16))
    with pytest.raises(CaseError, match="p1-t2w.nii.gz .*all zero"):
        completer.complete(case_folder)
