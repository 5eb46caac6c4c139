"""`modfill nnunet prepare | plan_and_preprocess | train | predict`: nnU-Net's commands for datasets with gaps."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from modfill.terminal.arguments import Parser

_HELP = """\
prepare              complete a raw dataset once, for nnU-Net's own commands: -d 501 -o 502
plan_and_preprocess  nnUNetv2_plan_and_preprocess, on a raw dataset with gaps
train                nnUNetv2_train
predict              nnUNetv2_predict (-d ... -c ...) or nnUNetv2_predict_from_modelfolder (-m ...), on cases with gaps

All but prepare take every option of the nnU-Net command; '... --help' shows them. plan_and_preprocess and predict take
--channels (modalities in order, instead of dataset.json's names) and --weights besides, as prepare does."""


def main(argv: Sequence[str]) -> int:
    """Run a command.

    Args:
        argv: what follows `modfill nnunet`.

    Returns:
        The exit status.

    Raises:
        ModfillError: nnU-Net is not installed, or a dataset or case cannot be used.
        SystemExit: wrong usage.
    """
    parser = Parser(
        prog="modfill nnunet",
        description="nnU-Net, with cases that lack channels.",
        epilog=_HELP,
    )
    commands = {"prepare": _prepare, "plan_and_preprocess": _plan_and_preprocess, "train": _train, "predict": _predict}
    parser.add_argument("command", choices=commands, metavar=" | ".join(commands))
    options = parser.parse_args(argv[:1])
    commands[options.command](list(argv[1:]))
    return 0


def _prepare(arguments: list[str]) -> None:
    from modfill.integrations.nnunet.prepare import prepare_dataset

    parser = _own_options("prepare", add_help=True)
    parser.add_argument("-d", type=int, required=True, metavar="ID", help="raw dataset with gaps, in nnUNet_raw")
    parser.add_argument("-o", type=int, required=True, metavar="NEW_ID", help="the number of the dataset to write")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    parser.add_argument("--overwrite", action="store_true", help="do finished synthetic images again")
    parser.add_argument("--jobs", type=int, default=1, metavar="N",
                        help="cases computed at the same time, as by modfill complete (default: 1)")  # fmt: skip
    parser.add_argument("--shard", default="1/1", metavar="K/N",
                        help="only the K-th of N equal parts of the cases, for array jobs; under torchrun the ranks "
                             "share the cases. The process that finishes last writes dataset.json")  # fmt: skip
    options = vars(parser.parse_args(arguments))
    print(prepare_dataset(options.pop("d"), new_id=options.pop("o"), **options))


def _plan_and_preprocess(arguments: list[str]) -> None:
    own, rest = _own_options("plan_and_preprocess").parse_known_args(arguments)
    from modfill.integrations.nnunet import plugin
    from nnunetv2.experiment_planning import plan_and_preprocess_api, plan_and_preprocess_entrypoints

    plugin.configure(channels=own.channels, weights=own.weights)
    # --clean: an earlier fingerprint may be of other weights
    ours = ["-fpe", "ModalityCompletionFingerprintExtractor", "-preprocessor_name", "ModalityCompletionPreprocessor",
            "--clean"]  # fmt: skip
    with _replaced(plan_and_preprocess_api, "verify_dataset_integrity", plugin.verify_completed):
        _run("plan_and_preprocess", plan_and_preprocess_entrypoints.plan_and_preprocess_entry, [*ours, *rest])


def _train(arguments: list[str]) -> None:
    from modfill.integrations.nnunet.shim import require_nnunet

    require_nnunet()
    from nnunetv2.run.run_training import run_training_entry

    _run("train", run_training_entry, arguments)


def _predict(arguments: list[str]) -> None:
    own, rest = _own_options("predict").parse_known_args(arguments)
    from modfill.integrations.nnunet.predict import ModalityCompletionPredictor
    from nnunetv2.inference import predict_from_raw_data

    class Predictor(ModalityCompletionPredictor):
        """nnU-Net's command constructs its predictor itself, without our arguments."""

        def __init__(self, **options: Any):
            super().__init__(own.channels, own.weights, **options)

    by_folder = "-m" in rest or "-d" not in rest
    entry = "predict_entry_point_modelfolder" if by_folder else "predict_entry_point"
    with _replaced(predict_from_raw_data, "nnUNetPredictor", Predictor):
        _run("predict", getattr(predict_from_raw_data, entry), rest)


def _own_options(command: str, add_help: bool = False) -> argparse.ArgumentParser:
    # no abbreviations: nnU-Net's --c must not be taken for --channels
    parser = Parser(prog=f"modfill nnunet {command}", add_help=add_help)
    short = ("-c",) if command == "prepare" else ()  # nnU-Net's own -c names configurations
    parser.add_argument(*short, "--channels", nargs="+", metavar="MODALITY",
                        help="modalities in the order of the channels, instead of dataset.json's names")  # fmt: skip
    parser.add_argument("--weights", type=Path, metavar="FILE", help="default: the weights that modfill ships")
    return parser


def _run(command: str, entry: Callable[[], None], arguments: list[str]) -> None:
    """Run one of nnU-Net's entry points, which read sys.argv."""
    with _replaced(sys, "argv", [f"modfill nnunet {command}", *arguments]):
        entry()


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    former = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, former)
