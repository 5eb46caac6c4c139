"""What the package says it needs, and what CI tries it with."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import modfill

ROOT = Path(__file__).parents[1]
MINORS = (11, 12, 13)


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf8")
    return parser


def requirements(setup: configparser.ConfigParser) -> dict[str, SpecifierSet]:
    """Every requirement with a name of its own, of the core and of the extras."""
    lines = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    found = [line.strip() for block in lines for line in block.splitlines()]
    return {Requirement(line).name: Requirement(line).specifier for line in found if line and "%(" not in line}


def test_supported_pythons_are_those_that_can_import_the_package(setup: configparser.ConfigParser) -> None:
    supported = SpecifierSet(setup["options"]["python_requires"])
    assert [minor for minor in range(6, 20) if supported.contains(f"3.{minor}.1")] == list(MINORS)
    named = re.findall(r"Python :: 3\.(\d+)$", setup["metadata"]["classifiers"], re.MULTILINE)
    assert [int(minor) for minor in named] == list(MINORS)


def test_the_checkers_know_the_oldest_python() -> None:
    assert f'target-version = "py3{MINORS[0]}"' in (ROOT / "ruff.toml").read_text()
    assert f"python_version = 3.{MINORS[0]}" in (ROOT / "mypy.ini").read_text()


@pytest.mark.parametrize(
    ("name", "works", "fails"),
    [("torch", "2.8.0", "2.9.1"), ("torch", "2.10.0", "2.3.1"), ("torchio", "1.2.1", "2.0.0"),
     ("nnunetv2", "2.8.1", "3.0.0")],
)  # fmt: skip
def test_versions_that_cannot_work_are_not_installed(
    setup: configparser.ConfigParser, name: str, works: str, fails: str
) -> None:
    needed = requirements(setup)[name]
    assert needed.contains(works) and not needed.contains(fails)


def test_the_constraints_agree_with_the_requirements(setup: configparser.ConfigParser) -> None:
    needed = requirements(setup)
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()]
    assert pins
    for pin in pins:
        version = next(iter(pin.specifier)).version
        assert needed.get(pin.name, SpecifierSet()).contains(version), pin


def test_ci_tries_the_built_wheel() -> None:
    """Every fast test is there, and the script is read by bash without error."""
    script = ROOT / ".ci" / "wheel"
    assert ".ci/wheel" in (ROOT / ".ci" / "run").read_text()
    subprocess.run(["bash", "-n", script], check=True)
    listed = re.search(r"fast=\(([^)]*)\)", script.read_text())
    assert listed is not None
    named = re.findall(r"\btest_\w+", listed[1])
    assert len(named) > 10 and all((ROOT / "tests" / f"{name}.py").is_file() for name in named)


def test_the_citation_has_the_package_s_version() -> None:
    versions = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf8"), re.MULTILINE)
    assert versions == [modfill.__version__]


def test_every_folder_of_the_package_is_installed(setup: configparser.ConfigParser) -> None:
    listed = set(setup["options"]["packages"].split())
    inside = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "modfill").rglob("__init__.py")}
    beside = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "integrations").rglob("__init__.py")}
    assert listed == inside | {f"modfill.{name}" for name in beside}


def test_users_of_the_wheel_read_of_no_file_of_the_clone(setup: configparser.ConfigParser) -> None:
    (name,) = re.findall(r"file: (.*)", setup["metadata"]["long_description"])
    assert "constraints.txt" not in (ROOT / name).read_text(encoding="utf8")


def test_nnunet_works_in_a_clone_without_an_editable_install() -> None:
    """There the folder modfill/ is imported in place of the installed package, and integrations/ lies beside it."""
    code = (
        "import sys, runpy; sys.argv = ['modfill', 'nnunet', '--help']\n"
        "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder).lower()]\n"
        "runpy.run_module('modfill', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "plan_and_preprocess" in done.stdout, done.stderr


def test_another_torchio_is_told_what_is_needed() -> None:
    """TorchIO 2 has no such submodule; the import fails as without any."""
    code = (
        "import sys, types; sys.modules['torchio'] = types.ModuleType('torchio')\n"
        "import modfill.integrations.torchio_transform"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "need TorchIO 0.20 or newer, but older than 2" in last and "modfill[torchio]" in last
