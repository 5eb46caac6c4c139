"""Which modalities were acquired, as a mask that travels with the data; what the adapters for training share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from modfill.cases.reading import synthetic_file
from modfill.errors import CaseError, ModfillError
from modfill.modalities import MODALITIES

__all__ = ["ACQUIRED", "acquired_mask", "acquired_only", "choose_dropped", "count_range", "of_synthetic_file"]

ACQUIRED = "acquired_modalities"
"""Key of the mask on a subject or in a dictionary; of fixed length, so that batches collate."""

Image = TypeVar("Image")
Item = TypeVar("Item")


def acquired_mask(acquired: Iterable[str]) -> torch.Tensor:
    """The mask: bool (4,) in the order of `MODALITIES`, true where the modality was acquired."""
    return torch.tensor([modality in acquired for modality in MODALITIES])


def acquired_only(present: Mapping[str, Image], former: Any, label: str) -> dict[str, Image]:
    """Leave out what a former completion synthesised.

    Args:
        present: by modality.
        former: the mask that the data already carry, as a tensor, array or list; or None.
        label: what messages call the data.

    Raises:
        CaseError: the mask is something else.
    """
    if former is None:
        return dict(present)
    mask = np.asarray(former)
    if mask.shape != (len(MODALITIES),) or mask.dtype.kind not in "biuf":
        got = f"shape {mask.shape}" if mask.dtype.kind in "biuf" else repr(former)
        raise CaseError(
            f"{label}: {ACQUIRED} must say for each of {', '.join(MODALITIES)} whether it was acquired, got {got}; "
            "give one subject at a time, or leave it out"
        )
    return {modality: image for modality, image in present.items() if mask[MODALITIES.index(modality)]}


def of_synthetic_file(path: Any) -> bool:
    """Tell whether an image was read from a file that modfill made.

    Args:
        path: what the image's library says about where it came from; anything but a file's path is none.
    """
    return isinstance(path, str | Path) and synthetic_file(Path(path))


def count_range(num_dropped: Any) -> tuple[int, int]:
    """The least and the greatest number of modalities to remove.

    Args:
        num_dropped: one whole number or two.

    Raises:
        ModfillError: it is something else, one is removed too many, or the two are not in order.
    """
    numbers: Any = [num_dropped] * 2 if isinstance(num_dropped, Integral) else num_dropped
    whole = isinstance(numbers, Sequence) and len(numbers) == 2 and all(isinstance(n, Integral) for n in numbers)
    if not whole or not 0 <= numbers[0] <= numbers[1] < len(MODALITIES):
        raise ModfillError(
            f"num_dropped must be from 0 to {len(MODALITIES) - 1}, or such a pair in order, got {num_dropped!r}"
        )
    return int(numbers[0]), int(numbers[1])


def choose_dropped(order: Sequence[Item], acquired: Collection[Item], count: int) -> list[Item]:
    """The first `count` of what may be removed, but never all that was acquired.

    Args:
        order: what may be removed, in random order.
        acquired: what was acquired, also of what may not be removed.
        count: how many are wanted.
    """
    kept = [item for item in acquired if item not in order] or [i for i in order if i in acquired][-1:] or order[-1:]
    return [item for item in order if item not in kept][:count]
