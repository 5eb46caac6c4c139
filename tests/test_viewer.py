"""The report's viewer in a real browser: keys, planes, orientation, flicker, uncertainty, and no request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel import orientations

from modfill.completer import ModalityCompleter
from modfill.reports.cohort_page import write_report
from modfill.settings import Settings
from tests import test_report_browser
from tests.case_files import brain_volumes, oblique_affine, save
from tests.test_report_browser import press

pytestmark = test_report_browser.pytestmark
browser = test_report_browser.browser  # the fixture

ODD = "a<b>&\"'{{c"
CODES = {"p1": "LPS", "p2": "SAR", ODD: "IRP"}  # the axes of each case's files
MARK = (7, 18, 13)  # voxel in "LPS": the middle of a bright cube in T1 and FLAIR
ENTER, ESCAPE, UP, PAGE_DOWN, TAB = "\ue007", "\ue00c", "\ue013", "\ue00f", "\ue004"
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


@pytest.fixture(scope="module")
def marks() -> dict[str, tuple[nib.Nifti1Image, tuple[int, ...]]]:
    """By case an image of the marked cube on the case's grid, and the voxel in its middle."""
    cube, centre = np.zeros((24, 28, 20), np.int16), np.zeros((24, 28, 20), np.int16)
    cube[tuple(slice(at - 1, at + 2) for at in MARK)] = 1
    centre[MARK] = 1
    made = {}
    for name, codes in CODES.items():
        turned = [turn(volume, codes) for volume in (cube, centre)]
        made[name] = (turned[0], tuple(int(at[0]) for at in np.nonzero(np.asanyarray(turned[1].dataobj))))
    return made


def turn(volume: np.ndarray, codes: str) -> nib.Nifti1Image:
    """An image in the axes of `oblique_affine` with other axes, at the same place."""
    image = nib.Nifti1Image(volume, oblique_affine())
    return image.as_reoriented(
        orientations.ornt_transform(orientations.io_orientation(image.affine), orientations.axcodes2ornt(codes))
    )


@pytest.fixture(scope="module")
def page(
    tmp_path_factory: pytest.TempPathFactory, completer: ModalityCompleter, marks: dict[str, tuple[Any, Any]]
) -> Path:
    """T1 and FLAIR acquired, T1ce and T2 synthetic with maps of uncertainty, of one brain on three grids."""
    folder = tmp_path_factory.mktemp("viewer")
    for name, codes in CODES.items():
        for modality in ("t1n", "t2f"):
            image = turn(brain_volumes()[modality], codes)
            volume = np.where(np.asanyarray(marks[name][0].dataobj) > 0, 9000, np.asanyarray(image.dataobj))
            save(folder / "in" / name / f"{name}-{modality}.nii.gz", volume.astype(np.int16), image.affine)
    settings = Settings(uncertainty=True)
    results = list(completer.complete_cohort(folder / "in", out=folder / "out", settings=settings))
    assert [result.problem for result in results] == [None] * 3
    return write_report(folder / "out")


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Any]:
    browser.set_window_size(1400, 1000)
    browser.get(page.as_uri())
    open_case(browser, "p1")
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def open_case(browser: Any, name: str) -> None:
    browser.execute_script("for (const a of articles) if (a.dataset.case === arguments[0]) openCase(a)", name)
    wait(browser, "return shown !== null && document.querySelectorAll('.pane canvas[aria-label]').length === 12")


def wait(browser: Any, script: str) -> None:
    for _ in range(100):
        if browser.execute_script(script):
            return
        time.sleep(0.05)
    raise AssertionError(script)


def after(browser: Any, *keys: str) -> None:
    """Press keys and wait until they are drawn."""
    press(browser, *keys)
    settled = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    browser.execute_async_script(settled)


def labels(browser: Any, plane: str = "axial") -> list[str]:
    script = "return Array.from(document.querySelectorAll(arguments[0]), c => c.getAttribute('aria-label'))"
    return browser.execute_script(script, f".pane[data-plane={plane}] canvas")


def pixels(browser: Any, column: int, plane: str = "axial") -> np.ndarray:
    """RGB (height, width, 3) of one slice, without the band below it."""
    found = browser.execute_script(
        "const c = document.querySelectorAll('.pane[data-plane=' + arguments[1] + '] canvas')[arguments[0]];"
        "const h = c.height - Math.round(BAND * devicePixelRatio);"
        "return [h, c.width, Array.from(c.getContext('2d').getImageData(0, 0, c.width, h).data)]",
        column,
        plane,
    )
    return np.array(found[2], np.int16).reshape(found[0], found[1], 4)[..., :3]


