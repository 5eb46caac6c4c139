"""Make an output folder a whole dataset: links to acquired files, and the description that its naming requires."""

from __future__ import annotations

import contextlib
import filecmp
import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from modfill import __version__
from modfill.atomic import replacing, writable
from modfill.cases.filenames import SEGMENTATION_WORDS, is_segmentation, nifti_stem
from modfill.cases.files import CaseFiles, Cohort
from modfill.cases.layouts.bids import BidsName
from modfill.cases.layouts.dataset_json import FILE_ENDING, ChannelCase, channel_names
from modfill.errors import CaseError, ModfillError
from modfill.outputs.naming import OutputFolder, refuse_links

__all__ = ["Links", "check_description", "describe", "remove_description", "write_json"]

_LOG = logging.getLogger("modfill")

_BIDS_VERSION = "1.9.0"
_BIDS_FILES = {  # beside dataset_description.json, for the BIDS validator
    ".bidsignore": "cohort.csv\nreport.html\n",
    "README.md": (
        "# Synthetic MRI\n\nImages with the entity desc-modfill are synthetic: modfill made them where a modality was "
        "missing. Images with desc-modfillUncertainty are the expected standard deviation of each voxel. Both are for "
        "research, not for diagnosis. Images without desc are links to acquired ones. Each synthetic image has a "
        "sidecar with its sources, weights, seed and settings.\n"
    ),
}
_GENERATED_BY = [{"Name": "modfill", "Version": __version__}]
_DECATHLON_KEYS = ("name", "description", "reference", "licence", "release")  # of use to nnU-Net's users too


@dataclass(frozen=True)
class Links:
    """Links to acquired files, at the places of an output folder's naming.

    A volume of a 4D file is written out instead, and so is an uncompressed file where nnU-Net needs ``.nii.gz``. In the
    namings of BraTS, segmentations beside the images, e.g. ``<case>-seg.nii.gz``, are linked too. If two would
    get the same name, only one that is named after the case is linked, and a warning is logged.

    Attributes:
        out: The output folder.
        cohort: All cases, those of other shards too: a segmentation may belong to any of them.
    """

    out: OutputFolder
    cohort: Cohort

    def add(
        self,
        files: CaseFiles,
        paths: Mapping[str, Path],
        images: Mapping[str, nib.Nifti1Image] | None = None,
    ) -> bool:
        """Put the links of one case.

        Args:
            files: A case from files.
            paths: Its acquired images by modality.
            images: The same, read; None if only links may be put.

        Returns:
            Whether all are there: an image that must be written out needs ``images``.

        Raises:
            CaseError: If another file or a link to another folder lies there, a label is not there, or the folder
                cannot be written.
        """
        case_id, out, whole = files.case_id, self.out, True
        with writable(out.path, CaseError, case=case_id):
            for modality, path in paths.items():
                ending = FILE_ENDING if path.name.lower().endswith(".gz") else ".nii"
                copied = modality in files.volume_index or (out.naming == "nnunet" and ending != FILE_ENDING)
                place = self._place(case_id, out.image(case_id, modality, True, FILE_ENDING if copied else ending))
                if not copied:
                    link(path, place)
                elif images is not None:
                    _copy(images[modality], place)
                else:
                    whole = False
            if out.naming.startswith("brats"):
                for segmentation, word, ending in _unambiguous(files, self.cohort):
                    link(segmentation, self._place(case_id, out.beside(case_id, word, ending)))
            if out.naming == "nnunet":
                for number, path in (files.carried if isinstance(files, ChannelCase) else {}).items():
                    link(path, self._place(case_id, out.channel(case_id, number)))
                if files.label is not None:
                    if not files.label.is_file():
                        raise CaseError(f"case {case_id}: label {files.label} must be a file, got none; add it")
                    link(files.label, self._place(case_id, out.path / "labelsTr" / f"{case_id}{FILE_ENDING}"))
        return whole

    def _place(self, case_id: str, place: Path) -> Path:
        """The same place. Raises CaseError if a link leads out of the output folder."""
        refuse_links(self.out.path, place, case_id)
        return place


def _segmentations(files: CaseFiles) -> Iterator[tuple[Path, str, str]]:
    """The segmentations with BraTS' names beside a case's images: file, last word and ending."""
    folder = next(iter(files.paths.values())).parent
    for word, separator, ending in product(SEGMENTATION_WORDS, "-_", (FILE_ENDING, ".nii")):
        file = folder / f"{files.case_id}{separator}{word}{ending}"
        if file.is_file():
            yield file, word, ending


