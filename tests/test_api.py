"""The Python API as a user guesses it: names, keywords, repr, progress, logging, and what it loads."""

from __future__ import annotations

import inspect as introspection
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import modfill
from modfill import CaseError, ModalityCompleter, Settings, SettingsError, WeightsError
from modfill.cases.reading import case_from_arrays
from modfill.modalities import MODALITIES
from tests.case_files import brain_volumes, oblique_affine, write_case


@pytest.mark.parametrize("name", modfill.__all__)
def test_every_public_name_is_there_and_described(name: str) -> None:
    assert getattr(modfill, name) is getattr(modfill, name) and name in dir(modfill)
    assert name == "__version__" or introspection.getdoc(getattr(modfill, name))


@pytest.mark.parametrize(
    "function",
    [
        ModalityCompleter.__init__,
        ModalityCompleter.complete,
        ModalityCompleter.complete_arrays,
        ModalityCompleter.complete_cohort,
        modfill.find_cohort,
        modfill.inspect,
        modfill.reproduce,
        modfill.scan_cohort,
    ],
    ids=lambda function: function.__qualname__,
)
def test_all_but_the_first_argument_are_keywords(function: object) -> None:
    parameters = introspection.signature(function).parameters.values()  # type: ignore[arg-type]
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    assert len(positional) == 1


def test_settings_errors_are_value_errors() -> None:
    assert issubclass(SettingsError, ValueError) and issubclass(SettingsError, modfill.ModfillError)
    with pytest.raises(ValueError, match="mode must be 'mean' or 'sample', got 'best'"):
        Settings("best")  # type: ignore[arg-type]


def test_settings_of_the_completer_hold_for_each_call_but_its_own(tiny_weights: Path, case_folder: Path) -> None:
    completer = ModalityCompleter(tiny_weights, device="cpu", settings=Settings(seed=3))
    seeds = [
        completer.complete(case_folder, targets="t1c", settings=settings).provenance["t1c"]["Seed"]
        for settings in (None, Settings(seed=4))
    ]
    assert seeds == [3, 4]


