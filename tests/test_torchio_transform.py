"""The TorchIO transforms: what they add, and in composition with loaders, workers, histories and pickles."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modfill.completer import ModalityCompleter
from modfill.errors import CaseError, ModfillError
from modfill.settings import Settings
from tests.case_files import MODALITIES, brain_volumes, oblique_affine, write_case
from tests.loading import PRESENT, batches, same

tio = pytest.importorskip("torchio")

from modfill.integrations.torchio_transform import (  # noqa: E402 torchio may be absent
    CompleteModalities,
    RandomCompleteModalities,
    RandomModalityDropout,
)


def subject(present: Sequence[str] = ("t1n", "t2f"), seed: int = 0, **more: Any) -> Any:
    """A subject of int16 images in memory, with a label."""
    volumes = brain_volumes(seed=seed)
    images = {m: tio.ScalarImage(tensor=volumes[m][None], affine=oblique_affine()) for m in present}
    label = tio.LabelMap(tensor=(volumes["t1n"] > 520)[None].astype(np.uint8), affine=oblique_affine())
    return tio.Subject(**images, seg=label, **more)


@pytest.fixture
def complete(tiny_weights: Path) -> Any:
    return CompleteModalities(tiny_weights)


def voxels(item: Any) -> dict[str, torch.Tensor]:
    return {m: item[m][tio.DATA] for m in MODALITIES}


def test_what_is_missing_is_added_on_the_same_grid(complete: Any, completer: ModalityCompleter) -> None:
    before = subject(subject_id="p1", age=45)
    after = complete(before)
    assert "t1c" not in before and "acquired_modalities" not in before  # the input is not changed
    expected = completer.complete_arrays(
        {m: before[m].numpy()[0] for m in ("t1n", "t2f")}, affine=oblique_affine(), case_id="p1"
    )
    for modality in ("t1c", "t2w"):
        assert isinstance(after[modality], tio.ScalarImage)
        assert torch.equal(after[modality].data[0], torch.from_numpy(expected[modality]))
        assert after[modality].data.dtype == torch.int16
    after.check_consistent_space()
    assert torch.equal(after.t1n.data, before.t1n.data) and torch.equal(after.seg.data, before.seg.data)
    assert after.age == 45 and after.t1c is after["t1c"]
    assert after.acquired_modalities.tolist() == [True, False, False, True]


def test_none_is_missing_too(complete: Any) -> None:
    after = complete(subject(t1c=None, t2w=None))
    assert all(
        torch.equal(a, b) for a, b in zip(voxels(after).values(), voxels(complete(subject())).values(), strict=True)
    )


def test_complete_subjects_stay_as_they_are(complete: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ModalityCompleter, "complete")
    before = subject(MODALITIES)
    after = complete(before)
    assert same(voxels(before), voxels(after))
    assert after.acquired_modalities.tolist() == [True] * 4


def test_names(tiny_weights: Path) -> None:
    volumes = brain_volumes()
    item = tio.Subject(
        T1=tio.ScalarImage(tensor=volumes["t1n"][None]), t1gd=tio.ScalarImage(tensor=volumes["t1c"][None])
    )
    names = {"t1n": "T1", "t1c": "t1gd", "t2f": "flair"}
    after = CompleteModalities(tiny_weights, names=names)(item)
    assert set(after.get_images_names()) == {"T1", "t1gd", "t2w", "flair"}
    assert after.acquired_modalities.tolist() == [True, True, False, False]


def test_include_and_exclude_choose_what_is_added(tiny_weights: Path) -> None:
    only = CompleteModalities(tiny_weights, include=["t1c"])(subject())
    assert "t1c" in only and "t2w" not in only
    without = CompleteModalities(tiny_weights, exclude=["t1c"])(subject())
    assert "t1c" not in without and "t2w" in without
    whole = CompleteModalities(tiny_weights)(subject())
    assert torch.equal(whole.t1c.data, only.t1c.data) and torch.equal(whole.t2w.data, without.t2w.data)


def test_dictionaries(tiny_weights: Path) -> None:
    volumes = {m: torch.from_numpy(v)[None] for m, v in brain_volumes().items()}
    after = CompleteModalities(tiny_weights, include=MODALITIES)({m: volumes[m] for m in ("t1n", "t2f")})
    assert after["t1c"].shape == volumes["t1n"].shape


def test_deterministic_in_seed_and_subject(tiny_weights: Path) -> None:
    def t1c(seed: int, **more: Any) -> torch.Tensor:
        return CompleteModalities(tiny_weights, settings=Settings("sample", seed=seed))(subject(**more)).t1c.data

    torch.manual_seed(1)
    first = t1c(0)
    torch.manual_seed(2)
    assert torch.equal(first, t1c(0))
    assert not torch.equal(first, t1c(1))
    assert not torch.equal(t1c(0, subject_id="a"), t1c(0, subject_id="b"))


def test_a_random_completion_is_one_of_the_plausible_images(tiny_weights: Path, tmp_path: Path) -> None:
    samples = {
        seed: CompleteModalities(tiny_weights, settings=Settings("sample", 1, seed))(subject(subject_id="p1"))
        for seed in (3, 4)
    }
    augment = RandomCompleteModalities(2, settings=Settings("sample", 1, 3), weights=tiny_weights, cache=tmp_path)
    seen = set()
    torch.manual_seed(0)
    for _ in range(8):
        drawn = augment(subject(subject_id="p1"))
        (seed,) = (seed for seed, sample in samples.items() if torch.equal(drawn.t1c.data, sample.t1c.data))
        (step,) = drawn.get_applied_transforms()
        assert isinstance(step, CompleteModalities) and step.settings == Settings("sample", 1, seed)
        seen.add(seed)
    assert seen == {3, 4} and len(list(tmp_path.rglob("*.npz"))) == 4  # two samples of two modalities
    with pytest.raises(ModfillError, match="count must be at least 1, got 0"):
        RandomCompleteModalities(0)


def test_float_images_stay_float(complete: Any) -> None:
    item = subject()
    for modality in ("t1n", "t2f"):
        item[modality].set_data(item[modality].data.float())
    after = complete(item)
    assert after.t1c.data.dtype == torch.float32 and bool((after.t1c.data[after.t1n.data == 0] == 0).all())


def test_a_synthetic_image_is_never_a_source(complete: Any) -> None:
    once = complete(subject())
    again = complete(once)
    assert again.acquired_modalities.tolist() == [True, False, False, True]
    del once["t2w"]
    refilled = complete(once)
    assert torch.equal(refilled.t2w.data, again.t2w.data)  # not made from the synthetic t1c
    assert refilled.acquired_modalities.tolist() == [True, False, False, True]


def test_a_file_that_modfill_wrote_is_never_a_source(
    complete: Any, completer: ModalityCompleter, tmp_path: Path
) -> None:
    folder = write_case(tmp_path, "p1", ("t1n", "t2f"))
    done = completer.complete(folder, out=tmp_path / "out")
    paths = {"t1n": folder / "p1-t1n.nii.gz", "t1c": done.paths["t1c"]}
    before = tio.ToCanonical()(tio.Subject(**{m: tio.ScalarImage(path) for m, path in paths.items()}))
    after = complete(before)
    assert after.acquired_modalities.tolist() == [True, False, False, False]
    del before["t1c"]
    assert torch.equal(after.t2w.data, complete(before).t2w.data)


@pytest.mark.parametrize("kind", [np.asarray, torch.Tensor.tolist, torch.Tensor.float])
def test_the_mask_counts_in_whatever_type(complete: Any, kind: Any) -> None:
    once = complete(subject())
    once["acquired_modalities"] = kind(once["acquired_modalities"])
    assert complete(once).acquired_modalities.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("mask", "got"), [(torch.ones(1, 4), r"shape \(1, 4\)"), ([True], r"shape \(1,\)"), ("yes", "'yes'")]
)
def test_wrong_masks(complete: Any, mask: Any, got: str) -> None:
    with pytest.raises(CaseError, match=f"case s: acquired_modalities must mark each of t1n, .*, got {got}; give"):
        complete(subject(subject_id="s", acquired_modalities=mask))


def test_history_replays(tiny_weights: Path, tmp_path: Path) -> None:
    complete = CompleteModalities(tiny_weights, cache=tmp_path, settings=Settings(seed=5))
    steps = [RandomModalityDropout(1), complete, tio.RandomFlip()]
    before = subject(("t1n", "t1c", "t2f"))
    after = tio.Compose(steps)(before)
    names = [transform.name for transform in after.history]
    assert names[:2] == ["ModalityDropout", "CompleteModalities"]
    replayed = after.get_composed_history()(before)
    assert same(voxels(after), voxels(replayed))
    assert torch.equal(after.acquired_modalities, replayed.acquired_modalities)
    assert "seed=5" in repr(after.history[1])


def test_pickles_small_and_whole(complete: Any) -> None:
    first = complete(subject())
    copy = pickle.loads(pickle.dumps(complete))
    assert len(pickle.dumps(complete)) < 20_000  # no model inside, also after use
    assert torch.equal(copy(subject()).t1c.data, first.t1c.data)


# loaders


def dataset(transform: Any, seeds: Sequence[int] = range(4)) -> Any:
    return tio.SubjectsDataset([subject(PRESENT[seed % len(PRESENT)], seed) for seed in seeds], transform)


def test_batches_collate_and_carry_the_mask(complete: Any) -> None:
    given = batches(dataset(complete), 0)
    assert given["t1c"].shape == (4, 1, 24, 28, 20)
    assert given["mask"].tolist() == [[m in present for m in MODALITIES] for present in PRESENT]


@pytest.mark.usefixtures("one_thread")  # as workers have
@pytest.mark.parametrize(
    ("workers", "start"), [(1, "fork"), (2, "fork"), (1, "spawn"), pytest.param(2, "spawn", marks=pytest.mark.slow)]
)
def test_workers_give_the_same_values(complete: Any, workers: int, start: str) -> None:
    assert same(batches(dataset(complete), 0), batches(dataset(complete), workers, start))


def test_second_epoch_comes_from_the_cache(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forked workers inherit the counting; they write to a file, since they share no memory."""
    runs, real = tmp_path / "runs", ModalityCompleter.complete

    def counted(self: ModalityCompleter, *args: Any, **kwargs: Any) -> Any:
        with runs.open("a") as file:
            file.write("x")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(ModalityCompleter, "complete", counted)
    data = dataset(CompleteModalities(tiny_weights, cache=tmp_path / "cache"))
    first = batches(data, 2, "fork")
    assert runs.read_text() == "xxx"  # one of the four is complete
    assert same(first, batches(data, 2, "fork"))
    assert same(first, batches(data, 0))
    assert runs.read_text() == "xxx"


