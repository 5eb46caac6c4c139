"""The Medical Segmentation Decathlon: one 4D file per case, whose fourth axis dataset.json's `modality` names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modfill.cases.filenames import nifti_stem
from modfill.cases.files import CaseFiles, Cohort
from modfill.cases.layouts.dataset_json import (
    FILE_ENDING,
    IMAGE_FOLDERS,
    channel_modalities,
    channel_number,
    described,
    listed,
    load_description,
)
from modfill.errors import CaseError
from modfill.modalities import ModalitySet

__all__ = ["find", "is_decathlon"]


def is_decathlon(path: Path) -> bool:
    """Return whether a folder's dataset.json is the Decathlon's: it names a `modality` and no file ending.

    The dataset.json of the first nnU-Net has the same keys, but its images are files by channel,
    `<case>_0000.nii.gz`, which it lists as `<case>.nii.gz`.

    Raises:
        ModfillError: If it is damaged.
    """
    root = described(path) or path
    dataset = load_description(root)
    if "modality" not in dataset or {"channel_names", "file_ending"} & set(dataset):
        return False
    images = [image for key in ("training", "test") for image, _ in _entries(root, dataset.get(key), key)]
    return any(os.path.lexists(image) for image in images) or not any(_has_channels(image) for image in images)


def _has_channels(image: Path) -> bool:
    """Return whether there are files by channel in place of a listed image."""
    stem = image.name.removesuffix(FILE_ENDING)
    try:
        names = os.listdir(image.parent)
    except OSError:
        return False
    return any(channel_number(name) is not None and name[: -len(f"_0000{FILE_ENDING}")] == stem for name in names)


def find(path: Path, modality_set: ModalitySet) -> Cohort:
    """Find the cases that dataset.json lists under `training` and `test`.

    Every case lists every modality. A missing one is a volume of zeros, which is found when the file is read.

    Args:
        path: The dataset's folder, or its imagesTr or imagesTs.
        modality_set: The modalities to look for.

    Raises:
        ModfillError: If dataset.json is damaged or is ambiguous about a modality, or lists no case.
    """
    root = described(path) or path
    dataset = load_description(root)
    channels = channel_modalities(dataset, root / "dataset.json", modality_set, foreign=False)
    volume_index = {modality: channels.index(modality) for modality in modality_set.in_order(channels)}
    wanted = IMAGE_FOLDERS if root == path else (path.absolute().name,)
    cases = []
    for key, folder in zip(("training", "test"), IMAGE_FOLDERS, strict=True):
        for image, label in _entries(root, dataset.get(key), key) if folder in wanted else ():
            case_id = nifti_stem(image.name) or image.name
            problem = None
            if not image.is_file() and not image.is_symlink():
                problem = f"case {case_id}: {image} must exist, as dataset.json lists it, got none; add it"
            cases.append(CaseFiles(case_id, dict.fromkeys(volume_index, image), problem, volume_index, label))
    if not cases:
        raise CaseError(f"{root / 'dataset.json'} must list images under training or test, got none; add them")
    return Cohort("decathlon", cases, dataset, channels)


def _entries(root: Path, entries: Any, key: str) -> Iterator[tuple[Path, Path | None]]:
    """Image and label of each entry: `{"image": ..., "label": ...}`, or the image alone."""
    for entry in entries or []:
        if isinstance(entry, str):
            entry = {"image": entry}
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            raise CaseError(f"{root / 'dataset.json'}: an entry of {key} must name an image, got {entry}; correct it")
        label = entry.get("label")
        yield listed(root, entry["image"]), listed(root, label) if isinstance(label, str) else None
