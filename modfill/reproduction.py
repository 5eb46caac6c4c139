"""A synthetic image made again from its sidecar, and compared with what the sidecar describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modfill.cases.files import CaseFiles
from modfill.cases.marks import read_sidecar
from modfill.cases.nifti import read_header
from modfill.cases.reading import read_case
from modfill.completer import ModalityCompleter
from modfill.errors import CaseError, SettingsError, WeightsError
from modfill.modalities import ModalitySet
from modfill.outputs.naming import OutputFolder
from modfill.outputs.sidecar import decisive, source_paths
from modfill.process import threads
from modfill.results import Completed
from modfill.settings import Settings

__all__ = ["Reproduction", "reproduce"]


@dataclass(frozen=True, eq=False)
class Reproduction:
    """An image that was made again.

    Attributes:
        completed: the new image and sidecar.
        modality: which one it is.
        identical: whether every voxel is as the sidecar describes.
        differences: what was otherwise this time, by key of the sidecar: what it names, and what was found.
    """

    completed: Completed
    modality: str
    identical: bool
    differences: dict[str, tuple[Any, Any]]


def reproduce(
    sidecar: str | Path,
    *,
    out: str | Path | None = None,
    sources: str | Path | None = None,
    weights: str | Path | None = None,
) -> Reproduction:
    """Make a synthetic image again from its sources, with the settings and the threads that its sidecar names.

    On the same machine with the same versions the voxels are identical.

    Args:
        sidecar: the JSON file beside the image, or the image.
        out: folder for the new image and its sidecar; None writes nothing.
        sources: folder in which the sources lie now; None takes the places that the sidecar names.
        weights: the weights that made the image; None takes the shipped ones.

    Raises:
        CaseError: it is no sidecar of modfill, or a source is not where it was or has changed since.
        WeightsError: the weights are not those that made the image.
        ModfillError: memory does not suffice.
    """
    path = Path(sidecar)
    path = path if path.suffix == ".json" else Path(str(path).removesuffix(".gz").removesuffix(".nii") + ".json")
    note = read_sidecar(path)
    if note is None:
        raise CaseError(f"{path} must be the sidecar of a synthetic image, got none that modfill wrote; check the path")
    settings = Settings(note["Mode"], note["Steps"], note["Seed"], note["Uncertainty"])
    completer = ModalityCompleter(weights, settings=settings)
    if completer.networks.file.sha256 != note["Weights"]["SHA256"]:
        raise WeightsError(
            f"{completer.networks.file.path} must be the weights that made {path.name} (SHA-256 "
            f"{note['Weights']['SHA256'][:12]}…), got {completer.networks.file.sha256[:12]}…; give weights=…"
        )
    place = (
        None
        if out is None
        else OutputFolder(Path(out), modality_set=completer.modality_set).place(note["CaseID"], note["Modality"])
    )
    if place is not None and place.sidecar.resolve() == path.resolve():
        raise SettingsError(f"out must be another folder than that of {path}, got {out}; choose a new one")
    case = read_case(
        _sources(note, path, sources, completer.modality_set),
        allow_synthetic=any(source.get("Synthetic") for source in note["SourceImages"]),
        assume_aligned="assume-aligned" in note.get("Overrides", ()),
    )
    if decisive(case, settings, {})["SourceImages"] != note["SourceImages"]:
        raise CaseError(f"{path}: the sources must be as they were, got other files; put the former ones back")
    with threads(note.get("Threads")):
        completed = completer.complete(case, out=out, targets=[note["Modality"]], overwrite=True)
    made = completed.provenance[note["Modality"]]
    keys = ("GeneratedBy", "Precision", "Threads", "VoxelSHA256")
    differences = {key: (note.get(key), made.get(key)) for key in keys if note.get(key) != made.get(key)}
    return Reproduction(completed, note["Modality"], "VoxelSHA256" not in differences, differences)


def _sources(note: Mapping[str, Any], path: Path, folder: str | Path | None, modality_set: ModalitySet) -> CaseFiles:
    """The sources that a sidecar names, where it says that they lie, or in a folder."""
    paths = source_paths(note, path)
    if folder is not None:
        paths = {s["Modality"]: Path(folder) / s["File"] for s in note["SourceImages"] if "File" in s}
    gone = next((file for file in paths.values() if not file.is_file()), None)
    if gone is not None or not paths:
        got = f"nothing at {gone}" if gone else "arrays, which no file holds"
        raise CaseError(
            f"{path}: the sources must lie where they were, got {got}; put them back, or give their folder (sources=…)"
        )
    index = {s["Modality"]: s["VolumeIndex"] for s in note["SourceImages"] if "VolumeIndex" in s}
    if index:  # the volumes that are no source are zeros, whichever modality each stands for
        stack = next(iter(paths.values()))
        free = [n for n in range(read_header(stack).get_data_shape()[-1]) if n not in index.values()]
        index |= dict(zip(modality_set.without(index), free, strict=False))
        paths = {m: paths.get(m, stack) for m in index}
    ordered = {modality: paths[modality] for modality in modality_set.in_order(paths)}
    return CaseFiles(note["CaseID"], ordered, volume_index=index, modality_set=modality_set)
