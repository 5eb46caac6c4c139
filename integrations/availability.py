"""A mask of the acquired modalities, and other code that the adapters for training share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from modfill.cases.reading import synthetic_file
from modfill.errors import CaseError, ModfillError
from modfill.modalities import ModalitySet

__all__ = ["ACQUIRED", "acquired_mask", "acquired_only", "choose_dropped", "count_range", "of_synthetic_file"]

ACQUIRED = "acquired_modalities"
"""Key of the mask on a subject or in a dictionary; of fixed length, so that batches collate."""

Image = TypeVar("Image")
Item = TypeVar("Item")


def acquired_mask(acquired: Iterable[str], modality_set: ModalitySet) -> torch.Tensor:
    """The mask: bool (M,) in the order of the set, true where the modality was acquired."""
    return torch.tensor([modality in acquired for modality in modality_set.names])


def acquired_only(present: Mapping[str, Image], former: Any, label: str, modality_set: ModalitySet) -> dict[str, Image]:
    """Leave out images that a former completion synthesised.

    Args:
        present: by modality.
        former: the mask that the data already carry, as a tensor, array or list; or None.
        label: name of the data in messages.
        modality_set: of the mask.

    Raises:
        CaseError: the mask has another form.
    """
    if former is None:
        return dict(present)
    mask, names = np.asarray(former), modality_set.names
    if mask.shape != (len(names),) or mask.dtype.kind not in "biuf":
        got = f"shape {mask.shape}" if mask.dtype.kind in "biuf" else repr(former)
        raise CaseError(
            f"{label}: {ACQUIRED} must mark each of {', '.join(names)} as acquired or not, got {got}; "
            "give one subject at a time, or leave it out"
        )
    return {modality: image for modality, image in present.items() if mask[names.index(modality)]}


def of_synthetic_file(path: Any) -> bool:
    """Return whether an image was read from a file that modfill made.

    Args:
        path: the origin of the image, as its library records it. Anything but a path is not a file.
    """
    return isinstance(path, str | Path) and synthetic_file(Path(path))


def count_range(num_dropped: Any, modality_set: ModalitySet) -> tuple[int, int]:
    """The least and the greatest number of modalities to remove.

    Args:
        num_dropped: one whole number or two; None takes from one to all but one.
        modality_set: of the data.

    Raises:
        ModfillError: it has another form, a number is out of range, or the two are not in order.
    """
    count = len(modality_set.names)
    num_dropped = (1, count - 1) if num_dropped is None else num_dropped
    numbers: Any = [num_dropped] * 2 if isinstance(num_dropped, Integral) else num_dropped
    whole = isinstance(numbers, Sequence) and len(numbers) == 2 and all(isinstance(n, Integral) for n in numbers)
    if not whole or not 0 <= numbers[0] <= numbers[1] < count:
        raise ModfillError(f"num_dropped must be from 0 to {count - 1}, or such a pair in order, got {num_dropped!r}")
    return int(numbers[0]), int(numbers[1])


def choose_dropped(order: Sequence[Item], acquired: Collection[Item], count: int) -> list[Item]:
    """The first `count` items that may be removed, but never all that were acquired.

    Args:
        order: items that may be removed, in random order.
        acquired: items that were acquired, also those that may not be removed.
        count: how many are wanted.
    """
    kept = [item for item in acquired if item not in order] or [i for i in order if i in acquired][-1:] or order[-1:]
    return [item for item in order if item not in kept][:count]