def _odd_segmentations(files: CaseFiles, cohort: Cohort) -> list[Path]:
    """The segmentations in a case's folder that are not named after it, e.g. BraTS 2020's ``W39_1998.09.19_Segm.nii``.

    None if the folder holds other cases too, for they may belong to one of those.
    """
    names = [name for name, kind in files.others.items() if kind == "segmentation" and is_segmentation(name)]
    named = {f"{files.case_id}{separator}{word}" for word in SEGMENTATION_WORDS for separator in "-_"}
    names = [name for name in names if nifti_stem(name) not in named]
    if not names or not files.paths:
        return []
    folder = next(iter(files.paths.values())).parent
    if any(path.parent == folder for c in cohort.cases if c is not files for path in c.paths.values()):
        return []
    # one folder up if each sequence has a folder
    places = [next((p / name for p in (folder, folder.parent) if (p / name).is_file()), None) for name in names]
    return [place for place in places if place is not None]


def _unambiguous(files: CaseFiles, cohort: Cohort) -> Iterator[tuple[Path, str, str]]:
    """The segmentations to be linked, with the last word of their new names and their endings."""
    found = list(_segmentations(files))
    taken = {word for _, word, _ in found}
    words: dict[str, list[Path]] = defaultdict(list)
    for file in _odd_segmentations(files, cohort):
        words[_segmentation_word(file)].append(file)
    for word, same in words.items():
        if word in taken or len(same) > 1:
            names = " and ".join(file.name for file in same)
            _LOG.warning("case %s: %s cannot be linked, for several files would be its %s", files.case_id, names, word)
        else:
            found.append((same[0], word, FILE_ENDING if same[0].name.lower().endswith(".gz") else ".nii"))
    yield from found


def _segmentation_word(file: Path) -> str:
    """The word after the case in a segmentation's name: BraTS' ``seg``, or the last words of its own name."""
    stem = (nifti_stem(file.name) or "").lower().replace("-", "_")
    found = [word for word in SEGMENTATION_WORDS if stem == word or stem.endswith(f"_{word}")]
    word = max(found, key=len, default="-".join(stem.split("_")[-2:]))  # e.g. mask-healthy
    return "seg" if word in ("segm", "segmentation", "segmentations") else word


def link(file: Path, place: Path) -> None:
    """Put a relative link to `file` at `place`, or a copy where the file system has no links.

    A link that is there already is left if it leads to `file`, and replaced if not; a file with the same bytes is left.

    Raises:
        CaseError: If another file lies there.
        OSError: If the folder cannot be written.
    """
    if place.parent.resolve() / place.name == file.parent.resolve() / file.name:
        return  # the output folder is the input folder
    # resolves links to folders, but not a link at the file itself: its target may have another name
    target = os.path.relpath(os.path.realpath(file.parent) + os.sep + file.name, os.path.realpath(place.parent))
    if place.is_symlink():
        if os.readlink(place) == target:
            return
    elif place.exists():
        if filecmp.cmp(file, place, shallow=False):
            return
        raise _occupied(place)
    with replacing(place) as temporary:
        try:
            os.symlink(target, temporary)
        except OSError:
            shutil.copyfile(file, temporary)


def _copy(image: nib.Nifti1Image, place: Path) -> None:
    """Write an acquired image that cannot be linked; leave it if it is there."""
    voxels = np.asanyarray(image.dataobj).astype(image.get_data_dtype())
    if place.exists():
        with contextlib.suppress(OSError, ValueError, nib.filebasedimages.ImageFileError):
            present = nib.Nifti1Image.from_filename(place)
            if np.array_equal(np.asanyarray(present.dataobj), voxels) and np.allclose(present.affine, image.affine):
                return
        raise _occupied(place)
    with replacing(place) as temporary:
        nib.save(nib.Nifti1Image(voxels, image.affine, image.header), temporary)


def _occupied(place: Path) -> CaseError:
    return CaseError(f"{place} must be free or a link, got another file; move it away or choose another output folder")


