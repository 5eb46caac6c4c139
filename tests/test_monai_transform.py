"""The MONAI transforms: separate images and stacks, loaders and workers, caches, metadata."""

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
from modfill.integrations.monai_transform import CompleteModalitiesd, RandCompleteModalitiesd
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import (
    Compose,
    ConcatItemsd,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    SaveImaged,
)

from modfill.completer import ModalityCompleter
from modfill.errors import CaseError, ModfillError
from modfill.settings import Settings
from tests.case_files import MODALITIES, brain_volumes, oblique_affine, write_case
from tests.loading import PRESENT

pytestmark = pytest.mark.usefixtures("one_thread")


def item(present: Sequence[str] = ("t1n", "t2f"), seed: int = 0, **more: Any) -> dict[str, Any]:
    """A dictionary of MetaTensors (1, X, Y, Z), float32 as LoadImaged gives them."""
    volumes = brain_volumes(seed=seed)
    affine = torch.from_numpy(oblique_affine())
    images = {m: MetaTensor(torch.from_numpy(volumes[m]).float()[None], affine=affine) for m in present}
    return {**images, **more}


def stack(present: Sequence[str], order: Sequence[str] = MODALITIES, seed: int = 0) -> dict[str, Any]:
    """A dictionary with one MetaTensor (C, X, Y, Z), all zero in the channels that are missing."""
    volumes = brain_volumes(seed=seed)
    channels = [volumes[m] if m in present else np.zeros_like(volumes[m]) for m in order]
    return {"image": MetaTensor(torch.from_numpy(np.stack(channels)).float(), affine=torch.eye(4))}


def same(first: dict, second: dict, keys: Sequence[str] = MODALITIES) -> bool:
    return all(torch.equal(torch.as_tensor(first[key]), torch.as_tensor(second[key])) for key in keys)


@pytest.fixture
def complete(tiny_weights: Path) -> CompleteModalitiesd:
    return CompleteModalitiesd(weights=tiny_weights)


def test_missing_keys_are_added(complete: CompleteModalitiesd, completer: ModalityCompleter) -> None:
    before = item(subject_id="p1", label=3)
    after = complete(before)
    assert set(before) == {"t1n", "t2f", "subject_id", "label"}
    expected = completer.complete_arrays(
        {m: before[m].numpy()[0] for m in ("t1n", "t2f")}, affine=oblique_affine(), case_id="p1"
    )
    for modality in ("t1c", "t2w"):
        assert isinstance(after[modality], MetaTensor)
        assert np.array_equal(after[modality].numpy()[0], expected[modality])
        assert torch.equal(after[modality].affine, before["t1n"].affine)
    assert same(before, after, ("t1n", "t2f")) and after["label"] == 3
    assert after["acquired_modalities"].tolist() == [True, False, False, True]


def test_none_is_missing_too(complete: CompleteModalitiesd) -> None:
    assert same(complete(item(t1c=None)), complete(item()))


def test_stacks_and_separate_images_give_the_same(tiny_weights: Path) -> None:
    order = ("t2f", "t1n", "t1c", "t2w")  # as in the Medical Decathlon
    separate = CompleteModalitiesd(weights=tiny_weights)(
        {m: MetaTensor(t.as_tensor(), affine=torch.eye(4)) for m, t in item(("t1n", "t2f")).items()}
    )
    before = stack(("t1n", "t2f"), order)
    after = CompleteModalitiesd("image", modalities=order, weights=tiny_weights)(before)
    assert not before["image"][2].any()  # the input is not changed
    assert isinstance(after["image"], MetaTensor) and after["image"].shape[0] == 4
    assert all(torch.equal(after["image"][i], separate[m][0]) for i, m in enumerate(order))
    assert after["acquired_modalities"].tolist() == [True, False, False, True]


