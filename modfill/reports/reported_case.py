"""A case of the cohort's page: what is measured of it, its figures, its provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from modfill.cases.files import CaseFiles
from modfill.cases.marks import expected_psnr
from modfill.outputs.sidecar import short_names
from modfill.reports.figures import UNREADABLE, Figure, Synthetic, View, draw_figures

__all__ = ["ReportedCase", "report_case"]

_DAMAGED = (*UNREADABLE, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, ImageFileError)


@dataclass(frozen=True)
class ReportedCase:
    """A case of the page.

    Attributes:
        case_id: Name of the case.
        order: What the case can be sorted by, beside its name: numbers by name.
        facts: The same in words.
        figures: In the order of the modalities; None if the page has no room for them.
        provenance: Short name and facts by name of each synthetic image.
        damage: Which file cannot be read; then there is nothing else.
        grid: Of the volumes, as the viewer reads it; empty if the page has no room for them.
    """

    case_id: str
    order: Mapping[str, str] = field(default_factory=dict)
    facts: Sequence[str] = ()
    figures: Sequence[Figure] | None = None
    provenance: Sequence[tuple[str, Mapping[str, str]]] = ()
    damage: str = ""
    grid: str = ""

    @property
    def picture_bytes(self) -> int:
        """Of the page that are pictures."""
        return sum(len(figure.strip.uri) for figure in self.figures or () if figure.strip)

    @property
    def volume_bytes(self) -> int:
        """Of the page that are volumes."""
        return sum(len(figure.volume.uri) for figure in self.figures or () if figure.volume)

    @property
    def anchor(self) -> str:
        """The heading's id, which must not hold spaces."""
        return "case-" + hashlib.sha256(self.case_id.encode("utf8", "surrogatepass")).hexdigest()[:12]


def report_case(
    case_id: str, synthetic: Sequence[Synthetic], edge: int | None, volumes: bool, acquired: CaseFiles | None = None
) -> ReportedCase:
    """A case of the page, without anything but the reason if a file of it is damaged.

    Args:
        case_id: Name of the case.
        synthetic: Its synthetic images, at least one.
        edge: Pixels of the brain's longest edge; None leaves the pictures out.
        volumes: Add whole volumes for the viewer.
        acquired: Files of the same case among which acquired images of the synthesised modalities may be.
    """
    try:
        synthetic = sorted(synthetic, key=lambda one: list(short_names(one.note)).index(one.modality))
        order, facts = _facts(synthetic)
        view = View.of(synthetic[0], edge, volumes) if edge else None
        figures = draw_figures(synthetic, view, acquired) if view else None
        provenance = [(one.short, _provenance(one)) for one in synthetic]
    except _DAMAGED as error:
        files = ", ".join(one.path.name for one in synthetic)
        damage = f"{files}, or a sidecar or map of these, is damaged ({type(error).__name__})"
        return ReportedCase(case_id, damage=damage)
    grid = view.grid.as_json() if view and view.grid else ""
    return ReportedCase(case_id, order, facts, figures, provenance, grid=grid)


def _facts(synthetic: Sequence[Synthetic]) -> tuple[dict[str, str], list[str]]:
    """The values by which a case can be sorted, and the same in words."""
    spreads = [spread for one in synthetic if (spread := _mean_spread(one)) is not None]
    psnrs = [found for one in synthetic if (found := expected_psnr(one.note)) is not None]
    order = {"count": str(len(synthetic))}
    facts = [f"{len(synthetic)} synthesised: {', '.join(one.short for one in synthetic)}"]
    if spreads:
        order["uncertainty"] = f"{np.mean(spreads):.6f}"
        facts.append(f"uncertainty {np.mean(spreads):.1%}")
    if psnrs:
        order["psnr"] = f"{min(psnrs):.6f}"
        which = "lowest expected PSNR" if len(psnrs) > 1 else "expected PSNR"
        facts.append(f"{which} {min(psnrs):.1f} dB")
    return order, facts


def _mean_spread(one: Synthetic) -> float | None:
    """Mean standard deviation over the brain, in unit range; None without a map."""
    image = one.uncertainty()
    if image is None:
        return None
    brain = np.asanyarray(nib.Nifti1Image.from_filename(one.path).dataobj) != 0
    low, high = one.window
    return float(np.asanyarray(image.dataobj)[brain].mean() / max(high - low, 1e-12))


def _provenance(one: Synthetic) -> dict[str, str]:
    """Facts of the sidecar by name; empty where the sidecar lacks one."""
    note, names = one.note, short_names(one.note)
    made_by = note["GeneratedBy"][0]
    return {
        "Image": one.path.name,
        "Sources": "; ".join(f"{names[s['Modality']]} {s.get('File', 'array')}" for s in note["SourceImages"]),
        "Made by": f"{made_by['Name']} {made_by['Version']}",
        "Weights": f"{note['Weights']['Preset']}, {note['Weights']['File']}, SHA-256 {note['Weights']['SHA256'][:12]}…",
        "Settings": f"mode {note['Mode']}, steps {note['Steps'] or 'by default'}, seed {note['Seed']}",
        "Expected PSNR": one.expected_psnr,
        "Contrast agent": str(note.get("ContrastAgent", "")),
        "Unsafe": str(note.get("Unsafe", "")),
    }  # fmt: skip
