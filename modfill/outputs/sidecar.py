"""The JSON sidecar of a synthetic image: all inputs and settings, so that it can be made again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from modfill import __version__
from modfill.cases.marks import has_mark, read_sidecar, voxel_hash
from modfill.cases.nifti import read_header
from modfill.cases.reading import Case
from modfill.errors import CaseError
from modfill.modalities import BRATS
from modfill.outputs.naming import Place
from modfill.settings import Settings

__all__ = ["DECISIVE", "decisive", "is_ours", "settings_keys", "short_names", "sidecar", "source_paths"]

DECISIVE = ("SourceImages", "Weights", "Mode", "Steps", "Seed", "Uncertainty")
"""The keys that two outputs must share to be the same."""


def decisive(case: Case, settings: Settings, weights: Mapping[str, str]) -> dict[str, Any]:
    """The decisive keys, the same for all modalities of a case.

    Args:
        case: the sources.
        settings: the user's choice.
        weights: `Preset`, `File` and `SHA256` of the weights.
    """
    return {
        "SourceImages": [{"Modality": m, **_source(case, m)} for m in case.available],
        **settings_keys(settings, weights),
    }


def settings_keys(settings: Settings, weights: Mapping[str, str]) -> dict[str, Any]:
    """The decisive keys that do not depend on the case."""
    return {
        "Weights": dict(weights),
        "Mode": settings.mode,
        "Steps": settings.steps,
        "Seed": settings.seed,
        "Uncertainty": settings.uncertainty,
    }


def sidecar(
    case: Case, target: str, decisive: Mapping[str, Any], found: Mapping[str, Any], *, place: Place | None = None
) -> dict[str, Any]:
    """The sidecar of one synthesised image; the same inputs give the same text.

    `sidecar.schema.json` beside this file describes every key.

    Args:
        case: the sources.
        target: the synthesised modality.
        decisive: what `decisive` gave.
        found: what the synthesis adds: `Precision`, `UnitRange`, `ExpectedPSNR`, `VoxelSHA256` and the like.
        place: where the image goes; the sources' paths are relative to its folder. None leaves them out.
    """
    names, modality = case.modality_set.long_names, case.modality_set[target]
    sources = ", ".join(names[m] for m in case.available)
    packages = ({"Name": name, "Version": version(name)} for name in ("torch", "numpy"))
    note: dict[str, Any] = {
        "Synthetic": True,
        "Modality": target,
        "Description": f"{names[target]} synthesised from {sources}; not acquired, not for diagnosis",
        "CaseID": case.case_id,
        "GeneratedBy": [{"Name": "modfill", "Version": __version__}, *packages],
        **decisive,
        "ModalitySet": {"Name": case.modality_set.name, "Modalities": list(names),
                        "ShortNames": list(case.modality_set.short_names.values())},
    }  # fmt: skip
    if place is not None and case.paths:
        note["SourcePaths"] = {m: _relative(source, place.image.parent) for m, source in case.paths.items()}
    if case.overrides:
        note["Overrides"] = list(case.overrides)
    if modality.unsafe:
        note["ContrastAgent" if modality.enhanced else "Unsafe"] = modality.unsafe
    return {**note, **found}


def _relative(path: Path, folder: Path) -> str:
    """The path from a folder to a file, with links to folders resolved, so that both may be moved together."""
    return Path(os.path.relpath(Path(os.path.realpath(path.parent), path.name), os.path.realpath(folder))).as_posix()


def source_paths(note: Mapping[str, Any], path: Path) -> dict[str, Path]:
    """The paths of a synthetic image's sources by modality, as its sidecar records them: the inverse of `sidecar`.

    Args:
        note: the sidecar.
        path: of the synthetic image.
    """
    folder = os.path.realpath(path.parent)
    return {m: Path(os.path.normpath(os.path.join(folder, way))) for m, way in note.get("SourcePaths", {}).items()}


def short_names(note: Mapping[str, Any]) -> dict[str, str]:
    """The short names of a sidecar's set by modality, in its order; before there were others, it was the BraTS set."""
    found = note.get("ModalitySet")
    return BRATS.short_names if found is None else dict(zip(found["Modalities"], found["ShortNames"], strict=True))


def _source(case: Case, modality: str) -> dict[str, Any]:
    mark = {"Synthetic": True} if modality in case.synthetic else {}
    if modality not in case.hashes:
        return {"VoxelSHA256": voxel_hash(case.volume(modality)), **mark}
    # the hash is of the content that was read; the file may have changed since
    place = {"VolumeIndex": case.volume_index[modality]} if modality in case.volume_index else {}
    return {"File": case.paths[modality].name, "SHA256": case.hashes[modality], **place, **mark}


def is_ours(path: Path) -> bool:
    """Return whether modfill made a sidecar, or an image by its header."""
    if path.suffix == ".json":
        return read_sidecar(path) is not None
    try:
        return has_mark(read_header(path))
    except CaseError:
        return False
