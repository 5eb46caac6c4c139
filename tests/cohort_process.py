"""Processes that start in no time: they are forked from a server that has imported everything."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import nibabel as nib

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["modfill.completer", "monai.networks.nets"])


def heed_interrupts() -> None:
    """For `preexec_fn`: what is started in the background ignores SIGINT, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start_process(function: Callable[..., None], *arguments: object) -> ForkServerProcess:
    """Start a process that calls a function of a module."""
    process = _CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


class Command:
    """`modfill` with these words, as a process; only the import of torch is not its own.

    Args:
        words: of the command line.
        folder: receives what it prints, in `stdout` and `stderr`.
        variables: of the environment.
    """

    def __init__(self, words: Sequence[object], folder: Path, variables: Mapping[str, str] | None = None):
        folder.mkdir(parents=True)
        self._folder = folder
        self.process = start_process(_command, [str(word) for word in words], folder, dict(variables or {}))

    def told(self, stream: str) -> str:
        """What it has printed so far; `stream` is stdout or stderr."""
        path = self._folder / stream
        return path.read_text() if path.exists() else ""

    def wait_for(self, words: str, stream: str = "stdout", seconds: float = 60) -> None:
        """Wait until it has printed something that has these words."""
        end = time.monotonic() + seconds
        while words not in self.told(stream):
            assert self.process.is_alive() and time.monotonic() < end, self.told("stderr")
            time.sleep(0.002)

    def status(self, seconds: float = 60) -> int | None:
        """Wait for its end; returns the exit status, None if it has not ended in time."""
        self.process.join(seconds)
        return self.process.exitcode


def _command(words: Sequence[str], folder: Path, variables: Mapping[str, str]) -> None:
    import torch

    from modfill.cli import main

    os.environ |= variables
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        file = os.open(folder / stream.name.strip("<>"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, stream.fileno())
    sys.argv = ["modfill", *words]
    sys.exit(main())


def start(
    cohort: Path, out: Path, weights: Path, log: Path | None = None, die: tuple[str, int] | None = None
) -> ForkServerProcess:
    """Start a process that completes a cohort on one thread.

    Args:
        cohort, out: as for `complete_cohort`.
        weights: of the model.
        log: the process adds the modalities that it synthesised, a line each.
        die: it kills itself at the N-th "save" of an image, with half of it written, or before the N-th "replace".
    """
    return start_process(_complete, cohort, out, weights, log, die)


def _complete(cohort: Path, out: Path, weights: Path, log: Path | None, die: tuple[str, int] | None) -> None:
    import torch

    from modfill.completer import ModalityCompleter

    if die is not None:
        _die_at(*die)
    torch.set_num_threads(1)
    for result in ModalityCompleter(weights, device="cpu").complete_cohort(cohort, out=out):
        if result.error is not None:
            raise result.error
        if log is not None:
            with log.open("a") as file:
                file.write("".join(f"{result.case_id} {modality}\n" for modality in result.synthesised))


def _die_at(operation: str, count: int) -> None:
    """Let this process die at one of its file operations."""
    owner = nib if operation == "save" else os
    original, calls = getattr(owner, operation), itertools.count(1)

    def fatal(source: object, target: Path) -> None:
        if next(calls) < count:
            original(source, target)
            return
        if operation == "save":
            original(source, target)
            os.truncate(target, target.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, operation, fatal)
