"""Completes the channels of one case, for the plugin and the predictor."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from modfill.integrations.cache import modality_set_of, shared_completer

from modfill import __version__
from modfill.cases.checks import check_shape, times
from modfill.cases.layouts.dataset_json import ChannelCase
from modfill.cases.layouts.nnunet import missing_other
from modfill.cases.nifti import empty_image, read_header, read_image
from modfill.cases.reading import read_case, synthetic_file, warn_of_zeros
from modfill.errors import CaseError, ModfillError
from modfill.modalities import ModalitySet
from modfill.outputs.naming import OutputFolder

_UNREADABLE = (OSError, ValueError, EOFError, zlib.error, nib.filebasedimages.ImageFileError)


@dataclass(frozen=True)
class CompletedChannels:
    """A case with all channels.

    Attributes:
        case_id: name of the case.
        files: by channel number; acquired ones at their own place.
        synthetic: numbers of the channels that were not acquired.
    """

    case_id: str
    files: tuple[Path, ...]
    synthetic: tuple[int, ...]


@dataclass(frozen=True)
class ChannelCompleter:
    """Completes cases of one dataset. It can be pickled, and loads its model once per process, when first needed.

    Attributes:
        channels: modalities by channel number; a channel that is not a modality has a name of its own, and must
            never be missing.
        weights: a file that `modfill train` wrote; None takes the shipped ones.
        device: as for `ModalityCompleter`.
    """

    channels: tuple[str, ...]
    weights: Path | None = None
    device: str = "auto"

    @property
    def modality_set(self) -> ModalitySet:
        """The modalities that the weights know."""
        return modality_set_of(self.weights)

    def complete(self, case: ChannelCase, *, out: Path, overwrite: bool = False) -> CompletedChannels:
        """Synthesise the channels that a case lacks. Acquired files are not copied.

        A channel of zeros is a missing one; a warning that names its file is logged.

        Args:
            case: the files that are there.
            out: receives `<case_id>/<case_id>-<modality>.nii.gz` and sidecars; what is finished there stays.
            overwrite: do finished ones again.

        Raises:
            CaseError: the case cannot be completed, or other outputs are in the way.
        """
        return self._complete(self._acquired(case), out, overwrite)

    def _complete(self, case: ChannelCase, out: Path, overwrite: bool = False) -> CompletedChannels:
        absent = self._absent(case)
        files = case.numbered(self.channels)
        if absent:
            completer = shared_completer(self.weights, self.device)
            done = completer.complete(read_case(case), out=out, targets=absent, overwrite=overwrite)
            files |= {self.channels.index(modality): done.paths[modality] for modality in absent}
        return self._completed(case, files)

    def complete_cached(self, case: ChannelCase, cache: Path) -> CompletedChannels:
        """As `complete`, in a folder for each content of sources and weights, so that no entry is ever stale.

        Finished images are found without loading the model.

        Args:
            case: the files that are there.
            cache: receives `<hash>/<case_id>/<case_id>-<modality>.nii.gz`.

        Raises:
            CaseError: the case cannot be completed.
        """
        case = self._acquired(case)
        absent = self._absent(case)
        if not absent:
            return self._complete(case, cache)
        folder = cache / self._key(case)
        paths = {
            self.channels.index(modality): OutputFolder(folder, modality_set=self.modality_set)
            .place(case.case_id, modality)
            .image
            for modality in absent
        }
        if not all(path.exists() for path in paths.values()):  # an image appears after its sidecar
            return self._complete(case, folder)
        return self._completed(case, case.numbered(self.channels) | paths)

    def complete_arrays(
        self, arrays: Mapping[str, npt.NDArray], affine: npt.ArrayLike, case_id: str
    ) -> dict[str, npt.NDArray]:
        """Arrays (X, Y, Z) by modality, those given and those synthesised, in the order of the channels.

        Args:
            arrays: some of the channels' modalities, 0 outside the brain.
            affine: 4x4, voxel indices to mm.
            case_id: name of the case.

        Raises:
            CaseError: the case cannot be completed, or a modality is none of the channels'.
        """
        arrays = self.modality_set.by_modality(arrays, f"case {case_id}: an array's modality", self.channels)
        for name in arrays:
            if name not in self.channels:
                raise CaseError(
                    f"case {case_id}: an array's modality must be one of {', '.join(self.channels)}, got {name!r}; "
                    "leave it out"
                )
        shapes = {modality: np.shape(array) for modality, array in arrays.items()}
        for modality, shape in shapes.items():
            check_shape(f"case {case_id}: {modality}", shape)
        if len(set(shapes.values())) > 1:
            got = ", ".join(f"{modality} with {times(shape)}" for modality, shape in shapes.items())
            raise CaseError(f"case {case_id}: all arrays must have one shape, got {got} voxels; resample them")
        targets = [modality for modality in self.channels if modality not in arrays]
        there = [number for number, name in enumerate(self.channels) if name in arrays]
        problem = missing_other(case_id, there, self.channels, self.modality_set)
        if problem:
            raise CaseError(problem)
        sources = {modality: array for modality, array in arrays.items() if modality in self.modality_set.names}
        whole = dict(arrays)
        if targets:
            completer = shared_completer(self.weights, self.device)
            whole |= completer.complete_arrays(sources, affine=affine, case_id=case_id, targets=targets)
        return {modality: whole[modality] for modality in self.channels}

    def _acquired(self, case: ChannelCase) -> ChannelCase:
        """The case without its modalities' channels of zeros. Raises CaseError if it has a problem."""
        if case.problem:
            raise CaseError(case.problem)
        paths = dict(case.paths)
        for modality, path in case.paths.items():
            if _holds_zeros(case.case_id, path):
                warn_of_zeros(case.case_id, path.name, modality)
                del paths[modality]
        return replace(case, paths=paths)

    def _absent(self, case: ChannelCase) -> list[str]:
        """The modalities that a case lacks, in the order of the channels."""
        return [
            channel for channel in self.channels if channel in self.modality_set.names and channel not in case.paths
        ]

    def _completed(self, case: ChannelCase, files: Mapping[int, Path]) -> CompletedChannels:
        acquired, numbers = case.numbered(self.channels), range(len(self.channels))
        synthetic = [n for n in numbers if n not in acquired or is_synthetic(case.case_id, acquired[n])]
        return CompletedChannels(case.case_id, tuple(files[number] for number in numbers), tuple(synthetic))

    def _key(self, case: ChannelCase) -> str:
        from modfill.weights.file import SHIPPED

        parts = [__version__, _hash_of(self.weights or SHIPPED)]
        for number, path in case.numbered(self.channels).items():
            parts += [self.channels[number], _hash_of(path)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def is_synthetic(case_id: str, path: Path) -> bool:
    """Return whether modfill made a channel file, by its header or its sidecar.

    Raises:
        CaseError: it is no NIfTI image.
    """
    try:
        read_header(path)
    except CaseError as error:
        raise CaseError(f"case {case_id}: {path} {error}; replace it") from error
    return synthetic_file(path)


def _holds_zeros(case_id: str, path: Path) -> bool:
    """Return whether all voxels of a file are 0. False for a file that cannot be read: its next reader reports that."""
    try:
        header = read_header(path)
        empty_image(case_id, path, header)  # bounds what is read
        with contextlib.suppress(*_UNREADABLE):
            image = nib.Nifti1Image.from_filename(path)
            if np.asanyarray(image.dataobj[..., image.shape[2] // 2]).any():  # then the rest need not be read
                return False
        return not np.asanyarray(read_image(case_id, path, header)[0].dataobj).any()
    except CaseError:
        return False


def without_zeros(arrays: Mapping[str, npt.NDArray], case_id: str, modality_set: ModalitySet) -> dict[str, npt.NDArray]:
    """Arrays by modality without those of zeros, which stand for missing channels; a warning names each."""
    blank = [modality for modality, array in arrays.items() if modality in modality_set.names and not np.any(array)]
    for modality in blank:
        warn_of_zeros(case_id, f"the array {modality}", modality)
    return {modality: array for modality, array in arrays.items() if modality not in blank}


def channels_note(
    case: CompletedChannels, names: Sequence[str], channels: Sequence[str], modality_set: ModalitySet
) -> dict[str, Any]:
    """The JSON beside a segmentation, about the channels that the segmentation was made from.

    Args:
        case: the completed case; without files if it came from arrays.
        names: dataset.json's names by channel number.
        channels: modalities by channel number.
        modality_set: those that can be synthesised.
    """
    notes: list[dict[str, Any]] = [
        {
            "Channel": f"{number:04d}",
            "Name": name,
            "Modality": modality if modality in modality_set.names else None,
            "Synthetic": number in case.synthetic,
        }
        for number, (name, modality) in enumerate(zip(names, channels, strict=True))
    ]
    for note, file in zip(notes, case.files, strict=False):
        note["File"] = file.name
    return {
        "Case": case.case_id,
        "GeneratedBy": [{"Name": "modfill", "Version": __version__}, {"Name": "nnU-Net"}],
        "SyntheticChannels": [channels[number] for number in case.synthetic],
        "Channels": notes,
    }


def _hash_of(path: Path) -> str:
    if not path.is_file():
        raise ModfillError(f"{path} must be a file, got none there; check the path")
    return hashlib.sha256(path.read_bytes()).hexdigest()
