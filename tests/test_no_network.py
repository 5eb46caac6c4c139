"""No part of the package reaches for a network: patients' data stay where they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.case_files import write_case

FORBID = """
import sys

def watch(event, arguments):
    local = event == "socket.bind" and arguments[1][0] in ("::1", "127.0.0.1")  # urllib3 asks so for IPv6
    if event.startswith("socket.") and event not in ("socket.gethostname", "socket.__new__") and not local:
        print("NETWORK", event, arguments, file=sys.stderr)
        raise RuntimeError(f"network access: {event}")

sys.addaudithook(watch)
"""
MAIN_JOB = "from modfill.cli import main; sys.exit(main(sys.argv[1:]))"
CONTROL = "import socket; socket.create_connection(('127.0.0.1', 9))"
MODULES = """
import importlib, pkgutil, modfill
for module in pkgutil.walk_packages(modfill.__path__, "modfill."):
    importlib.import_module(module.name)
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", FORBID + code, *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)  # fmt: skip


def test_the_main_job_and_every_import_open_no_socket(tiny_weights: Path, tmp_path: Path) -> None:
    folder = write_case(tmp_path / "in", "p1", ("t1n",))
    options = ("--out", tmp_path / "out", "--weights", tiny_weights, "--device", "cpu")
    done = run(MODULES + MAIN_JOB, "complete", folder, *options)
    assert done.returncode == 0 and "NETWORK" not in done.stderr, done.stderr
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 3


def test_the_watch_sees_a_connection() -> None:
    done = run(CONTROL)
    assert done.returncode != 0 and "network access: socket." in done.stderr
