"""The README's python snippets run, one after the other as they stand there, with tiny weights.

A snippet is the python block that follows `<!-- snippet: NAME -->`. `PREPARE` says what each needs: names that it takes
for granted, and files in the current folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modfill import ModalityCompleter
from tests.case_files import brain_volumes, oblique_affine, save, write_case

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"<!-- snippet: (?P<name>[\w-]+) -->\n+```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)

Check = Callable[[dict[str, Any]], None]


def snippets() -> dict[str, str]:
    """Code by name."""
    return {match["name"]: match["code"] for match in BLOCK.finditer(README.read_text(encoding="utf8"))}


def brats_case() -> dict[str, Any]:
    """A case under the BraTS 2021 names that lacks T1ce and T2."""
    write_case(Path(), "p1", ("t1n", "t2f"), style="brats2021")
    return {}


def stacked() -> dict[str, Any]:
    """The same case in files, and a stack in the Medical Decathlon's order that lacks t1c and t2w."""
    from monai.data import MetaTensor

    volumes = brain_volumes()
    channels = [volumes[m] * (m in ("t1n", "t2f")) for m in ("t2f", "t1n", "t1c", "t2w")]
    return {**brats_case(), "stacked": MetaTensor(np.stack(channels), affine=oblique_affine())}


def arrays() -> dict[str, Any]:
    """A case folder, and two modalities as arrays."""
    write_case(Path(), "case_folder", ("t1n", "t2w"))
    volumes = brain_volumes()
    for name, modality in (("a", "t1n"), ("b", "t2f")):
        save(Path(f"{name}.nii.gz"), volumes[modality])
    return {"t1": volumes["t1n"], "t2": volumes["t2w"], "affine": oblique_affine()}


def cohort() -> dict[str, Any]:
    """A completer, and a cohort one of whose two cases cannot be used."""
    write_case(Path("cohort_folder"), "p1", ("t1n", "t2f"))
    (write_case(Path("cohort_folder"), "p2", ("t1n",)) / "p2-t2f.nii.gz").write_text("no image")
    return {"completer": ModalityCompleter()}


PREPARE: dict[str, Callable[[], dict[str, Any]]] = {
    "torchio": brats_case,
    "monai": stacked,
    "use": arrays,
    "cohort": cohort,
}
"""What prepares the current folder and returns the names that a snippet takes for granted."""


def torchio_check(names: dict[str, Any]) -> None:
    assert names["batch"]["t1ce"]["data"].any()
    assert names["batch"]["acquired_modalities"].tolist() == [[True, False, False, True]]


def monai_check(names: dict[str, Any]) -> None:
    assert all(channel.any() for channel in names["case"]["image"])


def use_check(names: dict[str, Any]) -> None:
    assert names["case"].missing == ("t1c", "t2f") and set(names["arrays"]) == {"t1c", "t2f"}
    assert set(names["done"].images) == set(names["done"].uncertainty) == {"t1c", "t2w"}


def cohort_check(names: dict[str, Any]) -> None:
    assert names["result"].case_id == "p2" and "must be a NIfTI image" in names["result"].problem
    assert len(list(Path("completed").rglob("*.nii.gz"))) == 2
    assert list(names["table"]["status"]) == ["completed", "failed"] and names["table"]["seconds"][0] > 0


CHECK: dict[str, Check] = {
    "torchio": torchio_check,
    "monai": monai_check,
    "use": use_check,
    "cohort": cohort_check,
}
"""What must hold of a snippet's names afterwards."""


@pytest.mark.parametrize("name", [name for name in snippets() if name != "nnunet"])  # test_nnunet_plugin runs that one
def test_snippet(name: str, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert name in PREPARE and name in CHECK, f"add the snippet '{name}' to PREPARE and CHECK"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modfill.weights.file.SHIPPED", tiny_weights)
    if name == "torchio":
        pytest.importorskip("torchio")
    names = PREPARE[name]()
    exec(compile(snippets()[name], f"README.md, snippet {name}", "exec"), names)
    CHECK[name](names)


def test_every_mark_has_its_block() -> None:
    assert len(snippets()) == README.read_text(encoding="utf8").count("<!-- snippet:")
