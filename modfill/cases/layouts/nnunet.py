"""nnU-Net's raw datasets: imagesTr and imagesTs with `<case>_0000.nii.gz`, or files listed in dataset.json."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modfill.cases.accounting import UNEXPLAINED, account
from modfill.cases.files import CaseFiles, Cohort, visible
from modfill.cases.layouts.dataset_json import (
    FILE_ENDING,
    IMAGE_FOLDERS,
    ChannelCase,
    channel_modalities,
    channel_number,
    described,
    listed,
    load_description,
    read_dataset_json,
)
from modfill.errors import CaseError, ModfillError
from modfill.modalities import ModalitySet

__all__ = ["case_of", "channel_case", "find", "group_channels", "missing_other", "unnumbered"]


def find(path: Path, modality_set: ModalitySet, channels: Sequence[str] | None = None) -> Cohort:
    """Find the cases of a raw dataset, training cases and test cases alike.

    A case lacks the channels whose files are not there. Which channel is which modality is read from
    ``channel_names``; the order is never assumed. Channels of another kind, e.g. ADC, are carried along: a case
    without one has a problem. So has a label in labelsTr without any image.

    A dataset of the first nnU-Net, whose dataset.json has `modality` and no file ending, is read by its folders.

    Args:
        path: The dataset's folder, or its imagesTr or imagesTs.
        modality_set: The modalities to look for.
        channels: Modalities in the order of the channels, instead of dataset.json's names.

    Raises:
        ModfillError: If dataset.json cannot be read or is ambiguous about a channel, or there is no case.
    """
    root = described(path) or path
    dataset = load_description(root)
    if "modality" not in dataset or {"channel_names", "file_ending"} & set(dataset):
        dataset = read_dataset_json(root)
    modalities = channel_modalities(dataset, root / "dataset.json", modality_set, channels)
    wanted = IMAGE_FOLDERS if root == path else (path.absolute().name,)
    cases: list[CaseFiles] = []
    if "imagesTr" in wanted:
        cases += _training_cases(root, dataset.get("dataset"), modalities, modality_set)
    if "imagesTs" in wanted:
        cases += _cases_in(root / "imagesTs", modalities, modality_set)
    if not cases:
        raise CaseError(
            f"{path} must hold images such as imagesTr/<case>_0000{FILE_ENDING}, or list them in dataset.json, "
            "got none; add them"
        )
    return Cohort("nnunet", cases, dataset, modalities)


def channel_case(
    case_id: str,
    images: Sequence[Path | str],
    channels: Sequence[str],
    modality_set: ModalitySet,
    label: Path | None = None,
) -> ChannelCase:
    """Make a case of files as nnU-Net lists them.

    Args:
        case_id: Name of the case.
        images: Its files; some may be missing.
        channels: As ``channel_modalities`` gives them.
        modality_set: Those that can be synthesised.
        label: Where the segmentation of a training case lies or should lie.

    Returns:
        The case. Its ``problem`` is set if it lacks a channel that is not a modality, which cannot be synthesised.

    Raises:
        CaseError: If there is no file, or it is not certain which channel each one is.
    """
    numbered = _numbered(case_id, images, len(channels))
    named = {channels[number]: path for number, path in numbered.items()}
    paths = {modality: named[modality] for modality in modality_set.in_order(named)}
    carried = {number: path for number, path in numbered.items() if channels[number] not in modality_set.names}
    problem = missing_other(case_id, numbered, channels, modality_set)
    return ChannelCase(case_id, paths, problem, label=label, carried=carried, modality_set=modality_set)


def _numbered(case_id: str, images: Sequence[Path | str], count: int) -> dict[int, Path]:
    """A case's files by channel number. Raises CaseError if there is none or a number is ambiguous."""
    numbers = [channel_number(image) for image in images]
    if len(images) == count and all(number in (None, index) for index, number in enumerate(numbers)):
        return {index: Path(image) for index, image in enumerate(images)}
    wrong = [n is None or n >= count or numbers.count(n) > 1 for n in numbers]
    if len(images) == count and not any(wrong):
        wrong = [number != index for index, number in enumerate(numbers)]
    if any(wrong):
        number = numbers[wrong.index(True)]
        raise CaseError(
            f"case {case_id}: {Path(images[wrong.index(True)]).name} must end in a channel number from _0000 to "
            f"_{count - 1:04d}, each once and in order, got {number if number is not None else 'none'}; "
            "rename the file or its listing"
        )
    if not images:
        raise CaseError(f"case {case_id}: at least one of {count} channels must be there, got none; add its files")
    return {n: Path(image) for image, n in zip(images, numbers, strict=True) if n is not None}


