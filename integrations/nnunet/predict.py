"""A trained nnU-Net predicts on cases that lack channels it was trained with."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from modfill.integrations.cache import modality_set_of
from modfill.integrations.nnunet.channels import ChannelCompleter, CompletedChannels, channels_note, without_zeros
from modfill.integrations.nnunet.shim import require_nnunet

from modfill.atomic import writable
from modfill.cases.checks import check_affine
from modfill.cases.layouts.dataset_json import (
    FILE_ENDING,
    channel_modalities,
    channel_names,
    read_dataset_json,
    require_nifti,
)
from modfill.cases.layouts.nnunet import case_of, channel_case, group_channels, unnumbered
from modfill.errors import CaseError, ModfillError
from modfill.outputs.linking import write_json

require_nnunet()

from nibabel.affines import voxel_sizes  # noqa: E402
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: E402

_PLAIN_READERS = ("SimpleITKIO", "NibabelIO")  # these keep the axes of the file


class ModalityCompletionPredictor(nnUNetPredictor):
    """nnU-Net's predictor, for cases with gaps: `predict_from_files` and the rest of its methods work unchanged.

    Synthetic channels go to the output folder's `synthetic`, and `<case>.json` beside each segmentation lists the
    channels that were synthetic. Without an output folder they go to a temporary one.

    Args:
        channels: modalities in the order of the channels; None takes them from the model's channel_names.
        weights: a file that `modfill train` wrote; None takes the shipped ones.
        **options: nnUNetPredictor's.
    """

    def __init__(self, channels: str | Sequence[str] | None = None, weights: Path | str | None = None, **options: Any):
        super().__init__(**options)
        self.weights = None if weights is None else Path(weights)
        known = modality_set_of(self.weights)
        self.channels = None if channels is None else known.modalities_of(channels, "a channel")

    def predict_arrays(
        self, arrays: Mapping[str, npt.NDArray], affine: npt.ArrayLike, case_id: str = "case"
    ) -> tuple[npt.NDArray, dict[str, Any]]:
        """Arrays in, array out, nothing on disk.

        Args:
            arrays: (X, Y, Z) by modality, as nibabel reads them, 0 outside the brain; some of the model's. One of
                zeros counts as missing.
            affine: 4x4, voxel indices to mm.
            case_id: part of the seed.

        Returns:
            The segmentation (X, Y, Z), and the content of the JSON that lies beside a segmentation.

        Raises:
            CaseError: the case cannot be completed, or the model reorients what it reads.
        """
        reader = self.plans_manager.image_reader_writer_class.__name__
        if reader not in _PLAIN_READERS:
            raise CaseError(
                f"case {case_id}: the model's reader must be {' or '.join(_PLAIN_READERS)} for arrays, got {reader}; "
                "predict from files"
            )
        affine = np.asarray(affine, np.float64)
        check_affine(f"case {case_id}", affine)
        completer = self._completer()
        arrays = completer.modality_set.by_modality(arrays, f"case {case_id}: an array's modality", completer.channels)
        arrays = without_zeros(arrays, case_id, completer.modality_set)
        whole = completer.complete_arrays(arrays, affine, case_id)
        image = np.stack([whole[channel].astype(np.float32).transpose(2, 1, 0) for channel in completer.channels])
        spacing = [float(size) for size in voxel_sizes(affine)[::-1]]
        segmentation = self.predict_single_npy_array(image, {"spacing": spacing})
        synthetic = tuple(n for n, channel in enumerate(completer.channels) if channel not in arrays)
        return segmentation.transpose(2, 1, 0), self._note(CompletedChannels(case_id, (), synthetic), completer)

    def initialize_from_trained_model_folder(
        self, model_training_output_dir: str, *arguments: Any, **options: Any
    ) -> None:
        """As nnU-Net's. Raises ModfillError if there is no model or the modality of a channel is ambiguous."""
        read_dataset_json(Path(model_training_output_dir))
        super().initialize_from_trained_model_folder(model_training_output_dir, *arguments, **options)
        self._take_stock_preprocessor()

    def manual_initialization(self, *arguments: Any, **options: Any) -> None:
        """As nnU-Net's. Raises ModfillError if the modality of a channel is ambiguous."""
        super().manual_initialization(*arguments, **options)
        self._take_stock_preprocessor()

    def _take_stock_preprocessor(self) -> None:
        """Use nnU-Net's preprocessor: workers get complete cases, and do not find the plugin's preprocessor by name."""
        self._completer()  # refuses ambiguous channels now, not after hours
        configuration = self.configuration_manager.configuration
        if configuration["preprocessor_name"] == "ModalityCompletionPreprocessor":
            configuration["preprocessor_name"] = "DefaultPreprocessor"

    def _completer(self) -> ChannelCompleter:
        where = self.plans_manager.dataset_name
        require_nifti(self.dataset_json, where)
        channels = channel_modalities(self.dataset_json, where, modality_set_of(self.weights), self.channels)
        return ChannelCompleter(channels, self.weights, str(self.device))

    def _manage_input_and_output_lists(
        self,
        list_of_lists_or_source_folder: str | list[list[str]],
        output_folder_or_list_of_truncated_output_files: str | list[str] | None,
        folder_with_segs_from_prev_stage: str | None = None,
        overwrite: bool = True,
        *rest: Any,
        **options: Any,
    ) -> tuple[list[list[str]], list[str] | None, list[str | None]]:
        """nnU-Net's lists of what to predict, with the cases completed."""
        _check_input(list_of_lists_or_source_folder)
        lists, outputs, previous = super()._manage_input_and_output_lists(
            list_of_lists_or_source_folder, output_folder_or_list_of_truncated_output_files,
            folder_with_segs_from_prev_stage, overwrite, *rest, **options,
        )  # fmt: skip
        completer = self._completer()
        if outputs is None:
            self._passing = tempfile.TemporaryDirectory()  # lives as long as the predictor
        complete = []
        for number, files in enumerate(lists):
            if outputs is None:
                case_id, folder = case_of(files[0]), Path(self._passing.name) / str(number)
            else:  # files of two cases in different folders may have one name
                case_id, folder = Path(outputs[number]).name, Path(outputs[number]).parent / "synthetic"
            case = channel_case(case_id, files, completer.channels, completer.modality_set)
            completed = completer.complete(case, out=folder, overwrite=overwrite)
            if outputs is not None:
                note = Path(outputs[number] + ".json")
                with writable(note, case=case_id):
                    write_json(note, self._note(completed, completer))
            complete.append([str(file) for file in completed.files])
        return complete, outputs, previous

    def _note(self, case: CompletedChannels, completer: ChannelCompleter) -> dict[str, Any]:
        names = channel_names(self.dataset_json, self.plans_manager.dataset_name)
        return channels_note(case, names, completer.channels, completer.modality_set)


def _check_input(cases: str | list[list[str]]) -> None:
    """Refuse a folder without images and a case without files, which nnU-Net would ignore or fail on."""
    if isinstance(cases, str):
        if not any(Path(cases).glob(f"*{FILE_ENDING}")):
            raise ModfillError(
                f"{cases} must hold images <case>_0000{FILE_ENDING}, ..., got none; check the input folder"
            )
        if others := group_channels(Path(cases))[1]:
            raise ModfillError(unnumbered(others[0]))
    elif not all(cases):
        raise ModfillError("each case must have at least one file, got an empty list; leave it out")
