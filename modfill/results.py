"""What a completion gives: data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib

from modfill.errors import ModfillError

__all__ = ["CaseResult", "Completed", "Synthesis"]


@dataclass(frozen=True, eq=False)
class Synthesis:
    """One synthesised modality on the case's grid.

    Attributes:
        image: the synthetic image, marked in its header.
        uncertainty: voxelwise standard deviation to be expected in the image's intensities; None unless asked for.
        provenance: the sidecar.
    """

    modality: str
    image: nib.Nifti1Image
    uncertainty: nib.Nifti1Image | None
    provenance: dict[str, Any]


@dataclass(eq=False)
class Completed:
    """What a completion gave, by synthesised modality; all empty when nothing was missing.

    Attributes:
        case_id: name of the case.
        images: synthetic images on the case's grid.
        paths: where they were written; empty without an output folder.
        provenance: their sidecars.
        uncertainty: voxelwise standard deviation to be expected, in the image's intensities, where it was asked for.
        skipped: modalities that were finished before and were not done again.
    """

    case_id: str
    images: dict[str, nib.Nifti1Image] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    uncertainty: dict[str, nib.Nifti1Image] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class CaseResult:
    """What became of one case of a cohort.

    Attributes:
        case_id: name of the case.
        completed: what `ModalityCompleter.complete` gives, its images left on disk until they are looked at; None if
            the case failed.
        error: why it failed, or None.
        seconds: spent on it, without waiting for its turn.
        model_seconds: those of them in which it was computed.
    """

    case_id: str
    completed: Completed | None
    error: Exception | None
    seconds: float
    model_seconds: float

    @property
    def synthesised(self) -> tuple[str, ...]:
        """Modalities synthesised in this run."""
        done = self.completed
        return tuple(m for m in done.images if m not in done.skipped) if done else ()

    @property
    def problem(self) -> str | None:
        """One line that says why the case failed, or None."""
        if self.error is None:
            return None
        if isinstance(self.error, ModfillError):
            return str(self.error)
        reason = str(self.error).strip().partition("\n")[0]
        return f"case {self.case_id}: it must be computable, got {type(self.error).__name__}: {reason}"
