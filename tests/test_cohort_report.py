"""The report of a cohort: it holds all it shows, tells synthetic from acquired, and survives odd cohorts."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from html import unescape
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from modfill.cli import main
from modfill.cohort.table import row_of
from modfill.completer import ModalityCompleter
from modfill.errors import ModfillError, printable
from modfill.outputs.naming import OutputFolder
from modfill.reports import cohort_page
from modfill.reports.cohort_page import write_report
from modfill.reports.strips import Frame, draw_strip
from modfill.results import CaseResult, Completed
from modfill.settings import Settings
from tests.case_files import brain_volumes, oblique_affine, save, write_case

ODD = 'a<b>&"c'


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, completer: ModalityCompleter) -> Path:
    """Cohorts and their completion `out`: an odd name with maps of uncertainty, two plain cases, one that failed."""
    folder = tmp_path_factory.mktemp("report")
    write_case(folder / "in", ODD, ("t1n", "t2f"))
    list(completer.complete_cohort(folder / "in", out=folder / "out", settings=Settings(uncertainty=True)))
    for name in ("p2", "p10"):
        write_case(folder / "plain", name, ("t1n", "t1c", "t2w"), seed=len(name))
    write_case(folder / "plain", "broken", ("t1n",))
    (folder / "plain" / "broken" / "broken-t2f.nii.gz").write_text("no image")
    list(completer.complete_cohort(folder / "plain", out=folder / "out"))
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of it, elsewhere: what the sidecars tell still leads from `out` to `in`."""
    shutil.copytree(original, tmp_path / "moved")
    return tmp_path / "moved"


def pictures(page: str) -> dict[str, Image.Image]:
    """By alternative text."""
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"[^>]*? alt="([^"]+)">', page)
    return {text: Image.open(io.BytesIO(base64.b64decode(data))) for data, text in found}


@pytest.mark.parametrize("found", ['"=1+1"', "NaN", "1e999", "-1e999", "[[]]", "null", "9" * 400, '"<b>"'])
def test_an_expected_psnr_that_is_none_is_left_out(folder: Path, found: str) -> None:
    """Whatever stands in a sidecar: neither page nor table repeat it."""
    note = folder / "out" / "p2" / "p2-t2f.json"
    altered, count = re.subn(r'"ExpectedPSNR": [^,]+', f'"ExpectedPSNR": {found}', note.read_text())
    note.write_text(altered)
    page = write_report(folder / "out").read_text()
    done = Completed("p2", paths={"t2f": note}, provenance={"t2f": json.loads(note.read_text())}, sha256={"t2f": "a"})
    row = row_of(CaseResult("p2", done, None, 0.0, 0.0))
    assert count == 1 and 'data-case="p2"' in page and 'data-case="p2" data-count="1" data-psnr' not in page
    assert (row["targets"], row["expected_psnr"]) == ("t2f", "")


def test_one_page_holds_everything(folder: Path) -> None:
    path = write_report(folder / "out")
    page = path.read_text()
    assert path == folder / "out" / "report.html" and not list(path.parent.glob(".tmp*"))
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|https?://', page)
    assert page.count("<article ") == 3 and page.count("<figure") == 6 + 2 * 4
    shown = pictures(page)
    assert len(shown) == 14 and all(picture.width > 2 * picture.height for picture in shown.values())
    assert sum("synthetic" in text for text in shown) == 6 and sum("acquired" in text for text in shown) == 8
    assert "case broken: broken-t2f.nii.gz must be a NIfTI image" in page and "Failed: 1." in page
    assert "not for diagnosis" in page and "No contrast agent was given" in page


def headings(page: str) -> set[str]:
    return {unescape(text) for text in re.findall("<h2 [^>]*>([^<]*)</h2>", page)}


def test_odd_names_are_text(folder: Path) -> None:
    page = write_report(folder / "out").read_text()
    assert ODD not in page and headings(page) == {"Not completed", "Viewer", ODD, "p2", "p10"}


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "'\">", "\x1b[31m\n", "no\udcffunicode", "{{ title }}"], ids=ascii
)
def test_odd_names_in_sidecars_are_text(folder: Path, name: str) -> None:
    sidecar = folder / "out" / "p2" / "p2-t2f.json"
    note = json.loads(sidecar.read_text())
    note["CaseID"] = note["SourceImages"][0]["File"] = note["ContrastAgent"] = name
    sidecar.write_text(json.dumps(note))
    page = write_report(folder / "out").read_text()
    shown = {unescape(text).partition(";")[0] for text in pictures(page)}
    assert headings(page) == {"Not completed", "Viewer", ODD, printable(name), "p10"}
    assert {f"T1, acquired: {printable(name)}", f"FLAIR of {printable(name)}, synthetic"} <= shown
    assert page.count("<script") == 1 and f"<td>{printable(name)}</td>" in unescape(page)


