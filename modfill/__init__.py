"""modfill completes MRI cases: it synthesises the modalities that are missing, in 3D, on the patient's own grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modfill.completer import ModalityCompleter

__version__ = "0.1.0"
__all__ = ["ModalityCompleter", "__version__"]


def __getattr__(name: str) -> Any:
    """Import ModalityCompleter, and torch with it, only when it is asked for."""
    if name == "ModalityCompleter":
        from modfill.completer import ModalityCompleter

        return ModalityCompleter
    raise AttributeError(f"module 'modfill' has no attribute '{name}'")
