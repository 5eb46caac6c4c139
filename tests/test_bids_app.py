"""The BIDS App, and the official validator's judgement of what it writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modfill.bids_app.command import main
from modfill.bids_app.dataset import chosen
from modfill.modalities import ModalitySet
from tests.case_files import brain_volumes, save

VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects, one of them with a session, that lack T1ce and T2."""
    folder, volumes = tmp_path_factory.mktemp("bids") / "raw", brain_volumes()
    for place in ("sub-01", "sub-02/ses-a"):
        for modality, suffix in (("t1n", "T1w"), ("t2f", "FLAIR")):
            save(folder / place / "anat" / f"{place.replace('/', '_')}_{suffix}.nii.gz", volumes[modality])
    description = {"Name": "two subjects", "BIDSVersion": "1.9.0", "DatasetType": "raw", "DatasetDOI": "doi:10.1/x"}
    (folder / "dataset_description.json").write_text(json.dumps(description))
    (folder / "README").write_text("Two small brains for a test.\n")
    return folder


def run(dataset: Path, out: Path, level: str, *options: object) -> int:
    return main([str(dataset), str(out), level, *map(str, options)])


@pytest.fixture(scope="module")
def derivative(dataset: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both levels, with maps, for all participants."""
    out = tmp_path_factory.mktemp("derivative") / "modfill"
    options = ("--weights", tiny_weights, "--device", "cpu", "--uncertainty")
    assert run(dataset, out, "participant", *options) == run(dataset, out, "group") == 0
    return out


def test_the_derivative_is_whole(dataset: Path, derivative: Path) -> None:
    anat = derivative / "sub-02" / "ses-a" / "anat"
    stem = "sub-02_ses-a"
    for name in ("T1w", "FLAIR", "desc-modfill_T2w", "desc-modfillUncertainty_T2w", "ce-gadolinium_desc-modfill_T1w"):
        assert (anat / f"{stem}_{name}.nii.gz").is_file(), name
    description = json.loads((derivative / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"][0]["Name"] == "modfill"
    (source,) = description["SourceDatasets"]
    assert (derivative / source["URL"]).resolve() == dataset.resolve() and source["DOI"] == "doi:10.1/x"
    assert (derivative / "report.html").is_file() and (derivative / "cohort.csv").is_file()


@pytest.mark.skipif(not VALIDATOR.exists(), reason="needs bids-validator-deno")
def test_the_official_validator_finds_no_error(derivative: Path, tmp_path: Path) -> None:
    def errors(folder: Path) -> list[str]:
        done = subprocess.run([VALIDATOR, "--format", "json", folder], capture_output=True, text=True, check=False)
        issues = json.loads(done.stdout)["issues"]["issues"]
        return [f"{issue['code']}: {issue.get('location')}" for issue in issues if issue["severity"] == "error"]

    assert errors(derivative) == []
    spoilt = shutil.copytree(derivative, tmp_path / "spoilt")
    (spoilt / ".bidsignore").unlink()
    assert sorted(errors(spoilt)) == ["NOT_INCLUDED: /cohort.csv", "NOT_INCLUDED: /report.html"]


def test_labels_choose_subjects_and_sessions(
    dataset: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--weights", tiny_weights, "--device", "cpu", "--skip-bids-validation")
    assert run(dataset, tmp_path / "one", "participant", "--participant-label", "02", *options) == 0
    assert [folder.name for folder in sorted((tmp_path / "one").glob("sub-*"))] == ["sub-02"]
    assert run(dataset, tmp_path / "one", "participant", "--session-label", "ses-a", *options) == 0  # finished before
    assert run(dataset, tmp_path / "none", "participant", "--participant-label", "sub-07", *options) == 2
    assert "(sub-01, sub-02), got sub-07" in capsys.readouterr().err
    assert run(dataset, tmp_path / "none", "participant", "--participant-label", "01", "--session-label", "a") == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(not VALIDATOR.exists(), reason="needs bids-validator-deno")
def test_an_invalid_dataset_is_refused(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt = shutil.copytree(dataset, tmp_path / "raw")
    (spoilt / "dataset_description.json").write_text("{}")
    assert run(spoilt, tmp_path / "out", "participant") == 1
    assert "must be valid BIDS, got JSON_KEY_REQUIRED" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_weights_decide_which_modalities_are_looked_for(tmp_path: Path) -> None:
    volumes = brain_volumes()
    for suffix, modality in (("T2w", "t2w"), ("PDw", "t1n")):
        save(tmp_path / "sub-01" / "anat" / f"sub-01_{suffix}.nii.gz", volumes[modality])
    ixi = chosen(tmp_path, None, None, ModalitySet.of("ixi"))
    assert [set(case.paths) for case in ixi.cases] == [{"t2", "pd"}]
    assert [set(case.paths) for case in chosen(tmp_path, None, None).cases] == [{"t2w"}]