def test_synthetic_is_told_by_more_than_colour(folder: Path) -> None:
    """Frame, caption and a band in the picture itself, which acquired pictures do not have."""
    page = write_report(folder / "out").read_text()
    heights = {text: picture.height for text, picture in pictures(page).items() if " p2" in text or "p2-" in text}
    acquired = {height for text, height in heights.items() if "acquired" in text}
    synthetic = {height for text, height in heights.items() if "synthetic" in text}
    assert len(acquired) == len(synthetic) == 1 and min(synthetic) > max(acquired)
    assert page.count('<span class="kind">synthetic</span>') == 4
    assert page.count('<span class="kind">uncertainty</span>') == 2
    assert re.search(r"figure.synthetic.*dashed", page)


def test_uncertainty_and_expected_psnr_where_there_are_any(folder: Path) -> None:
    page = write_report(folder / "out").read_text()
    assert page.count(' data-uncertainty="') == 1 and '<option value="uncertainty">' in page
    assert page.count(' data-psnr="') == 3 and '<option value="psnr">' in page
    for sidecar in (folder / "out").rglob("*.json"):
        note = json.loads(sidecar.read_text())
        del note["ExpectedPSNR"]
        sidecar.write_text(json.dumps(note))
    page = write_report(folder / "out").read_text()
    assert "data-psnr" not in page and '<option value="psnr">' not in page
    sidecar = folder / "out" / "p2" / "p2-t2f.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "ExpectedPSNR": 24.56}))
    page = write_report(folder / "out").read_text()
    assert page.count('data-psnr="24.560000"') == 1 and "· expected PSNR 24.6 dB" in page
    assert re.search(r'synthetic</span> <span class="value">24.6 dB</span></figcaption>', page)
    assert '<th scope="row">Expected PSNR</th><td>24.6 dB</td>' in page and "the more dB, the closer" in page


@pytest.mark.parametrize("spoil", ["remove", "change", "truncate"])
def test_acquired_images_that_are_not_what_they_were(folder: Path, spoil: str) -> None:
    """Never a picture of another file than the one that was used."""
    path = folder / "plain" / "p2" / "p2-t1c.nii.gz"
    if spoil == "remove":
        path.unlink()
    elif spoil == "change":
        save(path, brain_volumes(seed=9)["t1c"])
    else:
        path.write_bytes(path.read_bytes()[:1000])
        sidecar = folder / "out" / "p2" / "p2-t2f.json"
        note = json.loads(sidecar.read_text())
        note["SourceImages"][1]["SHA256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        sidecar.write_text(json.dumps(note))
    page = write_report(folder / "out").read_text()
    reason = {"remove": "is not where it was", "change": "has changed since", "truncate": "cannot be read"}[spoil]
    assert re.search(f"p2-t1c.nii.gz [^<]*{reason}", page)
    assert len(pictures(page)) == 13


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("spoil", ["image", "map", "CaseID", "Modality", "SourceImages", "UnitRange"])
def test_a_damaged_output_hides_its_case_alone(folder: Path, spoil: str) -> None:
    case = folder / "out" / ODD
    if spoil in ("image", "map"):
        _cut(case / f"{ODD}-t1c{'-uncertainty' if spoil == 'map' else ''}.nii.gz")
    else:
        note = json.loads((case / f"{ODD}-t1c.json").read_text())
        note[spoil] = "odd"
        if spoil in ("CaseID", "Modality"):
            del note[spoil]
        (case / f"{ODD}-t1c.json").write_text(json.dumps(note))
    page = write_report(folder / "out").read_text()
    assert page.count("<article ") == 3 and page.count("Cannot be shown: ") == 1 and "overwrite it" in page
    assert sum("p2" in text for text in pictures(page)) == 4


def test_other_namings(completer: ModalityCompleter, tmp_path: Path) -> None:
    write_case(tmp_path / "in", "p1", ("t1n", "t2f"))
    for naming in ("brats2021", "nnunet", "bids"):
        out = OutputFolder(tmp_path / naming, naming)
        list(completer.complete_cohort(tmp_path / "in", out=out, settings=Settings(uncertainty=True), link=True))
        assert len(pictures(write_report(out.path).read_text())) == 6


def test_no_image_is_read_beyond_the_bounds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODFILL_MAX_VOXELS", "1000")
    page = write_report(folder / "out").read_text()
    assert page.count("Cannot be shown: ") == 3 and not pictures(page)


def test_the_page_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort_page, "MOST_BYTES", 1)
    page = write_report(folder / "out").read_text()
    assert page.count("<article ") == 3 and page.count("Pictures are left out") == 2