def test_images_from_files(tiny_weights: Path, tmp_path: Path) -> None:
    folder = write_case(tmp_path, "p1", ("t1n", "t2w"))
    item = tio.Subject(**{m: tio.ScalarImage(folder / f"p1-{m}.nii.gz") for m in ("t1n", "t2w")})
    after = tio.Compose([CompleteModalities(tiny_weights), tio.ToCanonical(), tio.ZNormalization()])(item)
    after.check_consistent_space()
    loader = tio.SubjectsLoader(tio.SubjectsDataset([after, after]), batch_size=2)
    assert next(iter(loader))["t2f"][tio.DATA].shape[0] == 2


# wrong input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 0.5}, "p must be 1, got 0.5: incomplete subjects cannot be collated"),
        ({"names": {"t9": "x"}}, "names: a modality must be one of t1n, t1c, t2w, t2f, .* got 't9'"),
        ({"names": {"t1c": "t1n"}}, "names must be another for each modality, got t1n, t1n"),
        ({"include": ["flair"]}, "include and exclude must be among t1n, .*, got 'flair'; give names="),
        ({"exclude": ["flair"]}, "include and exclude must be among"),
        ({"settings": Settings(uncertainty=True)}, "uncertainty must be left out for arrays"),
    ],
)
def test_wrong_arguments(options: dict, message: str) -> None:
    with pytest.raises(ModfillError, match=message):
        CompleteModalities(**options)


