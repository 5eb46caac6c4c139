"""Ctrl-C and SIGTERM end the command within two seconds, however long the case under way would still take."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.case_files import write_case
from tests.cohort_process import heed_interrupts

SLOW = """
import sys, time
from modfill import cli
from modfill.model.synthesiser import Synthesiser
predict, calls = Synthesiser.predict, []
def slow(*arguments):
    calls.append(1)
    if len(calls) > 2:
        print("computing", flush=True)
        time.sleep(60)  # in a thread, which no signal reaches
    return predict(*arguments)
Synthesiser.predict = slow
sys.exit(cli.main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize(
    ("number", "status", "jobs"),
    [
        (signal.SIGINT, 130, 1),
        (signal.SIGTERM, 143, 2),
        pytest.param(signal.SIGINT, 130, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, 1, marks=pytest.mark.slow),
    ],
)
def test_a_case_that_is_being_computed_is_not_waited_for(
    tiny_weights: Path, tmp_path: Path, number: int, status: int, jobs: int
) -> None:
    for seed in range(4):
        write_case(tmp_path / "in", f"p{seed}", ("t1n", "t2w"), shape=(20, 24, 16), seed=seed)
    out = tmp_path / "out"
    words = ("complete", tmp_path / "in", "--out", out, "--weights", tiny_weights, "--device", "cpu", "--jobs", jobs)
    job = subprocess.Popen([sys.executable, "-c", SLOW, *map(str, words)], stdout=subprocess.PIPE, text=True,
                           stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
                           preexec_fn=heed_interrupts)  # fmt: skip
    assert job.stdout is not None
    while (line := job.stdout.readline()).strip() != "computing":
        assert line, job.communicate()[1]
    began = time.monotonic()
    job.send_signal(number)
    _, error = job.communicate(timeout=50)
    seconds = time.monotonic() - began
    print(f"{seconds:.2f} s")
    assert job.returncode == status and error.count("\n") == 1 and "what is finished stays" in error
    assert seconds < 2
    assert [path for path in out.rglob(".*")] == []
    assert all(path.with_name(path.name.replace(".nii.gz", ".json")).exists() for path in out.rglob("*.nii.gz"))