def test_keys_of_other_names_and_fewer_modalities(tiny_weights: Path) -> None:
    images = item()
    after = CompleteModalitiesd(("T1", "T1GD", "FLAIR"), modalities=("t1n", "t1c", "t2f"), weights=tiny_weights)(
        {"T1": images["t1n"], "FLAIR": images["t2f"]}
    )
    assert set(after) == {"T1", "T1GD", "FLAIR", "acquired_modalities"}
    assert torch.equal(after["T1GD"], CompleteModalitiesd(weights=tiny_weights)(images)["t1c"])
    assert after["acquired_modalities"].tolist() == [True, False, False, True]


def test_a_synthetic_image_is_never_a_source(complete: CompleteModalitiesd) -> None:
    once = complete(item())
    again = complete({key: value for key, value in once.items() if key != "t2w"})
    assert same(once, again, (*MODALITIES, "acquired_modalities"))


def test_a_file_that_modfill_wrote_is_never_a_source(
    tiny_weights: Path, completer: ModalityCompleter, tmp_path: Path
) -> None:
    folder = write_case(tmp_path, "p1", ("t1n", "t2f"))
    paths = {"t1n": folder / "p1-t1n.nii.gz", "t1c": completer.complete(folder, out=tmp_path / "out").paths["t1c"]}
    steps = pipeline(tiny_weights)
    after = steps({m: str(path) for m, path in paths.items()})
    assert after["acquired_modalities"].tolist() == [True, False, False, False]
    assert torch.equal(after["t2w"], steps({"t1n": str(paths["t1n"])})["t2w"])


@pytest.mark.parametrize("kind", [np.asarray, torch.Tensor.tolist])
def test_the_mask_counts_in_whatever_type(complete: CompleteModalitiesd, kind: Any) -> None:
    once = complete(item())
    once["acquired_modalities"] = kind(once["acquired_modalities"])
    assert complete(once)["acquired_modalities"].tolist() == [True, False, False, True]


