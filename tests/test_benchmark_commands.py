"""Every benchmark's command line says what that benchmark does."""

from __future__ import annotations

import sys
from importlib import import_module
from pkgutil import walk_packages
from types import ModuleType

import pytest

import benchmarks


def commands() -> list[ModuleType]:
    """The benchmarks' modules that can be run."""
    found = (import_module(one.name) for one in walk_packages(benchmarks.__path__, "benchmarks."))
    return [module for module in found if hasattr(module, "main")]


@pytest.mark.parametrize("module", commands(), ids=lambda module: module.__name__)
def test_help_begins_with_what_the_benchmark_does(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["", "--help"])
    with pytest.raises(SystemExit):
        module.main()
    assert module.__doc__
    about = module.__doc__.splitlines()[0]
    assert " ".join(about.split()) in " ".join(capsys.readouterr().out.split())
