"""The cache: what an entry depends on, what damages do to it, and processes that share it or were forked."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from modfill.integrations.cache import CompletionCache, Synthetic, complete_arrays, shared_completer

from modfill.completer import ModalityCompleter
from modfill.errors import CaseError, ModfillError, SettingsError, WeightsError
from modfill.model.config import PRESETS, STAGES
from modfill.settings import Settings
from modfill.weights import checkpoint
from tests.case_files import brain_volumes, oblique_affine
from tests.conftest import awake

AFFINE = oblique_affine()
KEY = "0123456789abcdef"


@pytest.fixture
def sources() -> dict[str, npt.NDArray]:
    volumes = brain_volumes()
    return {"t1n": volumes["t1n"], "t2f": volumes["t2f"]}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The case ids that the model has been run on."""
    seen: list[str] = []
    real = ModalityCompleter.complete

    def counted(self: ModalityCompleter, case: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(case.case_id)
        return real(self, case, *args, **kwargs)

    monkeypatch.setattr(ModalityCompleter, "complete", counted)
    return seen


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def equal(first: dict[str, Synthetic], second: dict[str, Synthetic]) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[m].volume, second[m].volume)
        and first[m].volume.dtype == second[m].volume.dtype
        and first[m].unit_range == second[m].unit_range
        for m in first
    )


def test_module_does_not_import_torch() -> None:
    code = "import sys, modfill.integrations.cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_same_as_the_completer(sources: dict, tiny_weights: Path, completer: ModalityCompleter, tmp_path: Path) -> None:
    made = complete_arrays(
        sources, affine=AFFINE, settings=Settings(seed=3), case_id="p1", weights=tiny_weights, cache=tmp_path
    )
    expected = completer.complete_arrays(sources, affine=AFFINE, case_id="p1", settings=Settings(seed=3))
    assert list(made) == ["t1c", "t2w"]
    assert all(np.array_equal(made[m].volume, expected[m]) for m in made)
    assert {made[m].volume.dtype for m in made} == {np.dtype(np.int16)}
    brain = (sources["t1n"] != 0) | (sources["t2f"] != 0)
    low, high = made["t1c"].unit_range
    assert low <= made["t1c"].volume[brain].min() + 0.5 and made["t1c"].volume.max() <= high + 0.5


def test_second_call_does_not_run_the_model(sources: dict, tiny_weights: Path, tmp_path: Path, runs: list) -> None:
    first = complete_arrays(sources, affine=AFFINE, weights=tiny_weights, cache=tmp_path / "cache")
    assert len(runs) == 1 and len(entries(tmp_path / "cache")) == 2
    second = complete_arrays(sources, affine=AFFINE, weights=tiny_weights, cache=tmp_path / "cache")
    assert len(runs) == 1 and equal(first, second)
    assert second["t1c"].volume.flags.writeable


def test_only_what_the_cache_lacks_is_made(sources: dict, tiny_weights: Path, tmp_path: Path, runs: list) -> None:
    one = complete_arrays(sources, affine=AFFINE, targets=["t2w"], weights=tiny_weights, cache=tmp_path)
    both = complete_arrays(sources, affine=AFFINE, weights=tiny_weights, cache=tmp_path)
    assert len(runs) == 2 and len(entries(tmp_path)) == 2
    assert equal(one, {"t2w": both["t2w"]})
    assert equal(both, complete_arrays(sources, affine=AFFINE, weights=tiny_weights))


def test_an_entry_depends_on_inputs_weights_and_settings(
    sources: dict, tiny_weights: Path, tmp_path: Path, runs: list
) -> None:
    other_weights = tmp_path / "other.safetensors"
    checkpoint.save(awake(PRESETS["tiny"], seed=1), other_weights, STAGES)
    brighter = {**sources, "t1n": sources["t1n"] + (sources["t1n"] > 0)}
    renamed = {"t1c": sources["t1n"], "t2f": sources["t2f"]}
    ways: list[tuple[dict, npt.NDArray, dict]] = [
        (sources, AFFINE, {}),
        (brighter, AFFINE, {}),
        (renamed, AFFINE, {}),
        ({m: a.astype(np.float32) for m, a in sources.items()}, AFFINE, {}),
        (sources, AFFINE * 1.001, {}),
        (sources, AFFINE, {"settings": Settings(seed=1)}),
        (sources, AFFINE, {"settings": Settings("sample", 2)}),
        (sources, AFFINE, {"settings": Settings(mode="sample")}),
        (sources, AFFINE, {"case_id": "another"}),
        (sources, AFFINE, {"weights": other_weights}),
    ]
    for count, (arrays, affine, options) in enumerate(ways, 1):
        complete_arrays(
            arrays, affine=affine, targets=["t2w"], cache=tmp_path / "c", **{"weights": tiny_weights, **options}
        )
        assert len(runs) == len(entries(tmp_path / "c")) == count


def test_arrays_take_no_uncertainty(sources: dict, tiny_weights: Path, completer: ModalityCompleter) -> None:
    with pytest.raises(SettingsError, match="uncertainty must be left out for arrays"):
        complete_arrays(sources, affine=AFFINE, settings=Settings(uncertainty=True), weights=tiny_weights)
    with pytest.raises(SettingsError, match="uncertainty must be left out for arrays"):
        completer.complete_arrays(sources, affine=AFFINE, settings=Settings(uncertainty=True))