def test_one_cache_for_both_libraries(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tio = pytest.importorskip("torchio")
    from modfill.integrations.torchio_transform import CompleteModalities

    first = CompleteModalitiesd(weights=tiny_weights, cache=tmp_path)(item())
    monkeypatch.delattr(ModalityCompleter, "complete")
    images = {m: tio.ScalarImage(tensor=item()[m].numpy(), affine=oblique_affine()) for m in ("t1n", "t2f")}
    second = CompleteModalities(tiny_weights, cache=tmp_path)(tio.Subject(**images))
    assert np.array_equal(first["t1c"].numpy(), second.t1c.numpy())


def test_tensors_of_a_graph(complete: CompleteModalitiesd) -> None:
    traced = {m: image.clone().requires_grad_() for m, image in item().items()}
    assert same(complete(traced), complete(item()))


def test_deterministic_in_seed_and_subject(tiny_weights: Path) -> None:
    def t1c(seed: int, **more: Any) -> torch.Tensor:
        return CompleteModalitiesd(weights=tiny_weights, settings=Settings("sample", seed=seed))(item(**more))["t1c"]

    assert torch.equal(t1c(0), t1c(0))
    assert not torch.equal(t1c(0), t1c(1))
    assert not torch.equal(t1c(0, subject_id="a"), t1c(0, subject_id="b"))


def test_a_random_completion_is_one_of_the_plausible_images(tiny_weights: Path, tmp_path: Path) -> None:
    given = item(subject_id="p1")
    samples = [
        CompleteModalitiesd(weights=tiny_weights, settings=Settings("sample", 1, seed))(given) for seed in (3, 4)
    ]
    augment = RandCompleteModalitiesd(
        num_samples=2, settings=Settings("sample", 1, 3), weights=tiny_weights, cache=tmp_path
    )
    assert augment.keys == MODALITIES
    augment.set_random_state(seed=0)
    drawn = [augment(given) for _ in range(8)]
    matches = [[same(one, sample, ("t1c", "t2w")) for sample in samples] for one in drawn]
    assert all(sum(match) == 1 for match in matches) and {tuple(match) for match in matches} == {(1, 0), (0, 1)}
    assert len(list(tmp_path.rglob("*.npz"))) == 4  # two samples of two modalities


def test_pickles_small_and_whole(complete: CompleteModalitiesd) -> None:
    first = complete(item())
    assert len(pickle.dumps(complete)) < 20_000
    assert same(first, pickle.loads(pickle.dumps(complete))(item()))


# pipelines and loaders


def pipeline(weights: Path, **options: Any) -> Compose:
    return Compose(
        [
            LoadImaged(MODALITIES, allow_missing_keys=True),
            EnsureChannelFirstd(MODALITIES, allow_missing_keys=True),
            Orientationd(MODALITIES, "RAS", labels=None, allow_missing_keys=True),
            CompleteModalitiesd(weights=weights, **options),
            NormalizeIntensityd(MODALITIES, nonzero=True),
            ConcatItemsd(MODALITIES, "image"),
        ]
    )


@pytest.fixture
def files(tmp_path: Path) -> list[dict[str, str]]:
    cases = []
    for seed, present in enumerate(PRESENT):
        folder = write_case(tmp_path, f"p{seed}", present, seed=seed)
        cases.append({m: str(folder / f"p{seed}-{m}.nii.gz") for m in present})
    return cases


def batches(data: Any, workers: int = 0, start: str | None = None) -> dict[str, torch.Tensor]:
    loaded = list(DataLoader(data, batch_size=2, num_workers=workers, multiprocessing_context=start))
    return {
        key: torch.cat([torch.as_tensor(batch[key]) for batch in loaded]) for key in ("image", "acquired_modalities")
    }


@pytest.mark.usefixtures("one_thread")  # as workers have
@pytest.mark.parametrize(
    ("workers", "start"), [(1, "fork"), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow)]
)
def test_workers_give_the_same_batches(
    tiny_weights: Path, files: list, tmp_path: Path, workers: int, start: str
) -> None:
    here = batches(Dataset(files, pipeline(tiny_weights)))
    assert here["image"].shape == (4, 4, 24, 28, 20)
    assert here["acquired_modalities"].tolist() == [[m in present for m in MODALITIES] for present in PRESENT]
    there = batches(Dataset(files, pipeline(tiny_weights, cache=tmp_path / "cache")), workers, start)
    assert same(here, there, tuple(here))


