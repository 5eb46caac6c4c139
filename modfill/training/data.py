"""Training cases: normalised once, cached as memory-mapped arrays, drawn by a generator that only the step decides."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from modfill.atomic import replacing, writable
from modfill.cases.checks import times
from modfill.cases.files import CaseFiles
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case, require_usable
from modfill.errors import ModfillError
from modfill.metrics import psnr
from modfill.model.config import Preset
from modfill.model.synthesiser import Encoded, Synthesiser
from modfill.preprocessing.intensity import IntensityScale
from modfill.preprocessing.prepare import prepare

_LOG = logging.getLogger("modfill")

LEAST = 2  # modalities of a training case: a source and a target
HELD = 400  # cases of some 35 MB each


@dataclass(frozen=True)
class TrainingCase:
    """One case with two modalities or more.

    Attributes:
        volumes: (modalities, X, Y, Z) float16, normalised, memory-mapped; 0 for a missing modality.
        brain: (X, Y, Z) bool, memory-mapped.
        scales: one per modality; None for a missing one.
        key: names what was computed from the case; other files give another. Empty where nothing is kept.
    """

    case_id: str
    volumes: np.ndarray
    brain: np.ndarray
    scales: tuple[IntensityScale | None, ...]
    key: str = ""

    @property
    def available(self) -> tuple[int, ...]:
        """Indices of the modalities that the case has."""
        return tuple(index for index, scale in enumerate(self.scales) if scale is not None)

    def scale(self, modality: int) -> IntensityScale:
        """The intensity scale of an available modality."""
        scale = self.scales[modality]
        assert scale is not None
        return scale


class HeldCases:
    """Cases as tensors on a device; a GPU keeps up to `HELD` of them, and the rest are read each time."""

    def __init__(self, cases: list[TrainingCase]):
        self.cases = cases
        self.held: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.cases)

    def on(self, device: torch.device, index: int) -> tuple[Tensor, Tensor]:
        """Volumes (M, X, Y, Z) float16 and brain (X, Y, Z) bool of a case."""
        if index in self.held:
            return self.held[index]
        case = self.cases[index]
        found = torch.from_numpy(np.array(case.volumes)).to(device), torch.from_numpy(np.array(case.brain)).to(device)
        if device.type == "cuda" and len(self.held) < HELD:
            self.held[index] = found
        return found


def load_cohort(folder: Path, cache: Path, preset: Preset) -> list[TrainingCase]:
    """Every case below `folder` with two modalities or more, normalised into `cache` for as long as its files stay.

    Raises:
        ModfillError: no case has two modalities, none has one of the preset's, or an image is unusable.
    """
    cache = cache / f"zscore-{preset.multiple}"
    cases = []
    for files in find_cases(folder, modality_set=preset.modality_set, ignore_unexplained=True):
        if len(files.paths) >= LEAST:
            stem = cache / _key(files, preset)
            if files.problem is not None or not stem.with_name(f"{stem.name}.json").exists():
                case = read_case(files)
                require_usable(case)
                if len(case.available) < LEAST:
                    continue  # zeros in a 4D file: a missing modality that only reading shows
                _write_cached(stem, case, preset)
            cases.append(_read_cached(stem, files.case_id))
    if not cases:
        raise ModfillError(f"{folder}: training needs cases with two or more of {', '.join(preset.modalities)}, found "
                           "none; give a folder of case folders")  # fmt: skip
    _log_incomplete(folder, cases, preset)
    return cases


def load_lesions(folder: Path, cache: Path, preset: Preset, cases: Sequence[TrainingCase]) -> dict[str, np.ndarray]:
    """The segmentations `<case_id>-seg.nii.gz` that lie beside training images, on the model's grid, by case id.

    Args:
        folder: as for `load_cohort`.
        cache: likewise.
        preset: likewise.
        cases: those of the folder that are wanted.

    Returns:
        Labels (X, Y, Z) uint8, memory-mapped: 0 background, 1 necrosis, 2 oedema, 3 enhancing tumour. Higher ones, such
        as the 4 of older BraTS sets, are 3.

    Raises:
        ModfillError: there is none, or one is not on the grid of its images.
    """
    found, keys = {}, {case.case_id: case.key for case in cases}
    for files in find_cases(folder, modality_set=preset.modality_set, ignore_unexplained=True):
        if files.case_id in keys:
            beside = next(iter(files.paths.values())).with_name(f"{files.case_id}-seg.nii.gz")
            if beside.exists():
                stem = f"{keys[files.case_id]}-lesions-{file_digest(beside)[:16]}"
                path = cache / f"zscore-{preset.multiple}" / f"{stem}.npy"
                if not path.exists():
                    save_array(path, _labels(read_case(files), beside, preset))
                found[files.case_id] = np.load(path, mmap_mode="r")
    if not found:
        raise ModfillError(f"{folder}: lesions need a segmentation <case_id>-seg.nii.gz beside the images of a "
                           "training case, found none; add some, or leave lesions out")  # fmt: skip
    return found


def _labels(case: Case, path: Path, preset: Preset) -> np.ndarray:
    """A segmentation on the model's grid."""
    labels = np.asarray(nib.Nifti1Image.from_filename(path).dataobj)
    shape = case.volume(case.available[0]).shape
    if labels.shape != shape:
        raise ModfillError(f"{path} must be on the grid of its images, {times(shape)}, got {times(labels.shape)}; "
                           "resample or remove it")  # fmt: skip
    geometry = prepare(case, preset.multiple).geometry
    return geometry.apply(labels.clip(0, 3).astype(np.uint8), linear=False)


