"""The trained networks of a weights file on a device, loaded when they are first needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modfill.errors import WeightsError, within_memory
from modfill.modalities import ModalitySet
from modfill.model.config import Preset
from modfill.weights.file import WeightsFile

if TYPE_CHECKING:
    import torch

    from modfill.model.inference import Inference

__all__ = ["Networks"]


class Networks:
    """Weights and a device. Hash and preset are read at once; torch and the tensors are loaded on first use.

    Args:
        weights: a file that `modfill train` wrote; None takes the shipped one.
        device: as in `modfill.model.device.device_named`.

    Raises:
        WeightsError: the file cannot be read, or a stage of it was not trained.
        SettingsError: the device does not exist here.
    """

    def __init__(self, weights: str | Path | None, device: str | torch.device):
        self.file = WeightsFile.open(weights)
        self.file.require_trained()
        self._device, self._loading = device, threading.Lock()
        self._inference: Inference | None = None
        if str(device) not in ("auto", "cpu"):
            _ = self.device  # refused at once, not with the first case

    @property
    def preset(self) -> Preset:
        """The configuration of the networks."""
        return self.file.preset

    @property
    def modality_set(self) -> ModalitySet:
        """The modalities of the networks."""
        return self.file.preset.modality_set

    @property
    def device(self) -> torch.device:
        """Where the networks run. Raises SettingsError if that does not exist here."""
        from modfill.model.device import device_named

        return device_named(self._device)

    def load(self) -> Inference:
        """The networks, loaded once for all threads.

        Raises:
            WeightsError: the file is damaged, or has changed since.
            ModfillError: memory does not suffice.
        """
        with self._loading:
            if self._inference is None:
                from modfill.model.inference import Inference
                from modfill.weights.checkpoint import load

                with within_memory(str(self.file.path)):
                    model, file = load(self.file.path)
                    if file.sha256 != self.file.sha256:
                        raise WeightsError(
                            f"{file.path} must stay as it is during a run, got other content; start anew"
                        )
                    self._inference = Inference(model, self.device)
            return self._inference

    def modalities(self, targets: str | Sequence[str]) -> tuple[str, ...]:
        """The modalities that targets name. Raises CaseError for a name that is none of the weights' modalities."""
        return self.modality_set.modalities_of(targets, "a target")
