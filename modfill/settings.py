"""Settings of a completion, checked: Python's types or NumPy's, in range."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal

import numpy as np

from modfill.errors import SettingsError

__all__ = ["Mode", "Settings", "numbered_samples", "truth", "whole_number", "without_uncertainty"]

Mode = Literal["mean", "sample"]


@dataclass(frozen=True)
class Settings:
    """The choices of a completion.

    Attributes:
        mode: "mean" (least error) or "sample" (one plausible image).
        steps: diffusion steps of a sample; None takes the preset's number. Mode "mean" has none.
        seed: of a sample's noise, from 0 to 2**63 - 1.
        uncertainty: give the map of the standard deviation to be expected, too.

    Raises:
        SettingsError: one is of another type or out of its range, or steps are given in mode "mean".
    """

    mode: Mode = "mean"
    steps: int | None = None
    seed: int = 0
    uncertainty: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.mode, str) or self.mode not in ("mean", "sample"):
            raise SettingsError(f"mode must be 'mean' or 'sample', got {self.mode!r}; give one of them")
        checked = {
            "mode": str(self.mode),
            "steps": None if self.steps is None else whole_number("steps", self.steps, 1, 1000),
            "seed": whole_number("seed", self.seed, 0, 2**63 - 1),
            "uncertainty": truth("uncertainty", self.uncertainty),
        }
        for name, value in checked.items():  # Python's own types: sidecars and caches tell them
            object.__setattr__(self, name, value)
        if self.mode == "mean" and self.steps is not None:
            raise SettingsError(f"steps must be left out in mode 'mean', got {self.steps}; set mode='sample'")


def numbered_samples(count: int, settings: Settings | None = None) -> dict[str, Settings]:
    """Settings of several plausible images of the same modality, for multiple imputation.

    Args:
        count: number of images.
        settings: of the first one, in mode "sample"; each further one has the next seed. None takes the defaults.

    Returns:
        By name, "sample-1" to "sample-<count>", which a folder of its own may have.
    """
    first = replace(settings or Settings("sample"), mode="sample")
    return {f"sample-{n + 1}": replace(first, seed=first.seed + n) for n in range(whole_number("count", count, 1))}


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """A whole number as an int.

    Args:
        name: of the setting, with which the message begins.
        value: what was given.
        low: the least that is allowed.
        high: the greatest; None sets no limit.

    Raises:
        SettingsError: it is of another type, a bool among them, or out of range.
    """
    allowed = f"at least {low}" if high is None else f"from {low} to {high}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise SettingsError(f"{name} must be a whole number, {allowed}, got {value!r}; give an integer")
    number = int(value)
    if number < low or (high is not None and number > high):
        raise SettingsError(f"{name} must be {allowed}, got {number}; give another number")
    return number


def truth(name: str, value: Any) -> bool:
    """Yes or no as a bool. Raises SettingsError for anything but a bool, of Python's or NumPy's."""
    if not isinstance(value, bool | np.bool_):
        raise SettingsError(f"{name} must be True or False, got {value!r}; give one of them")
    return bool(value)


def without_uncertainty(settings: Settings | None) -> Settings:
    """The settings, or the defaults. Raises SettingsError if they ask for a map, which arrays cannot carry."""
    settings = settings or Settings()
    if settings.uncertainty:
        raise SettingsError("uncertainty must be left out for arrays, which take no map; complete files instead")
    return settings
