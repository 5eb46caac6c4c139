"""Where outputs lie and what they are called, in the namings of BraTS, nnU-Net and BIDS."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modfill.cases.files import Cohort, id_problem
from modfill.cases.layouts.bids import UNCERTAINTY, BidsName
from modfill.cases.layouts.dataset_json import FILE_ENDING, IMAGE_FOLDERS
from modfill.cases.marks import sidecar_path
from modfill.errors import CaseError, ModfillError, SettingsError
from modfill.modalities import BRATS, ModalitySet

__all__ = ["NAMINGS", "Naming", "OutputFolder", "Place", "output_folder", "refuse_links", "uncertainty_path"]

Naming = Literal["brats2023", "brats2021", "nnunet", "bids"]

_SYNTHETIC = "desc-modfill"
_NO_MAP_FOLDER = "uncertainty"


@dataclass(frozen=True)
class Place:
    """The path of one synthetic image, and those of the files that belong to it."""

    image: Path

    @property
    def sidecar(self) -> Path:
        """The sidecar beside the image."""
        return sidecar_path(self.image)

    @property
    def uncertainty(self) -> Path:
        """The uncertainty map."""
        return uncertainty_path(self.image)


@dataclass(frozen=True)
class OutputFolder:
    """A folder for outputs, and how they are named in it.

    Attributes:
        path: The folder; made when the first output is written.
        naming: One of ``NAMINGS``.
        channels: All modalities in the order of nnU-Net's channels, and the names of other channels among them; none
            stands for those of the set.
        training: Cases that nnU-Net trains with: their images go to imagesTr, all others to imagesTs.
        uncompressed: Cases whose synthetic images end in ``.nii`` as their acquired ones do.
        modality_set: The modalities that outputs may be.
    """

    path: Path
    naming: Naming = "brats2023"
    channels: tuple[str, ...] = ()
    training: frozenset[str] = frozenset()
    uncompressed: frozenset[str] = frozenset()
    modality_set: ModalitySet = BRATS

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", self.channels or self.modality_set.names)

    def place(self, case_id: str, modality: str) -> Place:
        """Where a synthesised modality goes.

        Raises:
            CaseError: If that would be outside of the folder: by the case's id, or by a link to another folder.
        """
        problem = id_problem(case_id)
        if problem:
            raise CaseError(problem)
        place = Place(self.image(case_id, modality))
        refuse_links(self.path, place.uncertainty, case_id)
        return place

    def image(self, case_id: str, modality: str, acquired: bool = False, ending: str | None = None) -> Path:
        """Where an image goes; only BIDS names an acquired one otherwise than a synthetic one."""
        if ending is None:
            ending = ".nii" if case_id in self.uncompressed else FILE_ENDING
        return self.path / (_STEMS[self.naming](self, case_id, modality, acquired) + ending)

    def channel(self, case_id: str, number: int) -> Path:
        """Where a channel goes in nnU-Net's naming."""
        folder = IMAGE_FOLDERS[0 if case_id in self.training else 1]
        return self.path / folder / f"{case_id}_{number:04d}{FILE_ENDING}"

    def beside(self, case_id: str, word: str, ending: str) -> Path:
        """Where another file of a case goes, e.g. its segmentation ``seg``, in the namings of BraTS."""
        return self.path / case_id / f"{case_id}{'_' if self.naming == 'brats2021' else '-'}{word}{ending}"


def _brats2023(out: OutputFolder, case_id: str, modality: str, acquired: bool) -> str:
    return f"{case_id}/{case_id}-{modality}"


def _brats2021(out: OutputFolder, case_id: str, modality: str, acquired: bool) -> str:
    return f"{case_id}/{case_id}_{out.modality_set[modality].brats2021}"


def _nnunet(out: OutputFolder, case_id: str, modality: str, acquired: bool) -> str:
    place = out.channel(case_id, out.channels.index(modality)).relative_to(out.path)
    return str(place).removesuffix(FILE_ENDING)


def _bids(out: OutputFolder, case_id: str, modality: str, acquired: bool) -> str:
    case, name = _bids_entities(case_id), BidsName.of(out.modality_set[modality].bids[0])
    entities = [f"{key}-{value}" for key, value in name.entities.items()]
    description = [] if acquired else [_SYNTHETIC]
    return "/".join([*case, name.datatype, "_".join([*case, *entities, *description, name.suffix])])


