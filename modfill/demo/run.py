"""The demonstration: a simulated case loses two modalities, gets them back, and the result is measured and shown."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from modfill.completer import ModalityCompleter
from modfill.demo.phantom import make_case, write_case
from modfill.demo.picture import Row, draw_completion, require_matplotlib
from modfill.metrics import brain_box, score, unit_range
from modfill.modalities import BRATS
from modfill.reports.cohort_page import write_report
from modfill.results import Completed
from modfill.settings import Settings

__all__ = ["run_demo"]

_LOG = logging.getLogger("modfill")

CASE_ID = "phantom-0"
HIDDEN = ("t1c", "t2f")
FIGURES = ("psnr", "ssim", "psnr_matched")


def run_demo(out: Path, weights: Path | None = None) -> None:
    """Build a phantom case, hide T1ce and FLAIR, complete it, tell the scores, draw `demo.png` and write `report.html`.

    The report's viewer flickers between the synthetic images and those that were hidden.

    An earlier demo in `out` is done again. Everything is logged.

    Args:
        out: receives `acquired/`, `input/`, `completed/`, `demo.png` and `report.html`; made if need be.
        weights: a file that `modfill train` wrote; None takes the shipped ones.

    Raises:
        ModfillError: matplotlib or nilearn is not installed, the weights cannot be loaded, or `out` cannot be written.
    """
    require_matplotlib()
    began = time.monotonic()
    _LOG.info("loading the weights ...")
    completer = ModalityCompleter(weights, settings=Settings(uncertainty=True))
    _LOG.info("simulating a head with a tumour (MNI152 template, MR signal equations; not a patient) ...")
    acquired = make_case(seed=0)
    shown = {modality: image for modality, image in acquired.items() if modality not in (*HIDDEN, "seg")}
    _LOG.info("writing its four modalities and segmentation ...")
    write_case(out / "acquired", CASE_ID, acquired)
    _LOG.info("writing the input, without %s ...", " and ".join(BRATS[m].short for m in HIDDEN))
    source = write_case(out / "input", CASE_ID, shown)
    _LOG.info("synthesising them on %s ...", completer.networks.device)
    done = completer.complete(source, out=out / "completed", targets=HIDDEN, overwrite=True)
    _LOG.info("measuring and drawing ...")
    rows = _measure(acquired, done)
    title = f"modfill on a simulated case: {' and '.join(BRATS[m].short for m in HIDDEN)} from " + " and ".join(
        BRATS[modality].short for modality in shown
    )
    draw_completion(out / "demo.png", rows, title)
    write_report(out / "completed", out / "report.html", out / "acquired")
    _tell(out, rows, time.monotonic() - began)


def _measure(acquired: dict[str, nib.Nifti1Image], done: Completed) -> list[Row]:
    """Score what was synthesised against what was hidden, inside the box of the brain."""
    real = {modality: _ras(acquired[modality]) for modality in BRATS.names}
    brain = np.sum([volume > 0 for volume in real.values()], axis=0) >= 2
    box = brain_box(brain)
    brain, tumour = brain[box], _ras(acquired["seg"])[box] > 0
    rows = []
    for modality in HIDDEN:
        low, high = done.provenance[modality]["UnitRange"]
        synthesised = np.clip((_ras(done.images[modality])[box] - low) / (high - low), 0, 1) * brain
        uncertainty = _ras(done.uncertainty[modality])[box] / (high - low)
        scores = score(real[modality][box], synthesised, brain, tumour & brain)
        reference = unit_range(real[modality][box], brain)
        rows.append(Row(modality, reference, synthesised, uncertainty, brain, tumour, scores))
    return rows


def _ras(image: nib.Nifti1Image) -> NDArray[np.float64]:
    """The voxels with axes to the right, the front and the top."""
    return np.asarray(nib.as_closest_canonical(image).dataobj, np.float64)


def _tell(out: Path, rows: list[Row], seconds: float) -> None:
    """Tell the scores and where everything is."""
    _LOG.info("%-8s%s", "", "".join(f"{name:>14}" for name in FIGURES))
    for row in rows:
        _LOG.info("%-8s%s", BRATS[row.modality].short, "".join(f"{row.scores[name]:14.3f}" for name in FIGURES))
    _LOG.info("PSNR in dB; matched: after the best linear fit of intensities.")
    _LOG.info("The phantom is a simulation: this shows that modfill works, not how well it does on patients.")
    places = {
        "acquired": "the truth",
        "input": "what was left of it",
        "completed": "the synthetic images, each with a sidecar",
        "demo.png": "acquired, synthesised, difference, uncertainty",
        "report.html": "the same to look through, slice by slice: open it in a browser",
    }
    for name, what in places.items():
        _LOG.info("%s: %s", out / name, what)
    _LOG.info("%.0f s in all", seconds)
