"""Progress of a cohort or a single case: a bar on a terminal, lines elsewhere, and the failures at the end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tqdm import tqdm

from modfill.errors import printable
from modfill.results import CaseResult

__all__ = ["Outcome", "case_bar", "follow"]

_LOG = logging.getLogger("modfill")
_REFRESH = 1.0  # seconds between two pictures of a bar whose step takes longer


@dataclass
class Outcome:
    """The outcome of the cases that were followed.

    Attributes:
        problems: one line for each case that failed.
        last: the last result, of a single case the only one.
    """

    problems: list[str] = field(default_factory=list)
    last: CaseResult | None = None


def follow(results: Iterable[CaseResult], total: int, *, jobs: int, label: str = "") -> Outcome:
    """Take the results as they come, show the progress, and log a summary.

    Args:
        results: as `ModalityCompleter.complete_cohort` yields them.
        total: number of cases.
        jobs: cases computed at the same time.
        label: name of this process's part of the cohort, e.g. "shard 3/16"; empty for a whole cohort.
    """
    outcome = Outcome()
    clock = _Clock(total, jobs)
    # several processes would draw their bars over each other
    hidden = None if total > 1 and not label and _LOG.isEnabledFor(logging.INFO) else True
    try:
        with tqdm(total=total, unit="case", desc="modfill", disable=hidden) as bar, _moving(bar):
            for result in results:
                clock.count(result)
                outcome.last = result
                if result.problem is not None:
                    outcome.problems.append(printable(result.problem))
                    bar.set_postfix(failed=len(outcome.problems))
                bar.update()
                if bar.disable:
                    name = printable(result.case_id)
                    _LOG.info("[%d/%d] %s: %s (%s)", clock.done, total, name, _outcome(result), clock)
    finally:
        _sum_up(clock, outcome.problems, label)
    return outcome


@contextmanager
def case_bar(name: str) -> Iterator[Callable[[str, float], None]]:
    """A bar for a single case on a terminal, which moves every second however long a step takes.

    Args:
        name: of the case.

    Yields:
        To be called with the step and the share that is done, from 0 to 1.
    """
    layout = "{desc}: {percentage:3.0f}% {bar:30} {elapsed}"
    hidden = None if _LOG.isEnabledFor(logging.INFO) else True
    with tqdm(total=100, desc=printable(name), disable=hidden, leave=False, bar_format=layout) as bar, _moving(bar):

        def show(step: str, share: float) -> None:
            if not bar.disable:
                bar.n = max(bar.n, round(100 * share))
                bar.set_description_str(f"{printable(name)}, {step}")

        yield show


@contextmanager
def _moving(bar: tqdm) -> Iterator[None]:
    """Draw a bar anew every second, with the time that has passed."""
    over = threading.Event()

    def draw() -> None:
        while not over.wait(_REFRESH):
            bar.refresh()

    if not bar.disable:
        threading.Thread(target=draw, name="bar", daemon=True).start()
    try:
        yield
    finally:
        over.set()


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
    """Log the failures and a summary, after an interruption too."""
    for problem in problems:
        _LOG.error("%s", problem)
    busy = ""
    if clock.made:
        busy = f"{clock.rate}, {min(clock.model_seconds / clock.jobs / clock.elapsed, 1):.0%} of the time in the model"
    _LOG.info(
        "%s%d of %d cases completed, %d failed (%s%s)",
        f"{label}: " if label else "",
        clock.done - len(problems),
        clock.total,
        len(problems),
        _duration(clock.elapsed),
        busy,
    )


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 6000 else f"{whole // 3600} h {whole % 3600 // 60} min"