def _bids_entities(case_id: str) -> list[str]:
    """Subject and session of a case id; other ids become a subject of their letters and digits."""
    match = re.fullmatch(r"(sub-[A-Za-z0-9+]+)(?:_(ses-[A-Za-z0-9+]+))?", case_id)
    return [entity for entity in match.groups() if entity] if match else ["sub-" + re.sub("[^A-Za-z0-9]", "", case_id)]


_STEMS: dict[str, Callable[[OutputFolder, str, str, bool], str]] = {
    "brats2023": _brats2023,
    "brats2021": _brats2021,
    "nnunet": _nnunet,
    "bids": _bids,
}
NAMINGS = tuple(_STEMS)
"""The namings of outputs."""

_LIKE: dict[str, Naming] = {"nnunet": "nnunet", "decathlon": "nnunet", "bids": "bids", "table": "brats2023"}


def output_folder(path: Path, naming: Naming | Literal["auto"], cohort: Cohort) -> OutputFolder:
    """A folder for a cohort's outputs.

    Args:
        path: The folder.
        naming: One of ``NAMINGS``, or ``auto``: like the cohort's; nnU-Net's for the Decathlon, whose 4D files cannot
            take single images, and BraTS 2023's for tables and mixed names. With ``auto``, images of a case whose
            files all end in ``.nii`` do so too.
        cohort: Gives the order of nnU-Net's channels, and which of its cases are for training.

    Raises:
        SettingsError: If the naming is not known.
        ModfillError: If two cases would get the same name in BIDS, which allows letters and
            digits only.
    """
    if naming not in ("auto", *NAMINGS):
        raise SettingsError(f"naming must be one of auto, {', '.join(NAMINGS)}, got '{naming}'")
    auto = naming == "auto"
    if naming == "auto":
        naming = _LIKE.get(cohort.layout) or _brats_year(cohort)
    training = frozenset(case.case_id for case in cohort.cases if case.label is not None)
    channels = (*cohort.channels, *cohort.modality_set.without(cohort.channels))
    subjects: dict[str, str] = {}
    for case in cohort.cases if naming == "bids" else ():
        name = "_".join(_bids_entities(case.case_id))
        other = subjects.setdefault(name, case.case_id)
        if other != case.case_id or name == "sub-":
            raise ModfillError(
                f"case {case.case_id}: its letters and digits must make a BIDS name of its own, got {name}"
                f"{'' if other == case.case_id else f' as for {other}'}; rename it or choose another naming"
            )
    plain = frozenset(
        case.case_id
        for case in (cohort.cases if auto and naming != "nnunet" else ())  # nnU-Net needs one ending
        if case.paths and all(file.name.lower().endswith(".nii") for file in case.paths.values())
    )
    return OutputFolder(path, naming, channels, training, plain, cohort.modality_set)


def _brats_year(cohort: Cohort) -> Naming:
    """BraTS 2021's naming if every file of the cohort has it."""
    endings = {m.name: re.compile(rf"_{m.brats2021}\.nii(\.gz)?$") for m in cohort.modality_set.modalities}
    files = [(modality, path) for case in cohort.cases for modality, path in case.paths.items()]
    return "brats2021" if all(endings[modality].search(path.name) for modality, path in files) else "brats2023"


def refuse_links(folder: Path, place: Path, case_id: str) -> None:
    """Refuse a place that a link below the output folder leads to: it may lie anywhere.

    Raises:
        CaseError: If there is a link between the two.
    """
    for between in (folder / part for part in place.relative_to(folder).parents):
        if between != folder and os.path.islink(between):
            raise CaseError(f"case {case_id}: {between} must be a folder, got a link; remove it")


def uncertainty_path(image_path: Path) -> Path:
    """The path of an image's uncertainty map, which readers of the naming must not take for an image of the case.

    It lies beside the image as `...-uncertainty.nii.gz`. In nnU-Net's naming, where every file is a channel, it lies in
    a folder below. In BIDS it has a `desc` of its own.
    """
    if image_path.parent.name in IMAGE_FOLDERS:
        return image_path.parent / _NO_MAP_FOLDER / image_path.name
    if f"_{_SYNTHETIC}_" in image_path.name:
        return image_path.with_name(image_path.name.replace(f"_{_SYNTHETIC}_", f"_desc-{UNCERTAINTY}_"))
    ending = FILE_ENDING if image_path.name.endswith(FILE_ENDING) else image_path.suffix
    return image_path.with_name(image_path.name.removesuffix(ending) + f"-uncertainty{ending}")
