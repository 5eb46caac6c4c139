"""Properties that hold for every case: the grid, the inputs and the answer, whatever orientation, type or size.

`--hypothesis-profile=many` tries a thousand examples of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from torch import Tensor

from modfill import job
from modfill.completer import ModalityCompleter
from modfill.errors import ModfillError
from modfill.model.synthesiser import Encoded, Prediction, Synthesiser
from modfill.preprocessing.prepare import MINIMUM_BRAIN
from tests.case_files import brain_volumes
from tests.test_completion import hashes, voxels

pytestmark = pytest.mark.usefixtures("in_float32")

DTYPES = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64, np.float32, np.float64)
AXES = ("RL", "AP", "SI")
ORIENTATIONS = tuple(
    "".join(codes) for order in permutations(AXES) for codes in product(*order)
)  # all 48: which axis comes when, and which way it points
SOURCES = ("t1n", "t2f")
TARGET = "t1c"


@dataclass(frozen=True)
class Grid:
    """A grid, how a file says it, and how its voxels are stored."""

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    codes: tuple[int, int]  # qform, sform
    dtype: type
    scale: tuple[float, float]  # slope, intercept of files
    fill: float  # how much of each edge the brain takes; more than 1 cuts it off at the border
    seed: int


@st.composite
def grids(draw: Callable, spacing: st.SearchStrategy = st.floats(0.4, 3.0), tilt: float = 0.6) -> Grid:  # noqa: B008
    """Any grid: 1 voxel to more than the tiny model's volume, any of 48 orientations, tilted, anisotropic."""
    shape = draw(st.tuples(*[st.integers(1, 26)] * 3))
    sizes = draw(st.tuples(*[spacing] * 3))
    tilts = draw(st.tuples(*[st.floats(-tilt, tilt)] * 3))
    turned = nib.orientations.inv_ornt_aff(
        ornt_transform(axcodes2ornt(tuple(draw(st.sampled_from(ORIENTATIONS)))), axcodes2ornt("RAS")), shape
    )
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(*tilts) @ turned[:3, :3] @ np.diag(sizes)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return Grid(
        shape,
        affine,
        draw(st.sampled_from([(1, 1), (0, 1), (1, 0), (0, 0), (4, 2), (2, 4), (3, 0)])),
        draw(st.sampled_from(DTYPES)),
        draw(st.sampled_from([(1, 0), (1, 0), (0.25, 0), (3.5, 0), (1e-4, 0)])),
        draw(st.sampled_from([0.4, 0.8, 1.0, 1.1])),
        draw(st.integers(0, 999)),
    )