def test_files_are_named_by_any_alias(
    completer: ModalityCompleter, case_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {"T1": str(case_folder / "p1-t1n.nii.gz"), "flair": case_folder / "p1-t2f.nii.gz"}
    done = completer.complete(files, out=tmp_path / "out")
    assert done.case_id == "p1" and set(done.paths) == {"t1c", "t2w"}
    whole = completer.complete(case_folder)
    for modality, image in done.images.items():
        np.testing.assert_array_equal(image.dataobj, whole.images[modality].dataobj)
    assert modfill.inspect(files).missing == ("t1c", "t2w")
    with caplog.at_level(logging.WARNING, "modfill"):
        modfill.inspect({"t2": files["flair"], "t1": files["T1"]})
    assert "p1-t2f.nii.gz is used as t2w, but its name is that of t2f" in caplog.text
    moved = (case_folder / "p1-t1n.nii.gz").rename(case_folder / "a.nii.gz")
    assert completer.complete({"t1": moved}, targets="t1c").case_id == case_folder.name  # no name says another
    with pytest.raises(CaseError, match="must be the file of t1c, got nothing there"):
        completer.complete({"t1ce": tmp_path / "none.nii.gz"})
    with pytest.raises(CaseError, match="must be named once, got 't1' and 't1n'"):
        completer.complete({"t1": moved, "t1n": moved})


def test_reprs_tell_what_a_user_asks_first(completer: ModalityCompleter, tmp_path: Path) -> None:
    case = case_from_arrays({"t1n": brain_volumes()["t1n"]}, oblique_affine(), "p1")
    assert repr(case) == ("<Case p1: available t1n; missing t1c, t2w, t2f; 24x28x20 voxels of 1x1.1x1.3 mm>")
    write_case(tmp_path / "in", "p1", ("t1n", "t2w", "t2f"))
    (write_case(tmp_path / "in", "p2", ("t1n",)) / "p2-t2f.nii.gz").write_text("no image")
    first, second = completer.complete_cohort(tmp_path / "in", out=tmp_path / "out")
    assert repr(first).startswith(f"<CaseResult p1: synthesised t1c; in {tmp_path / 'out' / 'p1'} (")
    assert repr(second).startswith("<CaseResult p2: failed: case p2: p2-t2f.nii.gz must be a NIfTI image")
    again = completer.complete(tmp_path / "in" / "p1", out=tmp_path / "out")
    assert repr(again) == f"<Completed p1: finished before t1c; in {tmp_path / 'out' / 'p1'}>"
    assert "tiny" in repr(completer) and "seed=0" in repr(completer)


def test_progress_tells_the_steps_of_a_case_in_order(completer: ModalityCompleter, case_folder: Path) -> None:
    calls: list[tuple[str, float]] = []
    completer.complete(case_folder, progress=lambda step, share: calls.append((step, share)))
    steps, shares = [step for step, _ in calls], [share for _, share in calls]
    assert steps == ["read", "encode", "t1c", "t2w", "write"]
    assert shares == sorted(set(shares)) and shares[0] == 0 and shares[-1] == 1


def test_the_results_of_a_cohort_become_a_table(completer: ModalityCompleter, tmp_path: Path) -> None:
    write_case(tmp_path / "in", "p1", ("t1n", "t2w", "t2f"))
    write_case(tmp_path / "in", "p2", MODALITIES)
    (write_case(tmp_path / "in", "p3", ("t1n",)) / "p3-t2f.nii.gz").write_text("no image")
    results = completer.complete_cohort(tmp_path / "in", out=tmp_path / "out")
    assert next(results).case_id == "p1" and results.total == 3
    frame = results.to_frame()
    assert list(frame["case"]) == ["p1", "p2", "p3"]
    assert list(frame["status"]) == ["completed", "nothing missing", "failed"]
    assert frame["seconds"].notna().tolist() == [True, False, False] and "p3-t2f.nii.gz" in frame["reason"][2]
    assert len(frame["sha256"][0]) == 64 and list(results) == []


def test_the_library_logs_and_prints_nothing(
    completer: ModalityCompleter, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_case(tmp_path / "in", "p1", ("t1n", "t2w", "t2f"))
    with caplog.at_level(logging.DEBUG, "modfill"):
        list(completer.complete_cohort(folder, out=tmp_path / "out"))
    assert capsys.readouterr() == ("", "")
    assert any("case p1: read" in message for message in caplog.messages)
    assert {record.name for record in caplog.records} == {"modfill"}


FINISHED = """
import sys
from modfill.cli import main
assert main(sys.argv[1:]) == 0
sys.exit(",".join({"torch", "monai", "pandas", "jinja2"} & set(sys.modules)) or 0)
"""


def test_a_run_that_finds_everything_finished_loads_neither_torch_nor_weights(
    completer: ModalityCompleter, tiny_weights: Path, case_folder: Path, tmp_path: Path
) -> None:
    list(completer.complete_cohort(case_folder, out=tmp_path / "out"))
    words = ["complete", case_folder, "-o", tmp_path / "out", "--weights", tiny_weights, "--device", "cpu"]
    command = [sys.executable, "-c", FINISHED, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "p1: finished before" in done.stdout


def test_damaged_weights_end_a_cohort_instead_of_failing_every_case(tiny_weights: Path, tmp_path: Path) -> None:
    """Hash and preset are read at once, tensors with the first case."""
    for name in ("p1", "p2"):
        write_case(tmp_path / "in", name, ("t1n", "t2w", "t2f"))
    weights = tmp_path / "w.safetensors"
    content = bytearray(tiny_weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    completer = ModalityCompleter(weights, device="cpu")
    with pytest.raises(WeightsError, match="altered weights"):
        list(completer.complete_cohort(tmp_path / "in", out=tmp_path / "out"))
    assert not list(tmp_path.rglob(".lock*"))


def test_memory_and_threads_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, modfill; modfill.tune_process(); print(os.environ['OMP_WAIT_POLICY'])"
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "PASSIVE\n"