def describe(out: OutputFolder, cohort: Cohort, record: Mapping[str, Any] | None = None) -> None:
    """Write the description that the naming of `out` requires: nnU-Net's dataset.json, BIDS' dataset_description.json.

    Args:
        out: The output folder.
        cohort: All that is completed into it.
        record: More entries of the description.

    Raises:
        ModfillError: If the folder cannot be written, or a description that is not modfill's lies there.
    """
    if out.naming in _DESCRIPTIONS:
        with _own_description(out) as path:
            write_json(path, _DESCRIPTIONS[out.naming][1](out, cohort) | dict(record or {}))
        if out.naming == "bids":
            _add_bids_files(out)


def _add_bids_files(out: OutputFolder) -> None:
    """Write `_BIDS_FILES` and a sidecar for each suffix where they are not there yet; a user may change them.

    By BIDS' rule of inheritance such a sidecar counts for every image of the dataset, the linked ones too.
    """
    suffixes = {BidsName.of(modality.bids[0]).suffix for modality in out.modality_set.modalities}
    note = json.dumps({"SkullStripped": out.modality_set.skull_stripped}) + "\n"
    for name, text in {**_BIDS_FILES, **{f"{suffix}.json": note for suffix in sorted(suffixes)}}.items():
        place = out.path / name
        with writable(place):
            if not place.exists():
                with replacing(place) as temporary:
                    temporary.write_text(text, encoding="utf8")


def check_description(out: OutputFolder, cohort: Cohort) -> None:
    """Check that `describe` will be able to write.

    Args:
        out: The output folder.
        cohort: All that is completed into it.

    Raises:
        ModfillError: If a description that is not modfill's lies there, or the labels of the cohort are not usable.
    """
    if out.naming in _DESCRIPTIONS:
        with _own_description(out):
            _DESCRIPTIONS[out.naming][1](out, cohort)


def remove_description(out: OutputFolder) -> None:
    """Remove the file that `describe` wrote, while the dataset is not complete.

    Raises:
        ModfillError: If the folder cannot be written, or a description that is not modfill's lies there.
    """
    if out.naming in _DESCRIPTIONS:
        with _own_description(out) as path:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _own_description(out: OutputFolder) -> Iterator[Path]:
    """The place of a folder's description, to write or remove it. Raises ModfillError if another one lies there."""
    path = out.path / _DESCRIPTIONS[out.naming][0]
    with writable(path):
        if path.exists() and not _is_ours(path):
            raise ModfillError(f"{path} must be free or modfill's, got another one; choose another output folder")
        yield path


def _is_ours(path: Path) -> bool:
    """Return whether modfill wrote a description."""
    try:
        return bool(json.loads(path.read_text(encoding="utf8"))["GeneratedBy"][0]["Name"] == "modfill")
    except (ValueError, TypeError, LookupError, RecursionError):
        return False


def _by_name(labels: Any) -> dict[str, int]:
    """Decathlon's labels, name by value, as nnU-Net has them. Raises ModfillError for others."""
    try:
        return {str(name): int(value) for value, name in labels.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ModfillError(
            f"labels in dataset.json must be names by number, got {labels}; correct them, or choose another naming"
        ) from error


def _nnunet_description(out: OutputFolder, cohort: Cohort) -> dict[str, Any]:
    dataset = dict(cohort.dataset)
    names = dict(zip(cohort.channels, channel_names(dataset, "dataset.json"), strict=True)) if cohort.channels else {}
    labels = dataset.get("labels", {"background": 0})
    if "modality" in dataset and "file_ending" not in dataset:  # the Decathlon and the first nnU-Net: names by value
        dataset = {key: dataset[key] for key in _DECATHLON_KEYS if key in dataset}
        labels = _by_name(labels)
    dataset = {key: value for key, value in dataset.items() if key not in ("dataset", "modality")}
    names = {modality.name: modality.channel for modality in out.modality_set.modalities} | names
    return dataset | {
        "channel_names": {str(number): names[channel] for number, channel in enumerate(out.channels)},
        "labels": labels,
        "numTraining": len(out.training),
        "file_ending": FILE_ENDING,
        "GeneratedBy": _GENERATED_BY,
    }


def _bids_description(out: OutputFolder, cohort: Cohort) -> dict[str, Any]:
    return {
        "Name": "Brain MRI with synthetic images where a modality was missing",
        "BIDSVersion": _BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": _GENERATED_BY,
    }


_DESCRIPTIONS: dict[str, tuple[str, Callable[[OutputFolder, Cohort], dict[str, Any]]]] = {
    "nnunet": ("dataset.json", _nnunet_description),
    "bids": ("dataset_description.json", _bids_description),
}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all, also while others write it. Creates the folder. Raises OSError if it cannot."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
