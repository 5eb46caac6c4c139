"""The command line: modfill complete | demo | train | nnunet | info."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from modfill import __version__
from modfill.errors import ModfillError
from modfill.modalities import MODALITIES, NAMES

PRESET_NAMES = ("tiny", "small", "released", "paper")
STAGE_NAMES = ("autoencoder", "translator", "denoiser", "refiner")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 all well, 1 something failed, 2 wrong usage."""
    # two thread pools that spin while they wait slow each other down fourfold; read before torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = sys.argv[1:] if arguments is None else list(arguments)
    # what follows nnunet is between modfill.integrations.nnunet and nnU-Net
    options = _parser().parse_args(words[:1] if words[:1] == ["nnunet"] else words)
    options.rest = words[1:]
    try:
        return options.run(options)
    except ModfillError as error:
        print(f"modfill: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("modfill: interrupted; what is finished stays, run the same command to go on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modfill", description="Synthesise the MRI modalities that a case lacks.")
    parser.add_argument("--version", action="version", version=f"modfill {__version__}")
    commands = parser.add_subparsers(required=True, metavar="complete | demo | train | nnunet | info")

    complete = commands.add_parser("complete", help="complete a case folder, or every case of a cohort folder")
    complete.add_argument("cohort", type=Path, metavar="CASE_OR_COHORT")
    complete.add_argument("--out", type=Path, required=True, metavar="DIR")
    complete.add_argument("--targets", nargs="+", choices=MODALITIES, help="only these, where they are missing")
    complete.add_argument("--weights", type=Path, metavar="FILE", help="default: the weights that modfill ships")
    complete.add_argument("--mode", choices=("mean", "sample"), default="mean",
                          help="mean: least error (default); sample: one plausible image")  # fmt: skip
    complete.add_argument("--steps", type=int, metavar="N", help="diffusion steps")
    complete.add_argument("--samples", type=int, default=1, metavar="N")
    complete.add_argument("--seed", type=int, default=0, metavar="N")
    complete.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    complete.add_argument("--overwrite", action="store_true", help="do finished outputs again")
    complete.set_defaults(run=_complete)

    demo = commands.add_parser("demo", help="build a phantom case, hide two modalities, complete it, draw the result")
    demo.add_argument("--out", type=Path, default=Path("modfill-demo"), metavar="DIR")
    demo.set_defaults(run=_demo)

    train = commands.add_parser("train", help="train a preset, or go on with a run that was stopped")
    train.add_argument("--preset", choices=PRESET_NAMES, default="small")
    train.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of complete cases")
    train.add_argument("--validate", type=Path, metavar="DIR", help="default: every tenth case of --data")
    train.add_argument("--out", type=Path, required=True, metavar="RUN")
    train.add_argument("--stage", choices=STAGE_NAMES, help="this stage alone")
    train.add_argument("--minutes", type=float, metavar="N", help="time budget, shared among the stages")
    train.add_argument("--seed", type=int, default=0, metavar="N")
    train.set_defaults(run=_train)

    nnunet = commands.add_parser("nnunet", help="nnU-Net on cases that lack channels: prepare, train, predict, ...")
    nnunet.set_defaults(run=_nnunet)

    info = commands.add_parser("info", help="say what weights are made of")
    info.add_argument("--weights", type=Path, metavar="FILE")
    info.set_defaults(run=_info)
    return parser


def _complete(options: argparse.Namespace) -> int:
    from modfill.case import find_cases, read_case
    from modfill.completer import ModalityCompleter

    found = find_cases(options.cohort)
    completer = ModalityCompleter(options.weights, options.device)
    failed = 0
    for number, files in enumerate(found, 1):
        began = time.monotonic()
        try:
            case = read_case(files)
            targets = options.targets and [target for target in options.targets if target in case.missing]
            done = completer.complete(case, options.out, targets, options.steps, options.samples, options.mode,
                                      options.seed, options.overwrite)  # fmt: skip
        except ModfillError as error:
            failed += 1
            print(f"modfill: {error}", file=sys.stderr)
            continue
        made = [modality for modality in done.images if modality not in done.skipped]
        outcome = f"synthesised {', '.join(made)}" if made else "finished before" if done.skipped else "nothing missing"
        print(f"[{number}/{len(found)}] {case.case_id}: {outcome} ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{len(found) - failed} of {len(found)} cases completed, {failed} failed")
    return 1 if failed else 0


def _demo(options: argparse.Namespace) -> int:
    from modfill.demo import run_demo

    run_demo(options.out)
    return 0


def _train(options: argparse.Namespace) -> int:
    from modfill.training.run import train_preset

    weights = train_preset(options.preset, options.data, options.out, options.validate, options.stage, options.minutes,
                           options.seed)  # fmt: skip
    print(f"weights: {weights}")
    return 0


def _nnunet(options: argparse.Namespace) -> int:
    from modfill.integrations.nnunet.command import main as run_nnunet

    return run_nnunet(options.rest)


def _info(options: argparse.Namespace) -> int:
    from modfill.checkpoint import SHIPPED, load

    path = options.weights or SHIPPED
    model, metadata = load(path)
    preset = model.preset
    print(
        f"modfill {__version__}\n"
        f"weights     {path.name}, {path.stat().st_size / 1e6:.1f} MB, sha256 {metadata['sha256']}"
    )
    print(f"preset      {preset.name}, trained: {metadata['stages']}")
    print(f"modalities  {', '.join(f'{m} ({NAMES[m]})' for m in preset.modalities)}")
    for name in preset.stages:
        count = sum(p.numel() for p in getattr(model, name).parameters())
        print(f"{name:11s} {count / 1e6:.2f} M parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
