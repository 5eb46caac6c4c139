"""How a synthetic image says that it is one: its sidecar, its NIfTI header, and the order in which both are written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib

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
        steps: diffusion steps; None takes one step for a single mean, otherwise the preset's number.
        samples: samples drawn; their mean, or their spread around the first, is used.
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


def sidecar(
    case: Case, target: str, settings: Settings, steps: int, weights: Mapping[str, str], unit_range: Sequence[float]
) -> dict[str, Any]:
    """The JSON sidecar of one synthesised image; the same inputs give the same text.

    Args:
        case: the sources.
        target: the synthesised modality.
        settings: the user's choice; `steps` is what it came to.
        weights: `preset`, `file` and `sha256` of the weights.
        unit_range: the intensities that stand for normalised 0 and 1.
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
        "Steps": steps,
        "Samples": settings.samples,
        "Seed": settings.seed,
        "UnitRange": [float(value) for value in unit_range],
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


def finished(image_path: Path) -> bool:
    """Whether an image and its sidecar are both there: both appear only once they are whole."""
    return image_path.exists() and sidecar_path(image_path).exists()


def write(image: nib.Nifti1Image, note: Mapping[str, Any], path: Path) -> None:
    """Write an image and its sidecar whole or not at all; the sidecar first, so that no image is ever without.

    Raises:
        CaseError: the folder or disk does not take them, or an acquired image lies where the output should go.
    """
    if path.exists() and not sidecar_path(path).exists():
        raise CaseError(f"{path}: must be free or a former output of modfill, got an image without sidecar; "
                        "choose another output folder")  # fmt: skip
    temporaries = {
        sidecar_path(path): path.with_name(f".tmp-{os.getpid()}-{sidecar_path(path).name}"),
        path: path.with_name(f".tmp-{os.getpid()}-{path.name}"),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporaries[sidecar_path(path)].write_text(json.dumps(note, indent=1) + "\n", encoding="utf8")
        nib.save(image, temporaries[path])
        for final, temporary in temporaries.items():
            os.replace(temporary, final)
    except OSError as error:
        raise CaseError(
            f"{path}: must be writable, got '{error.strerror or error}'; choose another output folder"
        ) from error
    finally:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                temporary.unlink()
