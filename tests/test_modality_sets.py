"""Sets of modalities as data: a user's own goes from one file through training, completion, transforms and report."""

from __future__ import annotations

import ast
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import modfill
from benchmarks import ladder, pictures, speed, uncertainty
from modfill.bids_app.command import main as bids_app
from modfill.cases.finding import find_cases
from modfill.cases.layouts.bids import find as find_bids
from modfill.cases.reading import read_case
from modfill.cli import main
from modfill.errors import ModfillError, SettingsError
from modfill.modalities import BRATS, BUILT_IN, ModalitySet
from modfill.model.brightness import Brightness
from modfill.training import run
from tests.case_files import brain_volumes, save
from tests.short_training import shortened

LAB = """
name = "lab"
[modalities.mtc]
short = "MT contrast"
aliases = ["mt_on"]
nearest = "qsm"
[modalities.qsm]
bids = "swi/acq-echo2_QSM"
unsafe = "Calcification is inferred and may be wrong or absent."
[modalities.dark]
short = "Dark fluid"
"""
FROM = {"mtc": "t1n", "qsm": "t2w", "dark": "t2f"}  # which of the tests' volumes stands for each


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the set, and six cases of which half lack one modality."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "lab.toml").write_text(LAB)
    for number in range(6):
        volumes = brain_volumes(seed=number)
        for modality in ("mtc", "qsm", "dark") if number % 2 else ("mtc", "dark"):
            save(folder / "data" / f"p{number}" / f"p{number}_{modality}.nii.gz", volumes[FROM[modality]])
    return folder