def test_second_epoch_comes_from_the_cache(
    tiny_weights: Path, files: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Dataset(files, pipeline(tiny_weights, cache=tmp_path / "cache"))
    first = batches(data)
    monkeypatch.delattr(ModalityCompleter, "complete")
    assert same(first, batches(data), tuple(first))
    assert same(first, batches(data, 2, "fork"), tuple(first))


def test_cache_dataset_keeps_what_was_completed(
    tiny_weights: Path, files: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = pipeline(tiny_weights)
    kept = CacheDataset(files, steps, num_workers=2, progress=False)
    monkeypatch.delattr(ModalityCompleter, "complete")
    first = batches(kept)
    assert same(first, batches(kept), tuple(first))


def test_metadata_of_its_own_and_the_way_back(tiny_weights: Path, files: list, tmp_path: Path) -> None:
    """A synthetic image is inverted and saved like its sources, and never under the name of one."""
    steps = Compose(pipeline(tiny_weights).transforms[:4])
    after = steps(files[0])
    named = [Path(after[m].meta["filename_or_obj"]).name for m in MODALITIES]
    assert named == ["p0-t1n.nii.gz", "p0-t1n-synthetic-t1c.nii.gz", "p0-t2f-synthetic-t2w.nii.gz", "p0-t2f.nii.gz"]
    back = Invertd(MODALITIES, steps, orig_keys=MODALITIES)(after)
    loaded = LoadImaged("t1n")(files[0])["t1n"]
    assert back["t1c"].shape[1:] == loaded.shape and torch.allclose(back["t1c"].affine, loaded.affine)
    SaveImaged("t1c", output_dir=tmp_path / "out", separate_folder=False, print_log=False)(back)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p0-t1n-synthetic-t1c_trans.nii.gz"]


def test_decollates(complete: CompleteModalitiesd) -> None:
    batch = next(iter(DataLoader([complete(item(seed=s)) for s in (0, 1)], batch_size=2)))
    assert [one["t1c"].shape for one in decollate_batch(batch)] == [(1, 24, 28, 20)] * 2


# wrong input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": ("t1n", "t1c", "t2w", "adc")}, "modalities: each must be one of .*, got 'adc'"),
        ({"keys": ("t1c", "t1n", "t2f", "t2w")}, "those that the keys t1c, t1n, t2f, t2w name, got t1n, t1c, t2w, t2f"),
        ({"keys": ("flair", "t1"), "modalities": ("t1n", "t2f")}, "those that the keys flair, t1 name, got t1n, t2f"),
        ({"modalities": ("t1n", "t1n")}, "modalities must be two or more different .*, got 't1n, t1n'"),
        ({"modalities": ()}, "modalities must be two or more different .*, got 'none'"),
        ({"keys": ("a", "b")}, r"keys must be one stack or another key for each .*, got 2 keys \(a, b\); give"),
        ({"keys": ("a", "a", "b", "c")}, r"keys must be .*, got 4 keys \(a, a, b, c\); give"),
        ({"settings": Settings(uncertainty=True)}, "uncertainty must be left out for arrays"),
    ],
)  # fmt: skip
def test_wrong_arguments(options: dict, message: str) -> None:
    with pytest.raises(ModfillError, match=message):
        CompleteModalitiesd(**options)


def meta(tensor: torch.Tensor) -> MetaTensor:
    return MetaTensor(tensor, affine=torch.eye(4))


@pytest.mark.parametrize(
    ("keys", "data", "message"),
    [
        (MODALITIES, {"t1n": torch.ones(1, 8, 8, 8)}, "case s: t1n must be a MetaTensor, .*, got Tensor; load it with"),
        (MODALITIES, {"t1n": "file.nii.gz"}, "t1n must be a MetaTensor, .*, got str; load it with LoadImaged"),
        (MODALITIES, {"t1n": meta(torch.ones(8, 8, 8))}, r"the shape \(1, X, Y, Z\), its one channel"),
        (MODALITIES, {"t1n": meta(torch.ones(1, 8, 8))}, r"got \(1, 8, 8\)"),
        (MODALITIES, {"flair": meta(torch.ones(1, 8, 8, 8))}, "an acquired image under t1n, .*, got none"),
        ("image", {"image": meta(torch.ones(3, 8, 8, 8))}, r"shape \(4, X, Y, Z\), a channel for each of t1n"),
        ("image", {"image": meta(torch.zeros(4, 8, 8, 8))}, "acquired channel that is not all zero"),
        ("image", {}, "must have a stack of modalities under 'image', got none"),
    ],
)  # fmt: skip
def test_wrong_data(tiny_weights: Path, keys: Any, data: dict, message: str) -> None:
    with pytest.raises(CaseError, match=message) as caught:
        CompleteModalitiesd(keys, weights=tiny_weights)({**data, "subject_id": "s"})
    assert "\n" not in str(caught.value)


def test_images_on_different_grids(complete: CompleteModalitiesd) -> None:
    data = item(subject_id="s")
    data["t2f"] = MetaTensor(data["t2f"].as_tensor(), affine=torch.eye(4))
    with pytest.raises(CaseError, match="case s: all images must be on one grid, got t1n with .* and t2f"):
        complete(data)


def test_without_monai_the_message_says_what_to_install() -> None:
    code = "import sys; sys.modules['monai.config'] = None; import modfill.integrations.monai_transform"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("ModfillError: The MONAI transforms need MONAI: pip install 'monai>=1.4'")
