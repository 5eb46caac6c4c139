"""Weights as a MONAI bundle: metadata, and a configuration that calls modfill's own transform and completer.

Source: the MONAI Bundle Specification. The bundle holds no second implementation: modfill must be installed.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from modfill import __version__
from modfill.atomic import replacing, writable
from modfill.errors import ModfillError
from modfill.modalities import ModalitySet
from modfill.weights.file import SHIPPED, WeightsFile

__all__ = ["SCHEMA", "export_bundle"]

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20220324.json"
"""MONAI's schema of metadata.json, which `monai.bundle verify_metadata` downloads."""

_WEIGHTS = "modfill.safetensors"


def export_bundle(out: str | Path, *, weights: str | Path | None = None) -> Path:
    """Write a MONAI bundle.

    Args:
        out: the bundle's folder; must be empty or not there.
        weights: a file that `modfill train` wrote; None takes the shipped ones.

    Returns:
        The folder.

    Raises:
        WeightsError: the weights cannot be read.
        ModfillError: the folder holds files, or cannot be written.
    """
    out = Path(out)
    file = WeightsFile.open(weights)
    with writable(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ModfillError(f"{out} must be an empty folder or not there, got another one; choose another")
        for folder in ("configs", "models", "docs"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        modalities = file.preset.modalities
        with replacing(out / "models" / _WEIGHTS) as temporary:
            shutil.copyfile(file.path, temporary)
        digest = out / "models" / f"{_WEIGHTS}.sha256"
        digest.write_text(f"{file.sha256}  {_WEIGHTS}\n", encoding="utf8")
        # the specification requires it; modfill itself opens no pickle
        with replacing(out / "models" / "model.pt") as temporary:
            torch.save(load_file(file.path), temporary)
        for name, content in (("inference", _inference(modalities)), ("metadata", _metadata(file.preset.modality_set))):
            text = json.dumps(content, indent=4) + "\n"
            (out / "configs" / f"{name}.json").write_text(text, encoding="utf8")
        readme = out / "docs" / "README.md"
        readme.write_text(_README + (_card() if file.path == SHIPPED else ""), encoding="utf8")
    return out


def _inference(modalities: tuple[str, ...]) -> dict[str, Any]:
    present = {"keys": "@keys", "allow_missing_keys": True}
    weights = f"$@bundle_root + '/models/{_WEIGHTS}'"
    return {
        "imports": ["$import modfill"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/output'",
        "device": "auto",
        "keys": list(modalities),
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", **present, "dtype": None},  # whole numbers stay whole
                {"_target_": "EnsureChannelFirstd", **present},
                {
                    "_target_": "modfill.integrations.monai_transform.CompleteModalitiesd",
                    "keys": "@keys",
                    "modalities": "@keys",
                    "weights": weights,
                    "device": "@device",
                },
            ],
        },
        "completer": {"_target_": "modfill.ModalityCompleter", "weights": weights, "device": "@device"},
        # not SaveImaged, whose files would carry no mark of being synthetic
        "run": ["$@completer.complete_cohort(@dataset_dir, out=@output_dir).to_frame()"],
    }


def _metadata(modality_set: ModalitySet) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "version": __version__,
        "changelog": {__version__: "exported by modfill"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__,
        "numpy_version": version("numpy"),
        "optional_packages_version": {"modfill": __version__, "nibabel": version("nibabel")},
        "required_packages_version": {"modfill": __version__, "nibabel": version("nibabel")},
        "name": "modfill",
        "task": "Synthesis of missing MRI modalities of the brain",
        "description": "Synthesises in 3D each modality that a case lacks, from any of those that were acquired.",
        "authors": "The modfill developers",
        "copyright": "Apache-2.0",
        "intended_use": "Research; not for diagnosis. Images must be skull-stripped and co-registered.",
        "network_data_format": {
            "inputs": {"image": _tensor(modality_set, "all zero where it is missing")},
            "outputs": {"pred": _tensor(modality_set, "acquired or synthetic")},
        },
    }


def _tensor(modality_set: ModalitySet, state: str) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": len(modality_set.names),
        "spatial_shape": ["*", "*", "*"],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {str(number): f"{modality_set[m].long}, {state}" for number, m in enumerate(modality_set.names)},
    }


def _card() -> str:
    """The model card without its front matter, which must begin a file."""
    text = SHIPPED.with_name("MODEL_CARD.md").read_text(encoding="utf8")
    return text.split("---\n", 2)[-1]


_README = """\
# modfill as a MONAI bundle

It needs modfill, whose transform and completer the configuration calls, and fire for the command:

```
pip install modfill fire
python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir COHORT --output_dir OUT
```

The outputs are those of `modfill complete COHORT -o OUT`: the same voxels, marked as synthetic, with sidecars.
`preprocessing` completes the dictionaries of a MONAI program. `models/modfill.safetensors` holds the weights that are
used; `models/model.pt` holds the same numbers for programs that expect this file.

"""
