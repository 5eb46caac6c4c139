"""The time of each step, and a comparison with other models: one run on one machine, everything as a ratio.

    python -m benchmarks.speed --case CASE --out DIR

Takes one complete case, hides one modality, and measures the whole command (wall time, peak memory), each step of the
mean and of a sample, and the share of the machine's own convolution speed; then its networks beside `benchmarks.peers`:
the U-Net, ALDM's released configuration (200 DDIM steps) and the paper's, and a 1000-step model of cWDM's size in
wavelet space. Last, the growth of the time with volume, targets, sources, steps and samples.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peers
from benchmarks.cases import reduced
from benchmarks.peers import timed
from modfill import completion, job
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.completer import ModalityCompleter
from modfill.model.synthesiser import Synthesiser
from modfill.settings import Mode, Settings
from modfill.weights.file import SHIPPED


def whole_command(case: Case, hidden: str, weights: Path) -> dict[str, float]:
    """Wall seconds and peak GiB of `modfill complete` on a case that lacks one modality."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in" / case.case_id
        source.mkdir(parents=True)
        for modality, path in case.paths.items():
            if modality != hidden:
                (source / path.name).symlink_to(path.resolve())
        command = [sys.executable, "-m", "modfill.cli", "complete", str(source), "--out", str(Path(folder) / "out"),
                   "--weights", str(weights)]  # fmt: skip
        seconds = timed(lambda: subprocess.run(command, check=True, capture_output=True))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"seconds": seconds, "GiB": peak}


