"""35 real cases, a random half of their modalities removed, as one cohort in each layout: scanned and completed."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from modfill.cases.finding import find_cohort
from modfill.cli import main
from modfill.modalities import MODALITIES
from modfill.reports.scan import scan_cohort
from tests.case_files import save, write_case
from tests.layout_files import LAYOUTS, case_name

DATA = Path(os.environ.get("MODFILL_DATA", Path(__file__).parents[2] / "shared" / "data"))
pytestmark = pytest.mark.slow
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real cases not found; set MODFILL_DATA to their folder")

Cohort = dict[str, dict[str, Path]]


@pytest.fixture(scope="module")
def kept() -> Cohort:
    """The files that are left of each case, at least one."""
    draw = random.Random(7)
    folders = sorted(folder for split in ("train", "val", "test") for folder in (DATA / split).iterdir())
    cohort: Cohort = {}
    for folder in sorted(folders, key=lambda folder: folder.name):
        left = [modality for modality in MODALITIES if draw.random() < 0.5] or [draw.choice(MODALITIES)]
        cohort[folder.name] = {modality: folder / f"{folder.name}-{modality}.nii.gz" for modality in left}
    return cohort


@pytest.fixture(scope="module")
def thin(kept: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """The same cohort with every third voxel along each axis, so that a tiny model completes it in minutes."""
    folder = tmp_path_factory.mktemp("thin")
    cohort: Cohort = {case_id: {} for case_id in kept}
    for case_id, files in kept.items():
        for modality, path in files.items():
            voxels = np.asanyarray(nib.load(path).dataobj)[::3, ::3, ::3]
            cohort[case_id][modality] = save(folder / path.name, voxels)
    return cohort


@needs_data
@pytest.mark.parametrize("deep", [False, True], ids=["headers", "deep"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_scan_finds_exactly_the_truth(tmp_path: Path, kept: Cohort, layout: str, deep: bool) -> None:
    assert len(kept) == 35
    scan = scan_cohort(LAYOUTS[layout](tmp_path / layout, kept), deep=deep)
    found = {case.case_id: case.available for case in scan.cases}
    assert found == {case_name(layout, case_id): tuple(files) for case_id, files in kept.items()}
    assert [case for case in scan.cases if case.problem or case.unusable or case.synthetic or case.swap] == []
    assert scan.duplicates == []


@needs_data
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_completed(tmp_path: Path, thin: Cohort, tiny_weights: Path, layout: str) -> None:
    out = tmp_path / "out"
    where = LAYOUTS[layout](tmp_path / "in", thin)
    command = ["complete", str(where), "--out", str(out), "--naming", "auto", "--link", "--weights", str(tiny_weights)]
    assert main([*command, "--device", "cpu"]) == 0
    whole = find_cohort(out)
    assert {case.case_id for case in whole.cases} == {case_name(layout, case_id) for case_id in thin}
    assert all(tuple(case.paths) == MODALITIES and case.problem is None for case in whole.cases)
    scanned = {case.case_id: (case.available, set(case.synthetic)) for case in scan_cohort(out).cases}
    for case_id, files in thin.items():
        assert scanned[case_name(layout, case_id)] == (tuple(files), set(MODALITIES) - set(files))
    if whole.layout == "nnunet":
        integrity = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity")
        integrity.verify_dataset_integrity(str(out), 1)  # raises where nnU-Net cannot use the dataset


def test_a_thousand_cases_are_scanned_in_a_minute(tmp_path: Path) -> None:
    for number in range(1000):
        chosen = [modality for bit, modality in enumerate(MODALITIES) if (number % 15 + 1) >> bit & 1]
        write_case(tmp_path / "in", f"case{number:04d}", chosen, (10, 10, 10), seed=number)
    began = time.perf_counter()
    reports = ["--csv", str(tmp_path / "scan.csv"), "--html", str(tmp_path / "scan.html")]
    assert main(["scan", str(tmp_path / "in"), *reports]) == 0
    seconds = time.perf_counter() - began
    print(f"\n1000 cases: {seconds:.1f} s")
    assert seconds < 60
