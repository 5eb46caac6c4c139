"""nnU-Net with missing channels: complete a raw dataset once, or complete cases inside nnU-Net's commands."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "ModalityCompletionFingerprintExtractor": "plugin",
    "ModalityCompletionPredictor": "predict",
    "ModalityCompletionPreprocessor": "plugin",
    "prepare_dataset": "prepare",
}

__all__ = [
    "ModalityCompletionFingerprintExtractor",
    "ModalityCompletionPredictor",
    "ModalityCompletionPreprocessor",
    "prepare_dataset",
]


def __getattr__(name: str) -> Any:
    """Import nnU-Net, which takes seconds, only for what needs it."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
