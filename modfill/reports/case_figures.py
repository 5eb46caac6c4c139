"""A case of the cohort's page: what is measured of it, its pictures, its volumes for the viewer, its provenance."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from modfill.cases.checks import check_grids, content_problem
from modfill.cases.files import CaseFiles
from modfill.cases.marks import expected_psnr
from modfill.cases.nifti import placed_like, read_header, read_image
from modfill.cases.reading import synthetic_file
from modfill.errors import CaseError
from modfill.modalities import BRATS, BUILT_IN, ModalitySet
from modfill.outputs.naming import uncertainty_path
from modfill.outputs.sidecar import is_ours, short_names, source_paths
from modfill.reports.strips import Frame, Strip, draw_strip, grey_values, opacities
from modfill.reports.volumes import EncodedVolume, Grid, encode_image, encode_map

__all__ = ["FULL_AMBER", "Figure", "ReportedCase", "Synthetic", "report_case"]

FULL_AMBER = 0.25  # standard deviation, in unit range, at which the overlay is strongest
_UNREADABLE = (CaseError, OSError, EOFError, ValueError, zlib.error)
_DAMAGED = (*_UNREADABLE, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, ImageFileError)


@dataclass(frozen=True, eq=False)
class Synthetic:
    """One synthetic image of a case: its sidecar, its path, and what is measured of it."""

    note: Mapping[str, Any]
    path: Path

    @property
    def modality(self) -> str:
        """The synthesised modality."""
        return str(self.note["Modality"])

    @property
    def short(self) -> str:
        """Its short name."""
        return short_names(self.note)[self.modality]

    @property
    def window(self) -> tuple[float, float]:
        """The intensities that stand for 0 and 1 in unit range."""
        low, high = self.note["UnitRange"]
        return low, high

    @property
    def expected_psnr(self) -> str:
        """E.g. `24.6 dB`; empty where the sidecar states none."""
        found = expected_psnr(self.note)
        return "" if found is None else f"{found:.1f} dB"

    def uncertainty(self) -> nib.Nifti1Image | None:
        """The map of the expected standard deviation, in intensities; None where there is none."""
        path = uncertainty_path(self.path)
        return _read(path) if is_ours(path) else None


@dataclass(frozen=True)
class Figure:
    """A picture with its caption, or a text in its place.

    Attributes:
        modality: Its short name.
        kind: ``synthetic``, ``uncertainty`` or ``acquired``.
        text: For those who do not see the picture; where there is none, the reason.
        strip: The picture.
        value: The end of the caption.
        volume: The whole image for the viewer; None if the page has no room for it.
        partner: The acquired modality that the viewer shows in place of a synthetic one, to compare.
    """

    modality: str
    kind: str
    text: str
    strip: Strip | None = None
    value: str = ""
    volume: EncodedVolume | None = None
    partner: str = ""


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
        view = _View.of(synthetic[0], edge, volumes) if edge else None
        figures = _figures(synthetic, view, acquired) if view else None
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


@dataclass(frozen=True, eq=False)
class _View:
    """The grid of a case, and the part of it that its pictures and volumes show.

    Attributes:
        image: A synthetic image of the case.
        frame: Of the pictures.
        grid: Of the volumes; None if there are to be none.
    """

    image: nib.Nifti1Image
    frame: Frame
    grid: Grid | None

    @classmethod
    def of(cls, one: Synthetic, edge: int, volumes: bool) -> _View:
        image = _read(one.path)
        frame = Frame.of(image, edge)
        return cls(image, frame, Grid.of(image, frame) if volumes else None)

    def draw(self, image: nib.Nifti1Image, mark: str = "") -> tuple[Strip, EncodedVolume | None]:
        """The picture and the volume of an image on this grid."""
        grey = grey_values(np.asarray(image.dataobj, np.float32))
        return draw_strip(image, self.frame, mark=mark), encode_image(grey, self.grid) if self.grid else None


def _figures(synthetic: Sequence[Synthetic], view: _View, acquired: CaseFiles | None) -> list[Figure]:
    """The figures of a case in the order of the modalities, each map after its image."""
    made, names = {one.modality: one for one in synthetic}, short_names(synthetic[0].note)
    sources = {source["Modality"]: source for source in synthetic[0].note["SourceImages"]}
    places = source_paths(synthetic[0].note, synthetic[0].path)
    figures: dict[str, list[Figure]] = {}
    for modality, name in names.items():
        if modality in made:
            figures[modality] = _synthetic_figures(made[modality], view)
            if acquired and modality in acquired.paths:
                figures[modality].append(_later_figure(modality, name, acquired, view))
        elif modality in sources:
            figures[modality] = [_source_figure(name, sources[modality], places.get(modality), view)]
    shown = tuple(m for m, ones in figures.items() if any(one.kind == "acquired" and one.strip for one in ones))
    for modality in made:
        if shown:
            partner = modality if modality in shown else _nearest(made[modality], shown)
            figures[modality][0] = replace(figures[modality][0], partner=names[partner])
    return [figure for ones in figures.values() for figure in ones]


def _nearest(one: Synthetic, shown: Sequence[str]) -> str:
    """The shown modality that is most like a synthetic one; of a user's own set, the first: sidecars do not tell."""
    name = one.note.get("ModalitySet", {}).get("Name", BRATS.name)
    known = ModalitySet.of(name) if name in BUILT_IN else None
    if known is None or known.names != tuple(short_names(one.note)):  # a user's own may be called like a built-in one
        return shown[0]
    return known.nearest_source(one.modality, shown)


