"""The errors modfill raises on purpose; each message is one line written for users."""

from __future__ import annotations

__all__ = ["CaseError", "ModfillError", "WeightsError"]


class ModfillError(Exception):
    """Base of all errors that a user can put right."""


class CaseError(ModfillError):
    """A case that cannot be found, read or completed."""


class WeightsError(ModfillError):
    """A weights file that cannot be read or does not fit."""
