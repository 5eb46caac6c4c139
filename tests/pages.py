"""README and the pages of docs/: their blocks of code, and the folder in which they run."""

from __future__ import annotations

import configparser
import os
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.case_files import brain_volumes, save, write_case
from tests.layout_files import as_bids, small_cohort

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")))
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>.*?) -->\n+)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)

# Other tests run these: they need a trained nnU-Net, raw scans, a phantom, or the model card of the shipped weights.
ELSEWHERE = ("nnunet", "prepare", "restore", "demo", "export")
OTHERS = ("python3", "source", "torchrun", "nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "sphinx-build")


class Block(NamedTuple):
    """A block of code.

    Attributes:
        language: python, bash, toml, ...
        code: its lines.
        mark: the comment before it, or nothing: the name of a block that another test runs, or a reason.
    """

    language: str
    code: str
    mark: str


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf8")
    return [Block(found["language"], found["code"], found["mark"] or "") for found in _BLOCK.finditer(text)]


def marked(page: str, mark: str) -> str:
    """The code of the one block with this mark."""
    [code] = [block.code for block in blocks(page) if block.mark == mark]
    return code


def commands(code: str) -> list[list[str]]:
    """The words of each command of a bash block, without comments; variables of the environment are put in."""
    lines = [part for line in code.splitlines() for part in line.split("&&")]
    words = [shlex.split(os.path.expandvars(line), comments=True) for line in lines]
    return [line for line in words if line]


def extras_of(install: list[str]) -> set[str]:
    """The extras that a `pip install` names, all of which setup.cfg must have."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf8")
    named = {extra for word in install for found in re.findall(r"\[(.*)\]", word) for extra in found.split(",")}
    return named - set(parser["options.extras_require"])


def lay_out(page: str) -> None:
    """Put the files that the pages name into the current folder."""
    write_case(Path(), "CASE", ("t1n", "t2w"))
    volumes = brain_volumes()
    for name, modality in (("a", "t1n"), ("b", "t2f")):
        save(Path(f"{name}.nii.gz"), volumes[modality])
    write_case(Path(), "p1", ("t1n", "t2f"), style="brats2021")
    if page.startswith(("README", "docs/start", "docs/how-to/cohorts", "docs/explanation/reprod")):
        write_case(Path("COHORT"), "p1", ("t1n", "t2f"))
        write_case(Path("COHORT"), "p2", ("t1n", "t1c", "t2w"), seed=1)
    if page.endswith("bids.md"):
        as_bids(Path("BIDS"), small_cohort(Path("files"), {"01": ("t1n", "t2f"), "02": ("t1c",)}))
    if page.endswith("layouts.md"):
        Path("table.csv").write_text("case_id,t1,t1ce,t2,flair\np1,p1/p1_t1.nii.gz,,,p1/p1_flair.nii.gz\n")
    if page.endswith("raw-scans.md"):
        save(Path("STUDY/AX_T2.nii.gz"), volumes["t2w"])
    if page.endswith("training.md"):
        for folder, count in (("TRAIN", 2), ("VAL", 1)):
            for number in range(count):
                write_case(Path(folder), f"{folder}{number}", seed=number)
        for number in range(2):
            for name, modality in (("flair", "t2f"), ("adc", "t1n")):
                volume = brain_volumes(seed=number)[modality].astype(np.int16)
                save(Path(f"STROKE/s{number}/s{number}_{name}.nii.gz"), volume)
        save(Path("STROKE/s2/s2_flair.nii.gz"), brain_volumes(seed=2)["t2f"])
    if page.endswith("reproducibility.md"):
        from modfill import ModalityCompleter

        ModalityCompleter(device="cpu").complete("COHORT/p1", out="completed")


def run_python(block: Block, page: str, names: dict[str, Any]) -> None:
    """Run a block with the names of the blocks before it."""
    exec(compile(block.code, f"{page}: {block.code.splitlines()[0]}", "exec"), names)
