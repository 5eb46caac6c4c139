"""One safetensors file <-> model. The preset travels in the file's metadata: the file alone rebuilds the model."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch

from modfill.config import Preset
from modfill.errors import WeightsError
from modfill.model.aldm import ALDM

SHIPPED = Path(__file__).parent / "weights" / "small.safetensors"


def save(model: ALDM, path: Path, stages: tuple[str, ...]) -> None:
    """Write a model in half precision, under a temporary name first.

    Args:
        model: what to save.
        path: `*.safetensors`.
        stages: the stages that have been trained, for `modfill info`.
    """
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    tensors["latent_std"] = model.latent_std.detach().cpu().float()
    # one entry only: safetensors writes several in random order, and the file's hash stands in every sidecar
    metadata = {"modfill": json.dumps({"preset": model.preset.to_json(), "stages": ",".join(stages)})}
    temporary = path.with_name("." + path.name + ".tmp")
    save_file(tensors, temporary, metadata)
    os.replace(temporary, path)


def load(path: Path) -> tuple[ALDM, dict[str, str]]:
    """Rebuild a model from its file, in float32, in evaluation mode, on the CPU.

    Returns:
        The model, and the file's metadata with its `sha256`.

    Raises:
        WeightsError: the file is missing, is not a modfill checkpoint, is damaged, or does not fit its own preset.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file; give a .safetensors file written by 'modfill train'")
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: weights must be a .safetensors file (a pickle could run code when it is opened), "
                           f"got '{path.suffix}'")  # fmt: skip
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: damaged or not a safetensors file ({error}); download or train it again"
        ) from error
    if "modfill" not in header:
        raise WeightsError(f"{path}: must be a modfill checkpoint, got metadata without 'modfill'; train one")
    try:
        metadata = json.loads(header["modfill"])
        model = ALDM(Preset.from_json(metadata["preset"]))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path}: its preset cannot be read ({reason}); it may come from another version of modfill"
        ) from error
    _fill(model, tensors, path)
    return model.eval(), metadata | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _fill(model: ALDM, tensors: dict[str, torch.Tensor], path: Path) -> None:
    expected = model.state_dict()
    missing, unexpected = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unexpected:
        raise WeightsError(f"{path}: does not fit its own preset '{model.preset.name}': missing {missing[:3]}, "
                           f"unexpected {unexpected[:3]}")  # fmt: skip
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise WeightsError(
                f"{path}: {name} must be of shape {tuple(expected[name].shape)}, got {tuple(value.shape)}"
            )
    model.load_state_dict({name: value.to(expected[name].dtype) for name, value in tensors.items()})
