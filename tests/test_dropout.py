"""Dropout of modalities, for TorchIO and MONAI: what stays, what it is drawn from, and wrong input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modfill.integrations.monai_transform import CompleteModalitiesd, RandModalityDropoutd
from monai.data import Dataset
from monai.transforms import Compose, LoadImaged

from modfill.completer import ModalityCompleter
from modfill.errors import CaseError, ModfillError
from tests.case_files import MODALITIES, write_case
from tests.test_monai_transform import batches, item, meta, stack

tio = pytest.importorskip("torchio")

from modfill.integrations.torchio_transform import (  # noqa: E402 torchio may be absent
    CompleteModalities,
    RandomModalityDropout,
)

from tests.test_torchio_transform import subject  # noqa: E402

# TorchIO's subjects


def test_subjects_keep_one_modality() -> None:
    torch.manual_seed(0)
    counts = [len(set(RandomModalityDropout()(subject(MODALITIES))) & set(MODALITIES)) for _ in range(60)]
    assert set(counts) == {1, 2, 3}
    assert "t1n" in RandomModalityDropout(3)(subject(("t1n",)))


def test_subjects_follow_torch_s_seed_and_the_choice() -> None:
    def left(**more: Any) -> list[str]:
        torch.manual_seed(3)
        return RandomModalityDropout(2, **more)(subject(MODALITIES)).get_images_names()

    assert left() == left() and len(left()) == 3  # two and the label
    assert {"t1n", "t1c"} < set(left(include=["t2w", "t2f"]))
    assert {"t1n", "t1c"} < set(left(exclude=["t1n", "t1c"]))
    assert len(left(p=0)) == 5


def test_images_of_subjects_are_gone_under_both_names() -> None:
    after = RandomModalityDropout(1, include=["t1c"])(subject(MODALITIES))
    assert "t1c" not in after and not hasattr(after, "t1c")


def test_completed_subjects_keep_an_acquired_one(tiny_weights: Path) -> None:
    """A data set completed once, in memory, and thinned out anew in every epoch."""
    complete = CompleteModalities(tiny_weights)
    once = complete(subject(("t1n", "t2w")))
    left = []
    for seed in range(12):
        torch.manual_seed(seed)
        after = RandomModalityDropout(3)(once)
        left.append(*set(after) & set(MODALITIES))
        assert complete(after).acquired_modalities.sum() == 1
    assert set(left) == {"t1n", "t2w"}
    protected = RandomModalityDropout(3, exclude=["t1n"])(once)
    assert set(protected) & set(MODALITIES) == {"t1n"}


def test_subjects_are_drawn_once() -> None:
    """What was drawn is then done; it is not drawn for a second time."""
    torch.manual_seed(0)
    whole = [len(set(RandomModalityDropout(1, p=0.5)(subject(MODALITIES))) & set(MODALITIES)) for _ in range(100)]
    assert 35 < whole.count(4) < 65


def test_subjects_without_anything_to_drop() -> None:
    item = tio.Subject(T1=tio.ScalarImage(tensor=torch.ones(1, 8, 8, 8)), subject_id="s")
    with pytest.raises(CaseError, match="case s must have an acquired image under one of t1n, .*, got T1; give the na"):
        RandomModalityDropout()(item)


# MONAI's dictionaries


def test_keys_keep_one_modality() -> None:
    drop = RandModalityDropoutd().set_random_state(0)
    before = item(MODALITIES, label=1)
    counts = [len(set(drop(before)) & set(MODALITIES)) for _ in range(60)]
    assert set(counts) == {1, 2, 3} and len(before) == 5
    assert set(drop(item(("t2f",), label=1))) == {"t2f", "label"}


def test_channels_keep_one_modality() -> None:
    drop = RandModalityDropoutd("image").set_random_state(0)
    before = stack(MODALITIES)
    counts = [sum(bool(channel.any()) for channel in drop(before)["image"]) for _ in range(60)]
    assert set(counts) == {1, 2, 3} and all(channel.any() for channel in before["image"])
    assert drop(stack(("t2w",)))["image"][2].any()


def test_keys_follow_their_seed_and_probability() -> None:
    def left(**options: Any) -> list[set]:
        drop = RandModalityDropoutd(**options).set_random_state(4)
        return [set(drop(item(MODALITIES))) for _ in range(10)]

    assert left() == left()
    assert left(prob=0.0) == left(num_dropped=0) == [set(MODALITIES)] * 10
    assert all("t1n" in one for one in left(keys=MODALITIES[1:]))


@pytest.mark.parametrize("stacked", [False, True])
def test_completed_data_keep_an_acquired_one(tiny_weights: Path, stacked: bool) -> None:
    """Data completed once, by a `CacheDataset`, and thinned out anew in every epoch."""
    keys = "image" if stacked else MODALITIES
    complete = CompleteModalitiesd(keys, weights=tiny_weights)
    drop = RandModalityDropoutd(keys, num_dropped=3).set_random_state(1)
    once = complete(stack(("t1n", "t2w")) if stacked else item(("t1n", "t2w")))
    left = [complete(drop(once))["acquired_modalities"].tolist() for _ in range(12)]
    assert {tuple(mask) for mask in left} == {(True, False, False, False), (False, False, True, False)}


@pytest.mark.parametrize("library", ["torchio", "monai"])
def test_a_file_that_modfill_wrote_may_always_go(library: str, completer: ModalityCompleter, tmp_path: Path) -> None:
    folder = write_case(tmp_path, "p1", ("t1n",))
    paths = {"t1n": folder / "p1-t1n.nii.gz", "t2w": completer.complete(folder, out=tmp_path / "out").paths["t2w"]}
    data = tio.Subject(**{m: tio.ScalarImage(path) for m, path in paths.items()})
    drop: Any = RandomModalityDropout(1)
    if library == "monai":
        drop = RandModalityDropoutd(num_dropped=1).set_random_state(0)
        data = LoadImaged(("t1n", "t2w"))({m: str(path) for m, path in paths.items()})
    torch.manual_seed(0)
    assert all("t1n" in drop(data) for _ in range(8))


@pytest.mark.parametrize("workers", [0, 2])
def test_dropped_channels_are_synthesised(tiny_weights: Path, workers: int) -> None:
    steps = Compose([RandModalityDropoutd("image", num_dropped=2), CompleteModalitiesd("image", weights=tiny_weights)])
    given = batches(Dataset([stack(MODALITIES, seed=s) for s in range(2)], steps), workers)
    assert given["acquired_modalities"].sum(1).tolist() == [2, 2]
    assert all(channel.any() for case in given["image"] for channel in case)


# wrong input


@pytest.mark.parametrize("count", [-1, 4, (2, 1), (1, 4), 1.5, (1, 2.5), (1, 2, 3), "2"])
def test_wrong_numbers(count: Any) -> None:
    with pytest.raises(ModfillError, match="num_dropped must be from 0 to 3"):
        RandomModalityDropout(count)
    with pytest.raises(ModfillError, match="num_dropped must be from 0 to 3"):
        RandModalityDropoutd(num_dropped=count)


@pytest.mark.parametrize(
    ("keys", "data", "message"),
    [
        (
            "image",
            {"image": meta(torch.ones(8, 8, 8))},
            r"case s: image must be a tensor \(4, X, Y, Z\) of t1n, .* \(8",
        ),
        (
            "image",
            {"image": meta(torch.ones(4, 8, 8))},
            r"got MetaTensor \(4, 8, 8\); stack them with ConcatItemsd, or",
        ),
        ("image", {"image": meta(torch.ones(3, 8, 8, 8))}, r"got MetaTensor \(3, 8, 8, 8\); .* or give modalities="),
        ("image", {"image": np.ones((4, 8, 8, 8))}, "got ndarray"),
        ("image", {}, "must have a stack of modalities under 'image', got none"),
        (MODALITIES, {"T1": meta(torch.ones(1, 8, 8, 8))}, "an acquired image under t1n, .*, got none; check keys"),
    ],
)
def test_data_without_anything_to_drop(keys: Any, data: dict, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        RandModalityDropoutd(keys)({**data, "subject_id": "s"})


def test_wrong_probability() -> None:
    with pytest.raises(ModfillError, match="prob must be from 0 to 1, got 2"):
        RandModalityDropoutd(prob=2)
