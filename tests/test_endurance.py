"""A night's work in one process: memory and open files stay where they were."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from modfill.cases.reading import inspect
from modfill.completer import ModalityCompleter
from modfill.settings import Settings
from tests.case_files import write_case

CASES = 500
WARM = 50  # cases after which what is loaded late has been loaded
MOST_GROWTH = 20e6  # bytes over 450 cases: a leak of one 9 kB volume per case and modality shows


@pytest.mark.slow
@pytest.mark.usefixtures("in_float32")
def test_memory_and_open_files_are_flat(completer: ModalityCompleter, tmp_path: Path) -> None:
    process = psutil.Process()
    write_case(tmp_path, "p1", ("t1n", "t2f"))
    use = []
    for number in range(CASES):
        case = inspect(tmp_path / "p1")
        completer.complete(
            case,
            out=tmp_path / "out",
            overwrite=True,
            settings=Settings(uncertainty=bool(number % 2), seed=number),
        )
        use.append((process.memory_info().rss, process.num_fds(), process.num_threads()))
    memory, files, threads = zip(*use, strict=True)
    print(f"memory {memory[WARM] / 1e6:.1f} MB after {WARM} cases, {memory[-1] / 1e6:.1f} MB after {CASES}; "
          f"open files {files[WARM]} and {files[-1]}, threads {threads[WARM]} and {threads[-1]}")  # fmt: skip
    assert memory[-1] - memory[WARM] < MOST_GROWTH
    assert files[-1] == files[WARM] and threads[-1] == threads[WARM]
