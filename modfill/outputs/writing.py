"""Synthetic images on disk: image, uncertainty map and sidecar appear together, whole, or not at all."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack

import nibabel as nib

from modfill.atomic import replacing, writable
from modfill.errors import CaseError
from modfill.outputs.naming import Place
from modfill.outputs.sidecar import is_ours
from modfill.results import Synthesis

__all__ = ["remove", "write"]


def write(synthesis: Synthesis, place: Place) -> str:
    """Write a synthetic image, its map and its sidecar.

    The image appears last, when everything else is in place.

    Args:
        synthesis: what was synthesised.
        place: where it goes.

    Returns:
        SHA-256 of the image file.

    Raises:
        CaseError: the files cannot be written, or an image that modfill did not make lies there.
    """
    case_id = synthesis.provenance["CaseID"]
    with writable(place.image, CaseError, case_id):
        for occupied in (place.image, place.uncertainty, place.sidecar):
            if occupied.exists() and not is_ours(occupied):
                raise CaseError(
                    f"case {case_id}: {occupied} must be free or a former output of modfill, got another image; "
                    "choose another output folder"
                )
        with ExitStack() as stack:  # left in reverse order: the sidecar appears first
            image = stack.enter_context(replacing(place.image, sync=True))
            if synthesis.uncertainty is not None:
                nib.save(synthesis.uncertainty, stack.enter_context(replacing(place.uncertainty, sync=True)))
            note = stack.enter_context(replacing(place.sidecar, sync=True))
            note.write_text(json.dumps(synthesis.provenance, indent=1) + "\n", encoding="utf8")
            nib.save(synthesis.image, image)
            digest = hashlib.sha256(image.read_bytes()).hexdigest()
            for former in (place.image, place.uncertainty):  # neither may stand beside a new sidecar
                former.unlink(missing_ok=True)
    return digest


def remove(place: Place) -> None:
    """Remove a former output, the image first."""
    for part in (place.image, place.uncertainty, place.sidecar):
        part.unlink(missing_ok=True)