def test_keys_step_through_all_modalities(opened: Any) -> None:
    start = [pixels(opened, column) for column in range(4)]
    total = labels(opened)[0].split(" of ")[-1].split("/")[-1].strip()
    number = int(labels(opened)[0].split()[-3])
    after(opened, UP)
    assert labels(opened) == [
        f"{name}, {kind}, axial slice {number + 1} / {total}"
        for name, kind in zip(("T1", "T1ce", "T2", "FLAIR"), ("acquired", "synthetic", "synthetic", "acquired"),
                              strict=True)
    ]  # fmt: skip
    assert all((pixels(opened, column) != start[column]).any() for column in range(4))
    after(opened, PAGE_DOWN)
    assert all(f" {number - 9} / " in label for label in labels(opened))
    before = labels(opened, "coronal")
    after(opened, "c", UP)
    assert labels(opened, "coronal") != before and all(f" {number - 9} / " in label for label in labels(opened))


def test_the_wheel_steps_through_the_plane_below_it(opened: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    pane = opened.find_elements("css selector", ".pane[data-plane=sagittal]")[2]
    before = [int(labels(opened, plane)[0].split()[-3]) for plane in ("axial", "coronal", "sagittal")]
    ActionChains(opened).scroll_from_origin(ScrollOrigin.from_element(pane), 0, -100).perform()
    after(opened)
    wait(opened, f"return document.getElementById('sagittal').value === '{before[2] + 1}'")
    assert [int(labels(opened, plane)[0].split()[-3]) for plane in ("axial", "coronal")] == before[:2]


def test_swap_and_flicker_show_the_nearest_acquired_image(opened: Any) -> None:
    after(opened, "x")  # no cross
    synthetic, acquired = pixels(opened, 1), pixels(opened, 0)
    headings = [heading.text for heading in opened.find_elements("css selector", "#panes h3")]
    assert "SYNTHETIC" in headings[1] and "SYNTHETIC" in headings[2] and "ACQUIRED" in headings[0]
    after(opened, "f")
    assert (pixels(opened, 1) == acquired).all() and (synthetic != acquired).any()
    assert labels(opened)[1].startswith("T1, acquired") and labels(opened)[2].startswith("FLAIR, acquired")
    assert opened.find_elements("css selector", "#panes h3")[1].text == "T1 ACQUIRED in place of T1ce"
    after(opened, "f")
    assert (pixels(opened, 1) == synthetic).all()
    opened.find_element("id", "flicker").click()
    for kind in ("T1, acquired", "T1ce, synthetic"):
        wait(opened, f"return document.querySelectorAll('.pane canvas')[3].ariaLabel.startsWith('{kind}')")
    opened.find_element("id", "flicker").click()


def test_opacity_lays_uncertainty_over_synthetic_images_alone(opened: Any) -> None:
    start = [pixels(opened, column) for column in range(4)]
    after(opened, "u")
    changed = [(pixels(opened, column) != start[column]).any() for column in range(4)]
    assert changed == [False, True, True, False]
    red, _, blue = np.moveaxis(pixels(opened, 1), -1, 0)
    assert (red > blue + 20).any()
    after(opened, "u")
    assert all((pixels(opened, column) == start[column]).all() for column in range(4))


WHITE = """
const white = (column, plane) => {  // the number of white pixels, and their mean row and column as shares
  const canvas = document.querySelectorAll(".pane[data-plane=" + plane + "] canvas")[column];
  const height = canvas.height - Math.round(BAND * devicePixelRatio);
  const values = canvas.getContext("2d").getImageData(0, 0, canvas.width, height).data;
  let count = 0, rows = 0, columns = 0;
  for (let i = 0; i < values.length / 4; i++) {
    if (Math.min(values[4 * i], values[4 * i + 1], values[4 * i + 2]) <= 215) continue;
    count += 1;
    rows += Math.floor(i / canvas.width) + .5;
    columns += i % canvas.width + .5;
  }
  return [count, rows / count / height, columns / count / canvas.width];
};
const set = (plane, value) => {
  const slider = document.getElementById(plane);
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
  paint();
};
"""
COUNT = (
    WHITE
    + """
const [plane] = arguments, counts = [];
for (let value = 1; value <= document.getElementById(plane).max; value++) {
  set(plane, value);
  counts.push(white(0, plane)[0]);
}
return counts;
"""
)


@pytest.mark.parametrize("name", CODES)
def test_a_mark_is_at_its_place_in_every_plane(opened: Any, marks: dict[str, tuple[Any, Any]], name: str) -> None:
    """Between the letters of its direction from the middle, in every modality that has it; and its voxel is told."""
    open_case(opened, name)
    if "true" in opened.find_element("id", "cross").get_attribute("aria-pressed"):
        after(opened, "x")
    image, voxel = marks[name]
    shift = (oblique_affine() @ [*MARK, 1] - oblique_affine() @ [11.5, 13.5, 9.5, 1])[:3]
    letters = {pair[0] if mm > 0 else pair[1] for pair, mm in zip(("RL", "AP", "SI"), shift, strict=True)}
    for plane in ("axial", "coronal", "sagittal"):
        counts = np.array(opened.execute_script(COUNT, plane))
        middle = round(np.flatnonzero(counts > 0.7 * counts.max()).mean())
        opened.execute_script(WHITE + "set(...arguments)", plane, middle + 1)
    for plane in ("axial", "coronal", "sagittal"):
        found = [opened.execute_script(WHITE + "return white(...arguments)", column, plane) for column in (0, 3)]
        places = np.array(found)[:, 1:]
        assert np.abs(places[0] - places[1]).max() < 0.02
        row, column = places[0]
        spans = opened.find_elements("css selector", f".pane[data-plane={plane}]")[0].find_elements(
            "css selector", "span"
        )
        shown = {span.get_attribute("class"): span.text for span in spans}
        sides = {"left" if column < 0.5 else "right", "up" if row < 0.5 else "down"}
        assert {shown[side] for side in sides} <= letters, (plane, shown, sides, letters)
        assert not {shown[OPPOSITE[side]] for side in sides} & letters
    told = dict(
        zip(*[iter(e.text for e in opened.find_elements("css selector", "#place dt, #place dd"))] * 2, strict=True)
    )
    assert told["voxel"] == ", ".join(map(str, voxel))
    world = image.affine @ [*voxel, 1]
    signs = [pair[0] if mm >= 0 else pair[1] for pair, mm in zip(("RL", "AP", "SI"), world, strict=False)]
    assert told["mm"].split()[::2] == signs
    assert np.abs(np.array(told["mm"].split()[1::2], float) - np.abs(world[:3])).max() <= 0.5 + 1e-6


def test_slices_keep_their_proportions(opened: Any) -> None:
    """In mm, on a grid of 1 x 1.1 x 1.3 mm."""
    lengths = [int(labels(opened, plane)[0].split()[-1]) for plane in ("sagittal", "coronal", "axial")]
    heights = opened.execute_script("return ['axial', 'coronal'].map(p => document.querySelector("
                                    "'.pane[data-plane=' + p + ']').clientHeight - BAND)")  # fmt: skip
    assert heights[0] / heights[1] == pytest.approx(1.1 * lengths[1] / (1.3 * lengths[2]), rel=0.02)


def test_the_keyboard_alone_opens_a_case_and_returns(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    press(browser, TAB, TAB, TAB, TAB)
    name = browser.execute_script("return document.activeElement.closest('article').dataset.case")
    press(browser, ENTER)
    wait(browser, "return document.querySelector('.pane canvas[aria-label]') !== null")
    assert browser.find_element("id", "viewed").text == name
    press(browser, "n")
    wait(browser, f"return shown !== null && shown.article.dataset.case !== {name!r}")
    press(browser, ESCAPE)
    wait(browser, "return !viewer.open")
    assert browser.execute_script("return document.activeElement.className") == "view"


def test_names_are_text_and_nothing_is_requested(opened: Any) -> None:
    open_case(opened, ODD)
    assert opened.find_element("id", "viewed").text == ODD
    requested = opened.execute_script("return performance.getEntriesByType('resource').map(e => e.name.slice(0, 5))")
    assert set(requested) <= {"data:"}
    refused = opened.execute_async_script(
        "const done = arguments[0];"
        "document.addEventListener('securitypolicyviolation', event => done(event.violatedDirective));"
        "fetch('http://127.0.0.1:9/').catch(() => 0)"
    )
    assert refused == "connect-src"
    opened.get_log("browser")  # the refusal


def test_without_scripts_there_are_the_strips_alone(browser: Any, page: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(page.as_uri())
        shown = [e.is_displayed() for e in browser.find_elements("css selector", "figure img, .bar, .view, dialog")]
        kinds = [e.tag_name for e in browser.find_elements("css selector", "figure img, .bar, .view, dialog")]
        assert [tag for tag, seen in zip(kinds, shown, strict=True) if seen] == ["img"] * 18
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("width", [500, 800, 1400])
def test_images_fit_into_the_window(opened: Any, width: int) -> None:
    opened.set_window_size(width, 900)
    for layout in ("all", "axial"):
        opened.execute_script("setLayout(arguments[0])", layout)
        widths = opened.execute_script("return [viewer, byId('panes')].map(box => [box.scrollWidth, box.clientWidth])")
        assert all(content <= box for content, box in widths)
