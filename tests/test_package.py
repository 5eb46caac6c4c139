"""The package as a whole: what importing it costs, and which part may know which."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

import modfill

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "modfill"
HEAVY = ("torch", "monai", "torchio", "nnunetv2", "nibabel", "jinja2")


@lru_cache
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


@lru_cache
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


LAYERS = (  # from the ground up: a module may know its own layer and those before it
    ("errors", "metrics", "process"),
    ("sets",),
    ("atomic", "modalities"),
    ("settings", "results"),
    ("cases",),
    ("preprocessing", "model"),
    ("weights",),
    ("outputs",),
    ("job",),
    ("completion",),
    ("cohort",),
    ("completer",),
    ("reproduction", "reports", "demo", "training", "prepare"),
    ("terminal",),
    ("integrations",),
    ("export",),
    ("cli",),
    ("bids_app",),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def own_modules() -> dict[str, Path]:
    """Every module of the package, with the integrations, by its dotted name."""
    files = {path: path.relative_to(ROOT) for path in PACKAGE.rglob("*.py")}
    files |= {path: Path("modfill") / path.relative_to(ROOT) for path in (ROOT / "integrations").rglob("*.py")}
    return {".".join(place.with_suffix("").parts).removesuffix(".__init__"): path for path, place in files.items()}


MODULES = own_modules()
GRAPH = {name: {inner for inner in imports(path) if inner in MODULES} - {name} for name, path in MODULES.items()}


def part(module: str) -> str:
    """The file or folder directly in `modfill` that a module belongs to; empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"modfill", "modfill.__main__"}))
def test_imports_go_down_only(module: str) -> None:
    higher = [name for name in GRAPH[module] if part(name) and LAYER[part(name)] > LAYER[part(module)]]
    beside = [name for name in GRAPH[module] if part(name) != part(module) and part(name) in ("model", "preprocessing")]
    assert higher == []
    if part(module) in ("model", "preprocessing"):
        assert beside == []


def test_there_is_no_circle_of_imports() -> None:
    left = {name: set(names) - {"modfill"} for name, names in GRAPH.items()}
    while free := [name for name, names in left.items() if not names & set(left)]:
        for name in free:
            del left[name]
    assert left == {}


@pytest.mark.parametrize(
    "module", sorted(name for name in MODULES if part(name) in ("cases", "preprocessing", "outputs"))
)
def test_files_and_grids_know_no_torch(module: str) -> None:
    assert forbidden(reached(MODULES[module]), "torch", "monai", "modfill.model") == []


@pytest.mark.parametrize("module", sorted(name for name in MODULES if part(name) == "model"))
def test_the_model_knows_no_paths_and_no_cases(module: str) -> None:
    assert forbidden(reached(MODULES[module]), "pathlib", "nibabel", "modfill.cases", "modfill.preprocessing") == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_the_core_never_imports_its_optional_friends_at_once(module: str) -> None:
    if part(module) != "integrations":
        friends = ("torchio", "nnunetv2", "matplotlib", "nilearn", "skimage")
        assert forbidden(imports(MODULES[module], late=False), *friends) == []


def test_no_function_takes_more_than_five_positional_arguments() -> None:
    """What travels together is one object; the rest is keyword-only."""
    wide = set()
    for folder in ("modfill", "integrations", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
                    if len(names) - (names[:1] in (["self"], ["cls"])) > 5:
                        wide.add(f"{path.relative_to(ROOT).as_posix()}: {node.name}")
    assert sorted(wide) == [], "more than five positional parameters"


# the modules that speak to a terminal
VOICES = (
    "modfill.cli",
    "modfill.terminal.arguments",
    "modfill.integrations.nnunet.command",
    "modfill.bids_app.command",
)


@pytest.mark.parametrize("module", sorted(set(MODULES) - set(VOICES)))
def test_the_library_neither_prints_nor_speaks_of_flags(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert [node.lineno for node in calls if node.func.id == "print"] == []  # type: ignore[attr-defined]
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body and isinstance(node.body[0], ast.Expr)
    }  # fmt: skip
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    flags = [
        t.value
        for t in texts
        if isinstance(t.value, str) and re.search(r"(^|[ (])--[a-z]{2}|constraints\.txt", t.value)
    ]
    exempt = (
        "modfill.terminal.flags",
        "modfill.integrations.nnunet.plugin",
        "modfill.bids_app.dataset",  # calls the BIDS validator's command
        "modfill.export.bundle",  # the bundle's README has MONAI's command
    )
    assert module in exempt or flags == []
