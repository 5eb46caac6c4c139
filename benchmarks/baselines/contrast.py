"""modfill with a rule of its own for a missing T1ce, whose enhancement no other modality shows for certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.baselines.ours import deviation_in_unit_range, in_unit_range
from benchmarks.baselines.simple import in_unit_range as acquired_in_unit_range
from modfill.cases.reading import Case
from modfill.completer import ModalityCompleter
from modfill.metrics import SMALLEST, match
from modfill.results import Completed
from modfill.settings import Settings

T1, T1CE = "t1n", "t1c"

Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""T1ce from the synthetic T1ce, T1 and the standard deviation to be expected of the synthetic T1ce: all (X, Y, Z)."""


def blended(synthetic: np.ndarray, t1: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The synthetic T1ce, drawn towards T1 where its difference from T1 is small beside its expected error.

    T1 is first fitted linearly to the synthetic T1ce. Their difference is the enhancement e; it is multiplied by
    e² / (e² + deviation²), the empirical Wiener filter.
    """
    brain = synthetic != 0
    if not brain.any():
        return synthetic
    fitted = match(synthetic, t1, brain)
    enhancement = synthetic - fitted
    weight = enhancement**2 / np.maximum(enhancement**2 + deviation**2, SMALLEST)
    return (fitted + weight * enhancement) * brain


RULES: dict[str, Rule] = {
    "t1ce-empty": lambda synthetic, t1, deviation: np.zeros_like(synthetic),
    "t1ce-t1": lambda synthetic, t1, deviation: t1,
    "t1ce-blend": blended,
}


class Careful:
    """modfill, but for T1ce, which follows one of `RULES`. T1 is the synthetic one where it is missing too."""

    def __init__(self, name: str, completions: Completions):
        self.name, self.completions = name, completions

    def fit(self, cases: Sequence[Case]) -> None:
        """Nothing to learn."""

    def complete(self, case: Case, targets: Sequence[str]) -> dict[str, np.ndarray]:
        """Complete, in unit range; a channel that the rule leaves empty is 0."""
        needs_t1 = T1CE in targets and T1 not in case.available and T1 not in targets
        done = self.completions.of(case, (T1, *targets) if needs_t1 else tuple(targets))
        made = in_unit_range(done)
        if T1CE in made:
            t1 = made[T1] if T1 in made else acquired_in_unit_range(case)[T1]
            made[T1CE] = RULES[self.name](made[T1CE], t1, deviation_in_unit_range(done, T1CE))
        return {target: made[target] for target in targets}


class Completions:
    """modfill's completions with uncertainty; the last one is kept, since every rule asks for it."""

    def __init__(self, weights: Path | None = None):
        self.completer = ModalityCompleter(weights, settings=Settings(uncertainty=True))
        self.latest: tuple[tuple, Completed] | None = None

    def of(self, case: Case, targets: tuple[str, ...]) -> Completed:
        """The completion of a case by what is available in it."""
        key = (case.case_id, tuple(case.available), targets)
        if self.latest is None or self.latest[0] != key:
            self.latest = key, self.completer.complete(case, targets=targets)
        return self.latest[1]
