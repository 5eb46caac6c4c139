"""The command line: modfill complete | scan | report | demo | train | nnunet | info."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from pathlib import Path

from modfill import __version__
from modfill.errors import ModfillError
from modfill.modalities import MODALITIES, NAMES, modalities_of
from modfill.outputs.naming import NAMINGS
from modfill.process import Terminated, end_now_if_busy, terminable

PRESET_NAMES = ("tiny", "small", "released", "paper")
STAGE_NAMES = ("autoencoder", "translator", "denoiser", "refiner", "unet")
JOBS_HELP = (
    "cases computed at the same time (default: 1, with all of the CPU's threads; reading and writing go on beside it). "
    "More help on a CPU with more cores than one case keeps busy; each takes about 2.5 GiB. On a GPU leave it at 1"
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command in the main thread; returns the exit status.

    0 all well, 1 something failed, 2 wrong usage, 130 interrupted (SIGINT), 143 terminated (SIGTERM).
    """
    # two thread pools that spin while they wait slow each other down fourfold; read before torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a case's name may have letters that the terminal has not
    words = sys.argv[1:] if arguments is None else list(arguments)
    # what follows nnunet is between modfill.integrations.nnunet and nnU-Net
    options = _parser().parse_args(words[:1] if words[:1] == ["nnunet"] else words)
    options.rest = words[1:]
    try:
        with terminable():
            return options.run(options)
    except ModfillError as error:
        print(f"modfill: {error}", file=sys.stderr)
        if arguments is None:  # this process is the command, not a program that calls it
            end_now_if_busy(1)
        return 1
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (flushed at exit, and the pipe is gone)
        return 1
    except MemoryError:
        print("modfill: out of memory; free some and run the same command to go on", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Terminated) as signal:
        word, status = ("terminated", 143) if isinstance(signal, Terminated) else ("interrupted", 130)
        print(f"modfill: {word}; what is finished stays, run the same command to go on", file=sys.stderr)
        if arguments is None:
            end_now_if_busy(status)
        return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modfill", description="Synthesise the MRI modalities that a case lacks.")
    parser.add_argument("--version", action="version", version=f"modfill {__version__}")
    commands = parser.add_subparsers(required=True, metavar="complete | scan | report | demo | train | nnunet | info")

    complete = commands.add_parser("complete", help="complete a case folder, or every case of a cohort folder")
    complete.add_argument("cohort", type=Path, metavar="CASE_OR_COHORT")
    complete.add_argument("--out", type=Path, required=True, metavar="DIR")
    complete.add_argument("--targets", nargs="+", type=_modality, metavar="MODALITY",
                          help=f"only these, where they are missing: {', '.join(MODALITIES)}, flair, ...")  # fmt: skip
    complete.add_argument("--weights", type=Path, metavar="FILE", help="default: the weights that modfill ships")
    complete.add_argument("--mode", choices=("mean", "sample"), default="mean",
                          help="mean: least error (default); sample: one plausible image")  # fmt: skip
    complete.add_argument("--steps", type=int, metavar="N", help="diffusion steps")
    complete.add_argument("--samples", type=int, default=1, metavar="N",
                          help="samples that the mean averages, with --steps (default: 1)")  # fmt: skip
    complete.add_argument("--uncertainty", action="store_true",
                          help="also write the map of the standard deviation to be expected, "
                               "<case>-<modality>-uncertainty.nii.gz")  # fmt: skip
    complete.add_argument("--seed", type=int, default=0, metavar="N")
    complete.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    complete.add_argument("--naming", choices=("auto", *NAMINGS), default="brats2023",
                          help="of the outputs: like the input's, or this one (default: brats2023)")  # fmt: skip
    complete.add_argument("--link", action="store_true", help="add links to what was acquired: a whole dataset")
    complete.add_argument("--overwrite", action="store_true", help="do finished outputs again")
    complete.add_argument("--jobs", type=int, default=1, metavar="N", help=JOBS_HELP)
    complete.add_argument("--shard", default="1/1", metavar="K/N",
                          help="only the K-th of N equal parts of the cohort, for array jobs; under torchrun the ranks "
                               "share the cohort by themselves")  # fmt: skip
    complete.add_argument("--ignore-unexplained", action="store_true",
                          help="complete a case that lacks a modality although it holds images whose names say "
                               "nothing; the sidecars tell so")  # fmt: skip
    complete.add_argument("--allow-synthetic", action="store_true", help="take synthetic images for sources too")
    complete.add_argument("--assume-aligned", action="store_true",
                          help="images without orientation codes lie where those with them do")  # fmt: skip
    complete.set_defaults(run=_complete)

    report = commands.add_parser("report", help="one HTML page that shows a completed cohort")
    report.add_argument("completed", type=Path, metavar="COMPLETED", help="what modfill complete wrote")
    report.add_argument("--html", type=Path, metavar="FILE", help="default: COMPLETED/report.html")
    report.set_defaults(run=_report)

    scan = commands.add_parser("scan", help="say what a cohort has, lacks and cannot use")
    scan.add_argument("cohort", type=Path, metavar="COHORT")
    scan.add_argument("--csv", type=Path, metavar="FILE", help="write the table of cases")
    scan.add_argument("--html", type=Path, metavar="FILE", help="write everything as a page")
    scan.add_argument("--deep", action="store_true", help="read every voxel: blank, damaged and exchanged images too")
    scan.set_defaults(run=_scan)

    demo = commands.add_parser("demo", help="build a phantom case, hide two modalities, complete it, draw the result")
    demo.add_argument("--out", type=Path, default=Path("modfill-demo"), metavar="DIR")
    demo.set_defaults(run=_demo)

    train = commands.add_parser("train", help="train a preset, or go on with a run that was stopped")
    train.add_argument("--preset", choices=PRESET_NAMES, default="small")
    train.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of complete cases")
    train.add_argument("--validate", type=Path, metavar="DIR", help="default: every tenth case of --data")
    train.add_argument("--out", type=Path, required=True, metavar="RUN")
    train.add_argument("--stage", choices=STAGE_NAMES, help="this stage alone")
    train.add_argument("--weights", type=Path, metavar="FILE", help="start from these instead of from nothing")
    train.add_argument("--regions", type=Path, metavar="FILE", help="tumour regions of more patients (.npz)")
    train.add_argument("--minutes", type=float, metavar="N", help="time budget, shared among the stages")
    train.add_argument("--seed", type=int, default=0, metavar="N")
    train.set_defaults(run=_train)

    nnunet = commands.add_parser("nnunet", help="nnU-Net on cases that lack channels: prepare, train, predict, ...")
    nnunet.set_defaults(run=_nnunet)

    info = commands.add_parser("info", help="say what weights are made of")
    info.add_argument("--weights", type=Path, metavar="FILE")
    info.set_defaults(run=_info)
    return parser


