"""The command line: exit status, one line per error, nothing half-written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from modfill import __version__
from modfill.cli import main
from modfill.completer import ModalityCompleter
from modfill.errors import WeightsError
from modfill.weights import checkpoint
from tests.case_files import brain_volumes, save, write_case

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `modfill` in this process; `complete` with the tiny weights on the CPU. Gives status, stdout, stderr."""

    def call(command: str, *arguments: object) -> tuple[int, str, str]:
        extra = ["--weights", str(tiny_weights), "--device", "cpu"] if command == "complete" else []
        try:
            status = main([command, *map(str, arguments), *extra])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        return status, *capsys.readouterr()

    return call


def files_in(folder: Path) -> list[str]:
    """Everything below an output folder but the cohort's table, hidden and temporary files too."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    return [file for file in files if file != "cohort.csv"]


def one_line(error: str, *parts: str) -> None:
    assert error.startswith("modfill: ") and error.count("\n") == 1 and error.endswith("\n")
    assert "Traceback" not in error
    for part in parts:
        assert part in error


def test_a_case_is_completed(run: Run, case_folder: Path, tmp_path: Path) -> None:
    status, out, error = run("complete", case_folder, "--out", tmp_path / "out")
    assert (status, error) == (0, "")
    assert "[1/1] p1: synthesised t1c, t2w" in out and "1 of 1 cases completed, 0 failed" in out
    assert files_in(tmp_path / "out") == [f"p1/p1-{m}.{end}" for m in ("t1c", "t2w") for end in ("json", "nii.gz")]
    status, out, _ = run("complete", case_folder, "--out", tmp_path / "out")
    assert status == 0 and "finished before" in out
    status, out, _ = run("complete", case_folder, "--out", tmp_path / "out", "--overwrite", "--targets", "t1c")
    assert status == 0 and "synthesised t1c (" in out


def test_options_reach_the_sidecar(run: Run, case_folder: Path, tmp_path: Path) -> None:
    options = ("--targets", "t2w", "--mode", "sample", "--steps", 2, "--seed", 7, "--uncertainty")
    assert run("complete", case_folder, "--out", tmp_path / "out", *options)[0] == 0
    assert files_in(tmp_path / "out") == [f"p1/p1-t2w{end}" for end in ("-uncertainty.nii.gz", ".json", ".nii.gz")]
    note = (tmp_path / "out" / "p1" / "p1-t2w.json").read_text()
    for line in ('"Mode": "sample"', '"Steps": 2', '"Seed": 7', '"Uncertainty": true'):
        assert line in note


@pytest.mark.parametrize("naming", ["brats2023", "bids", "nnunet"])
def test_a_setting_that_is_refused_leaves_nothing_behind(
    run: Run, case_folder: Path, tmp_path: Path, naming: str
) -> None:
    for option in ("--steps", "--samples"):
        status, _, error = run("complete", case_folder, "--out", tmp_path / "out", "--naming", naming, option, 0)
        assert status == 2 and option in error and not (tmp_path / "out").exists()
    status, _, error = run("complete", case_folder, "--out", tmp_path / "out", "--naming", naming, "--steps", 8)
    assert status == 2 and not (tmp_path / "out").exists()
    one_line(error, "steps must be left out in mode 'mean', got 8; set --mode sample")


def test_samples_are_numbered_and_each_can_be_made_alone(run: Run, case_folder: Path, tmp_path: Path) -> None:
    words = ("complete", case_folder, "--targets", "t2w", "--steps", 1, "--out")
    assert run(*words, tmp_path / "out", "--samples", 2, "--seed", 7)[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sample-1", "sample-2"]
    assert run(*words, tmp_path / "alone", "--mode", "sample", "--seed", 8)[0] == 0
    place = Path("p1", "p1-t2w.nii.gz")
    first, second, alone = (
        np.asarray(nib.Nifti1Image.from_filename(tmp_path / folder / place).dataobj)
        for folder in ("out/sample-1", "out/sample-2", "alone")
    )
    assert (second == alone).all() and (first != second).any()
    status, out, _ = run(*words, tmp_path / "out", "--samples", 3, "--seed", 7)
    assert status == 0 and out.count("finished before") == 2 and (tmp_path / "out" / "sample-3" / place).is_file()


def _truncate(folder: Path) -> None:
    path = folder / "p1-t2f.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])


def _text(folder: Path) -> None:
    (folder / "p1-t2f.nii.gz").write_text("to be done\n")


def _zero(folder: Path) -> None:
    save(folder / "p1-t2f.nii.gz", np.zeros((24, 28, 20), np.int16))


def _nan(folder: Path) -> None:
    volume = brain_volumes()["t2f"].astype(np.float32)
    volume[10:12] = np.nan
    save(folder / "p1-t2f.nii.gz", volume)


def _flat(folder: Path) -> None:
    save(folder / "p1-t2f.nii.gz", np.ones((24, 28), np.int16))


def _twice(folder: Path) -> None:
    save(folder / "p1_flair.nii.gz", brain_volumes()["t2f"])


def _other_grid(folder: Path) -> None:
    save(folder / "p1-t2f.nii.gz", brain_volumes((24, 28, 22))["t2f"])


SPOILT = [
    (_truncate, "truncated"), (_text, "must be a NIfTI image"), (_zero, "all zero"), (_nan, "NaN"),
    (_flat, "must be 3D"), (_twice, "must be one file"), (_other_grid, "on one grid"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "reason"), SPOILT)
def test_a_bad_case_is_one_line_and_writes_nothing(
    run: Run, case_folder: Path, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(case_folder)
    status, _, error = run("complete", case_folder, "--out", tmp_path / "out")
    assert status == 1
    one_line(error, "case p1", reason)
    assert not (tmp_path / "out").exists() or files_in(tmp_path / "out") == []


def test_a_bad_case_does_not_hold_back_the_cohort(run: Run, tmp_path: Path) -> None:
    for seed, name in enumerate(("p1", "p2", "p3", "p4")):
        write_case(tmp_path / "in", name, ("t1n", "t1c", "t2w"), seed=seed)
    (tmp_path / "in" / "p2" / "p2-t1c.nii.gz").write_bytes(b"no image")
    save(tmp_path / "in" / "p4" / "p4_t1ce.nii.gz", brain_volumes()["t1c"])
    status, out, error = run("complete", tmp_path / "in", "--out", tmp_path / "out")
    assert status == 1 and "2 of 4 cases completed, 2 failed" in out
    assert [line.split(":")[1].strip() for line in error.splitlines()] == ["case p2", "case p4"]
    assert files_in(tmp_path / "out") == [f"{p}/{p}-t2f.{end}" for p in ("p1", "p3") for end in ("json", "nii.gz")]


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: None, lambda path: path.write_text("x")])
def test_no_case_at_all(run: Run, tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "in")
    status, out, error = run("complete", tmp_path / "in", "--out", tmp_path / "out")
    assert (status, out) == (1 if (tmp_path / "in").exists() else 2, "")
    one_line(error, str(tmp_path / "in"))


def test_the_output_folder_is_a_file(run: Run, case_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    status, _, error = run("complete", case_folder, "--out", tmp_path / "out")
    assert status == 1 and (tmp_path / "out").read_text() == "mine"
    one_line(error, "cannot write")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this system")
def test_the_output_folder_cannot_be_made(run: Run, case_folder: Path) -> None:
    status, _, error = run("complete", case_folder, "--out", "/proc/none")
    assert status == 1
    one_line(error, "cannot write /proc/none")


def test_a_failing_disk_leaves_nothing(
    run: Run, case_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the image is renamed into place: the old state stays, no temporary file is left."""

    def full(source: str, target: Path) -> None:
        if str(target).endswith(".nii.gz"):
            raise OSError(28, "No space left on device")
        original(source, target)

    original = os.replace
    monkeypatch.setattr(os, "replace", full)
    status, _, error = run("complete", case_folder, "--out", tmp_path / "out", "--targets", "t1c")
    assert status == 1
    one_line(error, "No space left on device")
    assert files_in(tmp_path / "out") in ([], ["p1/p1-t1c.json"])
    monkeypatch.undo()
    assert run("complete", case_folder, "--out", tmp_path / "out", "--targets", "t1c")[0] == 0