def require_every_modality(cases: Sequence[TrainingCase], preset: Preset) -> None:
    """Raise ModfillError if no training case has one of the modalities."""
    for index, modality in enumerate(preset.modalities):
        if not any(index in case.available for case in cases):
            raise ModfillError(
                f"each of {', '.join(preset.modalities)} must be in at least one training case, got none with "
                f"{modality}; add cases, or leave it out of the set"
            )


def _log_incomplete(folder: Path, cases: Sequence[TrainingCase], preset: Preset) -> None:
    """Log which modalities some cases lack."""
    lacking = {m: sum(i not in case.available for case in cases) for i, m in enumerate(preset.modalities)}
    if any(lacking.values()):
        text = ", ".join(f"{modality} in {count}" for modality, count in lacking.items() if count)
        _LOG.info("%s: of %d cases, these modalities are missing: %s", folder, len(cases), text)


def _key(files: CaseFiles, preset: Preset) -> str:
    """The case's id and a digest of its files' contents.

    A changed file, or another case of the same id, is prepared anew.
    """
    held = {path: file_digest(path) for path in set(files.paths.values())}
    parts = [(m, held[path], files.volume_index.get(m)) for m, path in files.paths.items()]
    digest = hashlib.sha256(json.dumps([preset.modalities, parts, files.overrides]).encode()).hexdigest()
    return f"{files.case_id}-{digest[:16]}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        ModfillError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModfillError(f"{path} must be readable, got {error.strerror}; mend or remove the file") from error


def _write_cached(stem: Path, case: Case, preset: Preset) -> None:
    prepared = prepare(case, preset.multiple)
    empty = np.zeros(prepared.brain.shape, np.float32)
    volumes = np.stack([prepared.volumes.get(m, empty) for m in preset.modalities]).astype(np.float16)
    save_array(stem.with_name(f"{stem.name}-volumes.npy"), volumes)
    save_array(stem.with_name(f"{stem.name}-brain.npy"), prepared.brain)
    scales = [asdict(prepared.scales[m]) if m in prepared.scales else None for m in preset.modalities]
    save_json(stem.with_name(f"{stem.name}.json"), scales)  # last: both arrays are there


def save_array(path: Path, array: np.ndarray) -> None:
    """Write `*.npy` whole or not at all; other processes may be reading it. Raises ModfillError if it cannot."""
    with writable(path), replacing(path) as temporary:
        np.save(temporary, array)


def save_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all. Raises ModfillError if it cannot."""
    with writable(path), replacing(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf8")


def _read_cached(stem: Path, case_id: str) -> TrainingCase:
    scales = json.loads(stem.with_name(stem.name + ".json").read_text())
    return TrainingCase(
        case_id=case_id,
        volumes=np.load(f"{stem}-volumes.npy", mmap_mode="r"),
        brain=np.load(f"{stem}-brain.npy", mmap_mode="r"),
        scales=tuple(None if scale is None else IntensityScale(**scale) for scale in scales),
        key=stem.name,
    )


def brightness_of(case: TrainingCase) -> list[tuple[float, float, float]]:
    """Mean, standard deviation and skewness of each modality, as `IntensityScale.brightness` gives them.

    NaN stands for a missing modality.
    """
    return [
        (math.nan,) * 3 if scale is None else scale.brightness(volume, case.brain)
        for volume, scale in zip(case.volumes, case.scales, strict=True)
    ]


def tasks(modalities: Sequence[int]) -> list[tuple[tuple[int, ...], int]]:
    """Every non-empty proper subset of the modalities with every modality that it lacks."""
    subsets = [s for size in range(1, len(modalities)) for s in combinations(modalities, size)]
    return [(sources, target) for sources in subsets for target in modalities if target not in sources]


def validation_tasks(cases: list[TrainingCase]) -> list[tuple[TrainingCase, tuple[int, ...], int]]:
    """For each held-out case one target, in turn, from one source and from all others: (case, sources, target)."""
    tasks: list[tuple[TrainingCase, tuple[int, ...], int]] = []
    for index, case in enumerate(cases):
        there = case.available
        target = there[index % len(there)]
        tasks.append((case, (there[(index + 1) % len(there)],), target))
        tasks.append((case, tuple(k for k in there if k != target), target))
    return tasks


def encoded(model: Synthesiser, case: TrainingCase, sources: Sequence[int]) -> Encoded:
    """A case from these sources (indices of modalities), on the model's device."""
    names, device = model.preset.modalities, model.calibration.device
    volumes = {names[m]: torch.from_numpy(case.volumes[m].astype(np.float32)).to(device) for m in sources}
    return model.encode(volumes, torch.from_numpy(np.array(case.brain)).to(device))


def unit_psnr(case: TrainingCase, target: int, predicted: np.ndarray) -> float:
    """PSNR in dB of a normalised prediction (X, Y, Z), in unit range by the target's own scale."""
    acquired = case.volumes[target].astype(np.float32)
    return psnr(*(case.scale(target).to_unit(v) * case.brain for v in (acquired, predicted)))
