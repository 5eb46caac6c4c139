"""Methods by name, for the command lines of the benchmarks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks.baselines import Method
from benchmarks.baselines.contrast import RULES, Careful, Completions
from benchmarks.baselines.in_case import InCase
from benchmarks.baselines.ours import Modfill
from benchmarks.baselines.simple import CopyNearest, MeanAvailable
from benchmarks.baselines.trained import PAIRS, STAGES, Trained, TrainedPairs
from benchmarks.baselines.voxelwise import Voxelwise
from modfill.cases.finding import find_cases
from modfill.cases.reading import read_case
from modfill.settings import Settings

UNTRAINED: dict[str, Callable[[], Method]] = {"copy": CopyNearest, "mean": MeanAvailable}
FITTED: dict[str, Callable[[], Method]] = {"voxelwise": Voxelwise, "voxelwise-in-case": InCase}
OURS = {"modfill": Settings(), "modfill-sample": Settings("sample")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the methods and the places of their trained parts."""
    parser.add_argument("--methods", nargs="+", default=["modfill"], metavar="NAME",
                        choices=(*UNTRAINED, *FITTED, *OURS, *RULES, *STAGES, *PAIRS),
                        help=f"any of: {', '.join((*UNTRAINED, *FITTED, *OURS, *RULES, *STAGES, *PAIRS))}; "
                             "voxelwise-in-case is fitted to the target")  # fmt: skip
    parser.add_argument("--modalities", metavar="SET", help="the cases' set of modalities (default: brats)")
    parser.add_argument("--train", type=Path, metavar="DIR", help="training cases, which voxelwise is fitted to")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="DIR/NAME is the run folder of the trained rival NAME")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="modfill's; default: those it ships")


def selected_methods(options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Method]:
    """The methods that a command line names, ready to complete cases."""
    methods: list[Method] = []
    completions = Completions(options.weights)
    for name in options.methods:
        if name in UNTRAINED:
            methods.append(UNTRAINED[name]())
        elif name in OURS:
            methods.append(Modfill(options.weights, OURS[name]))
        elif name in RULES:
            methods.append(Careful(name, completions))
        elif name in STAGES or name in PAIRS:
            if options.runs is None:
                parser.error(f"{name} needs --runs")
            methods.append((Trained if name in STAGES else TrainedPairs)(name, options.runs / name))
        else:
            known = options.cases if name == InCase.name else options.train
            if known is None:
                parser.error(f"{name} needs --train")
            methods.append(FITTED[name]())
            methods[-1].fit([read_case(files) for files in find_cases(known, modality_set=options.modalities)])
    return methods
