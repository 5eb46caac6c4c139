"""The speed benchmark on a tiny case: every step is seen, and the steps are most of the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import peers, speed
from modfill.cases.finding import find_cases
from modfill.cases.reading import read_case
from modfill.completer import ModalityCompleter
from modfill.model.config import AutoencoderConfig
from tests.case_files import write_case


def test_steps_add_up_and_the_table_is_made(tmp_path: Path, completer: ModalityCompleter) -> None:
    case = read_case(find_cases(write_case(tmp_path, "p1", shape=(44, 46, 42)))[0])
    incomplete = speed.reduced(case, ("t1n", "t2w", "t2f"))
    steps, sampled = (speed.steps_of(completer, incomplete, mode) for mode in ("mean", "sample"))
    names = {"read", "preprocess", "encode", "translate", "decode", "restore", "write"}
    diffusion = {"latents", "denoise"}  # a mean needs none
    for known, expected in ((steps, names), (sampled, names | diffusion)):
        assert set(known) == {*expected, "total"} and all(seconds > 0 for seconds in known.values())
        assert 0.5 * known["total"] < sum(known[name] for name in expected) <= 1.001 * known["total"]
    grown = speed.growth(completer, case)
    result = {
        "threads": torch.get_num_threads(), "convolution TFLOP/s": peers.convolution_peak(), "steps": steps,
        "steps of a sample": sampled,
        "TFLOP": speed.flops_of(completer, incomplete), "command": {"seconds": 9.0, "GiB": 1.5}, "growth": grown,
        "peers": {"modfill, 1→1": {"seconds": 2.0}, "slow": {"seconds": 300.0, "one step": 3.0, "steps": 100}},
    }  # fmt: skip
    text = speed.summary(result)
    assert "| slow | 300.0 | 150.0 | 3.00 |" in text and "| steps, mode sample | 20 |" in text
    assert text.count("| translate | ") == 2 and text.count("| denoise | ") == 1
    assert {row["what"] for row in grown} >= {"sources, one target", "targets, one source", "steps, mode sample"}


def test_modfill_s_networks_are_timed_with_and_without_diffusion(
    completer: ModalityCompleter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "PAPER", (32, 32, 32))
    monkeypatch.setattr(peers, "BRAIN", (12, 12, 12))
    ran: list[int] = []
    hook = completer.networks.load().model.denoiser.register_forward_hook(lambda *_: ran.append(1))
    try:
        assert peers.modfill_seconds(completer, 1)["seconds"] > 0 and not ran
        assert peers.modfill_seconds(completer, 3, "sample")["seconds"] > 0
    finally:
        hook.remove()
    assert len(ran) == completer.networks.preset.denoiser.sampling_steps


def test_a_published_model_is_timed_from_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    small = peers.Published(AutoencoderConfig(1, (8, 8, 8), 1, 4, 16), 200)
    monkeypatch.setattr(peers, "PAPER", (16, 16, 32))
    monkeypatch.setitem(peers.ALDM, "small", small)
    found = peers.aldm_seconds("small", share=0.5)
    parts = found["encode"] + found["decode"] + 200 * found["one step"]
    assert found["seconds"] == pytest.approx(parts) and min(found.values()) > 0
