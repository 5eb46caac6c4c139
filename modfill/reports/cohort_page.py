"""The report of a completed cohort: one HTML page that needs nothing but a browser."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from tqdm import tqdm

from modfill import __version__
from modfill.cases.layouts.dataset_json import FILE_ENDING
from modfill.cases.marks import expected_psnr
from modfill.cases.nifti import read_header, read_image
from modfill.cohort.table import read_table
from modfill.errors import CaseError, ModfillError
from modfill.outputs.naming import uncertainty_path
from modfill.outputs.sidecar import is_ours, short_names, source_paths
from modfill.reports.pages import save_page
from modfill.reports.strips import Frame, Strip, draw_strip

__all__ = ["write_report"]

EDGES = ((60, 256), (250, 176))  # pixels of a brain on pages with at most so many cases ...
SMALLEST_EDGE = 112  # ... and with more
MOST_BYTES = 48_000_000  # of pictures on a page, as data URIs; browsers open that without trouble
FULL_AMBER = 0.25  # standard deviation, in unit range, at which the overlay is strongest
_UNREADABLE = (CaseError, OSError, EOFError, ValueError, zlib.error)
_DAMAGED = (*_UNREADABLE, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, ImageFileError)
_MEASURES = {"uncertainty": "Uncertainty", "psnr": "Expected PSNR"}  # what cases can be sorted by, where they have it


@dataclass(frozen=True, eq=False)
class Synthetic:
    """One synthetic image of a case: its sidecar, its path, and what is measured of it."""

    note: Mapping[str, Any]
    path: Path

    @property
    def modality(self) -> str:
        return str(self.note["Modality"])

    @property
    def short(self) -> str:
        return short_names(self.note)[self.modality]

    @property
    def window(self) -> tuple[float, float]:
        low, high = self.note["UnitRange"]
        return low, high

    @property
    def expected_psnr(self) -> str:
        """E.g. `24.6 dB`; empty where the sidecar states none."""
        found = expected_psnr(self.note)
        return "" if found is None else f"{found:.1f} dB"

    def uncertainty(self) -> nib.Nifti1Image | None:
        path = uncertainty_path(self.path)
        return _read(path) if is_ours(path) else None


@dataclass(frozen=True)
class Figure:
    """A picture with its caption, or a text in its place.

    Attributes:
        modality: Its short name.
        kind: ``synthetic``, ``uncertainty`` or ``acquired``.
        text: For those who do not see the picture; where there is none, the reason.
        strip: The picture.
        value: The end of the caption.
    """

    modality: str
    kind: str
    text: str
    strip: Strip | None = None
    value: str = ""


@dataclass(frozen=True)
class ReportedCase:
    """A case of the page.

    Attributes:
        case_id: Name of the case.
        order: What the case can be sorted by, beside its name: numbers by name.
        facts: The same in words.
        figures: In the order of the modalities; None if the page has no room for them.
        provenance: Short name and facts by name of each synthetic image.
        damage: Which file cannot be read; then there is nothing else.
    """

    case_id: str
    order: Mapping[str, str] = field(default_factory=dict)
    facts: Sequence[str] = ()
    figures: Sequence[Figure] | None = None
    provenance: Sequence[tuple[str, Mapping[str, str]]] = ()
    damage: str = ""

    @property
    def anchor(self) -> str:
        """The heading's id, which must not hold spaces."""
        return "case-" + hashlib.sha256(self.case_id.encode("utf8", "surrogatepass")).hexdigest()[:12]


def write_report(completed: Path, page: Path | None = None) -> Path:
    """Show a completed cohort on one page: slices, uncertainty, expected PSNR and provenance of every case.

    Acquired images are found by what the sidecars tell of them; where one is gone or has changed, the page says so.

    Args:
        completed: the folder that `modfill complete` wrote.
        page: the file to write; None takes `report.html` in the folder.

    Returns:
        The page's path.

    Raises:
        ModfillError: the folder holds no synthetic image, or the page cannot be written.
    """
    cases = _find(completed)
    if not cases:
        raise ModfillError(f"{completed} must be a folder that 'modfill complete' wrote, got no synthetic image in it")
    page = completed / "report.html" if page is None else page
    edge, used = next((edge for most, edge in EDGES if len(cases) <= most), SMALLEST_EDGE), 0
    reported = []
    for case_id, synthetic in tqdm(cases.items(), unit="case", leave=False, disable=None):  # seen in a terminal only
        reported.append(_report_case(case_id, synthetic, edge if used < MOST_BYTES else None))
        used += sum(len(figure.strip.uri) for figure in reported[-1].figures or () if figure.strip)
    rows = read_table(completed)
    save_page(
        page,
        "cohort.html",
        title=os.path.basename(os.path.abspath(completed)),
        version=__version__,
        cases=reported,
        images=sum(len(synthetic) for synthetic in cases.values()),
        whole=sum(row["status"] == "nothing missing" for row in rows),
        failures=[row["reason"] for row in rows if row["status"] == "failed"],
        measures={name: label for name, label in _MEASURES.items() if any(name in case.order for case in reported)},
        full_amber=f"{FULL_AMBER:.0%}",
        most_megabytes=MOST_BYTES // 10**6,
    )
    return page


def _find(completed: Path) -> dict[str, list[Synthetic]]:
    """The finished synthetic images of a folder by case, sorted."""
    found: dict[str, list[Synthetic]] = defaultdict(list)
    for sidecar in sorted(completed.rglob("*.json")):
        image = sidecar.with_name(sidecar.name.removesuffix(".json") + FILE_ENDING)
        if not image.exists():
            image = sidecar.with_suffix(".nii")
        if is_ours(sidecar) and is_ours(image):
            note = json.loads(sidecar.read_text(encoding="utf8"))
            found[str(note.get("CaseID", image.parent.name))].append(Synthetic(note, image))
    return dict(sorted(found.items()))


