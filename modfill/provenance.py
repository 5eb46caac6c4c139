"""How a synthetic image says that it is one: its sidecar, its NIfTI header, and the order in which both are written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from modfill import __version__
from modfill.case import SYNTHETIC_MARK, Case
from modfill.errors import CaseError
from modfill.modalities import NAMES

NO_AGENT = "No contrast agent was given: enhancement is inferred from the other modalities and may be wrong or absent."


@dataclass(frozen=True)
class Settings:
    """What the user can choose about a completion.

    Attributes:
        mode: "mean" (least error) or "sample" (one plausible image).
        steps: diffusion steps; None takes the preset's number, and for the mean one where the network allows it.
        samples: samples drawn; two or more give an uncertainty map.
        seed: of the noise.
    """

    mode: str = "mean"
    steps: int | None = None
    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("mean", "sample"):
            raise CaseError(f"mode must be 'mean' or 'sample', got '{self.mode}'")
        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise CaseError(f"steps must be from 1 to 1000, got {self.steps}")
        if self.samples < 1:
            raise CaseError(f"samples must be at least 1, got {self.samples}")


def sidecar(case: Case, target: str, settings: Settings, weights: Mapping[str, str], precision: str) -> dict[str, Any]:
    """The JSON sidecar of one synthesised image; the same inputs give the same text.

    Completion adds `UnitRange`: the intensities that stand for normalised 0 and 1.

    Args:
        case: the sources.
        target: the synthesised modality.
        settings: the user's choice.
        weights: `Preset`, `File` and `SHA256` of the weights.
        precision: "bfloat16" or "float32", in which the networks ran.
    """
    note: dict[str, Any] = {
        "Synthetic": True,
        "Modality": target,
        "Description": f"{NAMES[target]} synthesised from {', '.join(NAMES[m] for m in case.available)}; not acquired, "
                       "not for diagnosis",
        "GeneratedBy": [{"Name": "modfill", "Version": __version__}],
        "Sources": [{"Modality": m, **_source(case, m)} for m in case.available],
        "Weights": dict(weights),
        "Mode": settings.mode,
        "Steps": settings.steps,
        "Samples": settings.samples,
        "Seed": settings.seed,
        "Precision": precision,
    }  # fmt: skip
    if target == "t1c":
        note["ContrastAgent"] = NO_AGENT
    return note


def _source(case: Case, modality: str) -> dict[str, str]:
    if modality in case.paths:
        path = case.paths[modality]
        return {"File": path.name, "SHA256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return {"VoxelSHA256": hashlib.sha256(case.volume(modality).tobytes("C")).hexdigest()}


def marked(image: nib.Nifti1Image, target: str, sources: Sequence[str]) -> nib.Nifti1Image:
    """Write the mark into the header's description, which outlives renaming and a lost sidecar. Changes `image`."""
    image.header["descrip"] = f"{SYNTHETIC_MARK} {target} from {'+'.join(sources)}"[:79]
    return image


def output_path(out: Path, case_id: str, modality: str) -> Path:
    """Where a synthesised modality goes: `out/<case_id>/<case_id>-<modality>.nii.gz`."""
    return out / case_id / f"{case_id}-{modality}.nii.gz"


def sidecar_path(image_path: Path) -> Path:
    """The sidecar beside an image."""
    return image_path.with_name(image_path.name.removesuffix(".nii.gz") + ".json")


def uncertainty_path(image_path: Path) -> Path:
    """The uncertainty map beside an image."""
    return image_path.with_name(image_path.name.removesuffix(".nii.gz") + "-uncertainty.nii.gz")


DECISIVE = ("Sources", "Weights", "Mode", "Steps", "Samples", "Seed")  # what makes an output another one


def finished(path: Path, note: Mapping[str, Any]) -> dict[str, Any] | None:
    """The sidecar of an output that was finished before with the same sources, weights and settings, or None.

    Raises:
        CaseError: the output there was made from other sources, with other weights or with other settings.
    """
    if not (_is_ours(path) and _is_ours(sidecar_path(path))):
        return None
    former = json.loads(sidecar_path(path).read_text(encoding="utf8"))
    for key in DECISIVE:
        if former.get(key) != note[key]:
            raise CaseError(
                f"case {path.parent.name}: {path} must be made with the {key} of this run, got an output of another; "
                "overwrite it (--overwrite) or choose another output folder"
            )
    return former


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
    case = f"case {path.parent.name}"
    order = [sidecar_path(path), *(p for p in images if p != path), path]
    temporaries = {final: final.with_name(f".tmp-{os.getpid()}-{final.name}") for final in order}
    try:
        for occupied in (path, uncertainty_path(path), sidecar_path(path)):
            if occupied.exists() and not _is_ours(occupied):
                raise CaseError(
                    f"{case}: {occupied} must be free or a former output of modfill, got another image; "
                    "choose another output folder"
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        temporaries[sidecar_path(path)].write_text(json.dumps(note, indent=1) + "\n", encoding="utf8")
        for final, image in images.items():
            nib.save(image, temporaries[final])
        for old in (path, uncertainty_path(path)):  # neither may stand beside a new sidecar
            old.unlink(missing_ok=True)
        for final, temporary in temporaries.items():
            os.replace(temporary, final)
    except OSError as error:
        reason = error.strerror or error
        raise CaseError(f"{case}: {path} must be writable, got '{reason}'; choose another output folder") from error
    finally:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                temporary.unlink()


def _is_ours(path: Path) -> bool:
    """Whether a sidecar, or an image by its header, says that modfill made it."""
    try:
        if path.suffix == ".json":
            note = json.loads(path.read_text(encoding="utf8"))
            return isinstance(note, dict) and note.get("Synthetic") is True and "UnitRange" in note
        return nib.Nifti1Image.from_filename(path).header["descrip"].item().startswith(SYNTHETIC_MARK.encode())
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError, WrapStructError):
        return False
