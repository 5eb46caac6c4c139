"""`cohort.csv`: one line per case of an output folder, right however many processes write it."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modfill.atomic import remove_leftovers, replacing, writable
from modfill.cases.marks import confidence, read_sidecar, sidecar_path
from modfill.cohort.locks import locked
from modfill.errors import CaseError, ModfillError
from modfill.modalities import MODALITIES
from modfill.outputs.naming import OutputFolder, output_path
from modfill.outputs.sidecar import is_ours

if TYPE_CHECKING:
    from modfill.results import CaseResult

__all__ = ["COLUMNS", "TABLE", "read_table", "require_own_table", "row_of", "update_table"]

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
    """Put one case's line into the folder's table; the lines of other cases, also of other processes, stay, and so do
    columns that somebody added.

    Raises:
        ModfillError: the folder cannot be written, or another table lies there.
    """
    path = folder / TABLE
    with writable(path), locked(folder / ".table-lock"):  # no case's lock has this name
        remove_leftovers(path)
        require_own_table(folder)
        rows = {former["case"]: former for former in read_table(folder)}
        former = rows.get(row["case"], {})
        rows[row["case"]] = {**former, **row, "seconds": row["seconds"] or former.get("seconds", "")}
        content = _as_csv([rows[case] for case in sorted(rows)])
        if not path.exists() or path.read_bytes() != content:
            with replacing(path) as temporary:
                temporary.write_bytes(content)


def _as_csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    columns = dict.fromkeys((*COLUMNS, *(column for row in rows for column in row)))
    odd = any("\r" in value for row in rows for value in row.values())  # which csv forgets to quote
    writer = csv.DictWriter(
        text, list(columns), restval="", lineterminator="\n", quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf8", _ODD_NAMES)


def require_own_table(folder: Path) -> None:
    """Raise ModfillError if the folder's table is somebody else's: it would be lost."""
    path = folder / TABLE
    if path.exists() and _read(path) is None:
        raise ModfillError(
            f"{path} must be free or modfill's table, got another file; move it away or choose another output folder"
        )


def read_table(folder: Path) -> list[Row]:
    """The lines of a folder's table by column; none if there is no table, or another one."""
    return _read(folder / TABLE) or []


def _read(path: Path) -> list[Row] | None:
    """The lines of a table; None if it is not modfill's, nor empty."""
    try:
        with path.open(encoding="utf-8-sig", errors=_ODD_NAMES, newline="") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            if reader.fieldnames is not None and not set(COLUMNS) <= set(reader.fieldnames):
                return None
            return [{name: value for name, value in row.items() if name} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
