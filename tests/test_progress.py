"""What a cohort's progress looks like: a bar on a terminal, lines elsewhere, failures at the end."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from types import SimpleNamespace
from typing import Any

import pytest

from modfill.cohort import progress
from modfill.cohort.progress import case_bar, follow
from modfill.terminal.log import shown


def result(case_id: str, made: tuple[str, ...] = (), problem: str | None = None, skipped: tuple[str, ...] = ()) -> Any:
    """As much of a `CaseResult` as is told."""
    completed = None if problem else SimpleNamespace(skipped=skipped)
    return SimpleNamespace(
        case_id=case_id, synthesised=made, problem=problem, completed=completed, seconds=2.0, model_seconds=1.5
    )


RESULTS = [result("p1", ("t1c",)), result("p2", problem="case p2: bad"), result("p3", skipped=("t1c",)), result("p4")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock finds it a second later."""
    times = iter(range(1000))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(times)))


def test_lines_tell_outcome_rate_and_remaining_time(clock: None, capsys: pytest.CaptureFixture[str]) -> None:
    with shown():
        assert follow(iter(RESULTS), 4, jobs=1).problems == ["case p2: bad"]
    out, error = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("[1/4] p1: synthesised t1c (2.0 s, ") and "cases/min" in lines[0]
    assert lines[0].endswith(" left)")
    assert [line.split(" (")[0] for line in lines[1:4]] == [
        "[2/4] p2: failed",
        "[3/4] p3: finished before",
        "[4/4] p4: nothing missing",
    ]
    assert "left" not in lines[3] and "3 of 4 cases completed, 1 failed" in lines[4] and "in the model" in lines[4]
    assert error == "modfill: case p2: bad\n"


class Terminal(io.StringIO):
    """An error stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_parts_of_a_cohort_get_none(capsys: pytest.CaptureFixture[str]) -> None:
    with redirect_stderr(Terminal()) as terminal, shown():
        follow(iter(RESULTS), 4, jobs=1)
    assert "4/4" in terminal.getvalue() and "case" in terminal.getvalue()
    assert capsys.readouterr().out.startswith("3 of 4 cases completed")
    with redirect_stderr(Terminal()) as terminal, shown():
        follow(iter(RESULTS), 4, jobs=1, label="rank 1/2")
    assert terminal.getvalue() == "modfill: case p2: bad\n"
    out = capsys.readouterr().out
    assert out.startswith("[1/4] p1") and "\nrank 1/2: 3 of 4 cases completed" in out


def test_an_interruption_still_tells_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> Iterator[Any]:
        yield from RESULTS[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), shown():
        follow(interrupted(), 4, jobs=1)
    out, error = capsys.readouterr()
    assert error == "modfill: case p2: bad\n" and "1 of 4 cases completed, 1 failed" in out


def test_a_single_case_moves_on_a_terminal_while_a_step_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REFRESH", 0.01)
    with redirect_stderr(Terminal()) as terminal, shown(), case_bar("p1") as tell:
        tell("encode", 0.4)
        before = terminal.getvalue()
        time.sleep(0.5)
        assert len(terminal.getvalue()) > len(before)
        assert "p1, encode:  40%" in terminal.getvalue()


def test_a_quiet_run_has_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with redirect_stderr(Terminal()) as terminal, shown(quiet=True), case_bar("p1") as tell:
        tell("read", 0.0)
        follow(iter(RESULTS), 4, jobs=1)
    assert (capsys.readouterr().out, terminal.getvalue()) == ("", "modfill: case p2: bad\n")