def flat(volume: np.ndarray) -> Any:
    return tio.ScalarImage(tensor=volume[None, :, :, 10:11])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"t1n": tio.ScalarImage(tensor=torch.rand(2, 8, 8, 8))}, "case s: t1n must be 3D with one channel, got 2 ch"),
        ({"t1n": flat(brain_volumes()["t1n"])}, r"case s: t1n must be 3D with one channel, got 2D \(shape"),
        ({"t1n": torch.zeros(8), "seg": flat(brain_volumes()["t1n"])}, "t1n must be a ScalarImage or None, got"),
        ({"t1ce": flat(brain_volumes()["t1n"])}, "case s must have an acquired image .*, got t1ce; give"),
        ({"t1n": tio.ScalarImage(tensor=torch.zeros(1, 8, 8, 8))}, "must show a brain, got all zero"),
        ({"t1n": tio.ScalarImage(tensor=torch.ones(1, 1, 8, 8))}, r"t1n must have at least 2 voxels a side, got shape"),
        ({m: tio.ScalarImage(tensor=torch.ones(1, 1, 8, 8)) for m in MODALITIES}, "t1n must have at least 2 voxels"),
        ({"t1n": tio.ScalarImage(tensor=torch.randn(1, 8, 8, 8))}, "skull-stripped with a background of 0"),
    ],
)  # fmt: skip
def test_wrong_subjects(complete: Any, images: dict, message: str) -> None:
    with pytest.raises(CaseError, match=message) as caught:
        complete(tio.Subject(**images, subject_id="s"))
    assert "\n" not in str(caught.value)


def test_a_worker_s_error_stays_readable(complete: Any) -> None:
    """Its traceback has lines, and the last one is the message."""
    data = tio.SubjectsDataset([tio.Subject(t1n=flat(brain_volumes()["t1n"]), subject_id="a\nb")], complete)
    with pytest.raises(CaseError) as caught:
        batches(data, 1, "fork")
    lines = str(caught.value).strip().splitlines()
    assert lines[0].startswith("Caught CaseError in DataLoader worker") and len(lines) > 5
    assert lines[-1].startswith("modfill.errors.CaseError: case a\\nb: t1n must be 3D with one channel, got 2D")


def test_images_on_different_grids(complete: Any) -> None:
    item = subject(subject_id="s")
    moved = tio.Subject(**{**item, "t2f": tio.ScalarImage(tensor=item.t2f.data, affine=np.eye(4))})
    with pytest.raises(CaseError, match="case s: all images must be on one grid, got t1n with .* and t2f"):
        complete(moved)


def test_without_torchio_the_message_says_what_to_install() -> None:
    code = "import sys; sys.modules['torchio'] = None; import modfill.integrations.torchio_transform"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "ModfillError: The TorchIO transforms need TorchIO 0.20 or newer, but older than 2" in last
    assert last.endswith("pip install 'modfill[torchio]'")