def _modality(name: str) -> str:
    """The modality that a word of the command line names."""
    try:
        return modalities_of(name)[0]
    except ModfillError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _complete(options: argparse.Namespace) -> int:
    from modfill.cases.finding import find_cohort
    from modfill.cohort.parts import Meeting, Part
    from modfill.cohort.progress import follow
    from modfill.completer import ModalityCompleter
    from modfill.outputs.linking import describe
    from modfill.outputs.naming import output_folder
    from modfill.process import keep_freed_memory
    from modfill.settings import Settings

    keep_freed_memory()
    shard, rank = Part.parse(options.shard), Part.of_rank()
    label = f"shard {options.shard}" if shard.count > 1 else ""
    label = f"{label} rank {rank.number}/{rank.count}".strip() if rank.count > 1 else label
    settings = Settings(options.mode, options.steps, options.samples, options.seed, options.uncertainty)
    cohort = find_cohort(options.cohort, options.ignore_unexplained)
    found, out = rank.of(shard.of(cohort.cases)), output_folder(options.out, options.naming, cohort)
    completer = ModalityCompleter(options.weights, options.device)
    meeting = Meeting(rank)
    results = completer.complete_cohort(found, out, options.targets, settings, options.overwrite, options.link,
                                        options.jobs, options.allow_synthetic,
                                        assume_aligned=options.assume_aligned)  # fmt: skip
    describe(out, cohort)  # all of it, whatever this part is; once nothing can be refused any more
    with contextlib.closing(results):  # also when a signal comes between two results
        failed = follow(results, len(found), options.jobs, label)
    meeting.wait()
    return 1 if failed else 0


def _report(options: argparse.Namespace) -> int:
    from modfill.reports.cohort_page import write_report

    print(write_report(options.completed, options.html))
    return 0


def _scan(options: argparse.Namespace) -> int:
    from modfill.reports.scan import scan_cohort
    from modfill.reports.scan_page import as_text, save_csv, save_html

    scan = scan_cohort(options.cohort, options.deep)
    print(as_text(scan))
    if options.csv:
        save_csv(scan, options.csv)
    if options.html:
        save_html(scan, options.html)
    return 0


def _demo(options: argparse.Namespace) -> int:
    from modfill.demo.run import run_demo

    run_demo(options.out)
    return 0


def _train(options: argparse.Namespace) -> int:
    from modfill.training.run import train_preset

    weights = train_preset(
        options.preset, data=options.data, out=options.out, validate=options.validate, stage=options.stage,
        minutes=options.minutes, seed=options.seed, weights=options.weights, regions=options.regions,
    )  # fmt: skip
    print(f"weights: {weights}")
    return 0


def _nnunet(options: argparse.Namespace) -> int:
    from modfill.integrations.nnunet.command import main as run_nnunet

    return run_nnunet(options.rest)


def _info(options: argparse.Namespace) -> int:
    from modfill.weights.checkpoint import SHIPPED, load

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
