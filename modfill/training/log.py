"""Where a stage stands, and the record of it: CSV, TensorBoard and progress lines."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass
class Progress:
    """Where a stage stands: steps done and seconds trained over all its runs."""

    step: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Budget:
    """When a stage ends: after `steps`, or after `minutes` if they are given.

    Attributes:
        clock: gives seconds; that of the wall, unless another one is to measure the training.
    """

    steps: int
    minutes: float | None = None
    clock: Callable[[], float] = time.monotonic

    def fraction(self, progress: Progress) -> float:
        """The share of the budget that is spent, 0 to 1.

        Under a time budget the learning rate follows the clock, so that the stage always ends annealed.
        """
        spent = progress.step / self.steps if self.minutes is None else progress.seconds / (60 * self.minutes)
        return min(spent, 1.0)

    def share(self, part: float) -> Budget:
        """A part of the budget, from 0 to 1."""
        return Budget(max(round(self.steps * part), 1), self.minutes and self.minutes * part)


_LOG = logging.getLogger("modfill")


class Curves:
    """Losses to CSV, to TensorBoard if it is installed, and one progress line a minute on standard output.

    A row is written each minute, and each fiftieth of the budget where that is sooner.
    """

    def __init__(self, run: Path, stage: str, measure: tuple[str, str] = ("PSNR", " dB")):
        self.stage, self.measure = stage, measure
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.board = None
        else:
            self.board = SummaryWriter(str(run / "tensorboard" / stage))
        self.file = (run / f"{stage}.csv").open("a", newline="")
        self.rows = csv.writer(self.file)
        if self.file.tell() == 0:
            self.rows.writerow(["step", "seconds", "name", "value"])
        self.recent: list[tuple[float, dict[str, float]]] = []
        self.printed = self.written = -math.inf
        self.fraction = 0.0

    def add(self, progress: Progress, budget: Budget, rate: float, parts: Mapping[str, Tensor], seconds: float) -> None:
        """Collect one step; write the means and print a line when a minute has passed since the last."""
        self.recent.append((seconds, {name: float(value.detach()) for name, value in parts.items()}))
        fraction = max(budget.fraction(progress), 1e-9)
        if time.monotonic() - self.written < 60 and fraction - self.fraction < 0.02 and fraction < 1:
            return
        names = {name: None for _, p in self.recent for name in p}
        means = {name: _mean([p[name] for _, p in self.recent if name in p]) for name in names}
        per_step = _mean([s for s, _ in self.recent])
        remaining = progress.seconds * (1 - fraction) / fraction
        for name, value in {**means, "learning_rate": rate}.items():
            self._write(progress, name, value)
        self.written, self.fraction, self.recent = time.monotonic(), fraction, []
        if time.monotonic() - self.printed < 60 and fraction < 1:
            return
        self.printed = time.monotonic()
        shown = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        _LOG.info("%s step %d  %s  %.2f steps/s  %.1f min left", self.stage, progress.step, shown, 1 / per_step,
                  remaining / 60)  # fmt: skip

    def validated(self, progress: Progress, value: float) -> None:
        """Record a validation."""
        name, unit = self.measure
        self._write(progress, f"validation_{name.lower()}", value)
        _LOG.info("%s step %d  validation %s %.2f%s", self.stage, progress.step, name, value, unit)

    def _write(self, progress: Progress, name: str, value: float) -> None:
        self.rows.writerow([progress.step, f"{progress.seconds:.1f}", name, f"{value:.6g}"])
        self.file.flush()
        if self.board is not None:
            self.board.add_scalar(f"{self.stage}/{name}", value, progress.step)

    def close(self) -> None:
        """Close the files."""
        self.file.close()
        if self.board is not None:
            self.board.close()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
