"""One safetensors file <-> model. The preset travels in the file's metadata: the file alone rebuilds the model.

A file that was altered never loads. What `save` writes contains a digest of its content. The SHA-256 of the shipped
weights lies in a file beside them, so that this check does not rely on the weights file itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from modfill.atomic import replacing, writable
from modfill.errors import WeightsError
from modfill.model.synthesiser import Synthesiser
from modfill.weights.file import MALFORMED, WeightsFile, damaged, unreadable_preset


def save(model: Synthesiser, path: Path, stages: tuple[str, ...]) -> None:
    """Write a model in half precision, whole or not at all.

    Args:
        model: The model.
        path: `*.safetensors`.
        stages: The stages that have been trained, for `modfill info`.

    Raises:
        WeightsError: The file cannot be written.
    """
    from safetensors.torch import save as serialised

    tensors = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    preset, trained = model.preset.to_json(), ",".join(stages)
    content = {"preset": preset, "stages": trained, "content": _digest(preset, trained, tensors)}
    # one entry only: safetensors writes several in random order, and every sidecar records the file's hash
    metadata = {"modfill": json.dumps(content)}
    with writable(path, WeightsError), replacing(path) as temporary:
        temporary.write_bytes(serialised(tensors, metadata))


def load(path: Path) -> tuple[Synthesiser, WeightsFile]:
    """Rebuild a model from its file, in float32, in evaluation mode, on the CPU.

    Returns:
        The model, and the hash and metadata of its file.

    Raises:
        WeightsError: the file is missing, is not a modfill checkpoint, is damaged or altered, or does not fit its own
            preset.
    """
    file = WeightsFile.open(path)
    tensors, preset = _tensors(path), file.preset
    try:
        with torch.device("meta"):  # allocates nothing: the file may not hold tensors of these sizes
            model = Synthesiser(preset)
    except MALFORMED as error:
        raise unreadable_preset(path, error) from error
    expected = model.state_dict()
    _check_fit(expected, tensors, path, preset.name)
    if file.content != _digest(*file.texts, tensors):
        raise WeightsError(f"{path}: must hold what was saved, got altered weights; download or train them again")
    spoilt = next((name for name, value in sorted(tensors.items()) if not value.isfinite().all()), None)
    if spoilt is not None:
        raise WeightsError(f"{path}: weights must be finite, got NaN or infinity in {spoilt}; train them again")
    model.load_state_dict({name: value.to(expected[name].dtype) for name, value in tensors.items()}, assign=True)
    return model.eval(), file


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, error) from error


def _digest(preset: str, stages: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of a checkpoint's preset, stages and tensors."""
    digest = hashlib.sha256(f"{preset}\n{stages}\n".encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_fit(
    expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], path: Path, preset: str
) -> None:
    missing, unexpected = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unexpected:
        raise WeightsError(f"{path}: does not fit its own preset '{preset}': missing {missing[:3]}, "
                           f"unexpected {unexpected[:3]}")  # fmt: skip
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise WeightsError(
                f"{path}: {name} must be of shape {tuple(expected[name].shape)}, got {tuple(value.shape)}"
            )
