"""What a completion gave, in memory and on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib

from modfill.outputs.naming import OutputFolder, output_path, uncertainty_path
from modfill.outputs.sidecar import finished, write
from modfill.results import Completed, Synthesis

__all__ = ["read_back", "take", "take_finished"]


def take(done: Completed, synthesis: Synthesis, out: Path | OutputFolder | None) -> None:
    """Take over what has just been synthesised, and write it."""
    modality = synthesis.modality
    done.images[modality], done.provenance[modality] = synthesis.image, synthesis.provenance
    if synthesis.uncertainty is not None:
        done.uncertainty[modality] = synthesis.uncertainty
    if out is not None:
        path = output_path(out, done.case_id, modality)
        images = {path: synthesis.image}
        if synthesis.uncertainty is not None:
            images[uncertainty_path(path)] = synthesis.uncertainty
        write(images, synthesis.provenance, path)
        done.paths[modality] = path


def take_finished(done: Completed, modality: str, path: Path, note: dict[str, Any]) -> bool:
    """Take over an output that an earlier run finished; returns whether there is one."""
    former = finished(path, note)
    if former is None:
        return False
    done.paths[modality], done.provenance[modality] = path, former
    read_back(done, modality)
    done.skipped += (modality,)
    return True


def read_back(done: Completed, modality: str) -> None:
    """Let what lies on disk stand for what is in memory."""
    path = done.paths[modality]
    done.images[modality] = nib.Nifti1Image.from_filename(path)
    if uncertainty_path(path).exists():
        done.uncertainty[modality] = nib.Nifti1Image.from_filename(uncertainty_path(path))
