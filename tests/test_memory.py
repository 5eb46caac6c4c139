"""The allocator's settings: memory that is freed stays, and serves again without the kernel clearing it."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from modfill.process import give_back_freed_memory

TAKE_AND_FREE = """
import resource, threading, sys
from modfill.process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
import torch
def work():
    for _ in range(40):
        torch.ones(2**24)  # 64 MiB
thread = threading.Thread(target=work)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread.start(); thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_freed_memory_serves_again_in_any_thread() -> None:
    faults = {}
    for how in ("keep", "default"):
        command = [sys.executable, "-c", TAKE_AND_FREE, how]
        faults[how] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert faults["keep"] < faults["default"] / 3, faults


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc does this")
def test_freed_memory_is_given_back() -> None:
    blocks = [bytearray(2**16) for _ in range(3200)]  # 200 MiB, too small to be mappings of their own
    beyond = bytearray(2**16)  # what stays at the end of the heap keeps all before it
    del blocks
    before = psutil.Process().memory_info().rss
    give_back_freed_memory()
    assert before - psutil.Process().memory_info().rss > 150 * 2**20 and beyond
