"""nnU-Net made importable, also where torchvision was built for another torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from modfill.errors import ModfillError

_NEEDS_TIMM = "nnunetv2.training.nnUNetTrainer.primus.primus_trainers"


def require_nnunet() -> None:
    """Make nnU-Net's trainers importable, or raise an error with the command that installs it.

    To find a trainer, nnU-Net imports every module of trainers. One of them needs timm, which needs torchvision. If
    these do not load (torchvision's CUDA build on a CPU torch), nnU-Net finds no trainer but the standard one. An empty
    module therefore replaces the one that needs them.

    Raises:
        ModfillError: nnU-Net is not installed.
    """
    try:
        importlib.import_module("nnunetv2")
    except ImportError as error:
        raise ModfillError(
            "nnU-Net must be installed for this, got no module nnunetv2; run: pip install 'modfill[nnunet]'"
        ) from error
    if _NEEDS_TIMM in sys.modules:
        return
    try:
        importlib.import_module("timm.layers")
    except Exception:  # torchvision raises RuntimeError, AttributeError or ImportError, by its version
        for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
            del sys.modules[name]  # partly imported: the next import must raise the error again
        sys.modules[_NEEDS_TIMM] = ModuleType(_NEEDS_TIMM, "Left out: timm or torchvision cannot be imported.")
