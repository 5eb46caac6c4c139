"""The command line: modfill complete, prepare, restore, report, scan, demo, reproduce, train, export, nnunet, info."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modfill import __version__
from modfill.errors import CaseError, ModfillError, SettingsError
from modfill.process import Terminated, end_now_if_busy, terminable, tune_process
from modfill.terminal.arguments import FILES, Parser, build_parser, joined_targets
from modfill.terminal.flags import in_flags
from modfill.terminal.log import shown

if TYPE_CHECKING:
    from modfill.cases.files import CaseFiles, Cohort
    from modfill.cohort.parts import Share
    from modfill.completer import ModalityCompleter
    from modfill.modalities import ModalitySet
    from modfill.outputs.naming import OutputFolder
    from modfill.settings import Settings

_LOG = logging.getLogger("modfill")


def main(arguments: list[str] | None = None) -> int:
    """Run a command in the main thread; returns the exit status.

    0 all well, 1 something failed, 2 wrong usage, 130 interrupted (SIGINT), 143 terminated (SIGTERM).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a case's name may have letters that the terminal has not
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = build_parser()
    if not words:
        parser.print_help()
        return 0
    # what follows nnunet is between modfill.integrations.nnunet and nnU-Net
    options = parser.parse_args(words[:1] if words[:1] == ["nnunet"] else joined_targets(words))
    options.rest = words[1:]
    if options.command is None:
        parser.error("a command is missing")
    return guarded(lambda: _COMMANDS[options.command](options, parser), alone=arguments is None, **_wanted(options))


def guarded(command: Callable[[], int], *, alone: bool, **wanted: Any) -> int:
    """Run a command; returns the exit status of `main`, and prints errors and signals in one line.

    Args:
        command: returns its exit status.
        alone: this process is the command, not a program that calls it.
        wanted: the choices of `shown`.
    """
    try:
        tune_process()
        with terminable(), shown(**wanted):
            return command()
    except ModfillError as error:
        print(f"modfill: {in_flags(str(error))}", file=sys.stderr)
        status = 2 if isinstance(error, SettingsError) else 1
        if alone:
            end_now_if_busy(status)
        return status
    except BrokenPipeError:  # the reader of the output has gone
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (flushed at exit, and the pipe is gone)
        return 1
    except MemoryError:
        print("modfill: out of memory; free some and run the same command to go on", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Terminated) as signal:
        word, status = ("terminated", 143) if isinstance(signal, Terminated) else ("interrupted", 130)
        print(f"modfill: {word}; what is finished stays, run the same command to go on", file=sys.stderr)
        if alone:
            end_now_if_busy(status)
        return status


def _wanted(options: argparse.Namespace) -> dict[str, Any]:
    """The choices of -q, -v and --log; not every command has them."""
    return {name: value for name in ("quiet", "verbose", "log") if (value := getattr(options, name, None)) is not None}


def _complete(options: argparse.Namespace, parser: Parser) -> int:
    from modfill.cases.files import Cohort
    from modfill.cases.finding import case_of_files, find_cohort
    from modfill.cohort.parts import Meeting, Share
    from modfill.completer import ModalityCompleter
    from modfill.modalities import BRATS
    from modfill.outputs.naming import output_folder

    named = _named_files(options, options.image, parser)
    if sum([options.cohort is not None, bool(named), options.prepare is not None]) != 1:
        parser.error("complete needs CASE_OR_COHORT, files such as --t1 FILE --flair FILE, or --prepare STUDY")
    runs = _runs(options)
    completer = ModalityCompleter(options.weights, device=options.device)
    known = completer.modality_set
    if options.prepare is not None and known.names != BRATS.names:
        parser.error(f"--prepare knows {', '.join(BRATS.names)} only, got weights of {', '.join(known.names)}")
    options.targets = _targets(options, known, parser)
    share, prepared, unprepared = Share.of_shard(options.shard), None, 0
    if options.prepare is not None:
        if options.dry_run or share.label:
            parser.error("--prepare writes cases in one process: run modfill prepare first, then complete CASES")
        options.cohort = options.out / "prepared"
        prepared, unprepared = _prepared(options.prepare, options.cohort, ignore_unexplained=options.ignore_unexplained)
    if named:
        cohort = Cohort("folders", [case_of_files(named, modality_set=known)], modality_set=known)
    else:
        cohort = find_cohort(options.cohort, modality_set=known, ignore_unexplained=options.ignore_unexplained)
    if prepared is not None:  # an earlier run may have left the images of a study that failed now
        cohort = replace(cohort, cases=[case for case in cohort.cases if case.case_id in prepared])
    found = share.of(cohort.cases)
    if options.dry_run:
        return max(_plan(found, output_folder(out, options.naming, cohort), options) for out in runs)
    failed, meeting = bool(unprepared), Meeting(share.rank)
    for out, settings in runs.items():
        failed = _complete_into(out, settings, completer, cohort, share=share, options=options) or failed
    meeting.wait()
    return 1 if failed else 0


