"""Results of a completion: data only."""

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
        modality: the synthesised modality.
        image: the synthetic image, marked in its header.
        uncertainty: standard deviation to be expected, voxel by voxel, in the image's intensities; None unless asked
            for.
        provenance: the sidecar.
    """

    modality: str
    image: nib.Nifti1Image
    uncertainty: nib.Nifti1Image | None
    provenance: dict[str, Any]


@dataclass(eq=False)
class Completed:
    """A completed case, by synthesised modality; all empty when nothing was missing.

    Attributes:
        case_id: name of the case.
        images: synthetic images on the case's grid; read from disk when they are used, where they were written.
        paths: where they were written; empty without an output folder.
        provenance: their sidecars.
        uncertainty: standard deviation to be expected, voxel by voxel, in the image's intensities, where asked for.
        sha256: of the image files.
        skipped: modalities that an earlier run finished and this run did not do again.
    """

    case_id: str
    images: dict[str, nib.Nifti1Image] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    uncertainty: dict[str, nib.Nifti1Image] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    @property
    def synthesised(self) -> tuple[str, ...]:
        """Modalities synthesised in this run."""
        return tuple(modality for modality in self.images if modality not in self.skipped)

    def __repr__(self) -> str:
        parts = [f"synthesised {', '.join(self.synthesised)}"] if self.synthesised else []
        parts += [f"finished before {', '.join(self.skipped)}"] if self.skipped else []
        parts += [f"in {next(iter(self.paths.values())).parent}"] if self.paths else []
        return f"<Completed {self.case_id}: {'; '.join(parts) or 'nothing missing'}>"


@dataclass(frozen=True, eq=False)
class CaseResult:
    """The result of one case of a cohort.

    Attributes:
        case_id: name of the case.
        completed: what `ModalityCompleter.complete` gives; None if the case failed.
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
        return self.completed.synthesised if self.completed else ()

    @property
    def problem(self) -> str | None:
        """One line that says why the case failed, or None."""
        if self.error is None:
            return None
        if isinstance(self.error, ModfillError):
            return str(self.error)
        reason = str(self.error).strip().partition("\n")[0]
        return f"case {self.case_id}: it must be computable, got {type(self.error).__name__}: {reason}"

    def __repr__(self) -> str:
        outcome = f"failed: {self.problem}" if self.completed is None else repr(self.completed)[1:-1].partition(": ")[2]
        return f"<CaseResult {self.case_id}: {outcome} ({self.seconds:.1f} s)>"
