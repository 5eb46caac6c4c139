"""One case on its way through a completion: what is known of it between two steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from modfill.cases.marks import mark_synthetic, voxel_hash
from modfill.cases.reading import Case
from modfill.errors import CaseError
from modfill.outputs.earlier import Earlier
from modfill.outputs.sidecar import sidecar
from modfill.preprocessing.intensity import output_scale
from modfill.preprocessing.prepare import Prepared
from modfill.preprocessing.restore import restore_deviation, restore_image
from modfill.results import Completed, Synthesis

if TYPE_CHECKING:
    from modfill.model.inference import Estimate

__all__ = ["Job"]


@dataclass(eq=False)
class Job:
    """A case between two steps.

    Attributes:
        earlier: places of the outputs, and what earlier runs left there.
        done: what is finished.
        case: read and checked; None where an earlier run finished everything.
        decisive: the keys of the sidecars that all targets share.
        prepared: the case on the model's grid; None if nothing is left to be synthesised.
        targets: modalities to be synthesised.
        syntheses: what was synthesised and is not written yet.
    """

    earlier: Earlier
    done: Completed
    case: Case | None = None
    decisive: dict[str, Any] = field(default_factory=dict)
    prepared: Prepared | None = None
    targets: tuple[str, ...] = ()
    syntheses: list[Synthesis] = field(default_factory=list)

    def restore(self, target: str, estimate: Estimate, environment: Mapping[str, Any]) -> Synthesis:
        """Bring an estimate to the case's grid and intensities, and mark it as synthetic.

        Args:
            target: the synthesised modality.
            estimate: on the model's grid.
            environment: keys of the sidecar that tell how the networks ran.

        Raises:
            CaseError: the estimate is not finite.
        """
        case, prepared = self.case, self.prepared
        assert case is not None and prepared is not None
        if not estimate.finite:
            raise CaseError(
                f"case {case.case_id}: a synthesised {target} must be finite, got NaN or infinity; "
                "check the intensities of its sources"
            )
        scale = output_scale(prepared.scales[prepared.nearest(target)], estimate.unit)
        image = mark_synthetic(restore_image(case, prepared, target, estimate.volume, scale), target, prepared.sources)
        uncertainty = None
        if estimate.deviation is not None:
            uncertainty = restore_deviation(case, prepared, estimate.deviation, scale)
            mark_synthetic(uncertainty, f"{target} uncertainty", prepared.sources)
        found = {**environment, "UnitRange": [scale.low, scale.high]}
        if left_out := [m for m in case.available if m not in prepared.sources]:
            found["SourcesLeftOut"] = left_out
        found["ExpectedPSNR"] = round(estimate.expected_psnr, 2)
        found["VoxelSHA256"] = voxel_hash(np.asanyarray(image.dataobj))
        note = sidecar(case, target, self.decisive, found, place=self.earlier.places.get(target))
        return Synthesis(target, image, uncertainty, note)

    def take(self, target: str, digest: str, *, skipped: bool = False) -> None:
        """Let the files of an output stand for what was in memory.

        Args:
            target: the synthesised modality.
            digest: SHA-256 of its image file.
            skipped: an earlier run wrote it.
        """
        place, done = self.earlier.places[target], self.done
        done.paths[target], done.sha256[target] = place.image, digest
        done.images[target] = nib.Nifti1Image.from_filename(place.image)
        if place.uncertainty.exists():
            done.uncertainty[target] = nib.Nifti1Image.from_filename(place.uncertainty)
        if skipped:
            done.skipped += (target,)
            done.provenance[target] = self.earlier.sidecars[target]

    def keep(self, synthesis: Synthesis) -> None:
        """Keep a synthetic image in memory, where nothing is written."""
        self.done.images[synthesis.modality] = synthesis.image
        if synthesis.uncertainty is not None:
            self.done.uncertainty[synthesis.modality] = synthesis.uncertainty
