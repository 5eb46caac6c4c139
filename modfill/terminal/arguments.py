"""The command line's parser: every word checked before anything heavy is imported."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from modfill import __version__
from modfill.modalities import BRATS, BUILT_IN, ModalitySet, uniform

__all__ = ["FILES", "PRESETS", "STAGES", "Parser", "build_parser", "joined_targets"]

# Repeated here, so that --help loads no more than the parser; a test holds them equal to the library's.
PRESETS = ("tiny", "small", "paper")
STAGES = ("autoencoder", "translator", "denoiser")
NAMINGS = ("brats2023", "brats2021", "nnunet", "bids")
# Options that name a case's files one by one, by short name; --image does it for the modalities of any weights.
FILES = {m.short: tuple(dict.fromkeys((f"--{uniform(m.short)}", f"--{m.name}"))) for m in BRATS.modalities}
_EXAMPLES = """\
examples:
  modfill complete case_folder -o completed
  modfill complete --t1 a.nii.gz --flair b.nii.gz -o completed
  modfill complete cohort -o completed --targets t1ce,flair --uncertainty --jobs 2"""


class Parser(argparse.ArgumentParser):
    """argparse with whole option names, and with the nearest spelling in its error messages."""

    def __init__(self, **options: Any):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and end with status 2."""
        print(f"modfill: {message}{self._suggestion(message)} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    def _suggestion(self, message: str) -> str:
        parsers = [self, *(sub for a in self._actions if isinstance(a.choices, dict) for sub in a.choices.values())]
        options = [name for one in parsers for action in one._actions for name in action.option_strings]
        if wrong := re.match(r"unrecognized arguments: (\S+)", message):
            return nearest(wrong[1].partition("=")[0], options)
        if wrong := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            return nearest(wrong[1], re.findall(r"[\w:-]+", wrong[2]))
        return ""


class _Once(argparse.Action):
    """An option that would hide its first value if it were given twice."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value, or refuse a second one."""
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, f"must be given once, got {getattr(namespace, self.dest)} and {values}")
        setattr(namespace, self.dest, values)


def nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean X?`, or nothing if no known word is near."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def build_parser() -> Parser:
    """The parser of `modfill`; each command leaves its name in `command`."""
    parser = Parser(
        prog="modfill", epilog=_EXAMPLES,
        description="Synthesise the MRI modalities that a case lacks, in 3D, on the patient's own grid.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"modfill {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    _add_complete(commands)
    _add_prepare(commands)

    report = commands.add_parser("report", help="one HTML page that shows a completed cohort")
    report.add_argument("completed", type=_folder, metavar="COMPLETED", help="what modfill complete wrote")
    report.add_argument("--html", type=Path, metavar="FILE", help="default: COMPLETED/report.html")
    report.add_argument("--acquired", type=_existing, metavar="COHORT",
                        help="compare with acquired images that were not used, e.g. hidden for a test")  # fmt: skip

    scan = commands.add_parser("scan", help="say what a cohort has, lacks and cannot use")
    scan.add_argument("cohort", type=_existing, metavar="COHORT")
    known = scan.add_mutually_exclusive_group()
    known.add_argument("--modalities", metavar="SET", help=f"{', '.join(BUILT_IN)}, or a TOML file (default: brats)")
    known.add_argument("--weights", type=_existing, metavar="FILE", help="look for the modalities of these weights")
    scan.add_argument("--csv", type=Path, metavar="FILE", help="write the table of cases")
    scan.add_argument("--html", type=Path, metavar="FILE", help="write everything as a page")
    scan.add_argument("--deep", action="store_true", help="read every voxel: blank, damaged and exchanged images too")

    demo = commands.add_parser("demo", help="build a phantom case, hide two modalities, complete it, show the result")
    demo.add_argument("-o", "--out", "--output", type=Path, default=Path("modfill-demo"), metavar="DIR",
                      help="default: modfill-demo")  # fmt: skip

    reproduce = commands.add_parser("reproduce", help="make a synthetic image again from its sidecar, and compare")
    reproduce.add_argument(
        "sidecar", type=_existing, metavar="SIDECAR", help="the .json beside the image, or the image"
    )
    reproduce.add_argument("-o", "--out", "--output", type=Path, metavar="DIR", help="keep the new image here")
    reproduce.add_argument(
        "--sources", type=_folder, metavar="DIR", help="where the sources lie now, if they were moved"
    )
    reproduce.add_argument("--weights", type=_existing, metavar="FILE", help="default: the weights that modfill ships")

    _add_train(commands)
    export = commands.add_parser("export", help="write the weights in another program's form")
    export.add_argument("form", choices=("bundle",), help="bundle: a MONAI bundle that calls modfill")
    export.add_argument("out", type=Path, metavar="DIR", help="the bundle's folder; must be empty or not there")
    export.add_argument("--weights", type=_existing, metavar="FILE", help="default: the weights that modfill ships")
    commands.add_parser("nnunet", help="nnU-Net on cases that lack channels: prepare, train, predict, ...",
                        add_help=False)  # fmt: skip
    info = commands.add_parser("info", help="say what weights are made of")
    info.add_argument("--weights", type=_existing, metavar="FILE", help="default: the weights that modfill ships")
    info.add_argument("--json", action="store_true", help="for programs")
    return parser


def _add_complete(commands: Any) -> None:
    complete = commands.add_parser("complete", help="complete a case, or every case of a cohort", epilog=_EXAMPLES)
    case = complete.add_argument_group("what to complete")
    case.add_argument("cohort", type=_existing, nargs="?", metavar="CASE_OR_COHORT",
                      help="a case's folder, a cohort's folder, or a table (.csv, .tsv)")  # fmt: skip
    for short, names in FILES.items():
        case.add_argument(*names, dest=short, type=_existing, metavar="FILE", action=_Once,
                          help=f"a case's {short}, instead of its folder")  # fmt: skip
    case.add_argument("--image", type=_named_file, metavar="NAME=FILE", action="append", default=[],
                      help="the same for any modality that the weights know, e.g. pd=a.nii.gz")  # fmt: skip
    case.add_argument("--prepare", type=_existing, metavar="STUDY",
                      help="raw scans of one patient or a folder of patients, DICOM or NIfTI: prepare them first, "
                           "in the output folder (see modfill prepare)")  # fmt: skip
    case.add_argument("--targets", type=_several, metavar="MODALITY[,MODALITY]",
                      help=f"only these, where they are missing: {', '.join(BRATS.names)}, flair, ... "
                           "(default: all that are missing)")  # fmt: skip
    case.add_argument("--shard", type=_shard, default="1/1", metavar="K/N",
                      help="only the K-th of N equal parts of the cohort, for array jobs (default: 1/1)")  # fmt: skip
    case.add_argument("--ignore-unexplained", action="store_true",
                      help="complete a case that lacks a modality although it holds images whose names say "
                           "nothing")  # fmt: skip
    case.add_argument("--allow-synthetic", action="store_true", help="take synthetic images for sources too")
    case.add_argument("--assume-aligned", action="store_true",
                      help="images without orientation codes lie where those with them do")  # fmt: skip
    output = complete.add_argument_group("where to write")
    output.add_argument("-o", "--out", "--output", type=Path, required=True, metavar="DIR")
    output.add_argument("--naming", choices=("auto", *NAMINGS), default="brats2023",
                        help="like the input's (auto), or this one (default: brats2023)")  # fmt: skip
    output.add_argument("--link", action="store_true", help="add links to what was acquired: a whole dataset")
    output.add_argument("--overwrite", action="store_true", help="do finished outputs again")
    output.add_argument(
        "--report", action="store_true", help="also write DIR/report.html, a page that shows the images"
    )
    output.add_argument("-n", "--dry-run", action="store_true", help="only tell what would be done")
    image = complete.add_argument_group("what image")
    image.add_argument("--mode", choices=("mean", "sample"), default="mean",
                       help="mean: least error (default); sample: one plausible image")  # fmt: skip
    image.add_argument("--uncertainty", action="store_true",
                       help="also write the map of the standard deviation to be expected")  # fmt: skip
    image.add_argument("--steps", type=_number(1, 1000), metavar="N",
                       help="diffusion steps of a sample (default: the weights')")  # fmt: skip
    image.add_argument("--samples", type=_number(1), metavar="N",
                       help="N plausible images instead of one, in the folders sample-1 to sample-N of DIR, with the "
                            "seeds SEED to SEED+N-1")  # fmt: skip
    image.add_argument("--seed", type=_number(0, 2**63 - 1), default=0, metavar="SEED",
                       help="of a sample's noise (default: 0)")  # fmt: skip
    image.add_argument("--weights", type=_existing, metavar="FILE", help="default: the weights that modfill ships")
    machine = complete.add_argument_group("how to run")
    machine.add_argument("--device", type=_device, default="auto", metavar="DEVICE",
                         help="auto (default), cpu, cuda, cuda:1, mps, or gpu for any")  # fmt: skip
    machine.add_argument("--jobs", type=_number(1), default=1, metavar="N",
                         help="cases computed at the same time (default: 1, with all of the CPU's threads); each takes "
                              "about 1.5 GiB; on a GPU leave it at 1")  # fmt: skip
    words = complete.add_argument_group("what to tell")
    words.add_argument("-q", "--quiet", action="store_true", help="errors only")
    words.add_argument("-v", "--verbose", action="store_true", help="each step of each case")
    words.add_argument("--log", type=Path, metavar="FILE", help="append everything that is told to this file too")


def _add_prepare(commands: Any) -> None:
    prepare = commands.add_parser(
        "prepare", help="turn raw scans (DICOM or NIfTI) into cases: registered, skull-stripped, 1 mm"
    )
    prepare.add_argument("study", type=_existing, nargs="?", metavar="STUDY",
                         help="one patient's folder, or a folder of patients")  # fmt: skip
    for short, names in FILES.items():
        prepare.add_argument(*names, dest=short, type=_existing, metavar="FILE", action=_Once,
                             help=f"the {short}: a NIfTI file or a DICOM series' folder")  # fmt: skip
    prepare.add_argument("-o", "--out", "--output", type=Path, required=True, metavar="CASES")
    prepare.add_argument(
        "--reference", metavar="MODALITY", help="register the others to this one (default: the finest)"
    )
    prepare.add_argument("--mask", type=_existing, metavar="FILE",
                         help="the brain, on the grid of one of the scans (default: deepbet finds it)")  # fmt: skip
    prepare.add_argument("--bias-correction", action="store_true", help="correct the bias field by N4")
    prepare.add_argument("--ignore-unexplained", action="store_true",
                         help="leave out series that nothing identifies, although a modality is missing")  # fmt: skip
    words = prepare.add_argument_group("what to tell")
    words.add_argument("-q", "--quiet", action="store_true", help="errors only")
    words.add_argument("-v", "--verbose", action="store_true", help="each step")
    words.add_argument("--log", type=Path, metavar="FILE", help="append everything that is told to this file too")

    restore = commands.add_parser("restore", help="put images of a prepared case on an original scan's exact grid")
    restore.add_argument("image", type=_existing, metavar="IMAGE_OR_FOLDER",
                         help="an image on the prepared grid, or what modfill complete wrote")  # fmt: skip
    restore.add_argument("--like", type=_existing, required=True, metavar="ORIGINAL",
                         help="the original scan: a NIfTI file or a folder with one DICOM series")  # fmt: skip
    restore.add_argument("-o", "--out", "--output", type=Path, default=Path("restored"), metavar="DIR",
                         help="default: restored")  # fmt: skip
    restore.add_argument("--record", type=_existing, metavar="FILE",
                         help="the -prepared.json of the case (default: beside the image or its sources)")  # fmt: skip
    restore.add_argument("--labels", action="store_true", default=None,
                         help="take the nearest label (default: for names such as -seg)")  # fmt: skip


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a preset, or go on with a run that was stopped")
    train.add_argument("--preset", choices=PRESETS, default="small", help="default: small")
    train.add_argument(
        "--data", type=_existing, required=True, metavar="DIR", help="folder of cases with two modalities or more"
    )
    train.add_argument("--modalities", metavar="SET",
                       help=f"{', '.join(BUILT_IN)}, or a TOML file that describes the modalities of your own "
                            "(default: that of --weights, or brats)")  # fmt: skip
    train.add_argument("--validate", type=_existing, metavar="DIR", help="default: every tenth case of --data")
    train.add_argument("-o", "--out", "--output", type=Path, required=True, metavar="RUN")
    train.add_argument("--stage", choices=STAGES, help="this stage alone")
    train.add_argument("--weights", type=_existing, metavar="FILE", help="start from these instead of from nothing")
    train.add_argument("--regions", type=_existing, metavar="FILE", help="tumour regions of more patients (.npz)")
    train.add_argument("--lesions", type=_weight, default=0.0, metavar="WEIGHT",
                       help="weight of lesion features in the translator's loss, e.g. 0.2; needs <case_id>-seg.nii.gz "
                            "beside the images (default: 0)")  # fmt: skip
    train.add_argument("--minutes", type=_minutes, metavar="N", help="time budget, shared among the stages")
    train.add_argument("--seed", type=_number(0, 2**63 - 1), default=0, metavar="N", help="default: 0")


def joined_targets(words: Sequence[str]) -> list[str]:
    """The command line with `--targets t1ce flair` as `--targets t1ce,flair`.

    The words that follow are targets as long as they name modalities of a built-in set, so that the case may come last.
    """
    sets = [ModalitySet.of(name) for name in BUILT_IN]
    joined: list[str] = []
    taking = False
    for word in words:
        if taking and any(known.modality_of(word) for known in sets) and not os.path.exists(word):
            joined[-1] += f",{word}"
        else:
            taking = bool(joined) and joined[-1] == "--targets"
            joined.append(word)
    return joined


def _existing(text: str) -> Path:
    """A file or folder that is there."""
    path = Path(text)
    if os.path.exists(path):
        return path
    try:
        beside = [str(path.parent / entry.name) for entry in path.parent.iterdir()]
    except OSError:
        beside = []
    raise argparse.ArgumentTypeError(f"{text} is not there{nearest(str(path), beside)}")


def _folder(text: str) -> Path:
    path = _existing(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} must be a folder, got a file")
    return path


def _several(text: str) -> tuple[str, ...]:
    """Names parted by commas."""
    return tuple(text.split(","))


def _named_file(text: str) -> tuple[str, Path]:
    """A modality and its file."""
    name, sign, file = text.partition("=")
    if not name or not sign:
        raise argparse.ArgumentTypeError(f"must be NAME=FILE, got '{text}'")
    return name, _existing(file)


def _number(low: int, high: int | None = None) -> Callable[[str], int]:
    """Read a whole number from `low` to `high`."""
    allowed = f"at least {low}" if high is None else f"from {low} to {high}"

    def read(text: str) -> int:
        number = int(text) if re.fullmatch(r"[+-]?\d{1,30}", text) else None
        if number is None or number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"must be a whole number, {allowed}, got '{text}'")
        return number

    return read


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of minutes above 0, got '{text}'")
    return minutes


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a weight of 0 or more, got '{text}'")
    return weight


def _shard(text: str) -> str:
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"must be one of 1/N to N/N, got '{text}'; e.g. 3/16 for the third of 16")
    return text


def _device(text: str) -> str:
    if re.fullmatch(r"auto|cpu|gpu|mps|cuda(:\d+)?", text):
        return text
    known = ("auto", "cpu", "cuda", "cuda:1", "mps", "gpu")
    raise argparse.ArgumentTypeError(f"must be one of {', '.join(known)}, got '{text}'{nearest(text, known)}")