@pytest.fixture(scope="module")
def lab_weights(lab: Path) -> Path:
    """Weights that one command trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "PRESETS", shortened(steps=2))
        command = ["train", "--preset", "tiny", "--modalities", str(lab / "lab.toml"), "--data", str(lab / "data")]
        assert main([*command, "-o", str(lab / "run")]) == 0
    return lab / "run" / "weights.safetensors"


@pytest.mark.usefixtures("in_float32")
def test_a_set_that_nobody_foresaw_is_completed_and_reported(lab: Path, lab_weights: Path, tmp_path: Path) -> None:
    with_weights = ["--weights", str(lab_weights), "--device", "cpu"]
    assert main(["complete", str(lab / "data"), "-o", str(tmp_path / "out"), *with_weights]) == 0
    made = sorted(path.name for path in tmp_path.rglob("*.nii.gz"))
    assert made == ["p0-qsm.nii.gz", "p2-qsm.nii.gz", "p4-qsm.nii.gz"]
    note = json.loads((tmp_path / "out" / "p0" / "p0-qsm.json").read_text())
    assert note["ModalitySet"]["Modalities"] == ["mtc", "qsm", "dark"]
    assert note["Unsafe"] == "Calcification is inferred and may be wrong or absent." and "ContrastAgent" not in note
    assert note["Description"].startswith("qsm synthesised from MT contrast, Dark fluid;")
    jsonschema = pytest.importorskip("jsonschema")
    schema = Path(modfill.__file__).parent / "outputs" / "sidecar.schema.json"
    jsonschema.validate(note, json.loads(schema.read_text()))
    assert main(["report", str(tmp_path / "out")]) == 0
    assert "MT contrast, acquired" in (tmp_path / "out" / "report.html").read_text()
    one = ["--image", f"mt-on={lab / 'data' / 'p0' / 'p0_mtc.nii.gz'}", "--targets", "dark"]
    assert main(["complete", *one, "-o", str(tmp_path / "one"), *with_weights]) == 0
    assert [path.name for path in (tmp_path / "one").rglob("*.nii.gz")] == ["p0-dark.nii.gz"]


@pytest.mark.usefixtures("in_float32")
def test_the_torchio_transform_follows_the_weights(lab: Path, lab_weights: Path) -> None:
    tio = pytest.importorskip("torchio")
    from modfill.integrations.torchio_transform import CompleteModalities, RandomModalityDropout

    files = {m: lab / "data" / "p0" / f"p0_{m}.nii.gz" for m in ("mtc", "dark")}
    subject = tio.Subject({modality: tio.ScalarImage(file) for modality, file in files.items()})
    completed = CompleteModalities(lab_weights)(subject)
    assert completed["acquired_modalities"].tolist() == [True, False, True] and completed["qsm"].shape[0] == 1
    assert RandomModalityDropout(modality_set=lab / "lab.toml").num_dropped == (1, 2)


@pytest.mark.usefixtures("in_float32")
def test_benchmarks_follow_the_weights(
    lab: Path, lab_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = lab / "data" / "p1"
    common = ("--cases", case, "--weights", lab_weights)
    for module, words in (
        (ladder, ("--samples", 0, "--out", tmp_path)),
        (uncertainty, ("--samples", 0, "--out", tmp_path)),
        (pictures, ("--modalities", lab / "lab.toml", "--sources", "dark", "mt-on", "--target", "qsm",
                    "--out", tmp_path / "p.png")),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["", *map(str, (*common, *words))])
        module.main()
    rungs = pd.read_csv(tmp_path / "ladder.csv")
    assert set(zip(rungs.sources, rungs.target, strict=True)) == {("qsm", "mtc"), ("qsm+dark", "mtc")}
    assert set(pd.read_csv(tmp_path / "uncertainty.csv").target) == set(FROM)
    assert (tmp_path / "p.png").exists()
    whole = read_case(find_cases(case, modality_set=lab / "lab.toml")[0])
    assert speed.cropped(whole, 0.5).missing == ("dark",)


def test_cases_of_another_set_are_refused(lab: Path, lab_weights: Path) -> None:
    files = find_cases(lab / "data", modality_set=lab / "lab.toml")[0]
    with pytest.raises(SettingsError, match="must be for the weights' modalities t1n, t1c, t2w, t2f, got mtc, qsm"):
        modfill.ModalityCompleter().complete(files)
    assert modfill.ModalityCompleter(lab_weights).modality_set == ModalitySet.of(lab / "lab.toml")


def test_a_modality_that_no_case_has_cannot_be_trained(lab: Path, tmp_path: Path) -> None:
    text = LAB + '[modalities.adc]\nshort = "ADC"\n'
    (tmp_path / "more.toml").write_text(text)
    with pytest.raises(ModfillError, match="got none with adc"):
        run.train_preset("tiny", data=lab / "data", out=tmp_path / "run", modality_set=tmp_path / "more.toml")


def test_bids_finds_any_data_type_and_entity(lab: Path, tmp_path: Path) -> None:
    known, volumes = ModalitySet.of(lab / "lab.toml"), brain_volumes()
    for name in ("swi/sub-1_acq-echo1_QSM", "swi/sub-1_acq-echo2_QSM", "anat/sub-1_mtc"):
        save(tmp_path / "sub-1" / f"{name}.nii.gz", volumes["t1n"])
    (case,) = find_bids(tmp_path, known).cases
    assert {m: path.name for m, path in case.paths.items()} == {
        "mtc": "sub-1_mtc.nii.gz",
        "qsm": "sub-1_acq-echo2_QSM.nii.gz",
    }


@pytest.mark.usefixtures("in_float32")
def test_the_bids_app_completes_a_case_of_the_weights_set(lab_weights: Path, tmp_path: Path) -> None:
    volumes, raw = brain_volumes(), tmp_path / "raw"
    for modality in ("mtc", "dark"):
        save(raw / "sub-1" / "anat" / f"sub-1_{modality}.nii.gz", volumes[FROM[modality]])
    (raw / "dataset_description.json").write_text('{"Name": "lab", "BIDSVersion": "1.9.0"}')
    options = ("--weights", lab_weights, "--device", "cpu", "--skip-bids-validation")
    assert bids_app([str(raw), str(tmp_path / "out"), "participant", *map(str, options)]) == 0
    made = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*desc-modfill*.nii.gz")]
    assert made == ["sub-1/swi/sub-1_acq-echo2_desc-modfill_QSM.nii.gz"]


def test_a_correlation_comes_from_the_cases_that_have_both() -> None:
    figures = torch.randn(9, 3, 3, generator=torch.Generator().manual_seed(0))
    figures[6:, 2] = np.nan
    whole, part = Brightness(3), Brightness(3)
    whole.fit(figures)
    part.fit(figures[:6])
    torch.testing.assert_close(whole.mean[2], part.mean[2])
    assert whole.correlation.isfinite().all() and whole.std.isfinite().all()
    torch.testing.assert_close(whole.correlation.diag(), torch.ones(9))


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_set_is_whole_after_pickling(name: str) -> None:
    """As in the workers of a data loader."""
    known = ModalitySet.of(name)
    again = pickle.loads(pickle.dumps(known))
    assert again == known and again.table == known.table


def change(where: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a set's table: of the set itself or of one modality."""
    return lambda table: (table["modalities"][where] if where else table).__setitem__(key, value)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (change("t1n", "alias", ["x"]), "a key must be one of .* got 'alias'; did you mean aliases"),
        (change("", "modality", {}), "got 'modality'; did you mean modalities"),
        (change("t1n", "aliases", ["flair"]), "alias must belong to one modality, got 'flair' for t1n and t2f"),
        (change("t1n", "nearest", "t3"), "nearest must be one of t1c, t2w, t2f, got 't3'"),
        (change("t1n", "bids", "T1 w"), "bids must be"),
        (change("t1n", "aliases", [3]), "aliases must be"),
        (change("", "modalities", {"t1": {}}), "2 to 16 tables .* got 1"),
        (change("", "modalities", {"t1": {}, "../t2": {}}), "1 to 32 lower-case letters and digits, got '../t2'"),
        (change("", "modalities", {"t1": {}, "seg": {}}), "must not be called like another kind of file"),
        (change("", "name", "a/b"), "name must be 1 to 32"),
    ],
)
def test_a_wrong_table_is_refused(spoil: Callable[[dict[str, Any]], None], reason: str) -> None:
    table = BRATS.table
    spoil(table)
    with pytest.raises(SettingsError, match=reason):
        ModalitySet.from_table(table)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("name = ")
    for which, reason in ((tmp_path / "bad.toml", "must be a TOML file"), ("brast", "brats, ixi or a TOML file")):
        with pytest.raises(SettingsError, match=reason):
            ModalitySet.of(which)


def test_no_code_names_a_modality() -> None:
    package = Path(modfill.__file__).parent
    # recognition by MRI physics, the simulation, and a rule that was fitted to the BraTS set
    own = {package / "prepare", package / "demo", package / "reports" / "swaps.py"}
    files = [*package.rglob("*.py"), *(package.parent / "integrations").rglob("*.py")]
    assert len(files) > 80
    for file in files:
        if own.isdisjoint((file, *file.parents)):
            words = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
            assert not words & {*BRATS.names, "T1w", "T2w", "FLAIR", "T1ce"}, file
