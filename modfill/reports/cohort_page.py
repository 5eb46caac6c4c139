"""The report of a completed cohort: one HTML page that needs nothing but a browser."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from tqdm import tqdm

from modfill import __version__
from modfill.atomic import replacing, writable
from modfill.cases.layouts.dataset_json import FILE_ENDING
from modfill.cases.marks import expected_psnr
from modfill.cases.nifti import read_header, read_image
from modfill.cohort.table import read_table
from modfill.errors import CaseError, ModfillError
from modfill.modalities import MODALITIES, SHORT_NAMES
from modfill.outputs.naming import uncertainty_path
from modfill.outputs.sidecar import is_ours, source_paths
from modfill.reports.strips import Frame, Strip, draw_strip

__all__ = ["write_report"]

PAGE = Path(__file__).parent / "templates" / "cohort.html"
EDGES = ((60, 256), (250, 176))  # pixels of a brain on pages with at most so many cases ...
SMALLEST_EDGE = 112  # ... and with more
MOST_BYTES = 48_000_000  # of pictures on a page; browsers open that without trouble
FULL_AMBER = 0.25  # standard deviation, in unit range, at which the overlay is strongest
_UNREADABLE = (CaseError, OSError, EOFError, ValueError, zlib.error)
_DAMAGED = (*_UNREADABLE, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, ImageFileError)


@dataclass(frozen=True, eq=False)
class Synthetic:
    """One synthetic image of a case: its sidecar, its path, and what is measured of it."""

    note: Mapping[str, Any]
    path: Path

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
    articles = []
    for case_id, synthetic in tqdm(cases.items(), unit="case", leave=False, disable=None):  # seen in a terminal only
        articles.append(_article(case_id, synthetic, edge if used < MOST_BYTES else None))
        used += len(articles[-1])
    with writable(page), replacing(page) as temporary:
        temporary.write_text(_page(completed, cases, articles), encoding="utf8", errors="backslashreplace")
    return page


def _page(completed: Path, cases: Mapping[str, Sequence[Synthetic]], articles: Sequence[str]) -> str:
    rows = read_table(completed)
    sorted_by = {"uncertainty": "Uncertainty", "psnr": "Expected PSNR"}
    measured = {name: label for name, label in sorted_by.items() if any(f' data-{name}="' in a for a in articles)}
    return Template(PAGE.read_text(encoding="utf8")).substitute(
        title=escape(os.path.basename(os.path.abspath(completed))),
        version=__version__,
        summary=_summary(cases, rows),
        failures=_failures(rows),
        measured="".join(f'<option value="{name}">{label}</option>' for name, label in measured.items()),
        full_amber=f"{FULL_AMBER:.0%}",
        cases="\n".join(articles),
    )


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


def _article(case_id: str, synthetic: Sequence[Synthetic], edge: int | None) -> str:
    """One case of the page; without pictures if there is no room for them, or what they are made of is damaged."""
    values: dict[str, object] = {"case": case_id}
    try:
        synthetic = sorted(synthetic, key=lambda one: MODALITIES.index(one.note["Modality"]))
        figures, facts = _facts(synthetic)
        pictures = "".join(_pictures(synthetic, edge)) if edge else (
            f"<p>Pictures are left out: the page holds at most {MOST_BYTES // 10**6} MB of them. "
            "Make reports of parts of the cohort to see all.</p>"
        )  # fmt: skip
        body = (
            f'<p class="facts">{escape(" · ".join(facts))}</p><div class="strips">{pictures}</div>'
            f"<details><summary>Provenance of {escape(case_id)}</summary>"
            f"{''.join(_provenance(one) for one in synthetic)}</details>"
        )
        values |= figures
    except _DAMAGED as error:
        files = escape(", ".join(one.path.name for one in synthetic))
        body = (
            f'<p class="absent">Cannot be shown: {files}, or a sidecar or map of these, is damaged '
            f"({type(error).__name__}). Complete the case again with --overwrite.</p>"
        )
    data = " ".join(f'data-{name}="{escape(str(value))}"' for name, value in values.items())
    heading = "case-" + hashlib.sha256(case_id.encode("utf8", "surrogatepass")).hexdigest()[:12]
    return (
        f'<article {data} aria-labelledby="{heading}"><h2 id="{heading}" tabindex="-1">{escape(case_id)}</h2>'
        f"{body}</article>"
    )


def _facts(synthetic: Sequence[Synthetic]) -> tuple[dict[str, object], list[str]]:
    """What a case can be sorted by, and the same in words."""
    spreads = [spread for one in synthetic if (spread := _mean_spread(one)) is not None]
    psnrs = [found for one in synthetic if (found := expected_psnr(one.note)) is not None]
    values: dict[str, object] = {"count": len(synthetic)}
    facts = [f"{len(synthetic)} synthesised: {', '.join(SHORT_NAMES[one.note['Modality']] for one in synthetic)}"]
    if spreads:
        values["uncertainty"] = f"{np.mean(spreads):.6f}"
        facts.append(f"uncertainty {np.mean(spreads):.1%}")
    if psnrs:
        values["psnr"] = f"{min(psnrs):.6f}"
        which = "lowest expected PSNR" if len(psnrs) > 1 else "expected PSNR"
        facts.append(f"{which} {min(psnrs):.1f} dB")
    return values, facts


def _mean_spread(one: Synthetic) -> float | None:
    """Mean standard deviation over the brain, in unit range; None without a map."""
    image = one.uncertainty()
    if image is None:
        return None
    brain = np.asanyarray(nib.Nifti1Image.from_filename(one.path).dataobj) != 0
    low, high = one.window
    return float(np.asanyarray(image.dataobj)[brain].mean() / max(high - low, 1e-12))


def _pictures(synthetic: Sequence[Synthetic], edge: int) -> list[str]:
    """The figures of a case in the order of the modalities, each map after its image."""
    made = {one.note["Modality"]: one for one in synthetic}
    frame = Frame.of(nib.Nifti1Image.from_filename(synthetic[0].path), edge)
    sources = {source["Modality"]: source for source in synthetic[0].note["Sources"]}
    places = source_paths(synthetic[0].note, synthetic[0].path)
    figures = []
    for modality in MODALITIES:
        if modality in made:
            figures += _synthetic_figures(made[modality], frame)
        elif modality in sources:
            figures.append(_acquired_figure(modality, sources[modality], places.get(modality), frame))
    return figures


def _synthetic_figures(one: Synthetic, frame: Frame) -> list[str]:
    modality, case_id = one.note["Modality"], one.note["CaseID"]
    image, spread, (low, high) = _read(one.path), one.uncertainty(), one.window
    strip = draw_strip(image, frame, mark="SYNTHETIC")
    figures = [
        _figure(strip, modality, "synthetic", f"{SHORT_NAMES[modality]} of {case_id}, synthetic", one.expected_psnr)
    ]
    if spread is not None:
        over = draw_strip(image, frame, spread, FULL_AMBER * (high - low), "SYNTHETIC WITH UNCERTAINTY")
        what = f"{SHORT_NAMES[modality]} of {case_id}, synthetic, with its uncertainty laid over"
        figures.append(_figure(over, modality, "uncertainty", what))
    return figures


def _read(path: Path) -> nib.Nifti1Image:
    """An image and its voxels, within the bounds that hold for every file. Raises CaseError."""
    return read_image(path.name, path, read_header(path))[0]


def _acquired_figure(modality: str, source: Mapping[str, Any], path: Path | None, frame: Frame) -> str:
    """An acquired image, or a word on why it cannot be shown."""
    name = source.get("File", "from an array")
    try:
        if path is None or not path.is_file():
            return _figure(None, modality, "acquired", f"{name} is not where it was")
        header = read_header(path)
        volumes = header.get_data_shape()[-1] if "VolumeIndex" in source else 0
        image, digest = read_image(name, path, header, volumes)
        if digest != source["SHA256"]:
            return _figure(None, modality, "acquired", f"{name} is not the file that was used: it has changed since")
        image = image.slicer[..., source["VolumeIndex"]] if "VolumeIndex" in source else image
        strip = draw_strip(image, frame)
    except _UNREADABLE as error:
        return _figure(None, modality, "acquired", f"{name} cannot be read ({type(error).__name__})")
    return _figure(strip, modality, "acquired", f"{SHORT_NAMES[modality]}, acquired: {name}")


def _figure(strip: Strip | None, modality: str, kind: str, text: str, value: str = "") -> str:
    """A picture with its caption, which may end in a value; or the text where there is no picture."""
    value = f' <span class="value">{value}</span>' if value else ""
    shown = f'<p class="absent">{escape(text)}</p>' if strip is None else (
        f'<img src="{strip.uri}" width="{strip.width}" height="{strip.height}" loading="lazy" decoding="async" '
        f'alt="{escape(text)}; axial, coronal and sagittal slice">'
    )  # fmt: skip
    return (
        f'<figure class="{kind}">{shown}<figcaption>{escape(SHORT_NAMES[modality])} '
        f'<span class="kind">{kind}</span>{value}</figcaption></figure>'
    )


def _provenance(one: Synthetic) -> str:
    """What the sidecar says, as a table."""
    note = one.note
    made_by = note["GeneratedBy"][0]
    sources = "; ".join(f"{SHORT_NAMES[s['Modality']]} {s.get('File', 'array')}" for s in note["Sources"])
    facts = {
        "Image": one.path.name,
        "Sources": sources,
        "Made by": f"{made_by['Name']} {made_by['Version']}",
        "Weights": f"{note['Weights']['Preset']}, {note['Weights']['File']}, SHA-256 {note['Weights']['SHA256'][:12]}…",
        "Settings": f"mode {note['Mode']}, steps {note['Steps'] or 'by default'}, samples {note['Samples']}, "
                    f"seed {note['Seed']}",
        "Expected PSNR": one.expected_psnr,
        "Contrast agent": note.get("ContrastAgent", ""),
    }  # fmt: skip
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{escape(str(fact))}</td></tr>' for name, fact in facts.items() if fact
    )
    return f"<table><caption>Synthetic {escape(SHORT_NAMES[note['Modality']])}</caption>{rows}</table>"


def _summary(cases: Mapping[str, Sequence[Synthetic]], rows: Sequence[Mapping[str, str]]) -> str:
    images = sum(len(synthetic) for synthetic in cases.values())
    whole = sum(row["status"] == "nothing missing" for row in rows)
    failed = sum(row["status"] == "failed" for row in rows)
    return f"Cases with synthetic images: {len(cases)} ({images} images). Lacking nothing: {whole}. Failed: {failed}."


def _failures(rows: Sequence[Mapping[str, str]]) -> str:
    """The cases that failed, with the reason; nothing if there is none."""
    lines = "".join(f"<li>{escape(row['reason'])}</li>" for row in rows if row["status"] == "failed")
    section = f'<section aria-labelledby="failed"><h2 id="failed">Not completed</h2><ul>{lines}</ul></section>'
    return section if lines else ""
