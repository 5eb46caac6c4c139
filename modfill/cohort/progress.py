"""What `modfill complete` tells of a cohort: a bar on a terminal, lines elsewhere, and the failures at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from modfill.errors import printable

if TYPE_CHECKING:
    from modfill.results import CaseResult

__all__ = ["follow"]


def follow(results: Iterable[CaseResult], total: int, jobs: int, label: str = "") -> int:
    """Take the results as they come, tell how far the cohort is, and sum it up.

    Args:
        results: as `ModalityCompleter.complete_cohort` yields them; none is kept.
        total: number of cases.
        jobs: cases computed at the same time.
        label: what this process calls its part of the cohort, e.g. "shard 3/16"; empty for a whole cohort.

    Returns:
        The number of cases that failed.
    """
    problems: list[str] = []
    clock = _Clock(total, jobs)
    try:
        # a bar for each of several processes would be a mess
        with tqdm(total=total, unit="case", desc=label or "modfill", disable=True if label else None) as bar:
            for result in results:
                clock.count(result)
                if result.problem is not None:
                    problems.append(result.problem)
                    bar.set_postfix(failed=len(problems))
                bar.update()
                if bar.disable:
                    line = f"[{clock.done}/{total}] {result.case_id}: {_outcome(result)} ({clock})"
                    print(printable(line), flush=True)
    finally:
        _sum_up(clock, problems, label)
    return len(problems)


class _Clock:
    """Counts cases and time; rate and remaining time come from the cases that something was synthesised for."""

    def __init__(self, total: int, jobs: int):
        self.total, self.jobs, self.began = total, jobs, time.monotonic()
        self.done = self.made = 0
        self.seconds = self.model_seconds = 0.0

    def count(self, result: CaseResult) -> None:
        self.done += 1
        self.made += bool(result.synthesised)
        self.seconds = result.seconds
        self.model_seconds += result.model_seconds

    @property
    def elapsed(self) -> float:
        return max(time.monotonic() - self.began, 1e-9)

    @property
    def rate(self) -> str:
        return f", {60 * self.made / self.elapsed:.1f} cases/min" if self.made else ""

    def __str__(self) -> str:
        left = self.total - self.done
        remaining = f", {_duration(self.elapsed / self.made * left)} left" if left and self.made else ""
        return f"{self.seconds:.1f} s{self.rate}{remaining}"


def _outcome(result: CaseResult) -> str:
    if result.completed is None:
        return "failed"
    if result.synthesised:
        return f"synthesised {', '.join(result.synthesised)}"
    return "finished before" if result.completed.skipped else "nothing missing"


def _sum_up(clock: _Clock, problems: Sequence[str], label: str) -> None:
    """The last words, after an interruption too."""
    for problem in problems:
        print(printable(f"modfill: {problem}"), file=sys.stderr)
    busy = ""
    if clock.made:
        busy = f"{clock.rate}, {min(clock.model_seconds / clock.jobs / clock.elapsed, 1):.0%} of the time in the model"
    print(
        f"{label + ': ' if label else ''}{clock.done - len(problems)} of {clock.total} cases completed, "
        f"{len(problems)} failed ({_duration(clock.elapsed)}{busy})",
        flush=True,
    )


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 6000 else f"{whole // 3600} h {whole % 3600 // 60} min"
