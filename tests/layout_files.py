"""One cohort in every layout: case folders rebuilt with links as nnU-Net, Decathlon, BIDS and a table have them."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.case_files import MODALITIES, write_case

Files = Mapping[str, Mapping[str, Path]]  # file by modality by case
CHANNELS = ("t2f", "t1n", "t1c", "t2w")  # not the order of MODALITIES, as in the Decathlon
CHANNEL_NAMES = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
AVAILABLE = {"p1": ("t1n", "t2f"), "p2": MODALITIES, "p3": ("t1c",)}


def small_cohort(folder: Path, available: Mapping[str, tuple[str, ...]] = AVAILABLE) -> dict[str, dict[str, Path]]:
    """Write small cases in BraTS folders, each another brain, and return their files."""
    files = {}
    for seed, (case_id, modalities) in enumerate(available.items()):
        home = write_case(folder, case_id, modalities, seed=seed)
        files[case_id] = {modality: home / f"{case_id}-{modality}.nii.gz" for modality in modalities}
    return files


def link_to(place: Path, file: Path) -> None:
    """Make a link and its folder."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(os.path.abspath(file))


def as_folders(folder: Path, files: Files) -> Path:
    """BraTS 2021 names, a folder per case."""
    names = dict(zip(MODALITIES, ("t1", "t1ce", "t2", "flair"), strict=True))
    for case_id, images in files.items():
        for modality, file in images.items():
            link_to(folder / case_id / f"{case_id}_{names[modality]}.nii.gz", file)
    return folder


def as_nnunet(folder: Path, files: Files) -> Path:
    """A raw dataset; every third case is a test case, the others have a label."""
    training = 0
    for number, (case_id, images) in enumerate(files.items()):
        split = "imagesTs" if number % 3 == 2 else "imagesTr"
        for modality, file in images.items():
            link_to(folder / split / f"{case_id}_{CHANNELS.index(modality):04d}.nii.gz", file)
        if split == "imagesTr":
            training += 1
            write_label(folder / "labelsTr" / f"{case_id}.nii.gz", next(iter(images.values())))
    content = {"channel_names": CHANNEL_NAMES, "labels": {"background": 0, "tumour": 1}, "numTraining": training,
               "file_ending": ".nii.gz"}  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def write_label(place: Path, image: Path) -> None:
    """A small segmentation on an image's grid."""
    like = nib.load(image)
    label = np.zeros(like.shape, np.uint8)
    label[tuple(slice(size // 2, size // 2 + 3) for size in like.shape)] = 1
    place.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(label, like.affine), place)


def as_decathlon(folder: Path, files: Files) -> Path:
    """One 4D file per case, zeros where a modality is missing; every third case is a test case, without a label."""
    listing: dict[str, list[Any]] = {"training": [], "test": []}
    for number, (case_id, images) in enumerate(files.items()):
        like = nib.load(next(iter(images.values())))
        blank = np.zeros(like.shape, like.get_data_dtype())
        volumes = [np.asanyarray(nib.load(images[m]).dataobj) if m in images else blank for m in CHANNELS]
        split = "imagesTs" if number % 3 == 2 else "imagesTr"
        image = folder / split / f"{case_id}.nii.gz"
        image.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.stack(volumes, axis=3), like.affine, like.header), image)
        if split == "imagesTs":
            listing["test"].append(f"./imagesTs/{case_id}.nii.gz")
            continue
        write_label(folder / "labelsTr" / image.name, next(iter(images.values())))
        listing["training"].append({"image": f"./imagesTr/{image.name}", "label": f"./labelsTr/{image.name}"})
    content = {"name": "BRATS", "tensorImageSize": "4D", "modality": CHANNEL_NAMES,
               "labels": {"0": "background", "1": "tumour"}, **listing}  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def bids_name(case_id: str) -> str:
    """A subject's name, of letters and digits."""
    return "sub-" + "".join(letter for letter in case_id if letter.isalnum())


def as_bids(folder: Path, files: Files) -> Path:
    """Subjects without sessions, and derivatives beside them that must be left alone."""
    suffixes = dict(zip(MODALITIES, ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR"), strict=True))
    for case_id, images in files.items():
        name = bids_name(case_id)
        for modality, file in images.items():
            link_to(folder / name / "anat" / f"{name}_{suffixes[modality]}.nii.gz", file)
        link_to(folder / "derivatives" / "masks" / name / "anat" / f"{name}_T2w.nii.gz", next(iter(images.values())))
    (folder / "dataset_description.json").write_text('{"Name": "toy", "BIDSVersion": "1.9.0"}')
    return folder


def as_table(folder: Path, files: Files) -> Path:
    """A CSV with relative paths, empty cells, and a column that says nothing."""
    folder.mkdir(parents=True)
    path = folder / "cohort.csv"
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["Subject", "age", "T1", "T1 Gd", "T2w", "FLAIR"])
        for case_id, images in files.items():
            cells = [os.path.relpath(images[m], folder) if m in images else "" for m in MODALITIES]
            table.writerow([case_id, 51, *cells])
    return path


LAYOUTS: dict[str, Callable[[Path, Files], Path]] = {
    "folders": as_folders,
    "nnunet": as_nnunet,
    "decathlon": as_decathlon,
    "bids": as_bids,
    "table": as_table,
}
"""What rebuilds a cohort in a layout; returns what `find_cases` takes."""


def case_name(layout: str, case_id: str) -> str:
    """What a case is called in a layout."""
    return bids_name(case_id) if layout == "bids" else case_id
