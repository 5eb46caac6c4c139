"""The claims about real cases: the cache's speed, the same values however they are loaded, the workers' memory."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from modfill.weights.file import SHIPPED
from tests.case_files import write_case
from tests.loading import PRESENT, batches, epoch, same

tio = pytest.importorskip("torchio")

DATA = Path(os.environ.get("MODFILL_DATA", Path(__file__).parents[2] / "shared" / "data"))
REAL_PRESENT = (("t1n", "t2w", "t2f"), ("t1n", "t1c", "t2w"), ("t1n", "t2f"), ("t1c", "t2w", "t2f"), ("t2f",))
WAYS = (("none", 0, None), ("one", 1, "fork"), ("two", 2, "fork"), ("new", 2, "spawn"))


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / "test").is_dir() or not SHIPPED.is_file(), reason="needs real cases and the shipped weights"
)
def test_real_cases_at_disk_speed(tmp_path: Path) -> None:
    """Five incomplete cases, two workers: the second epoch is 20 times faster; nothing changes a value."""
    seconds, memory = check_loading(real_paths(), None, tmp_path)
    print(f"\nepochs: {seconds[0]:.1f} s, {seconds[1]:.2f} s; workers' own memory: {memory:.2f} GiB")
    assert seconds[0] > 20 * seconds[1]
    assert memory < 1.2


def check_loading(
    paths: list[dict[str, Path]], weights: Path | None, cache: Path, edge: int = 128, ways: Sequence = WAYS
) -> tuple[list[float], float]:
    """Load incomplete cases in several ways (cache folder, workers, start method) and compare.

    Returns:
        The seconds of two epochs with two workers, and the memory of these two, in GiB.
    """

    from modfill.integrations.torchio_transform import CompleteModalities

    def data(folder: str) -> Any:
        steps = tio.Compose([CompleteModalities(weights, cache=cache / folder), tio.CropOrPad(edge)])
        items = [tio.Subject(**{m: tio.ScalarImage(path) for m, path in case.items()}) for case in paths]
        return tio.SubjectsDataset(items, steps)

    loader = tio.SubjectsLoader(data("epochs"), batch_size=2, num_workers=2, persistent_workers=True)
    seconds, epochs = [], []
    for _ in range(2):
        began = time.monotonic()
        epochs.append(epoch(loader))
        seconds.append(time.monotonic() - began)
    memory = private_memory(loader)
    assert same(*epochs)
    for folder, workers, start in ways:
        assert same(epochs[0], batches(data(folder), workers, start)), folder
    return seconds, memory


def test_the_check_of_real_cases_on_small_ones(tiny_weights: Path, tmp_path: Path) -> None:
    folders = [write_case(tmp_path, f"p{i}", PRESENT[i], seed=i) for i in range(3)]
    paths = [{m: next(folder.glob(f"*-{m}.nii.gz")) for m in PRESENT[i]} for i, folder in enumerate(folders)]
    seconds, memory = check_loading(paths, tiny_weights, tmp_path / "cache", 16, WAYS[:1])
    assert len(seconds) == 2 and 0 < memory < 1.2


def real_paths() -> list[dict[str, Path]]:
    """Files by modality of five real cases, each without some of its modalities."""
    folders = sorted(path for path in (DATA / "test").iterdir() if path.is_dir())[: len(REAL_PRESENT)]
    return [
        {modality: folder / f"{folder.name}-{modality}.nii.gz" for modality in present}
        for folder, present in zip(folders, REAL_PRESENT, strict=True)
    ]


def private_memory(loader: Any) -> float:
    """GiB that the living workers of a data loader hold beyond what they share with other processes."""
    workers = [psutil.Process(worker.pid) for worker in loader._iterator._workers]
    return sum(worker.memory_full_info().uss for worker in workers) / 2**30
