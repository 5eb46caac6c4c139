"""The figures of a case: pictures, and volumes for the viewer, of what was synthesised and from what."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

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

__all__ = ["FULL_AMBER", "UNREADABLE", "Figure", "Synthetic", "View", "draw_figures"]

FULL_AMBER = 0.25  # standard deviation, in unit range, at which the overlay is strongest
UNREADABLE = (CaseError, OSError, EOFError, ValueError, zlib.error)


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


@dataclass(frozen=True, eq=False)
class View:
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
    def of(cls, one: Synthetic, edge: int, volumes: bool) -> View:
        """The grid of a synthetic image: of pictures with `edge` pixels, and of volumes if there are to be any."""
        image = _read(one.path)
        frame = Frame.of(image, edge)
        return cls(image, frame, Grid.of(image, frame) if volumes else None)

    def draw(self, image: nib.Nifti1Image, mark: str = "") -> tuple[Strip, EncodedVolume | None]:
        """The picture and the volume of an image on this grid."""
        grey = grey_values(np.asarray(image.dataobj, np.float32))
        return draw_strip(image, self.frame, mark=mark), encode_image(grey, self.grid) if self.grid else None


def draw_figures(synthetic: Sequence[Synthetic], view: View, acquired: CaseFiles | None) -> list[Figure]:
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


def _synthetic_figures(one: Synthetic, view: View) -> list[Figure]:
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


def _source_figure(name: str, source: Mapping[str, Any], path: Path | None, view: View) -> Figure:
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
    except UNREADABLE as error:
        return figure(f"{file} cannot be read ({type(error).__name__})")
    return figure(f"{name}, {kind}: {file}", strip, volume=volume)


def _later_figure(modality: str, name: str, files: CaseFiles, view: View) -> Figure:
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
    except UNREADABLE as error:
        return figure(f"{path.name} cannot be shown: {error}")
    return figure(f"{name}, acquired, not used: {path.name}", strip, volume=volume)
