"""Training in two processes: every rank holds the same parameters at every step, and one weights file comes out."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch

from modfill.cli import main
from modfill.cohort.parts import Part
from modfill.cohort.table import read_table
from modfill.completer import ModalityCompleter
from modfill.errors import ModfillError
from modfill.model.config import STAGES
from tests import two_ranks
from tests.case_files import write_case
from tests.cohort_process import Command, heed_interrupts, start_process

ROOT = Path(__file__).parents[1]


def in_two_ranks(function: Callable[..., None], address: Mapping[str, str], *arguments: object) -> None:
    """Call a function in two processes, each with the variables that torchrun sets."""
    processes = [start_process(_call, function, {**address, "RANK": rank, "LOCAL_RANK": rank}, arguments)
                 for rank in ("0", "1")]  # fmt: skip
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]


def _call(function: Callable[..., None], variables: Mapping[str, str], arguments: Sequence[object]) -> None:
    os.environ |= {**variables, "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(1)
    function(*arguments)


def _train(*options: object) -> None:
    sys.exit(main(["train", *map(str, options)]))


def test_two_processes_give_one_weights_file(case_folder: Path, address: dict[str, str], tmp_path: Path) -> None:
    for seed in range(3):
        write_case(tmp_path / "cohort", f"p{seed}", shape=(44, 36, 28), seed=seed)
    out = tmp_path / "run"
    options = ("--preset", "tiny", "--data", tmp_path / "cohort", "--out", out, "--minutes", 0.05)
    in_two_ranks(_train, address, *options)
    assert len(list(out.rglob("*.safetensors"))) == 1 and not list(out.rglob("*.tmp*"))
    for stage in STAGES:
        with (out / f"{stage}.csv").open() as file:
            names = [row["name"] for row in csv.DictReader(file)]
        assert "loss" in names and names.count("validation_psnr") == 1
    completed = ModalityCompleter(out / "weights.safetensors", device="cpu").complete(case_folder)
    assert set(completed.images) == {"t1c", "t2w"}


@pytest.mark.parametrize("kind", ["clock", "codes"])
def test_ranks_hold_the_same_parameters(tmp_path: Path, address: dict[str, str], kind: str) -> None:
    in_two_ranks(two_ranks.main, address, tmp_path, kind)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0, msg=name)


def test_two_processes_complete_a_cohort_as_one_does(
    completer: ModalityCompleter, tiny_weights: Path, tmp_path: Path
) -> None:
    """Each rank does its half; a case that fails on one rank does not end the other."""
    cohort = tmp_path / "in"
    for seed in range(5):
        write_case(cohort, f"p{seed}", ("t1n", "t2f"), shape=(20, 24, 16), seed=seed)
    (cohort / "p0" / "p0-t2f.nii.gz").write_text("no image")
    results = list(completer.complete_cohort(cohort, out=tmp_path / "one"))
    assert [result.case_id for result in results if result.error] == ["p0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "modfill"]
    options = ["complete", cohort, "--out", tmp_path / "two", "--weights", tiny_weights, "--device", "cpu"]
    threads = str(torch.get_num_threads())  # in float32 the last bit depends on them
    environment = os.environ | {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, *map(str, options)], cwd=ROOT, env=environment, capture_output=True, text=True,
                          check=False, timeout=300)  # fmt: skip
    assert done.returncode != 0 and done.stderr.count("modfill: case p0: p0-t2f.nii.gz") == 1
    assert "rank 1/2: 2 of 3 cases completed, 1 failed" in done.stdout
    assert "rank 2/2: 2 of 2 cases completed, 0 failed" in done.stdout
    one, two = ({path.relative_to(out): path.read_bytes() for path in out.rglob("p*-t*")} for out in
                (tmp_path / "one", tmp_path / "two"))  # fmt: skip
    assert len(one) == 16 and one == two
    assert [row["case"] for row in read_table(tmp_path / "two")] == [f"p{seed}" for seed in range(5)]


@pytest.mark.parametrize(("rank", "ranks"), [(None, "4"), ("0", None), ("x", "4"), ("4", "4")])
def test_half_of_torchrun_s_variables_are_refused(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, ranks: str | None
) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", ranks)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(ModfillError, match="RANK and WORLD_SIZE must be as torchrun sets them"):
        Part.of_rank()


def _rank(options: Sequence[object], variables: dict[str, str]) -> subprocess.Popen[str]:
    """`modfill complete` as a rank that somebody else than torchrun started."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | variables
    return subprocess.Popen([sys.executable, "-m", "modfill", "complete", *map(str, options)], cwd=ROOT,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            preexec_fn=heed_interrupts)  # fmt: skip


@pytest.fixture
def options(tiny_weights: Path, tmp_path: Path) -> list[object]:
    for seed in range(2):
        write_case(tmp_path / "in", f"p{seed}", ("t1n", "t2w", "t2f"), shape=(20, 24, 16), seed=seed)
    return [tmp_path / "in", "--out", tmp_path / "out", "--weights", tiny_weights, "--device", "cpu"]


@pytest.fixture
def address() -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}


def test_one_rank_needs_no_address_and_more_do(
    options: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    command = ["complete", *map(str, options)]
    assert main(command) == 1 and not (tmp_path / "out").exists()
    assert capsys.readouterr().err == (
        "modfill: MASTER_ADDR and MASTER_PORT must be set for 2 ranks, got none; start them with torchrun, or use "
        "--shard K/N\n"
    )
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(command) == 0 and len(list((tmp_path / "out").rglob("*.nii.gz"))) == 2
    assert capsys.readouterr().err == ""


def test_ranks_meet_without_torchrun(options: list[object], address: dict[str, str], tmp_path: Path) -> None:
    variables = {**address, "CUDA_VISIBLE_DEVICES": ""}
    jobs = [Command(["complete", *options], tmp_path / rank, {**variables, "RANK": rank}) for rank in ("0", "1")]
    assert [job.status(120) for job in jobs] == [0, 0], [job.told("stderr") for job in jobs]
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 2


@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_absent_rank_is_given_up(options: list[object], address: dict[str, str], rank: str) -> None:
    job = _rank(options, {"RANK": rank, **address, "MODFILL_RANK_TIMEOUT": "3"})
    _, error = job.communicate(timeout=60)
    other = 2 if rank == "0" else 1
    lines = error.splitlines()
    assert job.returncode == 1 and lines[0] == f"modfill: waiting for rank {other} of 2"
    assert lines[-1] == (f"modfill: all 2 ranks must take part, got no sign of rank {other} for 3 s; start all of "
                         "them, or use --shard K/N")  # fmt: skip


@pytest.mark.parametrize(("rank", "number", "status"), [("0", signal.SIGINT, 130), ("1", signal.SIGTERM, 143)])
def test_signals_end_the_wait(
    options: list[object], address: dict[str, str], rank: str, number: int, status: int
) -> None:
    job = _rank(options, {"RANK": rank, **address})
    assert job.stderr is not None and job.stderr.readline().startswith("modfill: waiting for rank")
    began = time.monotonic()
    job.send_signal(number)
    job.communicate(timeout=50)
    seconds = time.monotonic() - began
    print(f"{seconds:.2f} s")
    assert job.returncode == status and seconds < 2
