"""Pictures of a completion whose truth is known: acquired, synthesised, their difference, and the uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modfill.atomic import replacing, writable
from modfill.errors import ModfillError
from modfill.metrics import brain_box
from modfill.modalities import BRATS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Row", "draw_completion", "require_matplotlib"]

Picture = NDArray[np.floating]

MARGIN = 4  # pixels around the brain
PANEL = 3.0  # inches: height of one panel
BACKGROUND, INK, FAINT, WARNING = "#0e1116", "#f0f2f5", "#9aa3ad", "#ffb454"
COLUMNS = ("acquired", "synthesised", "absolute difference", "uncertainty")
COLOUR_MAPS = {"absolute difference": "inferno", "uncertainty": "viridis"}
EXPLANATIONS = {
    "absolute difference": "unit range",
    "uncertainty": "expected standard deviation, unit range",
}
NOTICE = "Synthetic images are estimates, not acquired: not for diagnosis."


@dataclass(frozen=True, eq=False)
class Row:
    """One synthesised modality; all volumes (X, Y, Z) on one RAS grid with square voxels in the axial plane.

    Attributes:
        modality: one of the BraTS set.
        acquired, synthesised: unit range [0, 1], 0 outside the brain.
        uncertainty: standard deviation to be expected in unit range, at least 0.
        brain: mask, not empty.
        tumour: mask that decides which slice is shown; empty takes the brain's centre.
        scores: figures of `metrics.score`; shows `psnr`, `psnr_matched` and `ssim`.
    """

    modality: str
    acquired: NDArray[np.floating]
    synthesised: NDArray[np.floating]
    uncertainty: NDArray[np.floating]
    brain: NDArray[np.bool_]
    tumour: NDArray[np.bool_]
    scores: Mapping[str, float]


def require_matplotlib() -> None:
    """Check that pictures can be drawn, before something long begins.

    Raises:
        ModfillError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401 (late: only pictures need it)
    except ImportError as error:
        raise ModfillError("Pictures need matplotlib: pip install 'modfill[plots]'") from error


def draw_completion(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draw a PNG with a row per synthesised modality: acquired | synthesised | absolute difference | uncertainty.

    Shown is the axial slice with the most tumour, in radiological orientation (the patient's right on the left).
    Acquired and synthesised share one intensity window, and all rows share the colour scales.

    Args:
        path: `*.png`.
        rows: at least one.
        title: stands on top.

    Raises:
        ModfillError: matplotlib is not installed, or the picture cannot be written.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pictures = [_pictures(row) for row in rows]
    height, width = pictures[0]["acquired"].shape
    inches = len(rows) * (PANEL + 0.25) + 1.45
    figure = Figure((len(COLUMNS) * (PANEL * width / height + 0.08) + 0.6, inches), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)  # a canvas of its own leaves the caller's matplotlib backend alone
    grid = figure.add_gridspec(len(rows) + 1, len(COLUMNS), height_ratios=[*[PANEL] * len(rows), 0.1], left=0.05,
                               right=0.99, top=1 - 0.75 / inches, bottom=0.5 / inches, wspace=0.03,
                               hspace=0.3 / PANEL)  # fmt: skip
    for column, name in enumerate(COLUMNS):
        limit = _limit(name, pictures)
        for line, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
            axes = figure.add_subplot(grid[line, column])
            shown = axes.imshow(picture[name], COLOUR_MAPS.get(name, "gray"), vmin=0, vmax=limit)
            _letter(axes, row, name, first=line == 0)
        if name in COLOUR_MAPS:
            _colour_bar(figure, shown, figure.add_subplot(grid[-1, column]), EXPLANATIONS[name])
    figure.text(0.5, 1 - 0.13 / inches, title, color=INK, size=13, weight="bold", ha="center", va="top")
    figure.text(0.05, 0.35 / inches, NOTICE, color=WARNING, size=9.5, va="center")
    with writable(path), replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, facecolor=BACKGROUND)


def _limit(column: str, pictures: Sequence[Mapping[str, Picture]]) -> float:
    """The upper end of a column's scale, the same for all rows."""
    if column not in COLOUR_MAPS:
        return 1.0
    return max(0.01, *(float(np.nanpercentile(picture[column], 99.8)) for picture in pictures))


def _pictures(row: Row) -> dict[str, Picture]:
    """The slice to show of each column, as (row, column) pixels seen from the feet; not a number outside the brain."""
    height = _slice_to_show(row.brain, row.tumour)
    x, y, _ = brain_box(row.brain)
    box = (x, y, height)
    volumes = (row.acquired, row.synthesised, abs(row.acquired - row.synthesised), row.uncertainty)
    pictures = {}
    for name, volume in zip(COLUMNS, volumes, strict=True):
        inside = np.pad(np.where(row.brain[box], volume[box], np.nan), MARGIN, constant_values=np.nan)
        # x grows to the right hand and y to the nose: flipped, the right hand is on the left and the nose on top
        pictures[name] = inside[::-1, ::-1].T
    return pictures


def _slice_to_show(brain: NDArray[np.bool_], tumour: NDArray[np.bool_]) -> int:
    """Index along z of the slice with the most tumour, or of the middle of the brain."""
    if tumour.any():
        return int(tumour.sum(axis=(0, 1)).argmax())
    occupied = np.flatnonzero(brain.any(axis=(0, 1)))
    return int(occupied[0] + occupied[-1]) // 2


def _letter(axes: Any, row: Row, column: str, first: bool) -> None:
    """Head a column, name a row, and mark what is synthetic."""
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    place = {"transform": axes.transAxes, "va": "top"}
    if first:
        axes.set_title(column, color=INK, size=11, pad=5)
    if column == "acquired":
        axes.set_ylabel(BRATS[row.modality].short, color=INK, size=13, weight="bold")
        axes.text(0.03, 0.975, "R", color=FAINT, size=9, **place)
        axes.text(0.97, 0.975, "L", color=FAINT, size=9, ha="right", **place)
    if column == "synthesised":
        box = {"facecolor": WARNING, "edgecolor": "none", "pad": 2}
        axes.text(0.03, 0.975, "SYNTHETIC", color=BACKGROUND, size=8, weight="bold", bbox=box, **place)
        caption = "PSNR {psnr:.1f} dB · matched {psnr_matched:.1f} dB · SSIM {ssim:.3f}".format(**row.scores)
        axes.set_xlabel(caption, color=INK, size=8, labelpad=3)


def _colour_bar(figure: Figure, shown: Any, below: Any, explanation: str) -> None:
    """A horizontal scale under a column, a little narrower than it."""
    below.set_axis_off()
    bar = figure.colorbar(shown, cax=below.inset_axes((0.06, 0, 0.88, 1)), orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.locator_params(nbins=5)
    bar.ax.tick_params(color=FAINT, labelcolor=FAINT, labelsize=8)
    bar.ax.set_xlabel(explanation, color=FAINT, size=8, labelpad=2)
