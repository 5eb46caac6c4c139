"""A raw nnU-Net dataset with gaps becomes one without, beside it, for nnU-Net's own commands."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modfill.integrations.nnunet.filling import ChannelFiller, FilledCase

from modfill.cases.layouts.dataset_json import (
    FILE_ENDING,
    ChannelFiles,
    cases_in,
    channel_files,
    channel_modalities,
    channel_names,
    listed,
    read_dataset_json,
)
from modfill.errors import CaseError, ModfillError
from modfill.outputs.linking import link, write_json

SYNTHETIC_FOLDER = "synthetic"


def prepare_dataset(
    dataset_id: int,
    new_id: int,
    channels: Sequence[str] | None = None,
    weights: Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Write `Dataset<new_id>_<name>_modfill` into nnUNet_raw, in which no case lacks a channel.

    Its dataset.json lists every file: acquired images and labels where they are, synthetic ones in its own folder
    `synthetic`. Test cases stand in `imagesTs`, acquired files as links, so that the folder can be predicted.

    Args:
        dataset_id: of the dataset that is there.
        new_id: of the one to write.
        channels: modalities in the order of the channels; None takes them from dataset.json's channel_names.
        weights: a file that `modfill train` wrote; None takes the shipped ones.
        device: as for `ModalityCompleter`.
        overwrite: do finished synthetic images again.

    Returns:
        The new dataset's folder; dataset.json appears in it when all else is done.

    Raises:
        ModfillError: the dataset is not there or cannot be read, its channels' modalities are doubtful, the new
            number is taken, or a case cannot be completed.
    """
    if not 0 < new_id < 1000:
        raise ModfillError(f"the new dataset's number must be from 1 to 999, got {new_id}; choose another")
    raw = _raw_folder()
    source = _dataset_folder(raw, dataset_id)
    target = raw / f"Dataset{new_id:03d}_{source.name.partition('_')[2]}_modfill"
    taken = [folder.name for folder in raw.glob(f"Dataset{new_id:03d}_*") if folder != target and folder.is_dir()]
    if taken:
        raise ModfillError(f"the new dataset's number must be free, got {new_id}, that of {taken[0]}; choose another")
    dataset = read_dataset_json(source)
    filler = ChannelFiller(channel_modalities(dataset, source.name, channels), weights, device)
    count = len(filler.modalities)
    training = _training_cases(source, dataset, count)
    filled = [filler.fill(case, target / SYNTHETIC_FOLDER / "imagesTr", overwrite) for case, _ in training]
    tested = cases_in(source / "imagesTs", count)
    _link_whole([filler.fill(case, target / SYNTHETIC_FOLDER / "imagesTs", overwrite) for case in tested], target)
    listing = {case.case_id: _entry(case, label, target) for case, (_, label) in zip(filled, training, strict=True)}
    synthetic = {case.case_id: [filler.modalities[n] for n in case.synthetic] for case in filled if case.synthetic}
    description = {
        **dataset,
        "channel_names": {str(n): name for n, name in enumerate(channel_names(dataset, source.name))},
        "numTraining": len(filled),
        "dataset": listing,
        "modfill": {"CompletedFrom": source.name, "SyntheticChannels": synthetic},
    }
    write_json(target / "dataset.json", description)
    return target


def _raw_folder() -> Path:
    raw = os.environ.get("nnUNet_raw")  # noqa: SIM112 (nnU-Net's own name)
    if not raw or not Path(raw).is_dir():
        raise ModfillError(f"nnUNet_raw must be set to the folder of nnU-Net's raw datasets, got {raw!r}; export it")
    return Path(os.path.abspath(raw))


def _dataset_folder(raw: Path, dataset_id: int) -> Path:
    found = sorted(folder for folder in raw.glob(f"Dataset{dataset_id:03d}_*") if folder.is_dir())
    if len(found) != 1:
        got = ", ".join(folder.name for folder in found) or "none"
        raise ModfillError(f"{raw} must hold one Dataset{dataset_id:03d}_<name>, got {got}; check -d and nnUNet_raw")
    return found[0]


def _training_cases(source: Path, dataset: Mapping[str, Any], count: int) -> list[tuple[ChannelFiles, Path]]:
    """Each training case with its label, from an explicit listing or from the folders."""
    listing = dataset.get("dataset")
    if listing is not None:
        _check_listing(listing, source)
        cases = [
            (channel_files(case_id, [listed(source, image) for image in entry["images"]], count),
             listed(source, entry["label"]))
            for case_id, entry in listing.items()
        ]  # fmt: skip
    else:
        cases = [
            (case, source / "labelsTr" / f"{case.case_id}{FILE_ENDING}")
            for case in cases_in(source / "imagesTr", count)
        ]
        unseen = {path.name for path in (source / "labelsTr").glob(f"*{FILE_ENDING}")} - {c[1].name for c in cases}
        if unseen:
            name = min(unseen)
            raise CaseError(
                f"case {name.removesuffix(FILE_ENDING)}: {name} must have an image, got none; add or move it"
            )
    if not cases:
        raise ModfillError(f"{source} must hold training cases, got none in dataset.json and imagesTr; add them")
    for case, label in cases:
        if not label.is_file():
            raise CaseError(
                f"case {case.case_id}: label {label} must be a file, got none; add it or move the case away"
            )
    return cases


def _check_listing(listing: Any, source: Path) -> None:
    """Refuse a listing that is not nnU-Net's."""
    entries = listing.items() if isinstance(listing, Mapping) else [("the whole", listing)]
    for case_id, entry in entries:
        images = entry.get("images") if isinstance(entry, Mapping) and isinstance(entry.get("label"), str) else None
        if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            raise ModfillError(
                f"{source / 'dataset.json'}: dataset must list 'images' and a 'label' for each case, got other content "
                f"for {case_id}; correct it, or remove 'dataset' to have imagesTr and labelsTr read"
            )


def _link_whole(cases: Sequence[FilledCase], target: Path) -> None:
    """Make `imagesTs` of the new dataset: these cases, and no link from an earlier run to others."""
    folder = target / "imagesTs"
    places = {folder / f"{c.case_id}_{n:04d}{FILE_ENDING}": file for c in cases for n, file in enumerate(c.files)}
    for place, file in places.items():
        link(file, place)
    for place in set(folder.glob(f"*{FILE_ENDING}")) - set(places):
        if place.is_symlink():
            place.unlink()


def _entry(case: FilledCase, label: Path, target: Path) -> dict[str, Any]:
    """The entry of dataset.json; relative, so that nnUNet_raw may be moved as a whole."""
    return {
        "images": [Path(os.path.relpath(file, target)).as_posix() for file in case.files],
        "label": Path(os.path.relpath(label, target)).as_posix(),
    }
