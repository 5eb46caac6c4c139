"""Outputs of earlier runs in the folder, and whether this run would make the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modfill.atomic import remove_leftovers
from modfill.cases.files import CaseFiles
from modfill.cases.marks import has_mark, read_sidecar, voxel_hash
from modfill.cases.nifti import read_header, read_image
from modfill.errors import CaseError
from modfill.outputs.naming import OutputFolder, Place
from modfill.outputs.sidecar import DECISIVE, is_ours
from modfill.outputs.writing import remove

__all__ = ["Earlier"]


@dataclass(frozen=True)
class Earlier:
    """The places of a case's synthetic images, and the sidecars that lie there, each read once.

    Attributes:
        case_id: name of the case.
        places: where each synthesised modality goes.
        sidecars: by modality, of those places that have one.
    """

    case_id: str
    places: dict[str, Place]
    sidecars: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, case_id: str, out: OutputFolder | None) -> Earlier:
        """Find what lies in an output folder; nothing without one.

        Raises:
            CaseError: a place would be outside of the folder.
        """
        places = {} if out is None else {m: out.place(case_id, m) for m in out.modality_set.names}
        found = {modality: read_sidecar(place.sidecar) for modality, place in places.items()}
        return cls(case_id, places, {modality: note for modality, note in found.items() if note is not None})

    def same_as_asked(self, target: str, settings: Mapping[str, Any]) -> str | None:
        """SHA-256 of an image that was made from the same sources as all others, with these weights and settings.

        None if there is no such image.
        """
        note = self.sidecars.get(target, {})
        asked = {"SourceImages": next(iter(self.sidecars.values()))["SourceImages"], **settings}
        return self.whole(target) if all(note.get(key) == value for key, value in asked.items()) else None

    def finished(self, target: str, decisive: Mapping[str, Any]) -> str | None:
        """SHA-256 of an image that an earlier run finished with the same sources, weights and settings, or None.

        An image whose voxels are damaged, or are not those that its sidecar describes, is not finished; nor is one
        without the uncertainty map that belongs to it.

        Raises:
            CaseError: the output there was made from other sources, with other weights or with other settings.
        """
        former, place = self.sidecars.get(target), self.places.get(target)
        if former is None or place is None or not is_ours(place.image):
            return None
        for key in DECISIVE:
            if former.get(key) != decisive[key]:
                raise CaseError(
                    f"case {self.case_id}: {place.image} must be made with the {key} of this run, got an output of "
                    "another; overwrite it (overwrite=True) or choose another output folder"
                )
        return self.whole(target)

    def whole(self, target: str) -> str | None:
        """SHA-256 of an image whose voxels its sidecar describes and whose map, if it has one, can be read; or None."""
        former, place = self.sidecars[target], self.places[target]
        parts = [place.image, place.uncertainty] if former.get("Uncertainty") else [place.image]
        try:
            headers = [read_header(part) for part in parts]
            (image, digest), *_ = [
                read_image(self.case_id, part, header) for part, header in zip(parts, headers, strict=True)
            ]
        except CaseError:
            return None
        described = former.get("VoxelSHA256") == voxel_hash(np.asanyarray(image.dataobj))
        return digest if has_mark(headers[0]) and described else None

    def make_way(self, acquired: Iterable[str], *, overwrite: bool) -> None:
        """Refuse or remove synthetic images of modalities that have been acquired since.

        Args:
            acquired: modalities with an acquired image.
            overwrite: remove such synthetic images instead of refusing them.

        Raises:
            CaseError: one is there, and is not to be overwritten.
        """
        for modality in filter(self.stands_for, acquired):
            place = self.places[modality]
            if not overwrite:
                raise CaseError(
                    f"case {self.case_id}: {place.image} must be removed, got a synthetic {modality} though it has "
                    "been acquired since; overwrite it (overwrite=True) or choose another output folder"
                )
            remove(place)

    def remove_leftovers(self) -> None:
        """Remove files that a killed process left half written. The case must be locked."""
        for place in self.places.values():
            for part in (place.image, place.uncertainty, place.sidecar):
                remove_leftovers(part)

    def sources(self, files: CaseFiles, *, allow_synthetic: bool) -> tuple[str, ...] | None:
        """The available modalities, if the case's files are those of the sidecars, byte for byte; else None.

        Hashes and headers are read, no voxels: the files passed all checks when the sidecars were written.
        """
        note = next(iter(self.sidecars.values()), None)
        if note is None or files.problem:
            return None
        available = _unchanged_sources(files, note, allow_synthetic=allow_synthetic)
        if available is None or any(self.stands_for(m) for m in available if not _is_synthetic(note, m)):
            return None
        return available

    def stands_for(self, modality: str) -> bool:
        """Return whether a synthetic image of this modality lies in the folder."""
        return modality in self.sidecars and is_ours(self.places[modality].image)


def _unchanged_sources(files: CaseFiles, note: Mapping[str, Any], *, allow_synthetic: bool) -> tuple[str, ...] | None:
    """The sources of a sidecar, if the case's files are still the same byte for byte and none was added; else None.

    Only hashes and headers are read, no voxels: the files passed the checks when the sidecar was written.
    """
    hashes: dict[Path, str] = {}
    try:
        sources = {source["Modality"]: source for source in note["SourceImages"]}
        for modality, path in files.paths.items():
            if modality not in sources:
                if allow_synthetic or modality in files.volume_index or not has_mark(read_header(path)):
                    return None
                continue
            source = sources[modality]
            if source["File"] != path.name or source.get("VolumeIndex") != files.volume_index.get(modality):
                return None
            if source.get("Synthetic") and not allow_synthetic:
                return None
            if path not in hashes:
                hashes[path] = hashlib.sha256(path.read_bytes()).hexdigest()
            if source["SHA256"] != hashes[path]:
                return None
    except (OSError, CaseError, LookupError, TypeError, AttributeError):  # of another case, or from arrays
        return None
    return files.modality_set.in_order(sources) if set(sources) <= set(files.paths) else None


def _is_synthetic(note: Mapping[str, Any], modality: str) -> bool:
    """Return whether a sidecar records that a source was synthetic itself."""
    return any(source["Modality"] == modality and source.get("Synthetic") for source in note["SourceImages"])