@pytest.mark.parametrize("damage", ["emptied", "cut", "flipped", "deleted", "another file"])
def test_damaged_entries_are_made_again(
    sources: dict, tiny_weights: Path, tmp_path: Path, runs: list, damage: str
) -> None:
    first = complete_arrays(sources, affine=AFFINE, weights=tiny_weights, cache=tmp_path)
    path = entries(tmp_path)[0]
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = {
        "emptied": b"",
        "cut": content[:-100],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "another file": b"a page of text" * 10,
    }
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(damaged[damage])
    assert equal(first, complete_arrays(sources, affine=AFFINE, weights=tiny_weights, cache=tmp_path))
    assert len(runs) == 2
    assert path.read_bytes() == content


def test_round_trip_and_file_that_numpy_reads(tmp_path: Path) -> None:
    store = CompletionCache(tmp_path / "not" / "there")
    made = Synthetic(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), (0.1, 2 / 3))
    assert store.get(KEY) is None
    store.put(KEY, made)
    assert equal({"t1c": made}, {"t1c": store.get(KEY)})
    with np.load(store.path(KEY)) as entry:
        assert np.array_equal(entry["volume"], made.volume)
    assert entries(tmp_path) == [store.path(KEY)]


def test_folder_that_cannot_be_written(sources: dict, tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ModfillError, match="cannot write the cache .*file .*; free space or choose another folder"):
        complete_arrays(sources, affine=AFFINE, weights=tiny_weights, cache=tmp_path / "file")


def write_often(folder: Path, volume: npt.NDArray) -> None:
    for _ in range(30):
        CompletionCache(folder).put(KEY, Synthetic(volume, (0.0, 1.0)))


def test_readers_never_see_half_an_entry(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 1000, (24, 28, 20), np.int16)
    store = CompletionCache(tmp_path)
    store.put(KEY, Synthetic(volume, (0.0, 1.0)))
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(tmp_path, volume)) for _ in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        entry = store.get(KEY)
        assert entry is not None and np.array_equal(entry.volume, volume)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert entries(tmp_path) == [store.path(KEY)]


def test_completer_is_loaded_once_and_again_when_the_file_changes(tiny_weights: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copy(tiny_weights, tmp_path / "w.safetensors"))
    first = shared_completer(weights)
    assert shared_completer(str(weights)) is first
    checkpoint.save(awake(PRESETS["tiny"], seed=1), weights, STAGES)
    assert shared_completer(weights).networks.file.sha256 != first.networks.file.sha256


def test_missing_weights(sources: dict, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="none.safetensors: weights must be a file .*; give another one"):
        complete_arrays(sources, affine=AFFINE, weights=tmp_path / "none.safetensors", cache=tmp_path)


RAW_FORK = """
import os, signal, sys
import torch
sys.path.insert(0, sys.argv[2])
from tests.case_files import brain_volumes, oblique_affine
from modfill.integrations.cache import complete_arrays, shared_completer

torch.set_num_threads(2)
volumes = brain_volumes((48, 56, 40))
def run():
    made = complete_arrays({"t1n": volumes["t1n"]}, affine=oblique_affine(), targets=["t2w"], weights=sys.argv[1])
    return made["t2w"].volume
expected, loaded = run(), shared_completer(sys.argv[1])
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that waits for threads of its parent
    os._exit(0 if (run() == expected).all() and shared_completer(sys.argv[1]) is loaded else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_after_a_threaded_completion_goes_on(tiny_weights: Path) -> None:
    command = [sys.executable, "-c", RAW_FORK, str(tiny_weights), str(Path(__file__).parents[1])]
    assert subprocess.run(command, check=False).returncode == 0


def test_what_synthesis_freed_is_given_back(
    sources: dict, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data loader's worker holds the model between two cases, not what the last case took."""
    calls: list[str] = []
    monkeypatch.setattr("modfill.integrations.cache.give_back_freed_memory", lambda: calls.append("given back"))
    for _ in range(2):
        complete_arrays(sources, affine=AFFINE, weights=tiny_weights, cache=tmp_path)
    assert calls == ["given back"]  # nothing was taken for what came from the cache


def test_nothing_missing(tiny_weights: Path, tmp_path: Path, runs: list) -> None:
    assert complete_arrays(brain_volumes(), affine=AFFINE, weights=tiny_weights, cache=tmp_path) == {}
    assert runs == [] and entries(tmp_path) == []


def test_blank_volumes_never_pass_for_acquired_ones(sources: dict, tiny_weights: Path) -> None:
    blank = np.zeros_like(sources["t1n"])
    with pytest.raises(CaseError, match="t1c must show a brain, got all zero; .* to have t1c synthesised"):
        complete_arrays({**sources, "t1c": blank}, affine=AFFINE, weights=tiny_weights)
    with pytest.raises(CaseError, match="t1c must show a brain, got all zero; .* leave it out to have t1c synthesised"):
        complete_arrays({**brain_volumes(), "t1c": blank}, affine=AFFINE, weights=tiny_weights)


def test_grids_must_agree(sources: dict, tiny_weights: Path) -> None:
    one = complete_arrays(sources, affine=AFFINE, targets=["t2w"], weights=tiny_weights)
    by_modality = complete_arrays(sources, affine=dict.fromkeys(sources, AFFINE), targets=["t2w"], weights=tiny_weights)
    assert equal(one, by_modality)
    shifted = AFFINE.copy()
    shifted[0, 3] += 1
    with pytest.raises(CaseError, match="case p1: all images must be on one grid, got t1n .* and t2f"):
        complete_arrays(sources, affine={"t1n": AFFINE, "t2f": shifted}, case_id="p1", weights=tiny_weights)


def test_targets_must_be_missing(sources: dict, tiny_weights: Path) -> None:
    for target in ("t1n", "t9"):
        with pytest.raises(CaseError, match=f"a target must be .*, got '{target}'"):
            complete_arrays(sources, affine=AFFINE, targets=[target], weights=tiny_weights)
