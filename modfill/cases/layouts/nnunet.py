"""nnU-Net's raw datasets: imagesTr and imagesTs with `<case>_0000.nii.gz`, or files listed in dataset.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modfill.cases.accounting import UNEXPLAINED, account
from modfill.cases.files import CaseFiles, Cohort, visible
from modfill.cases.layouts.dataset_json import (
    FILE_ENDING,
    IMAGE_FOLDERS,
    ChannelCase,
    channel_files,
    channel_modalities,
    described,
    group_channels,
    listed,
    load_description,
    missing_foreign,
    read_dataset_json,
    unnumbered,
)
from modfill.errors import CaseError, ModfillError
from modfill.modalities import MODALITIES

__all__ = ["find"]


def find(path: Path) -> Cohort:
    """Find the cases of a raw dataset, training cases and test cases alike.

    A case lacks the channels whose files are not there. Which channel is which modality is read from
    ``channel_names``; the order is never assumed. Channels of another kind, e.g. ADC, are carried along: a case
    without one has a problem.

    A dataset of the first nnU-Net, whose dataset.json has `modality` and no file ending, is read by its folders.

    Args:
        path: The dataset's folder, or its imagesTr or imagesTs.

    Raises:
        ModfillError: If dataset.json cannot be read or leaves doubt about a channel, or there is no case.
    """
    root = described(path) or path
    dataset = load_description(root)
    if "modality" not in dataset or {"channel_names", "file_ending"} & set(dataset):
        dataset = read_dataset_json(root)
    channels = channel_modalities(dataset, root / "dataset.json")
    wanted = IMAGE_FOLDERS if root == path else (path.absolute().name,)
    cases: list[CaseFiles] = []
    listing = dataset.get("dataset")
    if "imagesTr" in wanted:
        cases += _training_cases(root, listing, channels)
    if "imagesTs" in wanted:
        cases += _cases_in(root / "imagesTs", channels)
    if not cases:
        raise CaseError(
            f"{path} must hold images such as imagesTr/<case>_0000{FILE_ENDING}, or list them in dataset.json, "
            "got none; add them"
        )
    return Cohort("nnunet", cases, dataset, channels)


def _training_cases(root: Path, listing: Any, channels: tuple[str, ...]) -> Iterator[CaseFiles]:
    if listing is None:
        yield from _cases_in(root / "imagesTr", channels, root / "labelsTr")
        return
    if not isinstance(listing, Mapping):
        raise ModfillError(
            f"{root / 'dataset.json'}: dataset must list images by case, got {type(listing).__name__}; correct it"
        )
    for case_id, entry in listing.items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("images"), list) or "label" not in entry:
            problem = f"case {case_id}: its entry in dataset.json must hold images and label, got others; correct it"
            yield CaseFiles(case_id, {}, problem)
            continue
        images = [listed(root, str(image)) for image in entry["images"]]
        yield _case(case_id, images, channels, listed(root, str(entry["label"])))


def _cases_in(folder: Path, channels: tuple[str, ...], labels: Path | None = None) -> Iterator[CaseFiles]:
    files, others = group_channels(folder)
    for path in others:
        name = path.name.removesuffix(FILE_ENDING)
        yield CaseFiles(name, {}, f"case {name}: {unnumbered(path)}")
    foreign = _foreign_files(folder)
    for case_id, images in files.items():
        case = _case(case_id, images, channels, labels and labels / f"{case_id}{FILE_ENDING}")
        own = [name for name in foreign if name.startswith(f"{case_id}_")]
        yield replace(case, others={name: foreign.pop(name) for name in own})
    for name in (name for name, kind in foreign.items() if kind == UNEXPLAINED):
        yield CaseFiles(
            name, {}, f"case {name}: {folder / name} must end in {FILE_ENDING}, got another format; convert it"
        )


def _foreign_files(folder: Path) -> dict[str, str]:
    """Kind by name of the files in a folder that nnU-Net's ending leaves out; nnU-Net reads no folders below."""
    if not folder.is_dir():
        return {}
    return account(entry for entry in visible(folder) if not entry.is_dir() and not entry.name.endswith(FILE_ENDING))


def _case(case_id: str, images: list[Path], channels: tuple[str, ...], label: Path | None) -> CaseFiles:
    try:
        numbered = channel_files(case_id, images, len(channels)).paths
    except CaseError as error:
        return CaseFiles(case_id, {}, str(error), label=label)
    named = {channels[number]: path for number, path in numbered.items()}
    carried = {number: path for number, path in numbered.items() if channels[number] not in MODALITIES}
    problem = missing_foreign(case_id, numbered, channels)
    paths = {m: named[m] for m in MODALITIES if m in named}
    return ChannelCase(case_id, paths, problem, label=label, carried=carried)
