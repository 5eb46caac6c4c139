"""What training keeps on disk belongs to what the files hold, not to the names of the cases."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from modfill.errors import ModfillError
from modfill.modalities import BRATS
from modfill.model.config import PRESETS
from modfill.model.synthesiser import Synthesiser
from modfill.training import augmentation, data
from modfill.training.data import TrainingCase, load_cohort
from modfill.training.latents import LatentBank
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
    turned = replace(TINY, modality_set=replace(BRATS, modalities=BRATS.modalities[::-1]))
    one, other = (load_cohort(tmp_path / "in", tmp_path / "cache", preset)[0] for preset in (TINY, turned))
    np.testing.assert_array_equal(one.volumes, other.volumes[::-1])


def test_what_cannot_be_told_apart_is_refused_though_it_was_prepared_before(tmp_path: Path) -> None:
    case = write_case(tmp_path / "in", "p1", shape=SHAPE)
    load(tmp_path / "in", tmp_path)
    shutil.copy(case / "p1-t1n.nii.gz", case / "p1_t1.nii.gz")
    with pytest.raises(ModfillError, match="p1_t1.nii.gz"):
        load(tmp_path / "in", tmp_path)


def bank_of(model: Synthesiser, folder: Path, tmp_path: Path, variants: int = 3, name: str = "latents") -> LatentBank:
    return LatentBank(model, load_cohort(folder, tmp_path / "cache", TINY), tmp_path / name, variants)


def test_latents_follow_the_files_and_the_networks(tmp_path: Path, tiny_model: Synthesiser) -> None:
    """What lies beside the cache was made of these very files, by these very networks."""
    for name, seed in (("one", 1), ("other", 2)):
        write_case(tmp_path / name, "p1", shape=SHAPE, seed=seed)
    folders = [bank_of(tiny_model, tmp_path / name, tmp_path).folder for name in ("one", "other", "one")]
    assert folders[0] == folders[2] != folders[1]
    for part in ("autoencoder", "translator"):
        model = Synthesiser(TINY)
        model.load_state_dict(tiny_model.state_dict())
        assert bank_of(model, tmp_path / "one", tmp_path).folder == folders[0]
        next(getattr(model, part).parameters()).data[:] += 1
        assert bank_of(model, tmp_path / "one", tmp_path).folder != folders[0]


def test_ranks_and_interruptions_leave_the_same_latents(tmp_path: Path, tiny_model: Synthesiser) -> None:
    """Two ranks fill what one fills alone; a bank that grows keeps what it has."""
    write_case(tmp_path / "in", "p1", shape=SHAPE)
    torch.manual_seed(0)
    alone = bank_of(tiny_model, tmp_path / "in", tmp_path, 4, "alone")
    alone.fill()
    for rank in (1, 0):
        bank_of(tiny_model, tmp_path / "in", tmp_path, 3, "ranks").fill(rank, 2)
    shared = bank_of(tiny_model, tmp_path / "in", tmp_path, 4, "ranks")
    before = {path: path.stat().st_mtime_ns for path in shared.folder.iterdir()}
    assert len(before) == 3
    shared.fill()
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    for path in sorted(alone.folder.iterdir()):
        np.testing.assert_array_equal(np.load(path), np.load(shared.folder / path.name))


@pytest.mark.usefixtures("in_float32")
def test_rows_of_a_bank_are_what_the_denoiser_sees_in_use(
    tmp_path: Path, tiny_model: Synthesiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a case that is neither deformed, mirrored nor of another scanner."""
    write_case(tmp_path / "in", "p1", shape=SHAPE)
    monkeypatch.setattr(augmentation, "DEFORMED", 0.0)
    monkeypatch.setattr(augmentation, "_mirrored", lambda drawn: drawn)
    monkeypatch.setattr(augmentation, "other_scanner", lambda rng, volumes, brain: volumes)
    bank = bank_of(tiny_model, tmp_path / "in", tmp_path)
    bank.fill()
    case, seen = bank.cases.cases[0], set()
    volumes, brain = torch.from_numpy(case.volumes.astype(np.float32)), torch.from_numpy(np.array(case.brain))
    for seed in range(4):
        mean, sources, extra, available, target, own = bank.row(np.random.default_rng(seed))
        seen.add((tuple(available.tolist()), int(target)))
        given = {m: volumes[n] for n, m in enumerate(TINY.modalities) if available[n]}
        with torch.inference_mode():
            encoded = tiny_model.encode(given, brain)
            expected = tiny_model.condition(encoded, int(target), *tiny_model.mean(encoded, int(target)))
            acquired = tiny_model.encode_latents(volumes[target][None, None])
        close = {"rtol": 1e-2, "atol": 1e-2}  # half precision
        for stored, used in ((mean, expected.mean), (sources, expected.sources), (extra, expected.extra)):
            torch.testing.assert_close(stored, used[0], **close)
        torch.testing.assert_close(own, acquired[0], **close)
        assert not available[target]
    assert len(seen) > 1


def test_figures_are_those_of_the_latents_in_the_brain(tmp_path: Path, tiny_model: Synthesiser) -> None:
    write_case(tmp_path / "in", "p1", shape=SHAPE)
    bank = bank_of(tiny_model, tmp_path / "in", tmp_path)
    bank.fill()
    own, residual = [], []
    for index in range(3):
        _, sources, targets = bank._task(index)
        mean, _, extra, _, _, latent = bank._row(index, sources, targets, 0)
        own.append(latent[:, extra[0] > 0])
        residual.append((latent - mean)[:, extra[0] > 0])
    figures = bank.figures()
    latents = torch.cat(own, 1)
    torch.testing.assert_close(figures["centre"], latents.mean(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(figures["spread"], latents.std(1, correction=0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        figures["residual"], torch.cat(residual, 1).square().mean(1).sqrt(), rtol=1e-3, atol=1e-4
    )