@pytest.mark.parametrize("junk", ["", "[1", "[1]", "{}"])
def test_a_damaged_sidecar_is_no_traceback(run: Run, case_folder: Path, tmp_path: Path, junk: str) -> None:
    run("complete", case_folder, "--out", tmp_path / "out")
    (tmp_path / "out" / "p1" / "p1-t1c.json").write_text(junk)
    status, out, error = run("complete", case_folder, "--out", tmp_path / "out")
    assert "Traceback" not in error
    assert (status == 0 and "synthesised t1c" in out) or (status == 1 and "p1-t1c" in error)


def test_missing_weights(case_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "none.safetensors"
    for command in (["complete", str(case_folder), "--out", str(tmp_path / "out")], ["info"]):
        with pytest.raises(SystemExit) as caught:
            main([*command, "--weights", str(absent)])
        assert caught.value.code == 2
        one_line(capsys.readouterr().err, f"--weights: {absent} is not there")
    with pytest.raises(WeightsError, match="no such weights file"):
        ModalityCompleter(absent)


def test_missing_shipped_weights(
    case_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modfill.weights.file.SHIPPED", tmp_path / "gone.safetensors")
    assert main(["info"]) == 1
    one_line(capsys.readouterr().err, "gone.safetensors")


def test_a_device_that_is_not_here(
    case_folder: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path / "out"), "--weights", str(tiny_weights), "--device"]
    assert main(["complete", str(case_folder), *options, "cuda:99"]) == 2
    one_line(capsys.readouterr().err, "device must be one of auto, cpu", "got 'cuda:99'")
    with pytest.raises(SystemExit):
        main(["complete", str(case_folder), *options, "abacus"])
    one_line(capsys.readouterr().err, "must be one of auto, cpu", "got 'abacus'")


@pytest.mark.parametrize(
    "arguments",
    [("complete",), ("complete", "in"), ("complete", "in", "--out", "o", "--mode", "best"), ("abolish",),
     ("complete", "in", "--out", "o", "--targets", "adc"), ("complete", "in", "--out", "o", "--steps", "few"),
     ("train", "--preset", "huge", "--data", "d", "--out", "o"), ("train", "--data", "d")],
)  # fmt: skip
def test_wrong_usage_is_status_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    one_line(capsys.readouterr().err, "--help)")


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (("complete", "in", "-o", "out", "--ovewrite"), "--overwrite"),
        (("scn", "in"), "scan"),
        (("complete", "inn", "-o", "out"), "in"),
        (("complete", "in", "-o", "out", "--device", "cudaa"), "cuda"),
        (("complete", "in", "-o", "out", "--naming", "brats2032"), "brats2023"),
    ],
)
def test_usage_errors_suggest_the_nearest_spelling(
    words: tuple[str, ...],
    suggestion: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    assert caught.value.code == 2
    one_line(capsys.readouterr().err, f"did you mean {suggestion}?")


def test_usage_errors_are_quick_and_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from modfill.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: sys.exit(99 if {'torch', 'nibabel', 'numpy'} & set(sys.modules) else end.code)"
    )
    for words in (["complete", str(tmp_path / "none"), "-o", "out"], ["complete", ".", "-o", "out", "--seed", "-1"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr


def test_targets_do_not_swallow_the_case(run: Run, case_folder: Path, tmp_path: Path) -> None:
    for number, words in enumerate((("--targets", "T1ce", "t2", case_folder), (case_folder, "--targets", "T1ce,t2"))):
        assert run("complete", "-o", tmp_path / f"{number}", *words)[0] == 0
        assert len(list((tmp_path / f"{number}").glob("p1/*.nii.gz"))) == 2


def test_files_are_named_one_by_one(run: Run, case_folder: Path, tmp_path: Path) -> None:
    for modality, name in (("t1n", "a"), ("t2f", "b")):
        (case_folder / f"p1-{modality}.nii.gz").rename(case_folder / f"{name}.nii.gz")
    files = ("--t1", case_folder / "a.nii.gz", "--flair", case_folder / "b.nii.gz")
    status, out, error = run("complete", *files, "-o", tmp_path / "out")
    assert (status, error) == (0, "") and "p1: synthesised t1c, t2w" in out
    assert run("complete", case_folder, *files, "-o", tmp_path / "out")[0] == 2
    status, _, error = run("complete", *files, "--t1n", case_folder / "b.nii.gz", "-o", tmp_path / "out")
    assert status == 2
    one_line(error, "--t1/--t1n: must be given once")


def test_a_dry_run_writes_nothing(run: Run, case_folder: Path, tmp_path: Path) -> None:
    status, out, error = run("complete", case_folder, "-o", tmp_path / "out", "-n")
    assert (status, error) == (0, "") and not (tmp_path / "out").exists()
    assert f"p1: t1c from t1n, t2f -> {tmp_path / 'out' / 'p1' / 'p1-t1c.nii.gz'}" in out
    _truncate(case_folder)
    assert run("complete", case_folder, "-o", tmp_path / "out", "--dry-run", "--targets", "t2w")[0] == 0
    _text(case_folder)
    assert run("complete", case_folder, "-o", tmp_path / "out", "--dry-run")[0] == 1


def test_quiet_verbose_and_log(run: Run, case_folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.log"
    status, out, error = run("complete", case_folder, "-o", tmp_path / "out", "-q", "--log", log)
    assert (status, out, error) == (0, "", "")
    assert "INFO [1/1] p1: synthesised t1c, t2w" in log.read_text()
    _, out, _ = run("complete", case_folder, "-o", tmp_path / "out", "--overwrite", "-v")
    assert "case p1: compute" in out
    status, _, error = run("complete", case_folder, "-o", tmp_path / "out", "--log", tmp_path)
    assert status == 2
    one_line(error, "cannot write the log")


def test_success_names_the_files_and_the_next_command(run: Run, case_folder: Path, tmp_path: Path) -> None:
    _, out, _ = run("complete", case_folder, "-o", tmp_path / "out")
    assert f"{tmp_path / 'out' / 'p1' / 'p1-t1c.nii.gz'}\n" in out and f"modfill report {tmp_path / 'out'}" in out


def test_modfill_alone_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: modfill" in capsys.readouterr().out


def test_an_image_is_reproduced(
    run: Run, case_folder: Path, tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("complete", case_folder, "-o", tmp_path / "out", "--targets", "t1c")
    sidecar = tmp_path / "out" / "p1" / "p1-t1c.json"
    words = ["reproduce", str(sidecar), "--weights", str(tiny_weights)]
    assert main(words) == 0
    assert "t1c of case p1: identical" in capsys.readouterr().out
    note = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**note, "VoxelSHA256": "0" * 64}))
    assert main([*words, "-o", str(tmp_path / "again")]) == 1
    assert "differs" in capsys.readouterr().out and (tmp_path / "again" / "p1" / "p1-t1c.nii.gz").is_file()
    save(case_folder / "p1-t1n.nii.gz", brain_volumes(seed=5)["t1n"])
    assert main(words) == 1
    one_line(capsys.readouterr().err, "the sources must be as they were")
    assert main([*words[:2]]) == 1  # the shipped weights made no such image
    one_line(capsys.readouterr().err, "must be the weights that made")


@pytest.mark.parametrize("setting", [("--steps", 0), ("--steps", 1001), ("--samples", 0)])
def test_settings_out_of_range(run: Run, case_folder: Path, tmp_path: Path, setting: tuple[str, int]) -> None:
    status, _, error = run("complete", case_folder, "--out", tmp_path / "out", *setting)
    assert status == 2
    one_line(error, f"got '{setting[1]}'")


def test_training_needs_two_modalities_of_a_case(run: Run, tmp_path: Path) -> None:
    case = write_case(tmp_path / "in", "p1", ("t1n",))
    status, _, error = run("train", "--preset", "tiny", "--data", case, "--out", tmp_path / "run")
    assert status == 1
    one_line(error, "training needs cases with two or more of t1n, t1c, t2w, t2f")


def test_info_describes_the_weights(tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--weights", str(tiny_weights)]) == 0
    out, error = capsys.readouterr()
    assert error == "" and f"modfill {__version__}" in out and "tiny" in out
    assert checkpoint.load(tiny_weights)[1].sha256 in out
    assert main(["info", "--json", "--weights", str(tiny_weights)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["preset"] == "tiny" and facts["trained"] == ["autoencoder", "translator", "denoiser"]
    model, _ = checkpoint.load(tiny_weights)
    for stage in facts["trained"]:
        count = sum(parameter.numel() for parameter in getattr(model, stage).parameters())
        assert facts["parameters"][stage] == count > 0 and re.search(rf"^{stage} +{count / 1e6:.2f} M", out, re.M)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for option, expected in (("--version", __version__), ("--help", "complete")):
        with pytest.raises(SystemExit) as caught:
            main([option])
        assert caught.value.code == 0 and expected in capsys.readouterr().out


def test_as_a_program(tiny_weights: Path, case_folder: Path, tmp_path: Path) -> None:
    """Once as a user runs it: the status reaches the shell, and errors are lines, not tracebacks."""
    command = [sys.executable, "-m", "modfill.cli", "complete"]
    options = ["--out", str(tmp_path / "out"), "--weights", str(tiny_weights), "--device", "cpu"]
    write_case(tmp_path / "in", "p2", ("t1c",))
    (tmp_path / "in" / "p2" / "p2-t2w.nii.gz").write_bytes(b"no image")
    done = subprocess.run([*command, str(tmp_path / "in"), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "1 of 2 cases completed, 1 failed" in done.stdout
    assert "Traceback" not in done.stderr and "modfill: case p2: p2-t2w.nii.gz" in done.stderr
    assert len(files_in(tmp_path / "out")) == 4