def _complete_into(
    out: Path,
    settings: Settings,
    completer: ModalityCompleter,
    cohort: Cohort,
    *,
    share: Share,
    options: argparse.Namespace,
) -> bool:
    """Complete this share of a cohort into one folder. Tells whether any case failed."""
    from modfill.cohort.progress import case_bar, follow

    found = share.of(cohort.cases)
    single = len(found) == 1 and not share.label
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(case_bar(found[0].case_id)) if single else None
        results = completer.complete_cohort(
            cohort,
            out=out,
            settings=settings,
            naming=options.naming,
            targets=options.targets,
            link=options.link,
            overwrite=options.overwrite,
            allow_synthetic=options.allow_synthetic,
            assume_aligned=options.assume_aligned,
            jobs=options.jobs,
            shard=str(share.part),
            progress=progress,
        )
        stack.callback(results.close)  # also when a signal comes between two results
        outcome = follow(results, len(found), jobs=options.jobs, label=share.label)
    done = outcome.last.completed if single and outcome.last else None
    for path in done.paths.values() if done else ():
        _LOG.info("%s", path)
    if not outcome.problems and (done is None or done.paths):
        _LOG.info("Written to %s; look at it: modfill report %s", out, out)
    if options.report:
        from modfill.reports.cohort_page import find_synthetic, write_report

        if find_synthetic(out):  # nothing may have been missing
            _LOG.info("%s", write_report(out))
    return bool(outcome.problems)


def _runs(options: argparse.Namespace) -> dict[Path, Settings]:
    """The settings of each output folder: one, or one for each sample."""
    from modfill.settings import Mode, Settings, numbered_samples

    mode: Mode = options.mode if options.samples is None else "sample"
    settings = Settings(mode, options.steps, options.seed, options.uncertainty)
    if options.samples is None:
        return {options.out: settings}
    return {options.out / name: each for name, each in numbered_samples(options.samples, settings).items()}


def _named_files(options: argparse.Namespace, images: Sequence[tuple[str, Path]], parser: Parser) -> dict[str, Path]:
    """The files that are named one by one, by any name of their modality."""
    named = {short: path for short in FILES if (path := getattr(options, short)) is not None}
    for name, path in images:
        if name in named:
            parser.error(f"argument --image: {name} must be named once, got {named[name]} and {path}")
        named[name] = path
    return named


def _targets(options: argparse.Namespace, known: ModalitySet, parser: Parser) -> tuple[str, ...] | None:
    """The modalities of --targets."""
    try:
        return None if options.targets is None else known.modalities_of(options.targets, "--targets: each")
    except CaseError as error:
        parser.error(str(error))


def _plan(found: Sequence[CaseFiles], out: OutputFolder, options: argparse.Namespace) -> int:
    """Tell what would be done, by names and headers alone; nothing is written."""
    from modfill.reports.scan import scan_case

    failing = 0
    for files in found:
        case = scan_case(files)
        if case.problem or case.unusable:
            failing += 1
            _LOG.error("%s", case.problem or f"case {case.case_id}: {next(iter(case.unusable.values()))}")
            continue
        missing = [m for m in case.missing if options.targets is None or m in options.targets]
        for target in missing:
            place = out.place(files.case_id, target)
            state = " (finished before, if its sources are the same)" if place.sidecar.exists() else ""
            _LOG.info("%s: %s from %s -> %s%s", files.case_id, target, ", ".join(case.available), place.image, state)
        if not missing:
            _LOG.info("%s: nothing to synthesise", files.case_id)
    return 1 if failing else 0


def _prepare(options: argparse.Namespace, parser: Parser) -> int:
    from modfill.prepare import prepare_study

    named = _named_files(options, [], parser)
    if (options.study is None) == (not named):
        parser.error("prepare needs either STUDY or files such as --t1 FILE --flair FILE")
    choices = {"bias_correction": options.bias_correction, "ignore_unexplained": options.ignore_unexplained}
    if named or options.reference or options.mask:
        case = prepare_study(
            named or options.study, out=options.out, reference=options.reference, mask=options.mask, **choices
        )
        _LOG.info("%s: look at %s", case.case_id, case.picture)
        return 0
    return 1 if _prepared(options.study, options.out, **choices)[1] else 0


