"""What training keeps on disk belongs to what the files hold, not to the names of the cases."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from modfill.errors import ModfillError
from modfill.model.config import PRESETS
from modfill.model.synthesiser import Synthesiser
from modfill.training import data
from modfill.training.data import TrainingCase, load_cohort
from modfill.training.latents import LatentBank
from modfill.training.points import PointBank
from tests.case_files import brain_volumes, save, write_case

TINY = PRESETS["tiny"]
SHAPE = (24, 28, 20)


def load(folder: Path, tmp_path: Path) -> TrainingCase:
    return load_cohort(folder, tmp_path / "cache", TINY)[0]


def same(one: TrainingCase, other: TrainingCase) -> bool:
    return one.key == other.key and one.scales == other.scales and np.array_equal(one.volumes, other.volumes)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the cases that are prepared, as they are."""
    seen: list[str] = []
    prepare = data.prepare
    monkeypatch.setattr(data, "prepare", lambda case, *rest: seen.append(case.case_id) or prepare(case, *rest))
    return seen


def test_a_case_is_prepared_once(tmp_path: Path, prepared: list[str]) -> None:
    write_case(tmp_path / "in", "p1", shape=SHAPE)
    first = load(tmp_path / "in", tmp_path)
    (tmp_path / "in").rename(tmp_path / "moved")
    second = load(tmp_path / "moved", tmp_path)
    assert prepared == ["p1"] and first.case_id == second.case_id == "p1" and same(first, second)


@pytest.mark.parametrize("modality", TINY.modalities)
def test_a_changed_file_is_prepared_anew(tmp_path: Path, modality: str) -> None:
    folder = write_case(tmp_path / "in", "p1", shape=SHAPE)
    before = load(tmp_path / "in", tmp_path)
    path = next(folder.rglob(f"*{modality}.nii.gz"))
    save(path, brain_volumes(SHAPE, seed=7)[modality], nib.load(path).affine)
    after = load(tmp_path / "in", tmp_path)
    assert after.case_id == "p1" and not same(before, after)
    assert same(after, load_cohort(tmp_path / "in", tmp_path / "empty", TINY)[0])


def test_another_folder_with_the_same_ids_is_another_cohort(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("other", 2)):
        write_case(tmp_path / name, "p1", shape=SHAPE, seed=seed)
    one, other, again = (load(tmp_path / name, tmp_path) for name in ("one", "other", "one"))
    assert not same(one, other) and same(one, again)


def test_another_order_of_modalities_is_kept_apart(tmp_path: Path) -> None:
    write_case(tmp_path / "in", "p1", shape=SHAPE)
    turned = replace(TINY, modalities=TINY.modalities[::-1])
    one, other = (load_cohort(tmp_path / "in", tmp_path / "cache", preset)[0] for preset in (TINY, turned))
    np.testing.assert_array_equal(one.volumes, other.volumes[::-1])


def test_what_cannot_be_told_apart_is_refused_though_it_was_prepared_before(tmp_path: Path) -> None:
    case = write_case(tmp_path / "in", "p1", shape=SHAPE)
    load(tmp_path / "in", tmp_path)
    shutil.copy(case / "p1-t1n.nii.gz", case / "p1_t1.nii.gz")
    with pytest.raises(ModfillError, match="p1_t1.nii.gz"):
        load(tmp_path / "in", tmp_path)


def test_latents_and_points_follow_the_files(tmp_path: Path, tiny_model: Synthesiser) -> None:
    """The banks beside the cache hold what was made of these very files."""
    banks = []
    for name, seed in (("one", 1), ("other", 2)):
        write_case(tmp_path / name, "p1", shape=SHAPE, seed=seed)
        bank = LatentBank(tiny_model, [load(tmp_path / name, tmp_path)], tmp_path / "latents")
        bank.fill()
        points = PointBank(bank, tmp_path / "points")
        points.fill()
        banks.append((bank.latents[0], points.open()[0]["wanted"]))
    assert not any(np.array_equal(one, other) for one, other in zip(*banks, strict=True))


def test_points_are_drawn_anew_for_another_scale_of_the_latents(tmp_path: Path) -> None:
    """A cohort that has grown has another, under the same networks."""
    write_case(tmp_path / "in", "p1", shape=SHAPE)
    model = Synthesiser(TINY)
    bank = LatentBank(model, [load(tmp_path / "in", tmp_path)], tmp_path / "latents")
    folders = []
    for scale in (1.0, 1.5, 1.0):
        model.latent_std.fill_(scale)
        folders.append(PointBank(bank, tmp_path / "points").folder)
    assert folders[0] == folders[2] != folders[1]
