"""A scan as tables: in the terminal, as CSV, and as one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from modfill import __version__
from modfill.atomic import replacing, writable
from modfill.errors import printable
from modfill.modalities import BRATS
from modfill.reports.advice import advice, basis
from modfill.reports.pages import save_page
from modfill.reports.scan import Scan, ScannedCase
from modfill.reports.swaps import ACCURACY

__all__ = ["as_text", "case_table", "save_csv", "save_html"]

_STATES = ("available", "missing", "unusable", "synthetic")


def case_table(scan: Scan) -> pd.DataFrame:
    """A row per case: the state of each modality, grid, spacing, duplicates, suspected swap, and what is wrong."""
    copies = {image: found for found in scan.duplicates for image in found}
    return pd.DataFrame([_row(case, copies) for case in scan.cases])


def _row(case: ScannedCase, copies: dict[str, tuple[str, ...]]) -> dict[str, str]:
    doubles = [
        f"{modality} as {', '.join(other for other in copies[image] if other != image)}"
        for modality in case.contents
        if (image := f"{case.case_id} {modality}") in copies
    ]
    return {
        "case_id": case.case_id,
        **{modality: _state(case, modality) for modality in case.modality_set.names},
        "grid": case.grid,
        "spacing": case.spacing,
        "duplicates": "; ".join(doubles),
        "suspected_swap": " and ".join(case.swap or ()),
        "files": "; ".join(f"{name}: {kind}" for name, kind in case.files.items()),
        "problem": case.problem or "; ".join(case.unusable.values()),
    }


def _state(case: ScannedCase, modality: str) -> str:
    if modality in case.available:
        return "available"
    if modality in case.unusable:
        return "unusable"
    return "synthetic" if modality in case.synthetic else "missing"


def _summaries(scan: Scan) -> dict[str, pd.DataFrame]:
    """The tables that count cases, by title; none without a row."""
    table = case_table(scan)
    states = pd.DataFrame(
        [{"modality": m.name if m.name == m.short.lower() else f"{m.name} ({m.short})",
          **{s: int((table[m.name] == s).sum()) for s in _STATES}}
         for m in scan.modality_set.modalities]
    )  # fmt: skip
    usable = [case for case in scan.cases if not case.problem and not case.unusable]
    lacking = [", ".join(scan.modality_set.without(case.available)) or "nothing" for case in usable]
    grids = [(case.grid, case.spacing) for case in scan.cases if case.grid]
    summaries = {
        "Modalities": states,
        "Usable cases by what they lack": _counts(pd.DataFrame({"modalities": lacking})),
        "Cases by grid": _counts(pd.DataFrame(grids, columns=["voxels", "spacing in mm"])),
    }
    if scan.modality_set.names == BRATS.names:
        sets = [scan.modality_set.without(case.available) for case in usable]
        summaries[f"To segment with modfill or with empty channels ({basis()})"] = advice(sets)
    return {title: counts for title, counts in summaries.items() if len(counts)}


def _counts(table: pd.DataFrame) -> pd.DataFrame:
    """Counts of equal rows, the largest first."""
    return table.value_counts(sort=True).rename("cases").reset_index()


def _findings(scan: Scan) -> dict[str, list[str]]:
    """The findings by title; no title without a line."""
    kind = "same voxels" if scan.deep else "same size, same bytes at start, middle and end; a deep scan compares voxels"
    findings = {
        "Cannot be used": [case.problem for case in scan.cases if case.problem],
        "Unusable images (their cases are not completed until these are replaced, deleted or renamed)": [
            f"case {case.case_id}: {reason}"
            for case in scan.cases
            if not case.problem
            for reason in case.unusable.values()
        ],
        f"The same image under two case ids ({kind})": [" = ".join(found) for found in scan.duplicates],
        f"Look as if exchanged ({ACCURACY})": [
            f"case {case.case_id}: {case.swap[0]} and {case.swap[1]}" for case in scan.cases if case.swap
        ],
        "Left alone": [
            *(f"{name}: {kind}" for name, kind in scan.left_alone.items()),
            *(f"case {case.case_id}: {name}: {kind}" for case in scan.cases for name, kind in _others(case)),
        ],
    }
    return {title: lines for title, lines in findings.items() if lines}


def _others(case: ScannedCase) -> list[tuple[str, str]]:
    """Files of a case that are no modality of it."""
    return [(name, kind) for name, kind in case.files.items() if kind.split(", ")[0] not in case.modality_set.names]


def _depth(scan: Scan) -> str:
    if scan.deep:
        return "every voxel read"
    return "only headers and 4D files read: a deep scan finds blank, truncated or exchanged images too"


def as_text(scan: Scan) -> str:
    """The counts and findings for a terminal."""
    parts = [printable(f"{len(scan.cases)} cases in {scan.path} ({_depth(scan)})")]
    parts += [f"{title}\n{table.to_string(index=False)}" for title, table in _summaries(scan).items()]
    used = [
        f"  {printable(case.case_id)}: {printable(', '.join(f'{name} ({kind})' for name, kind in case.files.items()))}"
        for case in scan.cases
        if case.files
    ]
    parts += ["Files by case\n" + "\n".join(used)] if used else []
    parts += [
        f"{title}\n" + "\n".join(f"  {printable(line)}" for line in lines) for title, lines in _findings(scan).items()
    ]
    return "\n\n".join(parts)


def save_csv(scan: Scan, path: Path) -> None:
    """Write the table of cases. Raises ModfillError if the file cannot be written."""
    content = case_table(scan).to_csv(index=False).encode("utf8", "surrogateescape")  # odd names as they are
    with writable(path), replacing(path) as temporary:
        temporary.write_bytes(content)


def save_html(scan: Scan, path: Path) -> None:
    """Write counts, findings and the table of cases as one file. Raises ModfillError if it cannot be written."""
    tables = _summaries(scan) | {"Cases": case_table(scan)}
    save_page(
        path,
        "scan.html",
        title=f"{len(scan.cases)} cases in {scan.path}",
        version=__version__,
        depth=_depth(scan),
        states=_STATES,
        findings=_findings(scan),
        tables={title: table.to_dict("split", index=False) for title, table in tables.items()},
    )
