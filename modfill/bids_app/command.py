"""The BIDS App: modfill-bids BIDS_DIR OUTPUT_DIR participant | group."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from modfill import __version__
from modfill.cli import guarded
from modfill.terminal.arguments import Parser

__all__ = ["main"]

_LOG = logging.getLogger("modfill")

_HELP = """\
participant  synthesises the modalities that each subject or session lacks, as a BIDS derivative with links to the
             acquired images. Finished images are not made again; several processes may share one output folder.
group        writes report.html of all finished cases, and names the table cohort.csv."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the BIDS App; returns the exit status, as `modfill.cli.main` does."""
    options = _parser().parse_args(arguments)
    command = _participant if options.level == "participant" else _group
    return guarded(lambda: command(options), alone=arguments is None)


def _parser() -> Parser:
    parser = Parser(
        prog="modfill-bids", epilog=_HELP,
        description="Synthesise the MRI modalities that the subjects of a BIDS dataset lack. The T1w, T2w and FLAIR "
                    "images must be skull-stripped and co-registered.",
    )  # fmt: skip
    parser.add_argument("bids_dir", type=Path, metavar="BIDS_DIR", help="the dataset; never written to")
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="the derivative dataset to write")
    parser.add_argument("level", choices=("participant", "group"), metavar="participant | group")
    parser.add_argument("--participant-label", "--participant_label", nargs="+", metavar="LABEL",
                        help="only these subjects, with or without sub- (default: all)")  # fmt: skip
    parser.add_argument("--session-label", "--session_label", nargs="+", metavar="LABEL",
                        help="only these sessions, with or without ses- (default: all)")  # fmt: skip
    parser.add_argument("--skip-bids-validation", "--skip_bids_validator", action="store_true",
                        help="do not check BIDS_DIR with bids-validator-deno")  # fmt: skip
    parser.add_argument("--uncertainty", action="store_true", help="also write maps of the expected standard deviation")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="default: the weights that modfill ships")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps, or gpu for any")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cases computed at the same time (default: 1)")
    parser.add_argument("--version", action="version", version=f"modfill {__version__}")
    return parser


def _participant(options: argparse.Namespace) -> int:
    from modfill.bids_app.dataset import chosen, source_datasets, validate
    from modfill.cohort.progress import follow
    from modfill.completer import ModalityCompleter
    from modfill.outputs.linking import describe
    from modfill.outputs.naming import output_folder
    from modfill.settings import Settings

    completer = ModalityCompleter(
        options.weights, device=options.device, settings=Settings(uncertainty=options.uncertainty)
    )
    labels = options.participant_label, options.session_label
    cohort = chosen(options.bids_dir, *labels, completer.modality_set)
    if not options.skip_bids_validation:
        validate(options.bids_dir)
    out = options.output_dir
    results = completer.complete_cohort(cohort, out=out, naming="bids", link=True, jobs=options.jobs)
    record = {"SourceDatasets": source_datasets(options.bids_dir, out)}
    describe(output_folder(out, "bids", cohort), cohort, record)
    try:
        outcome = follow(results, len(cohort.cases), jobs=options.jobs)
    finally:
        results.close()  # also when a signal comes between two results
    return 1 if outcome.problems else 0


def _group(options: argparse.Namespace) -> int:
    from modfill.cohort.table import TABLE
    from modfill.reports.cohort_page import write_report

    _LOG.info("%s", write_report(options.output_dir))
    _LOG.info("%s", options.output_dir / TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
