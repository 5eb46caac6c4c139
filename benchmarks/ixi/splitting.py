"""A split of IXI in training and test subjects, of the paper's sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from benchmarks.ixi.archive import subject_of
from modfill.atomic import replacing, writable
from modfill.errors import CaseError
from modfill.outputs.linking import link

__all__ = ["SEED", "split", "write_split"]

SEED = 2024
PAPER = (459, 115)
"""Training and test subjects of the paper, which does not say which subjects they are."""


def split(subjects: Iterable[str], seed: int = SEED) -> tuple[list[str], list[str]]:
    """Training and test subjects: the same on any machine, with any version of Python and NumPy.

    The subjects are permuted by the SHA-256 of seed and name. A subject more or less therefore leaves the order of the
    others as it is.

    Args:
        subjects: all subjects with all three modalities, in any order.
        seed: another one gives another permutation.

    Returns:
        The first 459 of the permutation, and the next 115; each sorted. Of fewer than 574 subjects, the last fifth is
        for the test.
    """
    permuted = sorted(set(subjects), key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    permuted = permuted[: sum(PAPER)]
    train = round(len(permuted) * PAPER[0] / sum(PAPER))
    return sorted(permuted[:train]), sorted(permuted[train:])


def write_split(cases: Path, out: Path) -> tuple[list[str], list[str]]:
    """Put links to the prepared cases into `out/train` and `out/test`, for each of their files.

    Args:
        cases: the folder of `prepare`.
        out: another folder, new or of the same split.

    Returns:
        As `split`.

    Raises:
        CaseError: there are fewer than two cases, `out` holds another split, or nothing can be written.
    """
    subjects = subject_of([folder.name for folder in cases.iterdir()]) if cases.is_dir() else []
    subjects = [name for name in subjects if (cases / name / f"{name}-prepared.json").exists()]
    if len(subjects) < 2:
        raise CaseError(f"{cases} must hold prepared cases of IXI, got {len(subjects)}; run prepare first")
    parts = dict(zip(("train", "test"), split(subjects), strict=True))
    for part, names in parts.items():
        there = {folder.name for folder in (out / part).iterdir()} if (out / part).is_dir() else set()
        if wrong := sorted(there - set(names)):
            raise CaseError(f"{out / part} must hold this split's cases only, got {wrong[0]}; give a new folder")
    with writable(out, CaseError):
        for part, names in parts.items():
            for name in names:
                for file in sorted((cases / name).glob(f"{name}*")):
                    link(file, out / part / name / file.name)
        rows = [f"{name},{part}" for part, names in parts.items() for name in names]
        with replacing(out / "split.csv") as temporary:
            temporary.write_text("\n".join(["case,split", *sorted(rows)]) + "\n", encoding="utf8")
    return parts["train"], parts["test"]
