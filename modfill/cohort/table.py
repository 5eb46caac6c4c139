"""`cohort.csv`: one line per case of an output folder, correct with any number of writing processes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from modfill.atomic import remove_leftovers, replacing, writable
from modfill.cases.marks import expected_psnr
from modfill.cohort.locks import locked
from modfill.errors import CaseError, ModfillError
from modfill.outputs.naming import OutputFolder
from modfill.outputs.sidecar import is_ours

if TYPE_CHECKING:
    from modfill.results import CaseResult

__all__ = ["COLUMNS", "TABLE", "read_table", "require_own_table", "row_of", "update_table"]

TABLE = "cohort.csv"
_ODD_NAMES = "surrogateescape"  # names that are not Unicode are written back unchanged
COLUMNS = ("case", "status", "targets", "seconds", "expected_psnr", "sha256", "reason")

_PER_IMAGE = ("targets", "expected_psnr", "sha256")  # columns with a value for each image

Row = dict[str, str]


def row_of(result: CaseResult) -> Row:
    """The line of one case of this run.

    Returns:
        By column: `status` is completed, nothing missing or failed (then with its `reason`); `targets`, `expected_psnr`
        in dB and `sha256` list the synthetic images, split by blanks; `seconds` is empty if nothing was synthesised.
    """
    done = result.completed
    images = tuple(done.paths) if done else ()
    psnrs = [expected_psnr(done.provenance[m]) for m in images] if done else []
    return {
        "case": result.case_id,
        "status": "failed" if done is None else "completed" if images else "nothing missing",
        "targets": " ".join(images),
        "seconds": f"{result.seconds:.2f}" if result.synthesised else "",
        "expected_psnr": " ".join("" if psnr is None else str(psnr) for psnr in psnrs),
        "sha256": " ".join(done.sha256[m] for m in images) if done else "",
        "reason": result.problem or "",
    }


def update_table(out: OutputFolder, row: Row) -> None:
    """Put one case's line into the folder's table.

    The lines of other cases stay, also those of other processes, and so do columns that a user added. In the case's
    own line, images of earlier runs stay if they still lie in the folder.

    Raises:
        ModfillError: the folder cannot be written, or another table lies there.
    """
    path = out.path / TABLE
    with writable(path), locked(out.path / ".table-lock"):  # no case's lock has this name
        remove_leftovers(path)
        require_own_table(out.path)
        rows = {former["case"]: former for former in read_table(out.path)}
        rows[row["case"]] = _merged(rows.get(row["case"], {}), row, out)
        content = _as_csv([rows[case] for case in sorted(rows)])
        if not path.exists() or path.read_bytes() != content:
            with replacing(path) as temporary:
                temporary.write_bytes(content)


def _merged(former: Row, row: Row, out: OutputFolder) -> Row:
    """A case's new line, with the images of its former line that this run did not touch."""
    images = _images(former) | _images(row)
    found = out.modality_set.in_order(images)
    kept = [m for m in found if m in row["targets"].split() or _is_there(out, row["case"], m)]
    merged = {**former, **row, "seconds": row["seconds"] or former.get("seconds", "")}
    for number, column in enumerate(_PER_IMAGE):
        merged[column] = " ".join(images[modality][number] for modality in kept)
    if kept and row["status"] == "nothing missing":
        merged["status"] = "completed"
    return merged


def _images(row: Row) -> dict[str, tuple[str, ...]]:
    """Target, expected PSNR and SHA-256 of each synthetic image of a line."""
    cells = [row.get(column, "").split(" ") for column in _PER_IMAGE]
    return {image[0]: image for image in zip_longest(*cells, fillvalue="") if image[0]}


def _is_there(out: OutputFolder, case_id: str, modality: str) -> bool:
    try:
        return is_ours(out.place(case_id, modality).image)
    except CaseError:  # its id or a link leads out of the folder
        return False


def _as_csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    columns = dict.fromkeys((*COLUMNS, *(column for row in rows for column in row)))
    odd = any("\r" in value for row in rows for value in row.values())  # Python's csv does not quote a carriage return
    writer = csv.DictWriter(
        text, list(columns), restval="", lineterminator="\n", quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf8", _ODD_NAMES)


def require_own_table(folder: Path) -> None:
    """Raise ModfillError if the folder's table is not modfill's: it would be overwritten."""
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
