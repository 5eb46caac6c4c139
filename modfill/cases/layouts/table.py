"""A table that lists files: a row per case, a column with its id and one per modality."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

from modfill.cases.filenames import SEGMENTATION_WORDS, nifti_stem
from modfill.cases.files import CaseFiles, Cohort
from modfill.errors import CaseError, ModfillError
from modfill.modalities import ModalitySet

__all__ = ["find", "is_table"]

_EXTENSIONS = (".csv", ".tsv")
_MISSING = ("", "n/a", "na", "nan", "none", "null")  # what BIDS, R, pandas, Python and SQL write into an empty cell
_ID_COLUMNS = ("case_id", "case", "id", "subject_id", "subject", "participant_id", "patient_id", "patient")


def is_table(path: Path) -> bool:
    """Return whether a path is a file that ends in .csv or .tsv."""
    return path.suffix.lower() in _EXTENSIONS and os.path.isfile(path)


def find(path: Path, modality_set: ModalitySet) -> Cohort:
    """Read the cases of a table.

    Columns: the case id (``case_id``, ``subject``, ...) and one per modality under any of its aliases, e.g.
    ``T1 Gd``. Relative paths start from the table's folder; an empty cell is a missing modality, and so is a cell
    with ``n/a``, ``NA``, ``NaN``, ``None`` or ``null``. Other columns are left alone, unless they hold NIfTI files that
    are not segmentations: such a column may be a modality with an unknown name.

    Args:
        path: ``.tsv`` with tabs, or ``.csv`` with commas or semicolons, in UTF-8.
        modality_set: The modalities to look for.

    Raises:
        ModfillError: If it cannot be read, a column is missing, duplicated or ambiguous, or it has no row.
    """
    header, *rows = _read(path)
    id_column = next((header.index(name) for name in _ID_COLUMNS if name in header), None)
    columns = {number: modality for number, name in enumerate(header) if (modality := modality_set.modality_of(name))}
    if id_column is None or not columns:
        raise ModfillError(
            f"{path} must have a column case_id and one per modality ({', '.join(modality_set.names)}), "
            f"got {', '.join(header)}; name the columns so"
        )
    twice = [modality for modality, count in Counter(columns.values()).items() if count > 1]
    if twice:
        names = " and ".join(header[number] for number in columns if columns[number] == twice[0])
        raise ModfillError(f"{path} must have one column for {twice[0]}, got {names}; remove all but one")
    _refuse_hidden_images(path, header, rows, {id_column, *columns}, modality_set)
    if not rows:
        raise CaseError(f"{path} must list at least one case, got its header alone; add rows")
    cases = []
    for number, row in enumerate(rows, 2):
        named = {modality: path.parent / row[column] for column, modality in columns.items() if row[column]}
        files = {modality: named[modality] for modality in modality_set.in_order(named)}
        problem = _problem(path, number, row[id_column], bool(files))
        cases.append(CaseFiles(row[id_column] or f"row {number}", files, problem))
    return Cohort("table", cases)


def _problem(path: Path, number: int, case_id: str, files: bool) -> str | None:
    if not case_id:
        return f"{path}, row {number} must have a case id, got none; add it"
    if not files:
        return f"case {case_id}: row {number} of {path} must name at least one file, got none; fill or remove it"
    return None


def _read(path: Path) -> list[list[str]]:
    """The cells by row, without white space around them, as many in each row; the header in lower case."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in first and "," not in first else ","
        table = list(csv.reader(text.splitlines(), delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ModfillError(f"{path} must be a table in UTF-8, got {type(error).__name__}; save it as one") from error
    rows = [[cell.strip() for cell in row] for row in table]
    rows = [row for row in rows if any(row)]
    rows = rows[:1] + [["" if cell.lower() in _MISSING else cell for cell in row] for row in rows[1:]]
    if not rows:
        raise ModfillError(f"{path} must have a row of column names, got an empty file; add it")
    header = [name.lower() for name in rows[0]]
    for number, row in enumerate(rows[1:], 2):
        if len(row) > len(header):
            raise ModfillError(
                f"{path}, row {number} must have {len(header)} cells as the header has, got {len(row)}; correct it"
            )
    return [header, *(row + [""] * (len(header) - len(row)) for row in rows[1:])]


def _refuse_hidden_images(
    path: Path, header: list[str], rows: list[list[str]], known: set[int], modality_set: ModalitySet
) -> None:
    for number, name in enumerate(header):
        words = set(name.replace("-", "_").split("_"))
        if number in known or words & set(SEGMENTATION_WORDS):
            continue
        file = next((row[number] for row in rows if nifti_stem(row[number]) is not None), None)
        if file is not None:
            raise ModfillError(
                f"{path}: column '{name}' must be named after a modality ({', '.join(modality_set.names)}) if it holds "
                f"one, got files such as {Path(file).name}; rename or remove it"
            )