def test_volumes_are_bounded_and_the_doubtful_cases_come_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort_page, "MOST_VOLUME_BYTES", 1)
    for case_id, psnr in (("p2", 30.0), ("p10", 12.0), (ODD, 20.0)):
        for sidecar in (folder / "out" / case_id).glob("*.json"):
            sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "ExpectedPSNR": psnr}))
    page = write_report(folder / "out").read_text()
    assert len(pictures(page)) == 14 and page.count("Not in the viewer") == 2
    assert re.findall(r'data-grid="[^"]+" data-case="([^"]+)"', page) == ["p10"]


def partners(page: str) -> dict[str, str]:
    return dict(
        re.findall(r'data-modality="(\w+)" data-kind="synthetic" data-value="[^"]*" data-partner="(\w*)"', page)
    )


def test_acquired_images_of_synthesised_modalities(folder: Path) -> None:
    """They are shown beside the synthetic ones; never one that modfill made, or one on another grid."""
    assert partners(write_report(folder / "out" / "p2").read_text()) == {"FLAIR": "T2"}
    scans = folder / "scans" / "p2"
    image = folder / "out" / "p2" / "p2-t2f.nii.gz"
    found = save(scans / "p2-t2f.nii.gz", brain_volumes(seed=2)["t2f"])
    page = write_report(folder / "out" / "p2", acquired=folder / "scans").read_text()
    assert partners(page) == {"FLAIR": "FLAIR"} and "FLAIR, acquired, not used: p2-t2f.nii.gz" in page
    for spoilt in (lambda: shutil.copy(image, found), lambda: save(found, brain_volumes(seed=2)["t2f"], np.eye(4))):
        spoilt()
        page = write_report(folder / "out" / "p2", acquired=folder / "scans").read_text()
        assert partners(page) == {"FLAIR": "T2"} and "not used" not in page
        assert "is synthetic itself" in page or "must be on one grid" in page


def test_a_synthetic_source_is_not_called_acquired(completer: ModalityCompleter, tmp_path: Path) -> None:
    case = write_case(tmp_path / "in", "p1", ("t1n",))
    completer.complete(case, out=tmp_path / "made", targets=("t1c",))
    for path in (tmp_path / "made" / "p1").iterdir():
        shutil.copy(path, case)
    completer.complete(case, out=tmp_path / "out", targets=("t2w",), allow_synthetic=True)
    page = write_report(tmp_path / "out").read_text()
    assert sorted(unescape(text).split(":")[0] for text in pictures(page) if "T1" in text) == [
        "T1, acquired", "T1ce, synthetic"
    ]  # fmt: skip


def test_complete_writes_the_report(tiny_weights: Path, tmp_path: Path) -> None:
    case = write_case(tmp_path / "in", "p1", ("t1n", "t1c", "t2w"))
    command = ["complete", str(case), "-o", str(tmp_path / "out"), "--weights", str(tiny_weights), "--device", "cpu"]
    assert main([*command, "--report"]) == 0
    assert (tmp_path / "out" / "report.html").read_text().count('data-volume="data:image/webp') == 4
    whole = write_case(tmp_path / "whole", "p1")
    assert main(["complete", str(whole), "-o", str(tmp_path / "none"), *command[4:], "--report"]) == 0
    assert not (tmp_path / "none" / "report.html").exists()  # nothing was missing


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder / "out"), "--html", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    assert main(["report", str(folder / "in")]) == 1
    assert "must be a folder that 'modfill complete' wrote" in capsys.readouterr().err
    with pytest.raises(ModfillError, match="cannot write"):
        write_report(folder / "out", tmp_path / "page.html" / "page.html")


def test_slices_are_seen_as_radiologists_see_them() -> None:
    """What is bright at the patient's right, front and top is left and top, and in the sagittal slice left and top."""
    for axis in (2, 1, 0):
        volume = np.full((20, 20, 20), 100, np.float32)
        volume[tuple(slice(None) if a == axis else slice(12, None) for a in range(3))] = 1000
        plane, size = Frame.of(nib.Nifti1Image(volume, np.eye(4)), 100).planes(volume)[2 - axis]
        assert plane[0, 0] == 1000 and plane[0, -1] == plane[-1, 0] == plane[-1, -1] == 100
        assert size == (100, 100)


def test_strips_keep_proportions_on_oblique_grids() -> None:
    image = nib.Nifti1Image(brain_volumes((20, 24, 16))["t1n"], oblique_affine())
    frame = Frame.of(image, 120)
    strip = draw_strip(image, frame)
    sizes = [size for _, size in frame.planes(np.asarray(nib.as_closest_canonical(image).dataobj, np.float32))]
    assert strip.height == max(height for _, height in sizes) and strip.width > sum(width for width, _ in sizes)
    assert max(max(size) for size in sizes) == 120
