"""One safetensors file <-> model. The preset travels in the file's metadata: the file alone rebuilds the model.

A file that was altered never loads. What `save` writes carries a digest of its content; beside the shipped weights lies
what `sha256sum` says of them, so that nothing in the file itself need be believed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from modfill.atomic import replacing, writable
from modfill.errors import WeightsError
from modfill.model.config import Preset
from modfill.model.synthesiser import Synthesiser

SHIPPED = Path(__file__).parent / "small.safetensors"
_PICKLES = (b"\x80", b"PK\x03\x04")  # how a pickle, and torch's archive of pickles, begin


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
    tensors["latent_std"] = model.latent_std.detach().cpu().float()
    preset, trained = model.preset.to_json(), ",".join(stages)
    content = {"preset": preset, "stages": trained, "content": _digest(preset, trained, tensors)}
    # one entry only: safetensors writes several in random order, and the file's hash stands in every sidecar
    metadata = {"modfill": json.dumps(content)}
    with writable(path, WeightsError), replacing(path) as temporary:
        temporary.write_bytes(serialised(tensors, metadata))


def load(path: Path) -> tuple[Synthesiser, dict[str, str]]:
    """Rebuild a model from its file, in float32, in evaluation mode, on the CPU.

    Returns:
        The model, and the file's metadata with its `sha256`.

    Raises:
        WeightsError: the file is missing, is not a modfill checkpoint, is damaged or altered, or does not fit its own
            preset.
    """
    sha256 = _checked_hash(path)
    header, tensors = _read(path)
    if "modfill" not in header:
        raise WeightsError(f"{path}: must be a modfill checkpoint, got metadata without 'modfill'; train one")
    try:
        metadata = json.loads(header["modfill"])
        preset = Preset.from_json(metadata["preset"])
        if not isinstance(metadata["stages"], str):
            raise TypeError(f"stages must be text, got {metadata['stages']}")
        with torch.device("meta"):  # without memory: sizes are believed only when the file holds such tensors
            expected = Synthesiser(preset).state_dict()
    except (AssertionError, AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError,
            RuntimeError, ZeroDivisionError, IndexError) as error:  # fmt: skip
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path}: its preset cannot be read ({reason}); it may come from another version of modfill"
        ) from error
    _check_fit(expected, tensors, path, preset.name)
    if metadata.get("content") != _digest(metadata["preset"], metadata["stages"], tensors):
        raise WeightsError(f"{path}: must hold what was saved, got altered weights; download or train them again")
    spoilt = next((name for name, value in sorted(tensors.items()) if not value.isfinite().all()), None)
    if spoilt is not None:
        raise WeightsError(f"{path}: weights must be finite, got NaN or infinity in {spoilt}; train them again")
    model = Synthesiser(preset)
    model.load_state_dict({name: value.to(expected[name].dtype) for name, value in tensors.items()})
    return model.eval(), metadata | {"sha256": sha256}


def _checked_hash(path: Path) -> str:
    """SHA-256 of a weights file; of one with a `.sha256` beside it, as the shipped one has, after comparing both."""
    if not os.path.isfile(path):  # also where a name is longer than names can be
        raise WeightsError(f"{path}: no such weights file; give a .safetensors file written by 'modfill train'")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise WeightsError(f"{path}: must be readable, got '{error.strerror}'; check its permissions") from error
    pickled = start.startswith(_PICKLES) and start[8:] != b"{"  # 8 bytes of a length come before the brace
    if path.suffix != ".safetensors" or pickled:
        got = "a pickle under that name" if path.suffix == ".safetensors" else f"'{path.suffix}'"
        raise WeightsError(f"{path}: weights must be a .safetensors file (a pickle could run code when it is opened), "
                           f"got {got}")  # fmt: skip
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    record = path.with_name(path.name + ".sha256")
    if record.is_file() and record.read_bytes().split()[:1] != [found.encode()]:
        raise WeightsError(f"{path}: must be as {record.name} says, got SHA-256 {found}; install or download it again")
    return found


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: damaged or not a safetensors file ({error}); download or train it again"
        ) from error


def _digest(preset: str, stages: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of all that a checkpoint says."""
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
