"""The rivals, one a file, all with `fit(cases)` and `complete(case, targets)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from modfill.cases.reading import Case


class Method(Protocol):
    """A method that a benchmark can measure.

    `complete` returns each target in unit range (X, Y, Z), 0 outside the brain, on the case's grid.
    """

    name: str

    def fit(self, cases: Sequence[Case]) -> None:
        """Learn from complete training cases."""

    def complete(self, case: Case, targets: Sequence[str]) -> dict[str, np.ndarray]:
        """Synthesise `targets` from everything that is available."""
