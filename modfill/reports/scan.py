"""The modalities that a cohort has, lacks and cannot use, from headers alone or, deep, from every voxel."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
from tqdm import tqdm

from modfill.cases.checks import check_grids, nothing_usable, spacing_of, times
from modfill.cases.files import CaseFiles
from modfill.cases.finding import find_cohort
from modfill.cases.marks import has_mark
from modfill.cases.nifti import Unusable, empty_image, read_header
from modfill.cases.reading import image_labels, read_case
from modfill.errors import CaseError, ModfillError, within_memory
from modfill.modalities import BRATS, ModalitySet
from modfill.reports.swaps import suspected_swap

__all__ = ["Scan", "ScannedCase", "scan_case", "scan_cohort"]

_SAMPLE = 4096  # bytes


@dataclass(frozen=True)
class ScannedCase:
    """One case of a scan.

    Attributes:
        case_id: Name of the case.
        available: Modalities that can be used.
        synthetic: Modalities whose file modfill made.
        unusable: Reason by modality, of those that are there but cannot serve.
        problem: Why the case as a whole cannot be used, or None.
        grid: Voxels, e.g. ``240x240x155``; empty if no header could be read.
        spacing: Voxel sizes in mm, e.g. ``1x1x1``; empty likewise.
        swap: Two modalities whose files look exchanged, or None; known after a deep scan only.
        contents: A hash of each image's content, by modality.
        files: Kind of each file and folder of the case by name: a modality, or a kind as ``CaseFiles.others`` has it.
        modality_set: The modalities that the case may have.
    """

    case_id: str
    available: tuple[str, ...] = ()
    synthetic: tuple[str, ...] = ()
    unusable: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    grid: str = ""
    spacing: str = ""
    swap: tuple[str, str] | None = None
    contents: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    modality_set: ModalitySet = BRATS

    @property
    def missing(self) -> tuple[str, ...]:
        """Modalities without an acquired file."""
        return self.modality_set.without((*self.available, *self.unusable))


@dataclass(frozen=True)
class Scan:
    """A scanned cohort.

    Attributes:
        path: The scanned folder or table.
        deep: True if every voxel was read.
        cases: Sorted by id.
        left_alone: Kind by name of every file and folder that belongs to no case.
        modality_set: The modalities that the cases may have.
    """

    path: Path
    deep: bool
    cases: list[ScannedCase]
    left_alone: dict[str, str] = field(default_factory=dict)
    modality_set: ModalitySet = BRATS

    @property
    def duplicates(self) -> list[tuple[str, ...]]:
        """Images with the same content under two case ids or more, each named ``case modality``."""
        places: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for case in self.cases:
            for modality, content in case.contents.items():
                places[content].append((case.case_id, modality))
        shared = (found for found in places.values() if len({case_id for case_id, _ in found}) > 1)
        return [tuple(f"{case_id} {modality}" for case_id, modality in found) for found in shared]


def scan_cohort(path: Path | str, *, modality_set: ModalitySet | str | Path | None = None, deep: bool = False) -> Scan:
    """Say what every case of a cohort has, lacks and cannot use.

    Without ``deep`` only headers are read, and blank, truncated or copied images pass for available; the 4D files of
    the Decathlon are read all the same, since zeros are all that says that a modality is missing there.

    Args:
        path: As for ``find_cohort``.
        modality_set: As for ``find_cohort``.
        deep: Read every voxel: contents are checked as for completion, and exchanged modalities suspected.

    Raises:
        ModfillError: As ``find_cohort``.
    """
    cohort = find_cohort(path, modality_set=modality_set)
    bar = tqdm(cohort.cases, unit="case", leave=False, disable=None)  # seen in a terminal only
    cases = [replace(scan_case(files, deep=deep), files=_named(files)) for files in bar]
    return Scan(Path(path), deep, cases, cohort.left_alone, cohort.modality_set)


def _named(files: CaseFiles) -> dict[str, str]:
    """The kind of each file of a case, by name."""
    used: dict[str, str] = {}
    for modality, path in files.paths.items():
        used[path.name] = f"{used[path.name]}, {modality}" if path.name in used else modality
    return used | files.others


def scan_case(files: CaseFiles, *, deep: bool = False) -> ScannedCase:
    """Say what one case has, lacks and cannot use; see ``scan_cohort``."""
    if files.problem:
        return ScannedCase(files.case_id, problem=files.problem, modality_set=files.modality_set)
    images: dict[str, nib.Nifti1Image] = {}
    synthetic: list[str] = []
    unusable: dict[str, str] = {}
    problem = None
    for modality, path in files.paths.items():
        try:
            header = read_header(path)
            if has_mark(header):
                synthetic.append(modality)
                continue
            volumes = len(files.volume_index) if modality in files.volume_index else 0
            images[modality] = empty_image(files.case_id, path, header, volumes)
        except Unusable as reason:
            unusable[modality] = f"{path.name} {reason}"
        except CaseError as error:
            problem = problem or str(error)
    found = (tuple(images), tuple(synthetic), unusable, problem, *_grid(images.values()))
    scanned = ScannedCase(files.case_id, *found, modality_set=files.modality_set)
    if problem or not images:
        return scanned if problem else replace(scanned, problem=nothing_usable(files.case_id, unusable))
    try:
        check_grids(files.case_id, images, image_labels(files))
        if deep or files.volume_index:
            with within_memory(f"case {files.case_id}"):
                return _read(files, scanned, deep)
    except ModfillError as error:  # also a case for which memory does not suffice
        return replace(scanned, problem=str(error))
    return replace(scanned, contents={modality: _sampled(files.paths[modality]) for modality in images})


def _read(files: CaseFiles, scanned: ScannedCase, deep: bool) -> ScannedCase:
    """Complete a scanned case by its voxels. Raises CaseError if the case cannot be used."""
    case = read_case(files)
    contents = {modality: hashlib.sha256(case.volume(modality).tobytes()).hexdigest() for modality in case.available}
    return replace(
        scanned,
        available=case.available,
        synthetic=case.synthetic,
        unusable=case.unusable,
        swap=suspected_swap(case) if deep else None,
        contents=contents,
    )


def _grid(images: Iterable[nib.Nifti1Image]) -> tuple[str, str]:
    """Voxels and voxel sizes of the first image."""
    for image in images:
        return times(image.shape[:3]), spacing_of(image)
    return "", ""


def _sampled(path: Path) -> str:
    """A hash of a file's size and of its first, middle and last bytes: the header, some voxels, gzip's checksum."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for start in (0, size // 2, max(0, size - _SAMPLE)):
            stream.seek(start)
            digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()