def _report_case(case_id: str, synthetic: Sequence[Synthetic], edge: int | None) -> ReportedCase:
    """A case of the page; without pictures if `edge` is None, and without anything if a file of it is damaged."""
    try:
        synthetic = sorted(synthetic, key=lambda one: list(short_names(one.note)).index(one.modality))
        order, facts = _facts(synthetic)
        figures = _figures(synthetic, edge) if edge else None
        provenance = [(one.short, _provenance(one)) for one in synthetic]
    except _DAMAGED as error:
        files = ", ".join(one.path.name for one in synthetic)
        damage = f"{files}, or a sidecar or map of these, is damaged ({type(error).__name__})"
        return ReportedCase(case_id, damage=damage)
    return ReportedCase(case_id, order, facts, figures, provenance)


def _facts(synthetic: Sequence[Synthetic]) -> tuple[dict[str, str], list[str]]:
    """The values by which a case can be sorted, and the same in words."""
    spreads = [spread for one in synthetic if (spread := _mean_spread(one)) is not None]
    psnrs = [found for one in synthetic if (found := expected_psnr(one.note)) is not None]
    order = {"count": str(len(synthetic))}
    facts = [f"{len(synthetic)} synthesised: {', '.join(one.short for one in synthetic)}"]
    if spreads:
        order["uncertainty"] = f"{np.mean(spreads):.6f}"
        facts.append(f"uncertainty {np.mean(spreads):.1%}")
    if psnrs:
        order["psnr"] = f"{min(psnrs):.6f}"
        which = "lowest expected PSNR" if len(psnrs) > 1 else "expected PSNR"
        facts.append(f"{which} {min(psnrs):.1f} dB")
    return order, facts


def _mean_spread(one: Synthetic) -> float | None:
    """Mean standard deviation over the brain, in unit range; None without a map."""
    image = one.uncertainty()
    if image is None:
        return None
    brain = np.asanyarray(nib.Nifti1Image.from_filename(one.path).dataobj) != 0
    low, high = one.window
    return float(np.asanyarray(image.dataobj)[brain].mean() / max(high - low, 1e-12))


def _figures(synthetic: Sequence[Synthetic], edge: int) -> list[Figure]:
    """The figures of a case in the order of the modalities, each map after its image."""
    made = {one.modality: one for one in synthetic}
    frame = Frame.of(nib.Nifti1Image.from_filename(synthetic[0].path), edge)
    sources = {source["Modality"]: source for source in synthetic[0].note["SourceImages"]}
    places = source_paths(synthetic[0].note, synthetic[0].path)
    figures = []
    for modality, name in short_names(synthetic[0].note).items():
        if modality in made:
            figures += _synthetic_figures(made[modality], frame)
        elif modality in sources:
            figures.append(_acquired_figure(name, sources[modality], places.get(modality), frame))
    return figures


def _synthetic_figures(one: Synthetic, frame: Frame) -> list[Figure]:
    name, case_id = one.short, one.note["CaseID"]
    image, spread, (low, high) = _read(one.path), one.uncertainty(), one.window
    strip = draw_strip(image, frame, mark="SYNTHETIC")
    figures = [Figure(name, "synthetic", f"{name} of {case_id}, synthetic", strip, one.expected_psnr)]
    if spread is not None:
        over = draw_strip(image, frame, spread, FULL_AMBER * (high - low), "SYNTHETIC WITH UNCERTAINTY")
        text = f"{name} of {case_id}, synthetic, with its uncertainty laid over"
        figures.append(Figure(name, "uncertainty", text, over))
    return figures


def _read(path: Path) -> nib.Nifti1Image:
    """An image and its voxels, within the bounds that hold for every file. Raises CaseError."""
    return read_image(path.name, path, read_header(path))[0]


def _acquired_figure(name: str, source: Mapping[str, Any], path: Path | None, frame: Frame) -> Figure:
    """An acquired image, or a word on why it cannot be shown."""
    file = source.get("File", "from an array")
    figure = partial(Figure, name, "acquired")
    try:
        if path is None or not path.is_file():
            return figure(f"{file} is not where it was")
        header = read_header(path)
        volumes = header.get_data_shape()[-1] if "VolumeIndex" in source else 0
        image, digest = read_image(file, path, header, volumes)
        if digest != source["SHA256"]:
            return figure(f"{file} is not the file that was used: it has changed since")
        image = image.slicer[..., source["VolumeIndex"]] if "VolumeIndex" in source else image
        strip = draw_strip(image, frame)
    except _UNREADABLE as error:
        return figure(f"{file} cannot be read ({type(error).__name__})")
    return figure(f"{name}, acquired: {file}", strip)


def _provenance(one: Synthetic) -> dict[str, str]:
    """Facts of the sidecar by name; empty where the sidecar lacks one."""
    note, names = one.note, short_names(one.note)
    made_by = note["GeneratedBy"][0]
    return {
        "Image": one.path.name,
        "Sources": "; ".join(f"{names[s['Modality']]} {s.get('File', 'array')}" for s in note["SourceImages"]),
        "Made by": f"{made_by['Name']} {made_by['Version']}",
        "Weights": f"{note['Weights']['Preset']}, {note['Weights']['File']}, SHA-256 {note['Weights']['SHA256'][:12]}…",
        "Settings": f"mode {note['Mode']}, steps {note['Steps'] or 'by default'}, seed {note['Seed']}",
        "Expected PSNR": one.expected_psnr,
        "Contrast agent": str(note.get("ContrastAgent", "")),
        "Unsafe": str(note.get("Unsafe", "")),
    }  # fmt: skip
