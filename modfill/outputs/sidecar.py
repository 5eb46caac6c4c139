"""How a synthetic image says that it is one: its sidecar, its NIfTI header, and the order in which both are written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from modfill import __version__
from modfill.cases.marks import SYNTHETIC_MARK, has_mark, matches_sidecar, read_sidecar, sidecar_path, voxel_hash
from modfill.cases.nifti import read_header, read_image
from modfill.cases.reading import Case
from modfill.errors import CaseError
from modfill.modalities import NAMES
from modfill.outputs.naming import OutputFolder, output_path, uncertainty_path
from modfill.settings import Settings

NO_AGENT = "No contrast agent was given: enhancement is inferred from the other modalities and may be wrong or absent."


def sidecar(
    case: Case, target: str, settings: Settings, weights: Mapping[str, str], precision: str, path: Path | None = None
) -> dict[str, Any]:
    """The JSON sidecar of one synthesised image; the same inputs give the same text.

    Completion adds `UnitRange`, the intensities that stand for normalised 0 and 1, `ExpectedPSNR`, the PSNR over the
    brain in dB that is to be expected after a linear fit of intensities, and `VoxelSHA256` of the image.
    `sidecar.schema.json` beside this file describes every key.

    Args:
        case: the sources.
        target: the synthesised modality.
        settings: the user's choice.
        weights: `Preset`, `File` and `SHA256` of the weights.
        precision: "bfloat16" or "float32", in which the networks ran.
        path: where the image goes; the sources' paths are told relative to its folder. None tells none.
    """
    note: dict[str, Any] = {
        "Synthetic": True,
        "Modality": target,
        "Description": f"{NAMES[target]} synthesised from {', '.join(NAMES[m] for m in case.available)}; not acquired, "
                       "not for diagnosis",
        "CaseID": case.case_id,
        "GeneratedBy": [{"Name": "modfill", "Version": __version__},
                        *({"Name": name, "Version": version(name)} for name in ("torch", "numpy"))],
        "Sources": [{"Modality": m, **_source(case, m)} for m in case.available],
        "Weights": dict(weights),
        "Mode": settings.mode,
        "Steps": settings.steps,
        "Samples": settings.samples,
        "Seed": settings.seed,
        "Uncertainty": settings.uncertainty,
        "Precision": precision,
    }  # fmt: skip
    if path is not None and case.paths:
        note["SourcePaths"] = {m: _relative(source, path.parent) for m, source in case.paths.items()}
    if case.overrides:
        note["Overrides"] = list(case.overrides)
    if target == "t1c":
        note["ContrastAgent"] = NO_AGENT
    return note


def _relative(path: Path, folder: Path) -> str:
    """The way from a folder to a file, past links to folders; so that both may be moved together."""
    return Path(os.path.relpath(Path(os.path.realpath(path.parent), path.name), os.path.realpath(folder))).as_posix()


def source_paths(note: Mapping[str, Any], path: Path) -> dict[str, Path]:
    """Where the sources of a synthetic image lie by what its sidecar tells, by modality: the inverse of `sidecar`.

    Args:
        note: the sidecar.
        path: of the synthetic image.
    """
    folder = os.path.realpath(path.parent)
    return {m: Path(os.path.normpath(os.path.join(folder, way))) for m, way in note.get("SourcePaths", {}).items()}


def _source(case: Case, modality: str) -> dict[str, Any]:
    mark = {"Synthetic": True} if modality in case.synthetic else {}
    if modality not in case.hashes:
        return {"VoxelSHA256": voxel_hash(case.volume(modality)), **mark}
    # the hash is of what was read, whatever has become of the file since
    place = {"VolumeIndex": case.volume_index[modality]} if modality in case.volume_index else {}
    return {"File": case.paths[modality].name, "SHA256": case.hashes[modality], **place, **mark}


def marked(image: nib.Nifti1Image, target: str, sources: Sequence[str]) -> nib.Nifti1Image:
    """Write the mark into the header's description, which outlives renaming and a lost sidecar. Changes `image`."""
    image.header["descrip"] = f"{SYNTHETIC_MARK} {target} from {'+'.join(sources)}"[:79]
    return image


DECISIVE = ("Sources", "Weights", "Mode", "Steps", "Samples", "Seed", "Uncertainty")  # what makes an output another one


