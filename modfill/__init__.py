"""modfill completes MRI cases: it synthesises the modalities that are missing, in 3D, on the patient's own grid."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modfill.cases.files import CaseFiles, Cohort
    from modfill.cases.finding import find_cohort
    from modfill.cases.reading import Case, inspect
    from modfill.completer import ModalityCompleter
    from modfill.errors import CaseError, ModfillError, SettingsError, WeightsError
    from modfill.process import tune_process
    from modfill.reports.scan import scan_cohort
    from modfill.reproduction import Reproduction, reproduce
    from modfill.results import CaseResult, Completed
    from modfill.settings import Settings, numbered_samples

__version__ = "0.1.0"
__all__ = [
    "Case",
    "CaseError",
    "CaseFiles",
    "CaseResult",
    "Cohort",
    "Completed",
    "ModalityCompleter",
    "ModfillError",
    "Reproduction",
    "Settings",
    "SettingsError",
    "WeightsError",
    "__version__",
    "find_cohort",
    "inspect",
    "numbered_samples",
    "reproduce",
    "scan_cohort",
    "tune_process",
]

_PLACES = {
    "cases.files": ("CaseFiles", "Cohort"),
    "cases.finding": ("find_cohort",),
    "cases.reading": ("Case", "inspect"),
    "completer": ("ModalityCompleter",),
    "errors": ("CaseError", "ModfillError", "SettingsError", "WeightsError"),
    "process": ("tune_process",),
    "reports.scan": ("scan_cohort",),
    "reproduction": ("Reproduction", "reproduce"),
    "results": ("CaseResult", "Completed"),
    "settings": ("Settings", "numbered_samples"),
}
_MODULES = {name: f"modfill.{module}" for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name, and torch or nibabel with it, only when it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module 'modfill' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
