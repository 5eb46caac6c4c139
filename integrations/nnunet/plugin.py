"""nnU-Net's fingerprint extractor and preprocessor for datasets with gaps: they read completed cases.

Importing this module adds both classes to nnU-Net's modules, the only ones in which it searches classes by name. Its
options `-fpe` and `-preprocessor_name` then accept them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modfill.integrations.cache import modality_set_of
from modfill.integrations.nnunet.channels import ChannelCompleter
from modfill.integrations.nnunet.shim import require_nnunet

from modfill.cases.layouts.dataset_json import channel_modalities, require_nifti
from modfill.cases.layouts.nnunet import case_of, channel_case
from modfill.errors import ModfillError

require_nnunet()

from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor  # noqa: E402
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity  # noqa: E402
from nnunetv2.preprocessing.preprocessors import default_preprocessor  # noqa: E402
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name  # noqa: E402
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets  # noqa: E402

Listing = dict[str, dict[str, Any]]  # nnU-Net's: {case: {"images": [file, ...], "label": file}}


@dataclass(frozen=True)
class Options:
    """Settings of the plugin's completions.

    Attributes:
        channels: modalities in the order of the channels; None takes them from dataset.json's channel_names.
        weights: a file that `modfill train` wrote; None takes the shipped ones.
        device: as for `ModalityCompleter`.
    """

    channels: tuple[str, ...] | None = None
    weights: Path | None = None
    device: str = "auto"

    def completer(self, dataset_json: dict[str, Any], where: str) -> ChannelCompleter:
        """The completer for one dataset. Raises ModfillError if its channels' modalities are doubtful, or no NIfTI."""
        require_nifti(dataset_json, where)
        channels = channel_modalities(dataset_json, where, modality_set_of(self.weights), self.channels)
        return ChannelCompleter(channels, self.weights, self.device)

    def complete_listing(self, listing: Listing, dataset_json: dict[str, Any], dataset_name: str) -> Listing:
        """The same listing without gaps; what it took is synthesised, or found in the dataset's cache.

        Raises:
            ModfillError: the channels' modalities are doubtful, or a case cannot be completed.
        """
        completer, cache = self.completer(dataset_json, dataset_name), cache_folder(dataset_name)
        completed = {}
        for case_id, entry in listing.items():
            case = channel_case(case_id, entry["images"], completer.channels, completer.modality_set)
            files = completer.complete_cached(case, cache).files
            completed[case_id] = {**entry, "images": [str(file) for file in files]}
        return completed


_options = Options()


def configure(*, channels: Sequence[str] | None = None, weights: Path | None = None, device: str = "auto") -> None:
    """Set how preprocessors and fingerprint extractors made from now on complete.

    Args:
        channels: modalities in the order of the channels; None takes them from dataset.json's channel_names.
        weights: a file that `modfill train` wrote; None takes the shipped ones.
        device: as for `ModalityCompleter`.
    """
    global _options  # nnU-Net makes them itself, by name, without arguments of ours
    _options = Options(None if channels is None else tuple(channels), weights, device)


def cache_folder(dataset_name: str) -> Path:
    """Where the plugin keeps a dataset's synthetic images."""
    return Path(default_preprocessor.nnUNet_preprocessed) / dataset_name / "modfill"


class ModalityCompletionFingerprintExtractor(fingerprint_extractor.DatasetFingerprintExtractor):
    """Measures the dataset as it is after completion."""

    dataset: Listing

    def run(self, overwrite_existing: bool = False) -> dict:
        """As nnU-Net's. Raises ModfillError if the dataset cannot be completed."""
        self.dataset = _options.complete_listing(self.dataset, self.dataset_json, self.dataset_name)
        return super().run(overwrite_existing)


class ModalityCompletionPreprocessor(default_preprocessor.DefaultPreprocessor):
    """Completes cases that lack channels, and preprocesses them.

    Whole datasets are completed once, in the main process. Workers read the images from disk and load no model.
    """

    def __init__(self, verbose: bool = True):
        super().__init__(verbose)
        self.options = _options  # pickled with the preprocessor for the workers
        self.cache: Path | None = None
        self.case_ids: dict[str, str] = {}  # by first file, where a listing and the files have different ids

    def run(
        self, dataset_name_or_id: int | str, configuration_name: str, plans_identifier: str, num_processes: int
    ) -> None:
        """As nnU-Net's. Raises ModfillError if the dataset cannot be completed."""
        name = maybe_convert_to_dataset_name(dataset_name_or_id)
        raw = Path(default_preprocessor.nnUNet_raw) / name
        dataset_json = _read(raw / "dataset.json")
        listing = get_filenames_of_train_images_and_targets(str(raw), dataset_json)
        self.options.complete_listing(listing, dataset_json, name)
        first = {entry["images"][0]: case_id for case_id, entry in listing.items()}
        self.case_ids = {file: case_id for file, case_id in first.items() if case_of(file) != case_id}
        self.cache = cache_folder(name)
        super().run(dataset_name_or_id, configuration_name, plans_identifier, num_processes)

    def run_case(
        self,
        image_files: list[str],
        seg_file: str | None,
        plans_manager: Any,
        configuration_manager: Any,
        dataset_json: dict[str, Any] | str,
    ) -> tuple[Any, Any, dict]:
        """As nnU-Net's; `image_files` may lack channels. Raises ModfillError if the case cannot be completed."""
        if not isinstance(dataset_json, dict):
            dataset_json = _read(dataset_json)
        completer = self.options.completer(dataset_json, plans_manager.dataset_name)
        if not image_files:
            raise ModfillError(f"{plans_manager.dataset_name}: a case must have at least one file, got none; add it")
        case_id = self.case_ids.get(image_files[0], case_of(image_files[0]))
        case = channel_case(case_id, image_files, completer.channels, completer.modality_set)
        with tempfile.TemporaryDirectory() as passing:
            files = completer.complete_cached(case, self.cache or Path(passing)).files
            return super().run_case(
                [str(file) for file in files], seg_file, plans_manager, configuration_manager, dataset_json
            )


def verify_completed(folder: str, num_processes: int = 8) -> None:
    """nnU-Net's verify_dataset_integrity, for a raw dataset as it is after completion.

    Args:
        folder: the raw dataset.
        num_processes: for reading.

    Raises:
        ModfillError: the dataset cannot be completed.
        RuntimeError: nnU-Net refuses it.
    """
    dataset_json = _read(Path(folder) / "dataset.json")
    listing = get_filenames_of_train_images_and_targets(folder, dataset_json)
    dataset_json["dataset"] = _options.complete_listing(listing, dataset_json, Path(folder).name)
    with tempfile.TemporaryDirectory() as described:
        (Path(described) / "dataset.json").write_text(json.dumps(dataset_json), encoding="utf8")
        verify_dataset_integrity(described, num_processes)


def _read(path: Path | str) -> dict[str, Any]:
    return json.loads(Path(path).read_text(encoding="utf8"))


for _class, _module in (
    (ModalityCompletionFingerprintExtractor, fingerprint_extractor),
    (ModalityCompletionPreprocessor, default_preprocessor),
):
    setattr(_module, _class.__name__, _class)