def finished(path: Path, note: Mapping[str, Any]) -> dict[str, Any] | None:
    """The sidecar of an output that was finished before with the same sources, weights and settings, or None.

    An output whose voxels are damaged, or are not those that its sidecar describes, is not finished; nor is one that
    lacks the uncertainty that belongs to it.

    Raises:
        CaseError: the output there was made from other sources, with other weights or with other settings.
    """
    former = read_sidecar(sidecar_path(path))
    if former is None or not is_ours(path):
        return None
    for key in DECISIVE:
        if former.get(key) != note[key]:
            raise CaseError(
                f"case {note['CaseID']}: {path} must be made with the {key} of this run, got an output of another; "
                "overwrite it (--overwrite) or choose another output folder"
            )
    parts = [path, uncertainty_path(path)] if note["Uncertainty"] else [path]
    try:
        image, *_ = [read_image(note["CaseID"], part, read_header(part))[0] for part in parts]
    except CaseError:
        return None
    return former if matches_sidecar(path, np.asanyarray(image.dataobj)) else None


def write(images: Mapping[Path, nib.Nifti1Image], note: Mapping[str, Any], path: Path) -> None:
    """Write a synthetic image, what belongs to it, and its sidecar, each whole or not at all.

    The image at `path` appears last: whoever sees it finds everything else in place.

    Args:
        images: by path; one of them at `path`.
        note: the sidecar.
        path: of the synthetic image.

    Raises:
        CaseError: the folder or disk does not take them, or an image that modfill did not make lies there.
    """
    case = f"case {note['CaseID']}"
    order = [sidecar_path(path), *(p for p in images if p != path), path]
    try:
        for occupied in (path, uncertainty_path(path), sidecar_path(path)):
            if occupied.exists() and not is_ours(occupied):
                raise CaseError(
                    f"{case}: {occupied} must be free or a former output of modfill, got another image; "
                    "choose another output folder"
                )
        for final in order:
            final.parent.mkdir(parents=True, exist_ok=True)
        # in a folder of their own: nnU-Net would take what a killed process leaves in imagesTr for a case
        with tempfile.TemporaryDirectory(prefix=_scratch(path), dir=path.parent) as scratch:
            temporaries = {final: Path(scratch) / f"{number}{_ending(final)}" for number, final in enumerate(order)}
            temporaries[sidecar_path(path)].write_text(json.dumps(note, indent=1) + "\n", encoding="utf8")
            for final, image in images.items():
                nib.save(image, temporaries[final])
            for temporary in temporaries.values():
                _settle(temporary)
            for old in (path, uncertainty_path(path)):  # neither may stand beside a new sidecar
                old.unlink(missing_ok=True)
            for final, temporary in temporaries.items():
                os.replace(temporary, final)
    except OSError as error:
        reason = error.strerror or error
        raise CaseError(f"{case}: {path} must be writable, got '{reason}'; choose another output folder") from error


def make_way(case: Case, out: Path | OutputFolder, overwrite: bool) -> None:
    """See to it that no synthetic image of an earlier run stands for what has been acquired since.

    Raises:
        CaseError: one does, and is not to be overwritten.
    """
    for modality in (m for m in case.available if m not in case.synthetic):
        try:
            path = output_path(out, case.case_id, modality)
        except CaseError:  # nothing of ours lies where nothing may be written
            continue
        if not (is_ours(sidecar_path(path)) and is_ours(path)):
            continue
        if not overwrite:
            raise CaseError(f"case {case.case_id}: {path} must go, got a synthetic {modality} where an acquired one "
                            "has come; overwrite it (--overwrite) or choose another output folder")  # fmt: skip
        for part in (path, uncertainty_path(path), sidecar_path(path)):  # the image first
            part.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what a process that was killed while it wrote an image left behind. Nobody may be writing it now.

    Args:
        path: of the synthetic image.
    """
    for scratch in path.parent.glob(f"{_scratch(path)}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def _scratch(path: Path) -> str:
    """How folders for an image's temporary files begin: no longer than the longest name that the image may have."""
    return f".tmp-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}-"


def is_ours(path: Path) -> bool:
    """Whether a sidecar, or an image by its header, says that modfill made it."""
    if path.suffix == ".json":
        return read_sidecar(path) is not None
    try:
        return has_mark(read_header(path))
    except CaseError:
        return False


def _ending(path: Path) -> str:
    return path.suffix if path.suffix in (".json", ".nii") else ".nii.gz"


def _settle(path: Path) -> None:
    """Wait until a file is on the disk: a name that is given before may stand for an empty file after a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
