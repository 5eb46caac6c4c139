"""The report of a completed cohort: one HTML page that needs nothing but a browser."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from modfill import __version__
from modfill.cases.files import CaseFiles
from modfill.cases.finding import find_cohort
from modfill.cases.layouts.dataset_json import FILE_ENDING
from modfill.cases.marks import expected_psnr
from modfill.cohort.table import read_table
from modfill.errors import ModfillError
from modfill.modalities import BRATS, BUILT_IN
from modfill.outputs.sidecar import is_ours
from modfill.reports.figures import FULL_AMBER, Synthetic
from modfill.reports.pages import save_page
from modfill.reports.reported_case import report_case

__all__ = ["find_synthetic", "write_report"]

EDGES = ((60, 256), (250, 176))  # pixels of a brain on pages with at most so many cases ...
SMALLEST_EDGE = 112  # ... and with more
MOST_BYTES = 48_000_000  # of pictures on a page, as data URIs; browsers open that without trouble
MOST_VOLUME_BYTES = 30_000_000  # of volumes for the viewer: about 20 cases
_MEASURES = {"uncertainty": "Uncertainty", "psnr": "Expected PSNR"}  # what cases can be sorted by, where they have it


def write_report(completed: Path, page: Path | None = None, acquired: Path | None = None) -> Path:
    """Show a completed cohort on one page: slices, uncertainty, expected PSNR and provenance of every case.

    Acquired images are found by what the sidecars tell of them; where one is gone or has changed, the page says so.
    The page's viewer shows whole volumes: of as many cases as there is room for, the lowest expected PSNR first.

    Args:
        completed: the folder that `modfill complete` wrote.
        page: the file to write; None takes `report.html` in the folder.
        acquired: a cohort that has acquired images of modalities that were synthesised, to compare; in any layout,
            the cases under the same names.

    Returns:
        The page's path.

    Raises:
        CaseError: `acquired` is no cohort.
        ModfillError: the folder holds no synthetic image, or the page cannot be written.
    """
    cases = find_synthetic(completed)
    if not cases:
        raise ModfillError(f"{completed} must be a folder that 'modfill complete' wrote, got no synthetic image in it")
    page = completed / "report.html" if page is None else page
    edge = next((edge for most, edge in EDGES if len(cases) <= most), SMALLEST_EDGE)
    others = {} if acquired is None else _others(acquired, cases)
    reported, bytes_left, volume_bytes_left = [], MOST_BYTES, MOST_VOLUME_BYTES
    for case_id in tqdm(sorted(cases, key=lambda name: _lowest_psnr(cases[name])), unit="case", leave=False,
                        disable=None):  # shown in a terminal only  # fmt: skip
        case = report_case(
            case_id, cases[case_id], edge if bytes_left > 0 else None, volume_bytes_left > 0, others.get(case_id)
        )
        bytes_left -= case.picture_bytes
        volume_bytes_left -= case.volume_bytes
        reported.append(case)
    rows = read_table(completed)
    save_page(
        page,
        "cohort.html",
        title=os.path.basename(os.path.abspath(completed)),
        version=__version__,
        cases=sorted(reported, key=lambda case: case.case_id),
        images=sum(len(synthetic) for synthetic in cases.values()),
        whole=sum(row["status"] == "nothing missing" for row in rows),
        failures=[row["reason"] for row in rows if row["status"] == "failed"],
        measures={name: label for name, label in _MEASURES.items() if any(name in case.order for case in reported)},
        full_amber=f"{FULL_AMBER:.0%}",
        full_amber_share=FULL_AMBER,
        most_megabytes=MOST_BYTES // 10**6,
        most_volume_megabytes=MOST_VOLUME_BYTES // 10**6,
    )
    return page


def _others(acquired: Path, cases: Mapping[str, list[Synthetic]]) -> dict[str, CaseFiles]:
    """The cases of a cohort by name, found by the built-in set of modalities that the sidecars name."""
    note = next(iter(cases.values()))[0].note
    name = note.get("ModalitySet", {}).get("Name", BRATS.name)
    if name not in BUILT_IN:
        raise ModfillError(f"acquired must be left out for the modalities '{name}', got {acquired}")
    return {case.case_id: case for case in find_cohort(acquired, modality_set=name).cases}


def find_synthetic(completed: Path) -> dict[str, list[Synthetic]]:
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


def _lowest_psnr(synthetic: list[Synthetic]) -> float:
    """The lowest expected PSNR of a case in dB; infinite where none is stated."""
    return min((found for one in synthetic if (found := expected_psnr(one.note)) is not None), default=float("inf"))
