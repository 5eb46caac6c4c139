"""A dataset.json, nnU-Net's or the Decathlon's: which modality each channel is, and which channels a case has."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modfill.cases.filenames import is_contrast_word, is_other_sequence, is_segmentation
from modfill.cases.files import CaseFiles
from modfill.errors import ModfillError
from modfill.modalities import ModalitySet

FILE_ENDING = ".nii.gz"
IMAGE_FOLDERS = ("imagesTr", "imagesTs")
_OWN_KEYS = {"channel_names", "modality", "labels", "file_ending"}  # of nnU-Net's and the Decathlon's descriptions


@dataclass(frozen=True)
class ChannelCase(CaseFiles):
    """The files of a case in nnU-Net's channels, where a channel of zeros is the usual way to write a missing one.

    Attributes:
        carried: File by channel number of those channels that are no modality, e.g. ADC.
    """

    carried: dict[int, Path] = field(default_factory=dict)

    def numbered(self, channels: Sequence[str]) -> dict[int, Path]:
        """File by number of the channels that the case has, modalities and others alike.

        Args:
            channels: as ``channel_modalities`` gives them.
        """
        files = {n: self.paths.get(channel, self.carried.get(n)) for n, channel in enumerate(channels)}
        return {number: file for number, file in files.items() if file is not None}


def described(path: Path) -> Path | None:
    """The folder whose dataset.json describes the images in `path`: itself, or the one above imagesTr or imagesTs."""
    for folder in (path, path.absolute().parent) if path.absolute().name in IMAGE_FOLDERS else (path,):
        if (folder / "dataset.json").is_file():
            return folder
    return None


def is_foreign(folder: Path) -> bool:
    """Return whether a folder's dataset.json is of another tool than nnU-Net or the Decathlon, e.g. MONAI's datalist.

    One that cannot be read does not count: it may be a damaged one of nnU-Net.
    """
    if any((folder / name).is_dir() for name in IMAGE_FOLDERS):
        return False
    try:
        dataset = json.loads((folder / "dataset.json").read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError):
        return False
    return not isinstance(dataset, dict) or not _OWN_KEYS & set(dataset)


def load_description(folder: Path) -> dict[str, Any]:
    """Read a folder's dataset.json, of any kind.

    Raises:
        ModfillError: there is none, or it is damaged.
    """
    path = folder / "dataset.json"
    try:
        dataset = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModfillError(
            f"{path} must be nnU-Net's description of the dataset, got {type(error).__name__}; give a folder with one"
        ) from error
    if not isinstance(dataset, dict):
        raise ModfillError(f"{path} must hold channel_names, labels and file_ending, got others; see nnU-Net's manual")
    return dataset


def read_dataset_json(folder: Path) -> dict[str, Any]:
    """Read nnU-Net's dataset.json, of a dataset or a trained model.

    Raises:
        ModfillError: there is none, it is damaged, or its images are not NIfTI.
    """
    path, dataset = folder / "dataset.json", load_description(folder)
    if not isinstance(dataset.get("labels"), dict):
        raise ModfillError(f"{path} must hold channel_names, labels and file_ending, got others; see nnU-Net's manual")
    require_nifti(dataset, path)
    return dataset


def require_nifti(dataset: Mapping[str, Any], where: Path | str) -> None:
    """Refuse images of another format than NIfTI.

    Args:
        dataset: content of dataset.json.
        where: the dataset, with which the message begins.

    Raises:
        ModfillError: file_ending is another one than .nii.gz.
    """
    if dataset.get("file_ending") != FILE_ENDING:
        raise ModfillError(
            f"{where}: file_ending must be '{FILE_ENDING}', got {dataset.get('file_ending')!r}; convert the images"
        )


def channel_names(dataset: Mapping[str, Any], where: Path | str) -> tuple[str, ...]:
    """The names in dataset.json's `channel_names` (once `modality`), by channel number.

    Args:
        dataset: content of dataset.json.
        where: the dataset, with which a message begins.

    Raises:
        ModfillError: there are none, or their numbers are not 0, 1, 2, ...
    """
    names = dataset.get("channel_names", dataset.get("modality"))
    if not isinstance(names, Mapping) or sorted(names) != sorted(str(n) for n in range(len(names))) or not names:
        raise ModfillError(f"{where}: channel_names must number the channels '0', '1', ..., got {names}; correct it")
    return tuple(str(names[str(number)]) for number in range(len(names)))


def channel_modalities(
    dataset: Mapping[str, Any],
    where: Path | str,
    modality_set: ModalitySet,
    explicit: Sequence[str] | None = None,
    foreign: bool = True,
) -> tuple[str, ...]:
    """Determine the modality of each channel.

    A channel of another kind, e.g. ADC, keeps its own name. An unknown name is accepted as another kind if it is
    that of another sequence or of a segmentation, or if all modalities have a channel. It is never accepted if it
    contains a word for a modality.

    Args:
        dataset: content of dataset.json.
        where: the dataset, with which a message begins.
        modality_set: the modalities that a channel may be.
        explicit: names of the modalities in the order of the channels, instead of dataset.json's.
        foreign: allow channels of another kind.

    Returns:
        The modalities by channel number, names of other channels among them.

    Raises:
        ModfillError: a name is ambiguous, none is a modality's, two stand for the same one, or there are too many or
            too few: the order is never guessed.
    """
    names = channel_names(dataset, where)
    way_out = (
        f"correct the names in dataset.json ({', '.join(modality_set.names)}), "
        "or give the modalities in the order of the channels (channels=[…])"
    )
    explicit = (explicit,) if isinstance(explicit, str) else explicit
    if explicit is not None and len(explicit) != len(names):
        got = f"{len(explicit)} ({', '.join(explicit)})"
        raise ModfillError(f"{where}: channels must name {len(names)} channels ({', '.join(names)}), got {got}")
    given = names if explicit is None else explicit
    known = {modality for name in given if (modality := modality_set.modality_of(name))}
    modalities = []
    for number, name in enumerate(given):
        modality = modality_set.modality_of(name)
        if modality is None and foreign and known and _is_foreign(name, known, modality_set):
            modality = name.strip()
        if modality is None:
            raise ModfillError(
                f"{where}: the name of channel {number} must be that of a modality, got '{name}'; {way_out}"
            )
        modalities.append(modality)
    twice = [modality for modality, count in Counter(modalities).items() if count > 1]
    if twice:
        raise ModfillError(f"{where}: each channel must be another modality, got {twice[0]} twice; {way_out}")
    return tuple(modalities)


def _is_foreign(name: str, known: set[str], modality_set: ModalitySet) -> bool:
    """Return whether a channel's name is certainly not that of a modality."""
    words = [word for word in re.split(r"[^0-9A-Za-z*]+", name.strip()) if word]
    for word in words:
        other = is_other_sequence(f"{word}.nii", modality_set)
        if not other and (_holds_alias(word.lower(), modality_set) or is_contrast_word(word, modality_set)):
            return False
    file = f"{'_'.join(words)}.nii"
    return known == set(modality_set.names) or is_other_sequence(file, modality_set) or is_segmentation(file)


def _holds_alias(word: str, modality_set: ModalitySet) -> bool:
    """Return whether a word begins with an alias, as ``t1perfusion`` does, or holds a longer one."""
    aliases = [alias for alias, _ in modality_set.longest_aliases_first if alias not in modality_set.weak_aliases]
    return any(word.startswith(alias) or (len(alias) > 2 and alias in word) for alias in aliases)


def channel_number(path: Path | str) -> int | None:
    """The number at the end of `<case>_<4 digits>.nii.gz`, or None."""
    match = re.search(rf"_(\d{{4}}){re.escape(FILE_ENDING)}$", str(path))
    return int(match[1]) if match else None


def listed(folder: Path, file: str) -> Path:
    """A file that dataset.json lists, as nnU-Net reads a listing."""
    return Path(os.path.abspath(folder / os.path.expandvars(file)))