@contextmanager
def watched(model: Synthesiser, spent: dict[str, float]) -> Iterator[None]:
    """Add up the seconds of each step of a completion under its name."""
    translator, decoder, autoencoder = model.translator, model.translator.decoder, model.autoencoder
    places: tuple[tuple[str, Any, str], ...] = (
        ("read", Case, "volume"), ("preprocess", completion, "prepare"), ("encode", model, "encode"),
        ("translate", translator, "translate"), ("decode", decoder, "at_half"), ("decode", decoder, "inside"),
        ("latents", model, "encode_latents"), ("latents", autoencoder, "decode"),
        ("denoise", model.denoiser, "forward"), ("restore", job, "restore_image"), ("write", completion, "write"),
    )  # fmt: skip
    patches = [patch.object(owner, name, _clocked(getattr(owner, name), step, spent)) for step, owner, name in places]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def _clocked(work: Callable, step: str, spent: dict[str, float]) -> Callable:
    def clocked(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return work(*arguments, **options)
        finally:
            spent[step] = spent.get(step, 0.0) + time.perf_counter() - began

    return clocked


def steps_of(own: ModalityCompleter, case: Case, mode: Mode = "mean") -> dict[str, float]:
    """Seconds of each step of one completion in this process, and their `total`.

    `read` is inside `preprocess`, which asks for the voxels; it is taken out of it. In mode "sample", `latents` are
    the autoencoder's encoding and decoding.
    """
    spent: dict[str, float] = {}
    found = find_cases(_folder(case), modality_set=case.modality_set)
    fresh = read_case(next(files for files in found if files.case_id == case.case_id))
    with tempfile.TemporaryDirectory() as out, watched(own.networks.load().model, spent):
        part = reduced(fresh, tuple(case.available))
        total = timed(lambda: own.complete(part, out=out, settings=Settings(mode)))
    spent["preprocess"] -= spent.get("read", 0.0)
    return {**spent, "total": total}


def _folder(case: Case) -> Path:
    return next(iter(case.paths.values())).parent


def flops_of(own: ModalityCompleter, case: Case) -> float:
    """TFLOP of all convolutions and matrix products of one completion."""
    with FlopCounterMode(display=False) as counter:
        own.complete(case)
    return counter.get_total_flops() / 1e12


def growth(own: ModalityCompleter, case: Case) -> list[dict[str, Any]]:
    """Seconds of one completion as volume, targets, sources, steps and samples grow."""
    known = case.modality_set.names
    rows: list[dict[str, Any]] = []

    def row(what: str, value: Any, part: Case, *, settings: Settings | None = None, targets: Any = None) -> None:
        seconds = timed(lambda: own.complete(part, targets=targets, settings=settings))
        rows.append({"what": what, "value": value, "seconds": seconds})

    for share in (0.5, 0.75, 1.0):
        row("volume, share of the brain box", share, cropped(case, share))
    for count in range(1, len(known)):
        row("sources, one target", count, reduced(case, known[:count]), targets=[known[-1]])
        row("targets, one source", count, reduced(case, known[:1]), targets=list(known[1 : 1 + count]))
    one = reduced(case, known[:-1])
    for steps in (1, 5, 20):
        row("steps, mode sample", steps, one, settings=Settings("sample", steps))
    return rows


def cropped(case: Case, share: float) -> Case:
    """The middle of a case without its last modality, `share` of its edges long."""
    images = {}
    for modality in case.modality_set.names[:-1]:
        image = case.images[modality]
        cut = [int(n * (1 - share) / 2) for n in image.shape]
        images[modality] = image.slicer[tuple(slice(c, n - c) for c, n in zip(cut, image.shape, strict=True))]
    return Case(case.case_id, images, {}, {}, modality_set=case.modality_set)


def measure(folder: Path, weights: Path) -> dict[str, Any]:
    """Everything, by name, with a complete case."""
    own = ModalityCompleter(weights, device="cpu")
    case = read_case(find_cases(folder, modality_set=own.modality_set)[0])
    hidden = own.modality_set.names[1]
    incomplete, most = reduced(case, own.modality_set.without([hidden])), len(own.modality_set.names) - 1
    peak = peers.convolution_peak()
    return {
        "threads": torch.get_num_threads(), "weights": own.networks.file.sha256, "convolution TFLOP/s": peak,
        "command": whole_command(case, hidden, weights), "steps": steps_of(own, incomplete),
        "steps of a sample": steps_of(own, incomplete, "sample"), "TFLOP": flops_of(own, incomplete),
        "peers": {
            "modfill, 1→1": peers.modfill_seconds(own, 1), f"modfill, {most}→1": peers.modfill_seconds(own, most),
            "modfill, one sample, 1→1": peers.modfill_seconds(own, 1, "sample"),
            "U-Net": peers.unet_seconds(), "ALDM, released, 200 steps": peers.aldm_seconds("released"),
            "ALDM, paper, 50 steps": peers.aldm_seconds("paper", share=1 / 9),
            "cWDM's size, 1000 steps": peers.wavelet_diffusion_seconds(),
        },
        "growth": growth(own, case),
    }  # fmt: skip


def summary(result: Mapping[str, Any]) -> str:
    """Markdown tables of what `measure` returned."""
    command, steps, rivals = result["command"], result["steps"], result["peers"]
    peak = result["convolution TFLOP/s"]
    share = result["TFLOP"] / steps["total"] / peak
    lines = [
        f"{result['threads']} threads; 3x3x3 convolutions of 64 channels run at {peak:.2f} TFLOP/s.",
        f"The whole command, one modality missing: {command['seconds']:.1f} s, {command['GiB']:.2f} GiB.",
        f"In one process: {steps['total']:.1f} s for {result['TFLOP']:.2f} TFLOP, {share:.0%} of that speed.",
    ]  # fmt: skip
    for title, times in (("step", steps), ("step, mode sample", result["steps of a sample"])):
        lines += ["", f"| {title} | s | share |", "|---|---|---|"]
        lines += [f"| {name} | {s:.2f} | {s / times['total']:.0%} |" for name, s in times.items()]
    base = rivals["modfill, 1→1"]["seconds"]
    lines += ["", "| networks on 192x192x144 | s | times modfill 1→1 | one step, s |", "|---|---|---|---|"]
    for name, figures in rivals.items():
        step = f"{figures['one step']:.2f}" if "one step" in figures else ""
        lines.append(f"| {name} | {figures['seconds']:.1f} | {figures['seconds'] / base:.1f} | {step} |")
    lines += ["", "| what grows | value | s |", "|---|---|---|"]
    lines += [f"| {row['what']} | {row['value']} | {row['seconds']:.1f} |" for row in result["growth"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write `speed.json` and `speed.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Path, required=True, metavar="DIR")
    parser.add_argument("--weights", type=Path, default=SHIPPED, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    result = measure(options.case, options.weights)
    (options.out / "speed.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    (options.out / "speed.md").write_text(summary(result), encoding="utf8")


if __name__ == "__main__":
    main()
