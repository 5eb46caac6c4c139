"""The pictures: their orientation, their slice, and the file."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from modfill.demo.picture import MARGIN, Row, draw_completion, require_matplotlib
from modfill.demo.picture import _pictures as pictures
from modfill.errors import ModfillError

SCORES = {"psnr": 27.1, "psnr_matched": 30.2, "ssim": 0.94}
EDGE = 20


def row(modality: str = "t1c") -> Row:
    """A brain of 20 voxels in a larger volume; bright at the patient's front right, tumour in slice 17."""
    shape = (30, 26, 24)
    brain, tumour = np.zeros(shape, bool), np.zeros(shape, bool)
    brain[4 : 4 + EDGE, 3 : 3 + EDGE, 2 : 2 + EDGE] = True
    tumour[10:14, 10:14, 17] = True
    acquired = 0.5 * brain
    acquired[19:24, 18:23] = 1.0
    acquired *= brain
    return Row(modality, acquired, 0.9 * acquired, 0.1 * brain, brain, tumour, SCORES)


def test_right_is_left_and_the_front_is_on_top() -> None:
    seen = pictures(row())["acquired"][MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert seen.shape == (EDGE, EDGE)
    assert (seen[:5, :5] == 1).all()
    assert (seen[5:] == 0.5).all()
    assert (seen[:, 5:] == 0.5).all()


def test_the_slice_shown_has_the_most_tumour_or_is_the_brains_middle() -> None:
    known = row()
    known.acquired[12, 12, 17], known.acquired[12, 12, 11] = 0.25, 0.75
    assert 0.25 in pictures(known)["acquired"]
    without = Row(
        "t1c", known.acquired, known.synthesised, known.uncertainty, known.brain, known.tumour & False, SCORES
    )
    assert 0.75 in pictures(without)["acquired"]


def test_draws_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for rows in ([row()], [row(), row("t2f")]):
        path = tmp_path / f"{len(rows)}.png"
        draw_completion(path, rows, "a title")
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", data[16:24])
        assert 800 < width < 3000
        assert 400 < height < 3000
        assert len(data) > 10_000


def test_a_perfect_and_certain_prediction_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    known = row()
    draw_completion(
        tmp_path / "perfect.png",
        [Row("t1c", known.acquired, known.acquired, 0 * known.uncertainty, known.brain, known.tumour, SCORES)],
        "perfect",
    )
    assert (tmp_path / "perfect.png").stat().st_size > 10_000


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (require_matplotlib, lambda: draw_completion(tmp_path / "none.png", [row()], "title")):
        with pytest.raises(ModfillError) as error:
            draw()
        assert "pip install 'modfill[plots]'" in str(error.value)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "none.png").exists()