def brains(grid: Grid) -> dict[str, npt.NDArray]:
    """Two modalities of one brain on the grid, positive inside and 0 outside, in the grid's type."""
    edges = [max(4, round(1.15 * grid.fill * edge)) for edge in grid.shape]
    volumes = brain_volumes(tuple(edges), grid.seed)
    largest = 1 if np.issubdtype(grid.dtype, np.floating) else np.iinfo(grid.dtype).max
    made = {}
    for modality in SOURCES:
        whole = volumes[modality] / 1000 if largest == 1 else np.minimum(volumes[modality] // 8, min(largest, 4000))
        volume = np.zeros(grid.shape)
        starts = [(edge - size) // 2 for edge, size in zip(grid.shape, edges, strict=True)]
        there = tuple(slice(max(s, 0), s + size) for s, size in zip(starts, edges, strict=True))
        here = tuple(slice(max(-s, 0), max(-s, 0) + edge) for s, edge in zip(starts, grid.shape, strict=True))
        volume[there] = whole[here]
        made[modality] = volume.astype(grid.dtype)
    return made


def write(folder: Path, grid: Grid) -> Path:
    """A case folder with the brains as files."""
    (folder / "p1").mkdir(parents=True)
    for modality, volume in brains(grid).items():
        image = nib.Nifti1Image(volume, grid.affine, dtype=grid.dtype)
        qform, sform = grid.codes
        image.header.set_slope_inter(*grid.scale)
        image.set_qform(grid.affine if qform else None, qform)
        image.set_sform(grid.affine if sform else None, sform)
        raw = bytearray(image.to_bytes())
        raw[112:120] = np.array(grid.scale, "<f4").tobytes()  # scl_slope and scl_inter
        raw[352:] = volume.tobytes("F")  # the numbers as stored, whatever the scale
        (folder / "p1" / f"p1-{modality}.nii").write_bytes(raw)
    return folder / "p1"


def must_be_refused(grid: Grid) -> bool:
    """Whether the specification says that no brain can be found here."""
    if min(grid.shape) < 2:
        return True
    union = np.logical_or.reduce([volume != 0 for volume in brains(grid).values()])
    return int(union.sum()) < MINIMUM_BRAIN


@given(grid=grids())
def test_files_keep_grid_inputs_and_answer(completer: ModalityCompleter, grid: Grid) -> None:
    """The written image is on the source's exact grid; the inputs stay as they are; twice gives the same bytes."""
    with TemporaryDirectory() as name:
        folder = write(Path(name) / "in", grid)
        before = hashes(folder)
        try:
            done = completer.complete(folder, out=Path(name) / "a", targets=[TARGET])
        except ModfillError as error:
            assert str(error).isprintable()
            assert refusable(grid, str(error))
            event("refused")
            return
        finally:
            assert hashes(folder) == before
        assert not must_be_refused(grid)
        source, written = nib.load(folder / "p1-t1n.nii"), nib.load(done.paths[TARGET])
        assert written.shape == source.shape
        np.testing.assert_array_equal(written.affine, source.affine)
        for field in ("qform_code", "sform_code", "xyzt_units", "srow_x", "srow_y", "srow_z", "dim"):
            if source.header["sform_code"] or not field.startswith("srow"):
                np.testing.assert_array_equal(written.header[field], source.header[field])
        if source.header["qform_code"]:
            np.testing.assert_array_equal(written.get_qform(), source.get_qform())
        brain = np.any([voxels(nib.load(path)) != 0 for path in folder.iterdir()], axis=0)
        np.testing.assert_array_equal(voxels(written) != 0, brain)
        assert np.isfinite(voxels(written)).all()
        completer.complete(folder, out=Path(name) / "b", targets=[TARGET])
        assert hashes(Path(name) / "a") == hashes(Path(name) / "b")


def refusable(grid: Grid, message: str) -> bool:
    """Whether a refusal is one that the specification asks for: too small, or cut so that no background is left."""
    if "skull-stripped" in message:
        return grid.fill > 0.8 or min(grid.shape) < 8
    if "the constant" in message:
        return any(np.unique(volume[volume != 0]).size == 1 for volume in brains(grid).values())
    if "all zero" in message or "exact copy" in message:
        return grid.dtype in (np.int8, np.uint8) or min(grid.shape) < 8
    return must_be_refused(grid)


@given(grid=grids(), turn=st.sampled_from(ORIENTATIONS))
def test_reorienting_the_input_reorients_the_output(completer: ModalityCompleter, grid: Grid, turn: str) -> None:
    """Any of the 48 ways to store a case gives one answer: equal where nothing is resampled, else to 1e-3 of its range
    (the order of additions differs)."""
    change = ornt_transform(io_orientation(grid.affine), axcodes2ornt(tuple(turn)))
    volumes = {m: v.astype(np.float32) for m, v in brains(grid).items()}
    turned = {m: np.ascontiguousarray(apply_orientation(v, change)) for m, v in volumes.items()}
    affine = grid.affine @ nib.orientations.inv_ornt_aff(change, grid.shape)
    answers = []
    for arrays, place in ((volumes, grid.affine), (turned, affine)):
        kept = {m: v.tobytes() for m, v in arrays.items()}
        try:
            answers.append(completer.complete_arrays(arrays, affine=place, case_id="p1", targets=[TARGET])[TARGET])
        except ModfillError as error:
            assert refusable(grid, str(error))
            answers.append(None)
        assert {m: v.tobytes() for m, v in arrays.items()} == kept
    if answers[0] is None or answers[1] is None:
        assert answers[0] is answers[1]
        event("refused")
        return
    expected = apply_orientation(answers[0], change)
    event("bit for bit" if np.array_equal(expected, answers[1]) else "within the tolerance")
    np.testing.assert_array_equal(expected != 0, answers[1] != 0)
    np.testing.assert_allclose(answers[1], expected, rtol=0, atol=1e-3 * np.ptp(expected))


def sources_as_answers(patch: pytest.MonkeyPatch) -> None:
    """In place of the networks' answer: the source itself."""
    encode = Synthesiser.encode
    sources: list[Tensor] = []

    def remember(model: Synthesiser, volumes: dict[str, Tensor], *arguments: Tensor, **options: Any) -> Encoded:
        sources[:] = volumes.values()
        return encode(model, volumes, *arguments, **options)

    patch.setattr(Synthesiser, "encode", remember)
    patch.setattr(Synthesiser, "predict", lambda *_: Prediction(sources[0], torch.ones_like(sources[0]), 1.0))


@given(grid=grids(spacing=st.floats(0.96, 1.04)))
def test_an_answer_lands_on_the_voxels_it_is_about(completer: ModalityCompleter, grid: Grid) -> None:
    """Where nothing is resampled, networks that say the source again give the source, clipped to its percentiles."""
    source = brains(grid)["t1n"].astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        sources_as_answers(patch)
        patch.setattr(job, "output_scale", lambda like, unit: like)
        try:
            made = completer.complete_arrays({"t1n": source}, affine=grid.affine, targets=[TARGET])[TARGET]
        except ModfillError as error:
            assert refusable(grid, str(error))
            event("refused")
            return
    brain = source != 0
    expected = np.clip(source[brain], *np.percentile(source[brain], (0.5, 99.5)))
    np.testing.assert_allclose(made[brain], expected, atol=1e-4 * expected.max())
    assert not made[~brain].any()


@pytest.mark.slow
def test_a_brain_larger_than_the_training_volume(completer: ModalityCompleter) -> None:
    """Beyond 192x192x144, in a lying grid; an octahedron, because such a large brain would be no brain."""
    shape = (150, 200, 196)
    axes = np.meshgrid(*(np.linspace(-1, 1, edge) for edge in shape), indexing="ij")
    brain = sum(abs(axis) for axis in axes) < 1
    volume = np.where(brain, np.random.default_rng(0).integers(100, 900, shape), 0).astype(np.int16)
    affine = nib.orientations.inv_ornt_aff(ornt_transform(axcodes2ornt("SPL"), axcodes2ornt("RAS")), shape)
    made = completer.complete_arrays({"t1n": volume}, affine=affine, targets=[TARGET])[TARGET]
    assert made.dtype == np.int16
    np.testing.assert_array_equal(made != 0, volume != 0)
