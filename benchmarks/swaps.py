"""Make the weights of `modfill.reports.swaps` from training cases, and measure the rule on others.

python -m benchmarks.swaps --train TRAIN --cases VAL TEST

Every pair of modalities of every case is judged as it is and exchanged: alone, and within the whole case. The rule is
fitted to the BraTS set, and no other set has one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.modalities import MODALITIES
from modfill.reports.swaps import MARGIN, WEIGHTS, describe_pairs, suspected_swap

SHRINKAGE = 0.1  # of the correlations towards 0: nine features from 26 cases
PAIRS = tuple(combinations(MODALITIES, 2))
Weights = dict[tuple[str, str], tuple[float, ...]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the weights that the training cases give, and the accuracy of those of `modfill.reports.swaps`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, metavar="DIR", help="print weights made from these cases")
    parser.add_argument("--cases", type=Path, nargs="+", required=True, metavar="DIR", help="measure on these")
    options = parser.parse_args(arguments)
    if options.train:
        figures = [describe_pairs(case) for case in whole_cases(options.train)]
        for pair, weights in fit(figures).items():
            print(f"    {pair}: {weights},")
        print(f"left out in turn: {sum(left_out(figures))} of {len(figures) * len(PAIRS)} exchanged pairs found")
    cases = [case for folder in options.cases for case in whole_cases(folder)]
    print(measure(cases))


def whole_cases(folder: Path) -> Iterator[Case]:
    """Cases with all four modalities, one after the other."""
    return (case for case in map(read_case, find_cases(folder)) if not case.missing)


def fit(cases: Sequence[dict[tuple[str, str], npt.NDArray[np.float64]]]) -> Weights:
    """Fisher's discriminant for each pair, through 0 and with the mean 1, rounded for reading.

    Args:
        cases: the result of `describe_pairs` for each case.
    """
    weights = {}
    for pair in PAIRS:
        figures = np.array([case[pair] for case in cases])
        mean, covariance = figures.mean(axis=0), np.cov(figures.T)
        spread = np.sqrt(np.diag(covariance))
        covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(spread**2)
        direction = np.linalg.solve(covariance, mean)
        weights[pair] = tuple(round(float(weight), 4) for weight in direction / (direction @ mean))
    return weights


def left_out(cases: Sequence[dict[tuple[str, str], npt.NDArray[np.float64]]]) -> list[bool]:
    """For each exchanged pair of each case, True if weights made from the other cases find it."""
    told = []
    for number, case in enumerate(cases):
        weights = fit([*cases[:number], *cases[number + 1 :]])
        told += [bool(np.dot(weights[pair], case[pair]) > MARGIN) for pair in PAIRS]
    return told


def measure(cases: Sequence[Case]) -> str:
    """The rule's accuracy, in words."""
    alarms = sum(suspected_swap(case) is not None for case in cases)
    swapped = [(pair, suspected_swap(exchanged(case, pair))) for case in cases for pair in PAIRS]
    found = sum(suspicion is not None for _, suspicion in swapped)
    right = sum(suspicion == pair for pair, suspicion in swapped)
    alone = [float(np.dot(WEIGHTS[pair], figures)) for case in cases for pair, figures in describe_pairs(case).items()]
    wrong, sure = sum(score < -MARGIN for score in alone), sum(score > MARGIN for score in alone)
    lines = [
        f"{len(cases)} cases with four modalities: {alarms} intact cases suspected",
        f"{found} of {len(swapped)} exchanges found, {right} with the right two named",
        f"of {len(alone)} pairs alone, {wrong} intact ones suspected, {sure} exchanged ones found",
    ]
    return "\n".join(lines)


def exchanged(case: Case, pair: tuple[str, str]) -> Case:
    """The case with two of its images exchanged."""
    images = dict(case.images)
    images[pair[0]], images[pair[1]] = case.images[pair[1]], case.images[pair[0]]
    return replace(case, images=images)


if __name__ == "__main__":
    main()
