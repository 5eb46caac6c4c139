"""Every writer of a file: on a disk that takes nothing, one line of error, the former file whole, nothing beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from modfill.integrations.cache import CompletionCache, Synthetic
from torch import nn

from modfill.cases.files import Cohort
from modfill.cases.finding import find_cohort
from modfill.cases.reading import read_case
from modfill.cohort.table import COLUMNS, update_table
from modfill.completer import ModalityCompleter
from modfill.demo.phantom import write_case as write_phantom
from modfill.demo.picture import draw_completion
from modfill.errors import ModfillError
from modfill.model.config import PRESETS, STAGES
from modfill.outputs.linking import Links, describe
from modfill.outputs.naming import OutputFolder
from modfill.reports.cohort_page import write_report
from modfill.reports.scan import scan_cohort
from modfill.reports.scan_page import save_csv, save_html
from modfill.training import loop
from modfill.training.data import save_array, save_json
from modfill.weights import checkpoint
from tests.case_files import write_case
from tests.conftest import awake
from tests.test_report import row

SHAPE = (14, 16, 12)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, completer: ModalityCompleter) -> Path:
    """Two cases, and their completion in `out`."""
    folder = tmp_path_factory.mktemp("inputs")
    for seed, case_id in enumerate(("p1", "p2")):
        write_case(folder / "in", case_id, ("t1n", "t2w"), SHAPE, seed=seed)
    list(completer.complete_cohort(folder / "in", out=folder / "out"))
    return folder


def a_checkpoint(inputs: Path, folder: Path, version: int) -> None:
    model = awake(PRESETS["tiny"], version)
    checkpoint.save(model, folder / "weights.safetensors", STAGES)


def links(inputs: Path, folder: Path, version: int) -> None:
    cohort = find_cohort(inputs / "in")
    files = cohort.cases[version - 1]
    Links(OutputFolder(folder), cohort).add(files, files.paths)


def a_copy(inputs: Path, folder: Path, version: int) -> None:
    cohort = find_cohort(inputs / "in")
    files = cohort.cases[version - 1]
    images = read_case(files).images
    Links(OutputFolder(folder), cohort).add(replace(files, volume_index={"t1n": 0}), files.paths, images)


def a_description(inputs: Path, folder: Path, version: int) -> None:
    cohort = Cohort("folders", [], dataset={"labels": {"background": 0, "tumour": version}})
    describe(OutputFolder(folder, "nnunet"), cohort)


def a_table(inputs: Path, folder: Path, version: int) -> None:
    update_table(OutputFolder(folder), dict.fromkeys(COLUMNS, "") | {"case": "p1", "reason": str(version)})


def the_cache(inputs: Path, folder: Path, version: int) -> None:
    CompletionCache(folder).put("abc", Synthetic(np.full((9, 9, 9), version), (0.0, 1.0)))


def a_report(inputs: Path, folder: Path, version: int) -> None:
    write_report(inputs / "out", folder / "report.html")


def a_scan(save: Callable[..., None], inputs: Path, folder: Path, version: int) -> None:
    save(scan_cohort(inputs / "in" / ("" if version == 1 else "p1")), folder / "scan")


def training_arrays(inputs: Path, folder: Path, version: int) -> None:
    save_array(folder / "array.npy", np.full(5000, version))


def training_json(inputs: Path, folder: Path, version: int) -> None:
    save_json(folder / "array.json", [version] * 5000)


def a_training_state(inputs: Path, folder: Path, version: int) -> None:
    parameters = {"a": nn.Parameter(torch.full((5000,), float(version)))}
    stage = SimpleNamespace(named_parameters=parameters.items, named_buffers=dict, state_dict=dict, origin={})
    optimiser = torch.optim.AdamW(parameters.values())
    loop._save(folder / "translator.ckpt", stage, [optimiser], loop.EMA(parameters, 0.9), loop.Progress(version))


def a_phantom(inputs: Path, folder: Path, version: int) -> None:
    write_phantom(folder, "p1", read_case(find_cohort(inputs / "in").cases[version - 1]).images)


def a_picture(inputs: Path, folder: Path, version: int) -> None:
    pytest.importorskip("matplotlib")
    draw_completion(folder / "demo.png", [row()], str(version))


WRITERS: dict[str, Callable[[Path, Path, int], None]] = {
    function.__name__: function
    for function in (a_checkpoint, links, a_copy, a_description, a_table, the_cache, a_report, training_arrays,
                     training_json, a_training_state, a_phantom, a_picture)
} | {"scan csv": partial(a_scan, save_csv), "scan html": partial(a_scan, save_html)}  # fmt: skip


def content(folder: Path) -> dict[str, bytes]:
    """Every file and link below a folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A small file system of its own at `folder`."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=False).returncode:
        pytest.skip("this container may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> None:
    """Use up the last byte."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def refused(write: Callable[[], None], reason: str) -> None:
    with pytest.raises(ModfillError) as caught:
        write()
    line = str(caught.value)
    assert "cannot write " in line and f"({reason}" in line and line.endswith("; free space or choose another folder")
    assert line.count("\n") == 0


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"links"}))  # a link takes no room
def test_a_full_disk(name: str, inputs: Path, place: Path) -> None:
    with mounted(place):
        WRITERS[name](inputs, place, 1)
        before = content(place)
        fill(place)
        refused(lambda: WRITERS[name](inputs, place, 2), "")
        (place / "filler").unlink()
        assert content(place) == before and before
        assert not list(place.rglob(".tmp*"))


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fails_at_the_last_moment(
    name: str, inputs: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    WRITERS[name](inputs, place, 1)
    before = content(place)
    monkeypatch.setattr(os, "replace", full)
    refused(lambda: WRITERS[name](inputs, place, 2), "No space left on device")
    assert content(place) == before and not list(place.rglob(".tmp*"))


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_folder(name: str, inputs: Path, place: Path) -> None:
    with mounted(place):
        WRITERS[name](inputs, place, 1)
        before = content(place)
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        refused(lambda: WRITERS[name](inputs, place, 2), "Read-only file system")
        assert content(place) == before and before


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_where_a_folder_should_be(name: str, inputs: Path, place: Path) -> None:
    (place / "file").write_text("mine")
    for folder in (place / "file", place / "file" / "below"):
        refused(lambda folder=folder: WRITERS[name](inputs, folder, 1), "")
    assert content(place) == {"file": b"mine"}
