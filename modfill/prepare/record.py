"""The JSON record of a prepared case: all that leads back to the scans."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modfill.cases.marks import voxel_hash
from modfill.errors import CaseError
from modfill.prepare.grid import Grid
from modfill.prepare.registration import Registration
from modfill.prepare.scan import Matrix, Scan

__all__ = [
    "SUFFIX",
    "find_record",
    "grid_from",
    "grid_to",
    "matrix_from",
    "package_versions",
    "read_record",
    "scan_to",
]

SUFFIX = "-prepared.json"
_PACKAGES = ("SimpleITK", "deepbet", "dcm2niix", "nibabel", "scipy")


def grid_to(grid: Grid) -> dict[str, Any]:
    """A grid as JSON."""
    return {"Shape": list(grid.shape), "Affine": np.round(grid.affine, 9).tolist()}


def grid_from(note: dict[str, Any]) -> Grid:
    """A grid from JSON."""
    return Grid(tuple(int(n) for n in note["Shape"]), np.array(note["Affine"], dtype=np.float64))


def scan_to(
    modality: str, scan: Scan, matrix: Matrix, prepared: NDArray[np.generic], registration: Registration | None = None
) -> dict[str, Any]:
    """A scan as JSON.

    Args:
        modality: of the scan.
        scan: as it was read.
        matrix: world of the prepared case -> world of the scan.
        prepared: the voxels of its prepared image as they are stored.
        registration: what gave the matrix; None for the reference.
    """
    checks = {} if registration is None else {
        "MutualInformation": round(registration.information[0], 4),
        "MutualInformationBefore": round(registration.information[1], 4),
        "PerturbedStartApart": round(registration.apart, 3),
        "HeadsDice": round(registration.overlap, 3),
    }  # fmt: skip
    return {
        "Modality": modality, "Source": str(scan.path.resolve()), "SHA256": scan.sha256,
        "Grid": grid_to(Grid.of(scan)), "PreparedToScan": np.round(matrix, 9).tolist(),
        "PreparedVoxelSHA256": voxel_hash(prepared), **checks,
    }  # fmt: skip


def package_versions() -> Iterator[dict[str, str]]:
    """Name and version of each installed package that a prepared case depends on."""
    for name in _PACKAGES:
        try:
            yield {"Name": name, "Version": version(name)}
        except PackageNotFoundError:
            continue


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
