"""A synthetic image stays known as one, tells all that made it, and can be made again from what it tells."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from jsonschema import Draft202012Validator

import modfill
from modfill.cases.reading import Case, case_from_arrays, inspect
from modfill.cli import main
from modfill.completer import ModalityCompleter
from modfill.errors import CaseError
from modfill.outputs.naming import uncertainty_path
from modfill.reproduction import reproduce
from modfill.results import Completed
from modfill.settings import Settings
from tests.case_files import brain_volumes, oblique_affine, save, write_case
from tests.test_completion import voxels

SCHEMA = json.loads((Path(modfill.__file__).parent / "outputs" / "sidecar.schema.json").read_text(encoding="utf8"))
VALIDATOR = Draft202012Validator(SCHEMA)

pytestmark = pytest.mark.usefixtures("in_float32")


@pytest.fixture
def synthetic(completer: ModalityCompleter, case_folder: Path, tmp_path: Path) -> Path:
    """The image and sidecar of a synthesised t1c, in a folder of their own."""
    return completer.complete(case_folder, out=tmp_path / "made", targets=["t1c"]).paths["t1c"]


def put(case_folder: Path, image: nib.Nifti1Image | Path, note: Path | None = None, ending: str = ".nii.gz") -> Case:
    """Put an image into the case as its t1c, with or without a sidecar, and read the case."""
    path = case_folder / f"p1_t1ce{ending}"
    if isinstance(image, Path):
        path.write_bytes(image.read_bytes())
    else:
        nib.save(image, path)
    if note is not None:
        (case_folder / "p1_t1ce.json").write_bytes(note.read_bytes())
    return inspect(case_folder)  # type: ignore[arg-type]  # needs no model


def rewritten(path: Path, dtype: type) -> nib.Nifti1Image:
    """The same voxels under a header that another program wrote: no mark is left."""
    image = nib.load(path)
    return nib.Nifti1Image(voxels(image).astype(dtype), image.affine)


def test_recognised_after_renaming_without_its_sidecar(synthetic: Path, case_folder: Path) -> None:
    case = put(case_folder, synthetic)
    assert case.synthetic == ("t1c",) and case.available == ("t1n", "t2f") and "t1c" in case.missing


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_recognised_by_its_sidecar_after_the_header_was_rewritten(
    synthetic: Path, case_folder: Path, dtype: type, ending: str
) -> None:
    note = synthetic.with_name("p1-t1c.json")
    assert put(case_folder, rewritten(synthetic, dtype), note, ending).synthetic == ("t1c",)


def test_an_acquired_image_beside_an_old_sidecar_is_acquired(synthetic: Path, case_folder: Path) -> None:
    acquired = nib.Nifti1Image(brain_volumes()["t1c"], oblique_affine())
    case = put(case_folder, acquired, synthetic.with_name("p1-t1c.json"))
    assert case.synthetic == () and "t1c" in case.available


def test_a_case_of_synthetic_images_alone_is_refused(synthetic: Path) -> None:
    with pytest.raises(CaseError, match="none that is acquired.*allow_synthetic=True"):
        inspect(synthetic.parent)  # type: ignore[arg-type]


def test_a_synthetic_source_must_be_allowed_and_is_recorded(
    completer: ModalityCompleter, tiny_weights: Path, synthetic: Path, case_folder: Path, tmp_path: Path
) -> None:
    put(case_folder, synthetic)
    command = ["complete", str(case_folder), "--out", str(tmp_path / "out"), "--weights", str(tiny_weights)]
    assert main([*command, "--targets", "t2w", "--allow-synthetic"]) == 0
    note = json.loads((tmp_path / "out" / "p1" / "p1-t2w.json").read_text())
    assert [(s["Modality"], s.get("Synthetic")) for s in note["SourceImages"]] == [
        ("t1n", None), ("t1c", True), ("t2f", None)
    ]  # fmt: skip
    VALIDATOR.validate(note)
    without = completer.complete(case_folder, targets=["t2w"])
    assert [source["Modality"] for source in without.provenance["t2w"]["SourceImages"]] == ["t1n", "t2f"]
    assert main(command) == 1  # the output there had other sources


@pytest.mark.parametrize(
    "settings", [{}, {"mode": "sample", "steps": 3, "seed": 5}, {"mode": "sample", "steps": 2, "uncertainty": True}]
)
def test_sidecars_follow_the_schema(
    completer: ModalityCompleter, case_folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    completer.complete(case_folder, out=tmp_path, settings=Settings(**settings))
    notes = [json.loads(path.read_text(encoding="utf8")) for path in tmp_path.rglob("*.json")]
    arrays = {m: brain_volumes()[m] for m in ("t1n", "t2w", "t2f")}
    from_arrays = completer.complete(case_from_arrays(arrays, oblique_affine()), settings=Settings(**settings))
    notes += [json.loads(json.dumps(note)) for note in from_arrays.provenance.values()]
    assert len(notes) == 3
    for note in notes:
        VALIDATOR.validate(note)


def test_a_source_left_out_is_in_the_schema(completer: ModalityCompleter) -> None:
    arrays = {m: brain_volumes()[m] for m in ("t1n", "t2w")}
    arrays["t2w"][:, :, :10] = 0
    note = completer.complete(case_from_arrays(arrays, oblique_affine()), targets=["t2f"]).provenance["t2f"]
    assert note["SourcesLeftOut"] == ["t2w"]
    VALIDATOR.validate(note)


def test_the_schema_is_strict(completer: ModalityCompleter, case_folder: Path) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    note = completer.complete(case_folder, targets=["t1c"]).provenance["t1c"]
    for key in note:
        without = {k: v for k, v in note.items() if k != key}
        optional = key == "Threads"  # absent on a GPU
        assert VALIDATOR.is_valid(without) == optional, f"{key} may be absent"
        assert not VALIDATOR.is_valid(note | {key: {"other": 1}}), f"{key} may be anything"
    changes: list[Callable[[dict], object]] = [
        lambda n: n.update(Surplus=1), lambda n: n.update(Synthetic=False), lambda n: n["SourceImages"].clear(),
        lambda n: n["SourceImages"][0].pop("SHA256"), lambda n: n["Weights"].update(SHA256="abc"),
        lambda n: n.update(UnitRange=[0]), lambda n: n.update(Steps=0),
    ]  # fmt: skip
    for change in changes:
        altered = copy.deepcopy(note)
        change(altered)
        assert not VALIDATOR.is_valid(altered)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mode": "sample", "steps": 2, "seed": 3},
        {"uncertainty": True},
    ],
)
def test_a_sidecar_is_enough_to_make_the_image_again(
    completer: ModalityCompleter, tiny_weights: Path, case_folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Bit for bit, by another completer, from renamed files: nothing but the sidecar says how (as in the README)."""
    completer.complete(case_folder, out=tmp_path / "first", targets=["t2w"], settings=Settings(**settings))
    note = json.loads((tmp_path / "first" / "p1" / "p1-t2w.json").read_text(encoding="utf8"))
    moved = case_folder.rename(tmp_path / "moved")
    save(moved / "p1-t1c.nii.gz", brain_volumes()["t1c"])  # found later; it was no source then
    sidecar = tmp_path / "first" / "p1" / "p1-t2w.json"
    with pytest.raises(CaseError, match="the sources must lie where they were, got nothing at"):
        reproduce(sidecar, weights=tiny_weights)
    again = reproduce(sidecar, out=tmp_path / "again", sources=moved, weights=tiny_weights)
    assert again.identical and again.differences == {}
    files = [sorted((tmp_path / run / "p1").glob("*.nii.gz")) for run in ("first", "again")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert len(files[0]) == 1 + note["Uncertainty"]
    made = again.completed.provenance["t2w"]
    assert made.pop("SourcePaths") != note.pop("SourcePaths")  # they were moved
    assert made == note


def test_a_finished_output_with_other_voxels_is_done_again(
    completer: ModalityCompleter, case_folder: Path, tmp_path: Path
) -> None:
    """Neither a damaged nor an exchanged image passes for what its sidecar describes."""
    path = completer.complete(case_folder, out=tmp_path, targets=["t1c"]).paths["t1c"]
    whole = path.read_bytes()
    image = nib.load(path)
    other = nib.Nifti1Image(voxels(image)[::-1].copy(), image.affine, image.header)
    for damage in (lambda: path.write_bytes(whole[:-300]), lambda: nib.save(other, path)):
        damage()
        assert completer.complete(case_folder, out=tmp_path, targets=["t1c"]).skipped == ()
        assert path.read_bytes() == whole
    assert completer.complete(case_folder, out=tmp_path, targets=["t1c"]).skipped == ("t1c",)


def test_a_finished_output_without_its_uncertainty_is_done_again(
    completer: ModalityCompleter, case_folder: Path, tmp_path: Path
) -> None:
    def complete() -> Completed:
        return completer.complete(case_folder, out=tmp_path, targets=["t1c"], settings=Settings(uncertainty=True))

    path = uncertainty_path(complete().paths["t1c"])
    whole = path.read_bytes()
    for damage in (path.unlink, lambda: path.write_bytes(whole[:-300])):
        damage()
        done = complete()
        assert done.skipped == () and path.read_bytes() == whole and list(done.uncertainty) == ["t1c"]
    assert complete().skipped == ("t1c",)


def test_the_files_of_a_cohort_are_marked_one_by_one(completer: ModalityCompleter, tmp_path: Path) -> None:
    """Completed in place, a case is what it was before: its synthetic images are not sources of the next run."""
    folder = write_case(tmp_path, "p1", ("t1n",))
    completer.complete(folder, out=tmp_path, targets=["t2w"])
    case = inspect(folder)
    assert (case.available, case.synthetic) == (("t1n",), ("t2w",))
