"""Modalities by any of their names, wherever one is named; a wrong name is refused before anything is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modfill.integrations.cache import complete_arrays

from modfill.cases.layouts.dataset_json import channel_modalities
from modfill.cases.reading import case_from_arrays
from modfill.cli import main
from modfill.completer import ModalityCompleter
from modfill.errors import ModfillError
from modfill.modalities import BRATS
from tests.case_files import brain_volumes, oblique_affine, write_case

pytestmark = pytest.mark.usefixtures("in_float32")


@pytest.fixture
def arrays() -> dict[str, Any]:
    return {name: brain_volumes()[m] for name, m in (("T1", "t1n"), ("FLAIR", "t2f"))}


@pytest.mark.parametrize("targets", ["T1ce", ["T1ce"], ("t1-Gd",), iter(["t1c"])])
def test_a_target_goes_by_any_of_its_names(completer: ModalityCompleter, case_folder: Path, targets: Any) -> None:
    assert list(completer.complete(case_folder, targets=targets).images) == ["t1c"]


def test_arrays_and_cohorts_take_the_same_names(
    completer: ModalityCompleter, tiny_weights: Path, tmp_path: Path, arrays: dict[str, Any]
) -> None:
    write_case(tmp_path / "in", "p1", ("t1n", "t2f"))
    (result,) = completer.complete_cohort(tmp_path / "in", out=tmp_path / "out", targets="T1ce")
    assert result.synthesised == ("t1c",)
    affine = oblique_affine()
    assert case_from_arrays(arrays, affine).available == ("t1n", "t2f")
    made = completer.complete_arrays(arrays, affine=affine, case_id="p1", targets="T1ce")
    canonical = {"t1n": arrays["T1"], "t2f": arrays["FLAIR"]}
    again = completer.complete_arrays(canonical, affine=affine, case_id="p1", targets=["t1c"])
    np.testing.assert_array_equal(made["t1c"], again["t1c"])
    affines = {"flair": affine, "T1": affine}
    kept = complete_arrays(arrays, affine=affines, targets="T1ce", weights=tiny_weights, cache=tmp_path / "cache")
    complete_arrays(canonical, affine=affine, targets=["t1c"], weights=tiny_weights, cache=tmp_path / "cache")
    assert list(kept) == ["t1c"] and len(list((tmp_path / "cache").rglob("*.npz"))) == 1


def test_the_command_line_takes_them_too(tiny_weights: Path, case_folder: Path, tmp_path: Path) -> None:
    command = ["complete", str(case_folder), "--out", str(tmp_path / "out"), "--weights", str(tiny_weights)]
    assert main([*command, "--device", "cpu", "--targets", "T1ce"]) == 0
    assert [path.name for path in (tmp_path / "out").rglob("*.nii.gz")] == ["p1-t1c.nii.gz"]
    with pytest.raises(SystemExit) as caught:
        main([*command, "--targets", "adc"])
    assert caught.value.code == 2


@pytest.mark.parametrize("targets", ["adc", ["flair", "fliar"], [3], 3, ["post"], ""])
@pytest.mark.parametrize("naming", ["brats2023", "bids", "nnunet"])
def test_a_wrong_name_is_refused_before_any_work(
    completer: ModalityCompleter, tmp_path: Path, targets: Any, naming: str
) -> None:
    folder = write_case(tmp_path / "in", "p1", ("t1n", "t2w"))
    wanted = "a target must be one of t1n, t1c, t2w, t2f, or a name of theirs"
    with pytest.raises(ModfillError, match=wanted):
        completer.complete_cohort(tmp_path / "in", out=tmp_path / "out", targets=targets, naming=naming)
    with pytest.raises(ModfillError, match=wanted):
        completer.complete(folder, out=tmp_path / "out", targets=targets)
    assert not (tmp_path / "out").exists()


def test_one_modality_has_one_name() -> None:
    assert BRATS.modalities_of(["T2", "t1_pre"]) == ("t2w", "t1n")
    with pytest.raises(ModfillError, match="a key must be named once, got 'T1' and 't1n'; leave one out"):
        BRATS.by_modality({"T1": 1, "t1n": 2}, "a key")


def test_nnunet_channels_and_transforms_take_them() -> None:
    dataset = {"channel_names": {"0": "x"}, "labels": {"background": 0}, "numTraining": 1, "file_ending": ".nii.gz"}
    assert channel_modalities(dataset, "here", BRATS, "flair") == ("t2f",)
    torchio = pytest.importorskip("modfill.integrations.torchio_transform")
    assert torchio.CompleteModalities(names={"T1ce": "t1gd"}).names["t1c"] == "t1gd"
    monai = pytest.importorskip("modfill.integrations.monai_transform")
    transform = monai.CompleteModalitiesd(("a", "b"), modalities=("T1ce", "flair"))
    assert transform.modalities == ("t1c", "t2f")
