"""Which modalities were acquired, as a mask that travels with the data; what the adapters for training share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch

from modfill.errors import ModfillError
from modfill.modalities import MODALITIES

__all__ = ["ACQUIRED", "acquired_mask", "acquired_only", "count_range"]

ACQUIRED = "acquired_modalities"
"""Key of the mask on a subject or in a dictionary; of fixed length, so that batches collate."""

Image = TypeVar("Image")


def acquired_mask(acquired: Iterable[str]) -> torch.Tensor:
    """The mask: bool (4,) in the order of `MODALITIES`, true where the modality was acquired."""
    return torch.tensor([modality in acquired for modality in MODALITIES])


def acquired_only(present: Mapping[str, Image], former: object) -> dict[str, Image]:
    """Leave out what a former completion synthesised.

    Args:
        present: by modality.
        former: the mask that the data already carry, or None.
    """
    if not isinstance(former, torch.Tensor):
        return dict(present)
    return {modality: image for modality, image in present.items() if former[MODALITIES.index(modality)]}


def count_range(num_dropped: int | tuple[int, int]) -> tuple[int, int]:
    """The least and the greatest number of modalities to remove.

    Raises:
        ModfillError: one is removed too many, or the two are not in order.
    """
    low, high = (num_dropped, num_dropped) if isinstance(num_dropped, int) else num_dropped
    if not 0 <= low <= high < len(MODALITIES):
        raise ModfillError(
            f"num_dropped must be from 0 to {len(MODALITIES) - 1}, or such a pair in order, got {num_dropped}"
        )
    return low, high
