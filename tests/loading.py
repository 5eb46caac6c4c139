"""What the tests of the training adapters share: which modalities subjects have, and loading with TorchIO."""

from __future__ import annotations

from typing import Any

import torch

from tests.case_files import MODALITIES

PRESENT = (("t1n", "t2f"), ("t1n", "t1c", "t2w", "t2f"), ("t1c",), ("t1c", "t2w", "t2f"))
"""Available modalities of the first, second, ... subject."""


def batches(data: Any, workers: int, start: str | None = None) -> dict[str, torch.Tensor]:
    """All items of a dataset, through a loader with batches of two; images and mask by name."""
    import torchio as tio

    return epoch(tio.SubjectsLoader(data, batch_size=2, num_workers=workers, multiprocessing_context=start))


def epoch(loader: Any) -> dict[str, torch.Tensor]:
    whole = list(loader)
    images = {m: torch.cat([batch[m]["data"] for batch in whole]) for m in MODALITIES}
    return images | {"mask": torch.cat([batch["acquired_modalities"] for batch in whole])}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)
