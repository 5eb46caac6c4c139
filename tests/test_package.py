"""The package as a whole: what importing it costs, and which part may know which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import modfill

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "modfill"
HEAVY = ("torch", "monai", "torchio", "nnunetv2", "nibabel")


def imports(path: Path, late: bool = True) -> set[str]:
    """Every module a file imports, `a.b.c` for `from a.b import c` too; not what runs late or never if not `late`."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            if late or not (isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or _for_types_only(child)):
                visit(child)

    visit(ast.parse(path.read_text(encoding="utf8")))
    return found


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def reached(path: Path) -> set[str]:
    """What a file imports, also through other modules of modfill."""
    seen: set[str] = set()
    waiting = [path]
    while waiting:
        for name in imports(waiting.pop()) - seen:
            seen.add(name)
            inner = ROOT / (name.replace(".", "/") + ".py")
            if name.startswith("modfill.") and inner.is_file():
                waiting.append(inner)
    return seen


def forbidden(names: set[str], *roots: str) -> list[str]:
    return sorted(name for name in names if any(name == root or name.startswith(root + ".") for root in roots))


def test_import_loads_nothing_heavy_and_says_nothing() -> None:
    code = f"import sys, modfill; sys.exit(','.join(m for m in {HEAVY} if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_command_line_help_is_quick() -> None:
    """`modfill --help` and a usage error need no torch."""
    code = f"import sys, modfill.cli; sys.exit(','.join(m for m in {HEAVY} if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_modality_completer_comes_when_asked_for() -> None:
    from modfill.completer import ModalityCompleter

    assert modfill.ModalityCompleter is ModalityCompleter
    with pytest.raises(AttributeError, match="Completer2"):
        _ = modfill.Completer2


def test_modalities_imports_nothing() -> None:
    assert forbidden(imports(PACKAGE / "modalities.py")) == []
    assert imports(PACKAGE / "modalities.py") <= {
        "__future__",
        "__future__.annotations",
        "re",
        "collections.abc",
        "collections.abc.Sequence",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("case", "geometry", "finding", "checks", "preprocess", "provenance"),
        *("naming", "linking", "scan", "contrast"),
    ],
)
def test_cases_and_grids_know_no_torch(name: str) -> None:
    assert forbidden(reached(PACKAGE / f"{name}.py"), "torch", "monai", "modfill.model") == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "model").glob("*.py")), ids=lambda path: path.stem)
def test_the_model_knows_no_paths_and_no_cases(path: Path) -> None:
    apart = ("pathlib", "os", "nibabel", "modfill.case", "modfill.geometry", "modfill.preprocess", "modfill.training")
    assert forbidden(reached(path), *apart) == []


LAYERS = {  # what a module must not know, however many modules lie between
    "config.py": ("torch", "modfill.model", "modfill.case", "nibabel"),
    "geometry.py": ("modfill.case", "modfill.preprocess"),
    "preprocess.py": ("modfill.completion", "modfill.completer"),
    "sampling.py": ("modfill",),
    "checkpoint.py": ("modfill.case", "modfill.completion", "modfill.training"),
    "completion.py": ("modfill.completer", "modfill.cli", "modfill.training", "modfill.checkpoint"),
    "completer.py": ("modfill.cli", "modfill.training"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_dependencies_point_one_way(name: str) -> None:
    assert forbidden(reached(PACKAGE / name), *LAYERS[name]) == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "training").glob("*.py")), ids=lambda path: path.stem)
def test_training_does_not_know_completion(path: Path) -> None:
    assert forbidden(reached(path), "modfill.completion", "modfill.completer", "modfill.cli") == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_the_core_never_imports_its_optional_friends_at_once(path: Path) -> None:
    assert forbidden(imports(path, late=False), "torchio", "nnunetv2", "matplotlib", "nilearn", "skimage") == []


def test_no_file_is_long() -> None:
    folders = ("modfill", "integrations", "benchmarks", "examples")
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf8").splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    assert len(lengths) > 20
    assert {name: length for name, length in lengths.items() if length > 320} == {}


def test_no_absolute_path_of_a_developer_s_machine() -> None:
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "integrations").rglob("*.py")):
        constants = (n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant))
        text = [value for value in constants if isinstance(value, str)]
        assert not [value for value in text if value.startswith(("/work/", "/home/", "/tmp/", "/root/"))], path
