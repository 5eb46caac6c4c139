"""The phantom: its grid, its determinism, and the contrasts a radiologist would expect of it."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from modfill.demo.phantom import make_case, write_case
from modfill.errors import ModfillError

pytest.importorskip("nilearn")

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
Case = dict[str, nib.Nifti1Image]
Means = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def case(phantom: Case) -> Case:
    return phantom


@pytest.fixture(scope="module")
def other_seed() -> Case:
    return make_case(seed=1)


def values(case: Case) -> dict[str, NDArray[np.int16]]:
    return {key: np.asarray(image.dataobj) for key, image in case.items()}


@pytest.fixture(scope="module")
def tissue_means(case: Case) -> Means:
    """Mean intensity by tissue and modality; healthy tissue is found by thresholds on other modalities."""
    arrays = values(case)
    brain = ndimage.binary_erosion(arrays["t1n"] > 0, iterations=3)
    healthy = brain & (ndimage.gaussian_filter((arrays["seg"] > 0).astype(np.float32), 6) < 0.02)
    t1n, t2w = (arrays[name] / np.median(arrays[name][brain]) for name in ("t1n", "t2w"))
    low, high = np.percentile(t1n[healthy & (t2w < 1.5)], [20, 75])
    masks = {
        "csf": healthy & (t2w > 2),
        "gm": healthy & (t2w < 1.5) & (np.abs(t1n - low) < 0.05),
        "wm": healthy & (t2w < 1.5) & (t1n > high),
        "necrosis": arrays["seg"] == 1,
        "oedema": arrays["seg"] == 2,
        "enhancing": arrays["seg"] == 3,
    }
    return {m: {tissue: float(arrays[m][mask].mean()) for tissue, mask in masks.items()} for m in MODALITIES}


def test_images_are_on_the_brats_grid(case: Case) -> None:
    assert list(case) == [*MODALITIES, "seg"]
    for image in case.values():
        assert image.shape == (240, 240, 155)
        assert image.get_data_dtype() == np.int16
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
        np.testing.assert_array_equal(image.affine[:3], [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0]])
        assert int(image.header["qform_code"]) == int(image.header["sform_code"]) == 1


def test_modalities_share_one_zero_background(case: Case) -> None:
    arrays = values(case)
    brain = arrays["t1n"] > 0
    assert 1.2e6 < brain.sum() < 1.8e6  # mm3, an adult's brain
    assert ndimage.label(brain)[1] == 1
    for modality in MODALITIES:
        np.testing.assert_array_equal(arrays[modality] != 0, brain)
        assert arrays[modality].min() == 0
    assert not arrays["seg"][~brain].any()


def test_brain_lies_inside_the_grid(case: Case, other_seed: Case) -> None:
    for images in (case, other_seed):
        brain = values(images)["t1n"] > 0
        assert brain[37:203, 23:223, 1:154].sum() == brain.sum()


def test_seeds_differ_in_anatomy_and_tumour(case: Case, other_seed: Case) -> None:
    first, second = values(case), values(other_seed)
    assert ((first["t1n"] > 0) != (second["t1n"] > 0)).sum() > 10_000
    assert ((first["seg"] > 0) != (second["seg"] > 0)).sum() > 1_000


@pytest.mark.parametrize(
    ("modality", "brightest_first"),
    [
        ("t1n", ("wm", "oedema", "csf")),
        ("t1n", ("wm", "gm", "csf")),
        ("t1c", ("enhancing", "wm", "gm", "csf")),
        ("t1c", ("enhancing", "necrosis", "csf")),
        ("t2w", ("csf", "oedema", "gm", "wm")),
        ("t2w", ("csf", "necrosis", "oedema")),
        ("t2f", ("oedema", "gm", "wm", "csf")),
    ],
)
def test_tissue_contrast(tissue_means: Means, modality: str, brightest_first: tuple[str, ...]) -> None:
    means = [tissue_means[modality][tissue] for tissue in brightest_first]
    assert means == sorted(means, reverse=True), dict(zip(brightest_first, means, strict=True))


def test_tumour_has_every_label(case: Case, other_seed: Case) -> None:
    for images in (case, other_seed):
        seg = values(images)["seg"]
        assert set(np.unique(seg)) == {0, 1, 2, 3}
        assert all((seg == label).sum() > 500 for label in (1, 2, 3))


def test_contrast_agent_raises_only_the_enhancing_tumour(tissue_means: Means) -> None:
    ratio = {
        tissue: tissue_means["t1c"][tissue] / tissue_means["t1c"]["wm"] * tissue_means["t1n"]["wm"] / t1n
        for tissue, t1n in tissue_means["t1n"].items()
    }
    assert ratio["enhancing"] > 1.4
    assert all(0.8 < ratio[tissue] < 1.25 for tissue in ("gm", "csf", "oedema", "necrosis"))


def test_write_case_round_trip(case: Case, tmp_path: Path) -> None:
    folder = write_case(tmp_path / "new", "phantom-000", {"t1n": case["t1n"], "seg": case["seg"]})
    assert sorted(path.name for path in folder.iterdir()) == ["phantom-000-seg.nii.gz", "phantom-000-t1n.nii.gz"]
    loaded = nib.Nifti1Image.from_filename(folder / "phantom-000-t1n.nii.gz")
    np.testing.assert_array_equal(np.asarray(loaded.dataobj), np.asarray(case["t1n"].dataobj))
    np.testing.assert_array_equal(loaded.affine, case["t1n"].affine)


def test_missing_nilearn_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(ModfillError, match=r"pip install 'modfill\[demo\]'"):
        make_case()