def _prepared(folder: Path, out: Path, **choices: bool) -> tuple[set[str], int]:
    """Prepare all studies of a folder: the cases' ids, and how many failed. Raises CaseError if no case is left."""
    from modfill.prepare import prepare_studies

    done: set[str] = set()
    failed = 0
    for case in prepare_studies(folder, out=out, **choices):
        if isinstance(case, CaseError):
            failed += 1
            _LOG.error("%s", case)
        else:
            done.add(case.case_id)
            _LOG.info("%s: look at %s", case.case_id, case.picture)
    if not done:
        raise CaseError(f"{folder} must contain a study that can be prepared, got none; see above")
    return done, failed


def _restore(options: argparse.Namespace, parser: Parser) -> int:
    from modfill.prepare import restore

    written = restore(options.image, like=options.like, out=options.out, record=options.record, labels=options.labels)
    for path in written:
        _LOG.info("%s", path)
    return 0


def _report(options: argparse.Namespace, parser: Parser) -> int:
    from modfill.reports.cohort_page import write_report

    print(write_report(options.completed, options.html, options.acquired))
    return 0


def _scan(options: argparse.Namespace, parser: Parser) -> int:
    from modfill.reports.scan import scan_cohort
    from modfill.reports.scan_page import as_text, save_csv, save_html
    from modfill.weights.file import WeightsFile

    known = WeightsFile.open(options.weights).preset.modality_set if options.weights else options.modalities
    scan = scan_cohort(options.cohort, modality_set=known, deep=options.deep)
    print(in_flags(as_text(scan)))
    if options.csv:
        save_csv(scan, options.csv)
    if options.html:
        save_html(scan, options.html)
    return 0


def _demo(options: argparse.Namespace, parser: Parser) -> int:
    from modfill.demo.run import run_demo

    run_demo(options.out)
    return 0


def _reproduce(options: argparse.Namespace, parser: Parser) -> int:
    from modfill.reproduction import reproduce

    again = reproduce(options.sidecar, out=options.out, sources=options.sources, weights=options.weights)
    for key, (former, now) in again.differences.items():
        _LOG.warning("%s was %s, is %s", key, former, now)
    _LOG.info("%s of case %s: %s", again.modality, again.completed.case_id,
              "identical, voxel by voxel" if again.identical else "differs")  # fmt: skip
    for path in again.completed.paths.values():
        _LOG.info("%s", path)
    return 0 if again.identical else 1


def _train(options: argparse.Namespace, parser: Parser) -> int:
    from modfill.training.run import train_preset

    weights = train_preset(
        options.preset, data=options.data, out=options.out, validate=options.validate, stage=options.stage,
        minutes=options.minutes, seed=options.seed, weights=options.weights, regions=options.regions,
        lesions=options.lesions, modality_set=options.modalities,
    )  # fmt: skip
    print(f"weights: {weights}")
    return 0


def _export(options: argparse.Namespace, parser: Parser) -> int:
    from modfill.export.bundle import export_bundle

    print(export_bundle(options.out, weights=options.weights))
    return 0


def _nnunet(options: argparse.Namespace, parser: Parser) -> int:
    from modfill.integrations.nnunet.command import main as run_nnunet

    return run_nnunet(options.rest)


def _info(options: argparse.Namespace, parser: Parser) -> int:
    from modfill.model.config import STAGES
    from modfill.weights.checkpoint import load
    from modfill.weights.file import SHIPPED

    model, file = load(options.weights or SHIPPED)
    parts = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in STAGES}
    facts = {
        "modfill": __version__,
        "weights": file.path.name,
        "bytes": file.path.stat().st_size,
        "sha256": file.sha256,
        "preset": file.preset.name,
        "trained": list(file.stages),
        "modality_set": file.preset.modality_set.name,
        "modalities": file.preset.modality_set.long_names,
        "parameters": parts,
    }
    if options.json:
        print(json.dumps(facts, indent=1))
        return 0
    print(f"modfill {__version__}")
    print(f"weights     {file.path.name}, {file.path.stat().st_size / 1e6:.1f} MB, sha256 {file.sha256}")
    print(f"preset      {file.preset.name}, trained: {','.join(file.stages)}")
    known = file.preset.modality_set
    print(f"modalities  {known.name}: {', '.join(f'{m} ({name})' for m, name in known.long_names.items())}")
    for name, count in parts.items():
        print(f"{name:11s} {count / 1e6:.2f} M parameters")
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace, Parser], int]] = {
    "complete": _complete,
    "prepare": _prepare,
    "restore": _restore,
    "report": _report,
    "scan": _scan,
    "demo": _demo,
    "reproduce": _reproduce,
    "train": _train,
    "export": _export,
    "nnunet": _nnunet,
    "info": _info,
}

if __name__ == "__main__":
    sys.exit(main())
