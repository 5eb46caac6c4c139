"""README and documentation are true: their code runs, their links lead somewhere, their figures are those measured."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest

from modfill.cli import main
from modfill.terminal.arguments import build_parser
from modfill.training import run
from tests.pages import (
    ELSEWHERE,
    OTHERS,
    PAGES,
    ROOT,
    Block,
    blocks,
    commands,
    extras_of,
    lay_out,
    marked,
    run_python,
)
from tests.short_training import shortened

RESULTS = ROOT / "benchmarks" / "results"
WITH_CODE = [page for page in PAGES if any(block.language in ("python", "bash") for block in blocks(page))]


@pytest.mark.parametrize("page", WITH_CODE)
def test_every_block_of_code_runs(
    page: str, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_float32: None
) -> None:
    """One after the other, in one folder, with tiny weights in place of the shipped ones."""
    if "torchio" in (ROOT / page).read_text(encoding="utf8"):
        pytest.importorskip("torchio")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setattr("modfill.weights.file.SHIPPED", tiny_weights)
    monkeypatch.setitem(run.PRESETS, "small", shortened(2)["tiny"])
    lay_out(page)
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.language == "python" and block.mark != "snippet: nnunet":  # test_nnunet_plugin runs that one
            run_python(block, page, names)
        elif block.language == "bash":
            _run_bash(block)
        elif block.language == "toml":
            name = re.search(r'^name = "(\w+)"', block.code, re.MULTILINE)
            assert name is not None
            Path(f"{name[1]}.toml").write_text(block.code)


def _run_bash(block: Block) -> None:
    for program, *words in commands(block.code):
        if program == "pip":
            assert not extras_of(words), f"setup.cfg has no extra {extras_of(words)}"
        elif program == "modfill-bids":
            from modfill.bids_app.command import main as bids_app

            assert bids_app(words) == 0, words
        elif program == "modfill" and words[0] != "nnunet":
            parsed_only = words[0] in ELSEWHERE or "--prepare" in words or block.mark.startswith("not run")
            if not parsed_only:
                assert main(words) == 0, words
            elif block.mark.startswith("not run"):
                words = [word for word in words if not word.endswith(".safetensors") and word != "--weights"]
                build_parser().parse_args([word if word != "COHORT" else "." for word in words])
            elif words[0] != "restore":  # its folder comes from a command that is not run
                build_parser().parse_args(words)
        else:
            assert program in (*OTHERS, "modfill", "python"), f"{program}: run it, or name it in OTHERS"
            if "modfill" in words and program == "torchrun":
                rest = words[words.index("modfill") + 1 :]
                build_parser().parse_args([word if word != "COHORT" else "." for word in rest])


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf8").splitlines()) <= 120


def test_ci_finds_the_test_command() -> None:
    assert "python -m pytest" in marked("README.md", "test command")


def test_links_between_files_lead_somewhere() -> None:
    """Sphinx checks those between pages of docs/."""
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / name).read_text(encoding="utf8")):
            assert (ROOT / target).exists(), f"{name}: {target}"


def _cells(row: str) -> list[str]:
    return [cell.strip(" *") for cell in row.strip().strip("|").split("|")]


def _rows(page: str) -> list[list[str]]:
    return [_cells(line) for line in (ROOT / page).read_text(encoding="utf8").splitlines() if line.startswith("|")]


def test_the_figures_of_the_readme_are_those_measured() -> None:
    """Matched PSNR and SSIM of translation-test.md, mean Dice of segmentation-test.md."""
    methods = {
        "copy of the nearest modality": "copy",
        "voxelwise lookup table": "voxelwise",
        "Pix2Pix, 2D": "pix2pix2d",
        "3D U-Net": "unet",
        "modfill": "modfill",
    }
    translation = {tuple(row[:2]): row for row in _rows("benchmarks/results/translation-test.md") if len(row) == 7}
    shown = [row for row in _rows("README.md") if row[0] in methods]
    assert len(shown) == len(methods)
    for name, *figures in shown:
        measured = [translation[methods[name], f"{sources}→1"][5] for sources in (1, 2, 3)]
        measured.append(translation[methods[name], "3→1"][4])
        for figure, known in zip(figures, measured, strict=True):
            assert abs(float(figure) - float(known.split()[0])) < 0.006, f"{name}: {figure}"
    dice = {row[0]: row[1] for row in reversed(_rows("benchmarks/results/segmentation-test.md")) if len(row) == 9}
    complete = (RESULTS / "segmentation-test.md").read_text(encoding="utf8").splitlines()[0]
    paragraph = (ROOT / "README.md").read_text(encoding="utf8").split("Over all missing sets")[1].split("\n\n")[0]
    stated = re.findall(r"0\.\d{3}", paragraph)
    measured = re.findall(r"0\.\d{3}", complete)  # nothing missing: the three networks
    assert stated == [dice["zeros"], dice["modfill"], measured[0], dice["completed"], measured[2], dice["dropout"],
                      measured[1]]  # fmt: skip


def test_every_table_of_results_is_in_the_documentation() -> None:
    page = (ROOT / "docs" / "reference" / "results.md").read_text(encoding="utf8")
    assert [path.name for path in RESULTS.glob("*.md") if f"results/{path.name}" not in page] == []


def test_the_drawings_are_those_of_their_text() -> None:
    drawing = runpy.run_path(str(ROOT / "docs" / "figures" / "draw.py"))
    for name, text in drawing["FIGURES"].items():
        assert (ROOT / "docs" / "figures" / f"{name}.svg").read_text(encoding="utf8") == drawing["drawn"](text), name


def test_the_commands_of_nnunet_are_known() -> None:
    for mark in ("commands: prepare", "commands: plugin"):
        lines = [shlex.split(line, comments=True) for line in marked("docs/how-to/nnunet.md", mark).splitlines()]
        assert len(lines) == 3 and {line[0] for line in lines} <= {"modfill", *OTHERS}
