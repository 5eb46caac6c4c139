"""Processes that start in no time: they are forked from a server that has imported everything."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable
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
