"""A weights file: its hash, and the preset that its metadata holds. No tensor is read, and torch is not needed."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from modfill.errors import WeightsError
from modfill.model.config import STAGES, Preset

__all__ = ["MALFORMED", "SHIPPED", "WeightsFile", "damaged", "unreadable_preset"]

SHIPPED = Path(__file__).parent / "small.safetensors"
_PICKLES = (b"\x80", b"PK\x03\x04")  # how a pickle, and torch's archive of pickles, begin
MALFORMED = (AssertionError, AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError,
              RuntimeError, ZeroDivisionError, IndexError)  # fmt: skip


@dataclass(frozen=True)
class WeightsFile:
    """Hash and metadata of a weights file.

    Attributes:
        path: `*.safetensors`.
        sha256: of the whole file.
        preset: rebuilds the networks.
        stages: the stages of training that are done.
        texts: preset and stages as they stand in the file.
        content: digest of these texts and of the tensors.
    """

    path: Path
    sha256: str
    preset: Preset
    stages: tuple[str, ...]
    texts: tuple[str, str]
    content: str

    @classmethod
    def open(cls, path: str | Path | None = None) -> WeightsFile:
        """Read hash and metadata.

        Args:
            path: a file that `modfill train` wrote; None takes the shipped one.

        Raises:
            WeightsError: the file is missing, is no modfill checkpoint, or was altered.
        """
        path = SHIPPED if path is None else Path(path)
        sha256 = _checked_hash(path)
        header = _metadata(path)
        if "modfill" not in header:
            raise WeightsError(f"{path}: must be a modfill checkpoint, got metadata without 'modfill'; train one")
        try:
            metadata = json.loads(header["modfill"])
            preset, stages = Preset.from_json(metadata["preset"]), metadata["stages"]
            if not isinstance(stages, str):
                raise TypeError(f"stages must be text, got {stages}")
        except MALFORMED as error:
            raise unreadable_preset(path, error) from error
        texts = (metadata["preset"], stages)
        return cls(path, sha256, preset, tuple(stages.split(",")), texts, str(metadata.get("content")))

    def require_trained(self) -> None:
        """Raise WeightsError unless every stage of the preset was trained."""
        untrained = [stage for stage in STAGES if stage not in self.stages]
        if untrained:
            raise WeightsError(
                f"{self.path} must have every stage trained, got none of {', '.join(untrained)}; train on"
            )

    @property
    def description(self) -> dict[str, str]:
        """The weights as sidecars name them."""
        return {"Preset": self.preset.name, "File": self.path.name, "SHA256": self.sha256}


def unreadable_preset(path: Path, error: Exception) -> WeightsError:
    """The error for a preset that no model of this version has."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return WeightsError(f"{path}: its preset cannot be read ({reason}); it may come from another version of modfill")


def _checked_hash(path: Path) -> str:
    """SHA-256 of a weights file, compared with the `.sha256` file beside it if there is one."""
    if not os.path.isfile(path):  # also False for a name that is too long
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
        raise WeightsError(f"{path}: must have the SHA-256 in {record.name}, got {found}; install or download it again")
    return found


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> WeightsError:
    """The error for a file that safetensors cannot read."""
    return WeightsError(f"{path}: damaged or not a safetensors file ({error}); download or train it again")
