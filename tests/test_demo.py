"""The demonstration, from a phantom to picture and report, with untrained weights of the tiny preset."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from modfill.cases.marks import SYNTHETIC_MARK
from modfill.errors import ModfillError
from modfill.terminal.log import shown

pytest.importorskip("nilearn")
pytest.importorskip("matplotlib")

from modfill.demo.run import CASE_ID, HIDDEN, run_demo  # noqa: E402
from modfill.model.config import PRESETS, STAGES  # noqa: E402
from modfill.model.synthesiser import Synthesiser  # noqa: E402
from modfill.weights import checkpoint  # noqa: E402 (after the skips)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    checkpoint.save(Synthesiser(PRESETS["tiny"]), path, STAGES)
    return path


def leave_an_earlier_output(out: Path) -> None:
    """What an earlier demo may have left: a finished FLAIR, on another grid."""
    folder = out / "completed" / CASE_ID
    folder.mkdir(parents=True)
    stale = nib.Nifti1Image(np.ones((4, 4, 4), np.int16), np.eye(4))
    stale.header["descrip"] = SYNTHETIC_MARK
    nib.save(stale, folder / f"{CASE_ID}-t2f.nii.gz")
    (folder / f"{CASE_ID}-t2f.json").write_text(json.dumps({"Synthetic": True, "UnitRange": [0, 1]}))


def test_demo(
    tmp_path: Path, weights: Path, phantom: dict[str, nib.Nifti1Image], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its case is the phantom of seed 0, made for a second time: a seed determines every voxel."""
    out = tmp_path / "new" / "demo"
    leave_an_earlier_output(out)
    with shown():
        run_demo(out, weights)

    names = {
        name: {path.name for path in (out / name / CASE_ID).iterdir()} for name in ("acquired", "input", "completed")
    }
    assert names["acquired"] == {f"{CASE_ID}-{key}.nii.gz" for key in ("t1n", "t1c", "t2w", "t2f", "seg")}
    assert names["input"] == {f"{CASE_ID}-{key}.nii.gz" for key in ("t1n", "t2w")}
    assert names["completed"] == {
        f"{CASE_ID}-{key}{end}" for key in HIDDEN for end in (".nii.gz", "-uncertainty.nii.gz", ".json")
    }

    for key, image in phantom.items():
        again = nib.load(out / "acquired" / CASE_ID / f"{CASE_ID}-{key}.nii.gz")
        np.testing.assert_array_equal(again.dataobj, image.dataobj)

    source = nib.load(out / "input" / CASE_ID / f"{CASE_ID}-t1n.nii.gz")
    for modality in HIDDEN:
        image = nib.load(out / "completed" / CASE_ID / f"{CASE_ID}-{modality}.nii.gz")
        assert image.shape == source.shape
        np.testing.assert_array_equal(image.affine, source.affine)
        assert image.get_data_dtype() == source.get_data_dtype()
        note = json.loads((out / "completed" / CASE_ID / f"{CASE_ID}-{modality}.json").read_text())
        assert note["Synthetic"] is True
        assert note["Uncertainty"] is True
    assert (out / "demo.png").stat().st_size > 50_000
    report = (out / "report.html").read_text()
    for name in ("T1ce", "FLAIR"):  # what the viewer shows in place of a synthetic image is what was hidden
        assert f'data-modality="{name}" data-kind="acquired"' in report
        assert re.search(f'data-modality="{name}" data-kind="synthetic" [^>]* data-partner="{name}"', report)

    told = capsys.readouterr().out
    assert "simulation" in told
    for name in ("T1ce", "FLAIR"):
        (line,) = [line for line in told.splitlines() if line.startswith(name)]
        assert np.isfinite([float(value) for value in line.split()[1:]]).all()
        assert len(line.split()) == 4
    for place in ("acquired", "input", "completed", "demo.png", "report.html"):
        assert str(out / place) in told


def test_what_is_missing_is_found_before_anything_is_written(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModfillError, match="no such weights file"):
        run_demo(tmp_path / "demo", tmp_path / "none.safetensors")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModfillError, match="modfill\\[plots\\]"):
        run_demo(tmp_path / "demo", weights)
    assert not (tmp_path / "demo").exists()


def test_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "modfill.demo.run.make_case", lambda seed: {"t1n": nib.Nifti1Image(np.ones((4, 4, 4)), np.eye(4))}
    )
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ModfillError, match="cannot write .*phantom-0-t1n.nii.gz"):
        run_demo(tmp_path / "file", weights)
