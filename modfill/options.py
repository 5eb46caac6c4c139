"""What users give for settings, checked: whole numbers and yes or no, by Python's types or NumPy's."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from modfill.errors import CaseError

__all__ = ["truth", "whole_number"]


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """A whole number as an int.

    Args:
        name: of the setting, with which the message begins.
        value: what was given.
        low: the least that is allowed.
        high: the greatest; None sets no limit.

    Raises:
        CaseError: it is of another type, a bool among them, or out of range.
    """
    allowed = f"at least {low}" if high is None else f"from {low} to {high}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise CaseError(f"{name} must be a whole number, {allowed}, got {value!r}; give an integer")
    number = int(value)
    if number < low or (high is not None and number > high):
        raise CaseError(f"{name} must be {allowed}, got {number}; give another number")
    return number


def truth(name: str, value: Any) -> bool:
    """Yes or no as a bool. Raises CaseError for anything but a bool, of Python's or NumPy's."""
    if not isinstance(value, bool | np.bool_):
        raise CaseError(f"{name} must be True or False, got {value!r}; give one of them")
    return bool(value)
