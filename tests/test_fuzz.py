"""Whatever the bytes of a file: an answer or a ModfillError, in bounded time and memory. See `tests/fuzz.py`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from shutil import rmtree

import nibabel as nib
import numpy as np
import pytest

from modfill.cases.finding import find_cases
from modfill.cases.reading import read_case
from modfill.completer import ModalityCompleter
from modfill.errors import ModfillError
from modfill.weights import checkpoint
from tests.fuzz import TARGET, damaged_weights, write_input

MOST_SECONDS = 30.0  # for one input; the slowest of 10,000 took a tenth of it
MOST_MEMORY = 1.5e9  # bytes above what was in use before
STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """Bytes at most in use since `forget_peak`."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def completed(completer: ModalityCompleter, folder: Path) -> bool:
    """Complete input folder; True for an honest image, False for a ModfillError."""
    before = {path: path.read_bytes() for path in (folder / "in").iterdir()}
    try:
        files = find_cases(folder / "in")[0]
        done = completer.complete(read_case(files), out=folder / "out", targets=[TARGET])
    except ModfillError as error:
        assert len(str(error)) < 4000 and str(error).isprintable()
        return False
    finally:
        assert {path: path.read_bytes() for path in (folder / "in").iterdir()} == before
    written = nib.load(done.paths[TARGET])
    voxels = np.asanyarray(written.dataobj)
    assert np.isfinite(voxels).all() and voxels.any() and np.isfinite(written.affine).all()
    return True


def run(completer: ModalityCompleter, numbers: Iterable[int], folder: Path) -> tuple[int, float, str]:
    """How many of the inputs were completed, and the slowest one's seconds and name."""
    honest, slowest, name = 0, 0.0, ""
    for number in numbers:
        rmtree(folder, ignore_errors=True)
        folder.mkdir()
        words = write_input(number, folder)
        began = time.monotonic()
        try:
            honest += completed(completer, folder)
        except BaseException as error:
            raise AssertionError(f"input {words} (python -m tests.fuzz {number} FOLDER)") from error
        if time.monotonic() - began > slowest:
            slowest, name = time.monotonic() - began, words
    return honest, slowest, name


@pytest.mark.usefixtures("in_float32")
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.skipif(not STATUS.exists(), reason="no /proc on this system: memory cannot be measured")
@pytest.mark.parametrize("numbers", [range(500), pytest.param(range(500, 10_000), marks=pytest.mark.slow)], ids=str)
def test_only_our_errors_come_out(
    completer: ModalityCompleter, numbers: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODFILL_MAX_VOXELS", str(2**20))
    run(completer, range(3), tmp_path / "first")
    forget_peak()
    before = peak_memory()
    honest, slowest, name = run(completer, numbers, tmp_path / "case")
    print(f"{honest} of {len(numbers)} completed; slowest {slowest:.1f} s: {name}; "
          f"peak {(peak_memory() - before) / 1e6:.0f} MB above the start")  # fmt: skip
    assert 0.1 < honest / len(numbers) < 0.9  # neither harmless nor hopeless inputs
    assert slowest < MOST_SECONDS
    assert peak_memory() - before < MOST_MEMORY


@pytest.mark.parametrize("numbers", [range(40), pytest.param(range(40, 1000), marks=pytest.mark.slow)], ids=str)
def test_altered_weights_never_load(tiny_weights: Path, numbers: range, tmp_path: Path) -> None:
    whole = tiny_weights.read_bytes()
    path = tmp_path / "altered.safetensors"
    for number in numbers:
        damaged = damaged_weights(number, whole)
        path.write_bytes(damaged)
        if damaged != whole:
            with pytest.raises(ModfillError):
                pytest.fail(f"weights {number} loaded: {checkpoint.load(path)[1]}")
