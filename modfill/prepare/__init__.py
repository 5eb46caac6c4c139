"""From raw scans to a case, and back: `modfill prepare` and `modfill restore`.

    study on disk - find, recognise - register - strip - resample to 1 mm - check - write + record
                    finding, recognition  registration stripping grid          study   record, picture

Needs `pip install 'modfill[prepare]'`; `restore` needs nothing beside modfill itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modfill.prepare.restoring import restore
    from modfill.prepare.study import PreparedStudy, prepare_studies, prepare_study

__all__ = ["PreparedStudy", "prepare_studies", "prepare_study", "restore"]


def __getattr__(name: str) -> Any:
    """Import late: the command line's help needs none of it."""
    if name == "restore":
        from modfill.prepare.restoring import restore

        return restore
    if name in __all__:
        from modfill.prepare import study

        return getattr(study, name)
    raise AttributeError(f"module 'modfill.prepare' has no attribute '{name}'")