def missing_other(
    case_id: str, numbers: Collection[int], channels: Sequence[str], modality_set: ModalitySet
) -> str | None:
    """Return the problem of a case that lacks a channel that is not a modality and cannot be synthesised, or None.

    Args:
        case_id: Name of the case.
        numbers: Channels that it has.
        channels: As ``channel_modalities`` gives them.
        modality_set: Those that can be synthesised.
    """
    for number, channel in enumerate(channels):
        if channel not in modality_set.names and number not in numbers:
            return (
                f"case {case_id}: channel {number} ({channel}) must be there, for only "
                f"{', '.join(modality_set.names)} can be synthesised, got no "
                f"{case_id}_{number:04d}{FILE_ENDING}; add it"
            )
    return None


def case_of(path: Path | str) -> str:
    """The case identifier in the name of a channel file; the whole name where it has no channel number."""
    stem = Path(path).name.removesuffix(FILE_ENDING)
    return stem if channel_number(path) is None else stem[: -len("_0000")]


def group_channels(folder: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """The files of a folder such as imagesTr by case, and the images without a channel number; hidden ones left out."""
    files: dict[str, list[Path]] = {}
    others = []
    for path in sorted(folder.glob(f"[!.]*{FILE_ENDING}")):
        if channel_number(path) is None:
            others.append(path)
        else:
            files.setdefault(case_of(path), []).append(path)
    return files, others


def unnumbered(path: Path) -> str:
    """The problem of an image without a channel number."""
    return f"{path} must end in a channel number, e.g. _0000{FILE_ENDING}, got none; rename or move it"


def _training_cases(
    root: Path, listing: Any, channels: tuple[str, ...], modality_set: ModalitySet
) -> Iterator[CaseFiles]:
    if listing is None:
        yield from _cases_in(root / "imagesTr", channels, modality_set, root / "labelsTr")
        return
    if not isinstance(listing, Mapping):
        raise ModfillError(
            f"{root / 'dataset.json'}: dataset must list 'images' and a 'label' by case, got "
            f"{type(listing).__name__}; correct it, or remove 'dataset' to have imagesTr and labelsTr read"
        )
    for case_id, entry in listing.items():
        images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, Mapping) else (None, None)
        names = images if isinstance(images, list) and all(isinstance(image, str) for image in images) else None
        if names is None or not isinstance(label, str):
            problem = (
                f"case {case_id}: its entry in dataset.json must hold 'images' and a 'label', got others; correct it"
            )
            yield CaseFiles(case_id, {}, problem)
        else:
            files = [listed(root, image) for image in names]
            yield _case(case_id, files, channels, modality_set, listed(root, label))


def _cases_in(
    folder: Path, channels: tuple[str, ...], modality_set: ModalitySet, labels: Path | None = None
) -> Iterator[CaseFiles]:
    files, others = group_channels(folder)
    for path in others:
        name = path.name.removesuffix(FILE_ENDING)
        yield CaseFiles(name, {}, f"case {name}: {unnumbered(path)}")
    foreign = _foreign_files(folder, modality_set)
    for case_id, images in files.items():
        case = _case(case_id, images, channels, modality_set, labels and labels / f"{case_id}{FILE_ENDING}")
        own = [name for name in foreign if name.startswith(f"{case_id}_")]
        yield replace(case, others={name: foreign.pop(name) for name in own})
    for name in (name for name, kind in foreign.items() if kind == UNEXPLAINED):
        yield CaseFiles(
            name, {}, f"case {name}: {folder / name} must end in {FILE_ENDING}, got another format; convert it"
        )
    for label in sorted(labels.glob(f"[!.]*{FILE_ENDING}")) if labels else ():
        name = label.name.removesuffix(FILE_ENDING)
        if name not in files and folder / label.name not in others:
            yield CaseFiles(name, {}, f"case {name}: {label} must have an image, got none; add or move it", label=label)


def _foreign_files(folder: Path, modality_set: ModalitySet) -> dict[str, str]:
    """Kind by name of the files in a folder that nnU-Net's ending leaves out; nnU-Net reads no folders below."""
    if not folder.is_dir():
        return {}
    entries = (entry for entry in visible(folder) if not entry.is_dir() and not entry.name.endswith(FILE_ENDING))
    return account(entries, modality_set)


def _case(
    case_id: str, images: list[Path], channels: tuple[str, ...], modality_set: ModalitySet, label: Path | None
) -> CaseFiles:
    """As ``channel_case``, but a refusal becomes the case's problem."""
    try:
        return channel_case(case_id, images, channels, modality_set, label)
    except CaseError as error:
        return CaseFiles(case_id, {}, str(error), label=label)
