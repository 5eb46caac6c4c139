"""What users choose: types and ranges are checked before any work, and what is refused leaves nothing behind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modfill.integrations import cache

from modfill.cases.finding import find_cases, find_cohort
from modfill.completer import ModalityCompleter
from modfill.errors import ModfillError, SettingsError
from modfill.model import device
from modfill.outputs.naming import OutputFolder
from modfill.settings import Settings, numbered_samples
from modfill.weights import checkpoint
from tests.case_files import write_case

pytestmark = pytest.mark.usefixtures("in_float32")
WRONG: list[dict[str, Any]] = [
    *({"mode": value} for value in ("best", None, 3, np.ones(2))),
    *({"steps": value} for value in (0, 1001, 2.0, "2", True, np.float32(2))),
    {"steps": 3},  # in mode "mean"
    *({"seed": value} for value in (-1, 2**63, 1.5, True, None, "0", np.uint64(2**63))),
    *({"uncertainty": value} for value in (1, None, "yes", np.int64(1))),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_setting_of_another_type_or_range_is_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(SettingsError, match=rf"^{name} must be .*, got .*; (give|set)"):
        Settings(**wrong)


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8])
def test_numpy_s_numbers_count_as_python_s(kind: type) -> None:
    settings = Settings("sample", kind(3), kind(7), np.bool_(True))  # type: ignore[arg-type]
    assert [type(value) for value in astuple(settings)] == [str, int, int, bool]
    assert settings == Settings("sample", 3, 7, True)
    assert Settings(seed=2**63 - 1).seed == 2**63 - 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"jobs": 1.0}, "jobs must be a whole number"),
        ({"jobs": True}, "jobs must be a whole number"),
        ({"targets": ["pd"]}, "a target must be"),
        ({"naming": "brats"}, "naming must be"),
    ],
)
@pytest.mark.parametrize("naming", ["bids", "nnunet"])
def test_a_refused_cohort_leaves_nothing_behind(
    completer: ModalityCompleter, tmp_path: Path, options: dict[str, Any], reason: str, naming: str
) -> None:
    write_case(tmp_path / "in", "p1", ("t1n", "t2w"))
    with pytest.raises(ModfillError, match=reason):
        completer.complete_cohort(tmp_path / "in", out=tmp_path / "out", **{"naming": naming, **options})
    assert not (tmp_path / "out").exists()


def test_numbered_samples_differ_in_their_seed_alone() -> None:
    samples = numbered_samples(3, Settings("sample", 2, 5, True))
    assert samples == {f"sample-{n}": Settings("sample", 2, 4 + n, True) for n in (1, 2, 3)}
    assert numbered_samples(1) == {"sample-1": Settings("sample")}
    for wrong in (0, -1, 1.0, None, True, "3"):
        with pytest.raises(SettingsError, match=r"^count must be .*, got .*; give"):
            numbered_samples(wrong)  # type: ignore[arg-type]


def test_paths_and_devices_come_in_any_type(tiny_weights: Path, tmp_path: Path) -> None:
    folder = write_case(tmp_path / "in", "p1", ("t1n", "t2w", "t2f"))
    for number, (kind, where) in enumerate(((str, "cpu"), (Path, torch.device("cpu")))):
        own = ModalityCompleter(kind(tiny_weights), device=where)
        done = own.complete(kind(folder), out=kind(tmp_path / f"out{number}"))
        assert done.paths["t1c"].is_file()
        assert cache.shared_completer(kind(tiny_weights), where) is cache.shared_completer(tiny_weights, "cpu")
    with pytest.raises(ModfillError, match="device must be one of auto, cpu.*, got '7'"):
        ModalityCompleter(tiny_weights, device=7)  # type: ignore[arg-type]


@pytest.mark.parametrize("naming", ["nnunet", "auto"])
def test_cases_alone_do_not_tell_the_order_of_channels(
    completer: ModalityCompleter, tmp_path: Path, naming: str
) -> None:
    write_case(tmp_path / "in", "p1", ("t1n", "t2w", "t2f"))
    found, out = find_cases(tmp_path / "in"), tmp_path / "out"
    with pytest.raises(ModfillError, match=f"naming '{naming}' must have the whole cohort, .*; give the folder"):
        completer.complete_cohort(found, out=out, naming=naming)
    assert not out.exists()
    for cohort, place in ((find_cohort(tmp_path / "in"), out), (found, OutputFolder(tmp_path / "own", "nnunet"))):
        assert [result.error for result in completer.complete_cohort(cohort, out=place, naming=naming)] == [None]


def test_threads_that_ask_at_the_same_time_load_one_model(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, original = [], checkpoint.load
    gate = threading.Barrier(4)

    def counted(path: Path) -> Any:
        loads.append(path)
        return original(path)

    def ask(_: int) -> ModalityCompleter:
        gate.wait()
        own = cache.shared_completer(tiny_weights, "cpu")
        own.networks.load()
        return own

    monkeypatch.setattr(checkpoint, "load", counted)
    monkeypatch.setattr(cache, "_completers", {})
    with ThreadPoolExecutor(4) as pool:
        assert len(set(map(id, pool.map(ask, range(4))))) == 1
    assert len(loads) == 1


def test_bfloat16_is_for_processors_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, has=has: (
            including_emulation or has))  # fmt: skip
        assert device._gpu_has_bfloat16() is has
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # as older versions of torch have it
    assert device._gpu_has_bfloat16()
    monkeypatch.undo()
    assert not device.half_is_fast(torch.device("mps"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not device.half_is_fast(cuda)
