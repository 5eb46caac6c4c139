"""Missing modalities of a case, at random or all sets of them, and volumes in which a method has filled the gaps."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from benchmarks.baselines import Method
from benchmarks.cases import reduced
from modfill.cases.reading import Case
from modfill.modalities import MODALITIES

LEFT_COMPLETE = 0.5  # share of the examples from which nothing is dropped


def missing_sets() -> list[tuple[str, ...]]:
    """The 14 sets of missing modalities, the smallest first."""
    return [missing for count in range(1, len(MODALITIES)) for missing in combinations(MODALITIES, count)]


def drawn_missing() -> tuple[str, ...]:
    """The modalities to drop from one example of a training: none in half of them, else one to all but one.

    Each number is as likely as any other, as `RandomModalityDropout` of the integrations has it. Drawn by numpy's
    global generator, which nnU-Net seeds in each of its workers.
    """
    if np.random.random() < LEFT_COMPLETE:
        return ()
    count = np.random.randint(1, len(MODALITIES))
    dropped = np.random.permutation(MODALITIES)[:count]
    return tuple(m for m in MODALITIES if m in dropped)


def filled(case: Case, missing: tuple[str, ...], method: Method | None) -> np.ndarray:
    """Volumes (M, X, Y, Z) with the missing ones completed by a method, or 0 without one."""
    made: dict[str, np.ndarray] = {}
    if method is not None:
        made = method.complete(reduced(case, tuple(m for m in MODALITIES if m not in missing)), missing)
    empty = np.zeros(case.volume(MODALITIES[0]).shape, np.float32)
    return np.stack([made.get(m, empty) if m in missing else case.volume(m) for m in MODALITIES]).astype(np.float32)
