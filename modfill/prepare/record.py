"""The JSON record of a prepared case: all that leads back to the scans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from modfill.errors import CaseError
from modfill.prepare.grid import Grid
from modfill.prepare.scan import Matrix

__all__ = ["SUFFIX", "find_record", "grid_from", "grid_to", "matrix_from", "read_record"]

SUFFIX = "-prepared.json"


def grid_to(grid: Grid) -> dict[str, Any]:
    """A grid as JSON."""
    return {"Shape": list(grid.shape), "Affine": np.round(grid.affine, 9).tolist()}


def grid_from(note: dict[str, Any]) -> Grid:
    """A grid from JSON."""
    return Grid(tuple(int(n) for n in note["Shape"]), np.array(note["Affine"], dtype=np.float64))


def matrix_from(note: dict[str, Any]) -> Matrix:
    """The transform from the prepared world to a scan's."""
    return np.array(note["PreparedToScan"], dtype=np.float64)


def find_record(folder: Path) -> Path | None:
    """The record in a folder, if there is one."""
    found = sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    return found[0] if len(found) == 1 else None


def read_record(path: Path) -> dict[str, Any]:
    """Read a record. Raises CaseError if the file is none."""
    try:
        note = json.loads(path.read_text(encoding="utf8"))
        grid_from(note["Grid"])
        for scan in note["Scans"]:
            grid_from(scan["Grid"]), matrix_from(scan)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaseError(f"{path} must be a record that modfill prepare wrote, got '{error}'; prepare anew") from error
    return dict(note)
