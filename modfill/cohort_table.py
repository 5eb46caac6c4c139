"""`cohort.csv`: one line per case of an output folder, right however many processes write it."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modfill.errors import CaseError, ModfillError
from modfill.locking import locked
from modfill.marks import confidence, read_sidecar, sidecar_path
from modfill.modalities import MODALITIES
from modfill.naming import OutputFolder, output_path
from modfill.provenance import is_ours

if TYPE_CHECKING:
    from modfill.cohort import CaseResult

__all__ = ["COLUMNS", "TABLE", "read_table", "row_of", "update_table"]

TABLE = "cohort.csv"
_ODD_NAMES = "surrogateescape"  # what Python makes of names that are not Unicode comes back as it was
COLUMNS = ("case", "status", "targets", "seconds", "confidence", "sha256", "reason")

Row = dict[str, str]


def row_of(result: CaseResult, out: OutputFolder) -> Row:
    """The line of one case: what synthetic images of it lie in the folder, and what became of it in this run.

    Args:
        result: of this run.
        out: the output folder.

    Returns:
        By column: `status` is completed, nothing missing or failed (then with its `reason`); `targets`, `confidence`
        in dB and `sha256` tell the synthetic images, parted by blanks, those of earlier runs too; `seconds` is empty if
        nothing was synthesised in this run.
    """
    try:
        paths = {modality: output_path(out, result.case_id, modality) for modality in MODALITIES}
    except CaseError:  # its id or a link leads elsewhere
        paths = {}
    made = {modality: path for modality, path in paths.items() if is_ours(sidecar_path(path)) and is_ours(path)}
    return {
        "case": result.case_id,
        "status": "failed" if result.error else "completed" if made else "nothing missing",
        "targets": " ".join(made),
        "seconds": f"{result.seconds:.2f}" if result.synthesised else "",
        "confidence": " ".join(
            "" if (found := confidence(read_sidecar(sidecar_path(path)) or {})) is None else str(found)
            for path in made.values()
        ),
        "sha256": " ".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in made.values()),
        "reason": result.problem or "",
    }


def update_table(folder: Path, row: Mapping[str, str]) -> None:
    """Put one case's line into the folder's table; the lines of other cases, also of other processes, stay.

    Raises:
        ModfillError: the folder cannot be written.
    """
    path, temporary = folder / TABLE, folder / f".tmp-{os.getpid()}-{TABLE}"
    try:
        with locked(folder / f".lock-{TABLE}"):
            for leftover in folder.glob(f".tmp-*-{TABLE}"):  # of processes that were killed
                leftover.unlink()
            rows = {former["case"]: former for former in read_table(folder)}
            seconds = row["seconds"] or rows.get(row["case"], {}).get("seconds", "")
            rows[row["case"]] = {**row, "seconds": seconds}
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[case] for case in sorted(rows))
            content = text.getvalue().encode("utf8", _ODD_NAMES)
            if not path.exists() or path.read_bytes() != content:
                temporary.write_bytes(content)
                os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise ModfillError(f"{path} must be writable, got '{reason}'; choose another output folder") from error


def read_table(folder: Path) -> list[Row]:
    """The lines of a folder's table by column; none if there is no table, or another one."""
    try:
        with (folder / TABLE).open(encoding="utf8", errors=_ODD_NAMES, newline="") as file:
            reader = csv.DictReader(file, restval="")
            return list(reader) if set(COLUMNS) <= set(reader.fieldnames or ()) else []
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