def _synthetic_figures(one: Synthetic, view: _View) -> list[Figure]:
    name, case_id = one.short, one.note["CaseID"]
    image, spread, (low, high) = _read(one.path), one.uncertainty(), one.window
    strip, volume = view.draw(image, "SYNTHETIC")
    figures = [Figure(name, "synthetic", f"{name} of {case_id}, synthetic", strip, one.expected_psnr, volume)]
    if spread is not None:
        limit = FULL_AMBER * (high - low)
        over = draw_strip(image, view.frame, spread, limit, "SYNTHETIC WITH UNCERTAINTY")
        opacity = opacities(np.asarray(spread.dataobj, np.float32), limit)
        text = f"{name} of {case_id}, synthetic, with its uncertainty laid over"
        volume = encode_map(opacity, view.grid) if view.grid else None
        figures.append(Figure(name, "uncertainty", text, over, volume=volume))
    return figures


def _read(path: Path) -> nib.Nifti1Image:
    """An image and its voxels, within the bounds that hold for every file. Raises CaseError."""
    return read_image(path.name, path, read_header(path))[0]


def _source_figure(name: str, source: Mapping[str, Any], path: Path | None, view: _View) -> Figure:
    """An image that was synthesised from, or a word on why it cannot be shown."""
    file = source.get("File", "from an array")
    kind, mark = ("synthetic", "SYNTHETIC") if source.get("Synthetic") else ("acquired", "")
    figure = partial(Figure, name, kind)
    try:
        if path is None or not path.is_file():
            return figure(f"{file} is not where it was")
        header = read_header(path)
        volumes = header.get_data_shape()[-1] if "VolumeIndex" in source else 0
        image, digest = read_image(file, path, header, volumes)
        if digest != source["SHA256"]:
            return figure(f"{file} is not the file that was used: it has changed since")
        image = image.slicer[..., source["VolumeIndex"]] if "VolumeIndex" in source else image
        # completed with --assume-aligned, its header may have no orientation codes
        strip, volume = view.draw(placed_like(image, view.image), mark)
    except _UNREADABLE as error:
        return figure(f"{file} cannot be read ({type(error).__name__})")
    return figure(f"{name}, {kind}: {file}", strip, volume=volume)


def _later_figure(modality: str, name: str, files: CaseFiles, view: _View) -> Figure:
    """An acquired image of a modality that was synthesised, or a word on why it cannot be shown."""
    path, index = files.paths[modality], files.volume_index.get(modality)
    figure = partial(Figure, name, "acquired")
    try:
        if synthetic_file(path):
            return figure(f"{path.name} is synthetic itself")
        image, _ = read_image(path.name, path, read_header(path), len(files.volume_index))
        image = image if index is None else image.slicer[..., index]
        if problem := content_problem(np.asanyarray(image.dataobj)):
            return figure(f"{path.name} {problem}")
        check_grids(files.case_id, {"": view.image, modality: image}, {"": "the synthetic image", modality: path.name})
        strip, volume = view.draw(image)
    except _UNREADABLE as error:
        return figure(f"{path.name} cannot be shown: {error}")
    return figure(f"{name}, acquired, not used: {path.name}", strip, volume=volume)


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
