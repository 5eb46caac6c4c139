"""The speed benchmark on a tiny case: every step is seen, and the steps are most of the whole."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks import peers, speed
from modfill.cases.finding import find_cases
from modfill.cases.reading import read_case
from modfill.completer import ModalityCompleter
from tests.case_files import write_case


def test_steps_add_up_and_the_table_is_made(tmp_path: Path, completer: ModalityCompleter) -> None:
    case = read_case(find_cases(write_case(tmp_path, "p1", shape=(60, 62, 58)))[0])
    incomplete = speed.reduced(case, ("t1n", "t2w", "t2f"))
    steps = speed.steps_of(completer, incomplete)
    names = {
        "read",
        "preprocess",
        "encode",
        "translate",
        "denoise",
        "refine",
        "restore",
        "write",
    }  # a mean is not decoded
    assert set(steps) == {*names, "total"} and all(seconds > 0 for seconds in steps.values())
    assert 0.5 * steps["total"] < sum(steps[name] for name in names) <= 1.001 * steps["total"]
    grown = speed.growth(completer, case)
    result = {
        "threads": torch.get_num_threads(), "convolution TFLOP/s": peers.convolution_peak(), "steps": steps,
        "TFLOP": speed.flops_of(completer, incomplete), "command": {"seconds": 9.0, "GiB": 1.5}, "growth": grown,
        "peers": {"modfill, 1→1": {"seconds": 2.0}, "slow": {"seconds": 300.0, "one step": 3.0, "steps": 100}},
    }  # fmt: skip
    text = speed.summary(result)
    assert "| slow | 300.0 | 150.0 | 3.00 |" in text and "| samples, 5 steps each | 4 |" in text
    assert {row["what"] for row in grown} >= {"sources, one target", "targets, one source", "steps, mode sample"}
