"""The report in a real browser, without a network: pictures, order, keyboard, and what a screen reader is told."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modfill.completer import ModalityCompleter
from modfill.reports.cohort_page import write_report
from modfill.settings import Settings
from tests.case_files import write_case

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium and its driver: apt-get install chromium chromium-driver"
)

CASES = {"p10": ("t1n", "t1c", "t2w"), "p2": ("t1n",), "p3": ("t1n", "t2f")}
EXPECTED_PSNR = {"p10": [22.0], "p2": [25.0, 21.5, 30.0], "p3": [9.75, 31.0]}  # dB, of the synthetic images
OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, completer: ModalityCompleter) -> Path:
    """Three cases, with the expected PSNR of `EXPECTED_PSNR`; p2 and p3 have maps of uncertainty."""
    folder = tmp_path_factory.mktemp("browser")
    for seed, (name, present) in enumerate(CASES.items()):
        write_case(folder / name, name, present, seed=seed)
        settings = Settings(uncertainty=name != "p10")
        list(completer.complete_cohort(folder / name, out=folder / "out", settings=settings))
        for sidecar, psnr in zip(sorted((folder / "out" / name).glob("*.json")), EXPECTED_PSNR[name], strict=True):
            sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "ExpectedPSNR": psnr}))
    return write_report(folder / "out")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium that no network reaches."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", OFFLINE)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    browser.get(page.as_uri())
    return browser


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def order(browser: Any) -> list[str]:
    return browser.execute_script("return Array.from(document.querySelectorAll('article h2'), h => h.textContent)")


def focused(browser: Any) -> str:
    """What the keyboard is on: a name that the page gives, or a tag."""
    return browser.execute_script("const e = document.activeElement; return e.id || e.tagName.toLowerCase()")


def told(browser: Any) -> set[tuple[str, str]]:
    """Role and name of everything that the accessibility tree holds."""
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    return {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]}


def test_every_picture_is_shown_and_nothing_is_wrong(opened: Any) -> None:
    shown = opened.execute_script(
        "const all = Array.from(document.images); all.forEach(i => i.loading = 'eager');"
        "return Promise.all(all.map(i => i.decode().then(() => [i.naturalWidth, i.alt])))"
    )
    assert len(shown) == 4 + (1 + 3 * 2) + (2 + 2 * 2)
    assert all(width > 100 and text for width, text in shown)
    assert opened.get_log("browser") == []


def test_the_keyboard_alone_sorts_and_opens(opened: Any) -> None:
    assert order(opened) == ["p2", "p3", "p10"]
    press(opened, "\ue004")  # Tab
    assert focused(opened) == "key"
    press(opened, "n")  # Number synthesised
    assert order(opened) == ["p10", "p3", "p2"]
    press(opened, "\ue004")
    assert focused(opened) == "direction"
    press(opened, " ")
    assert order(opened) == ["p2", "p3", "p10"]
    press(opened, "\ue004")
    assert focused(opened) == "size"
    before = opened.find_element("css selector", "figure").size["width"]
    press(opened, " ")
    assert opened.find_element("css selector", "figure").size["width"] > 1.5 * before
    press(opened, "\ue004")  # the first case's viewer
    assert focused(opened) == "button"
    press(opened, "\ue004", "\ue007")  # its provenance; Enter
    assert focused(opened) == "summary"
    assert opened.execute_script("return document.activeElement.parentElement.open") is True
    assert opened.execute_script("return document.activeElement.textContent") == "Provenance of p2"


def test_the_keyboard_sorts_by_the_lowest_expected_psnr(opened: Any) -> None:
    press(opened, "\ue004")
    press(opened, *"exp")
    assert order(opened) == ["p3", "p2", "p10"]
    press(opened, "\ue004", " ")
    assert order(opened) == ["p10", "p2", "p3"]
    facts = opened.find_element("css selector", "article[data-case=p3] .facts").text
    assert facts.endswith("lowest expected PSNR 9.8 dB")
    captions = [caption.text for caption in opened.find_elements("css selector", "article[data-case=p2] figcaption")]
    assert [text.split()[-2] for text in captions if text.endswith("dB")] == ["25.0", "30.0", "21.5"]


def test_numbers_in_names_count_and_what_has_no_value_comes_last(opened: Any) -> None:
    from selenium.webdriver.support.ui import Select

    select = Select(opened.find_element("id", "key"))
    select.select_by_value("uncertainty")
    first = order(opened)
    assert first[2] == "p10"
    opened.find_element("id", "direction").click()
    assert order(opened) == [*first[1::-1], "p10"]
    opened.find_element("id", "direction").click()
    select.select_by_value("case")
    assert order(opened) == ["p2", "p3", "p10"]


def test_a_screen_reader_is_told(opened: Any) -> None:
    """Names and roles as the browser's accessibility tree has them."""
    from selenium.webdriver.support.ui import Select

    Select(opened.find_element("id", "key")).select_by_value("count")
    wanted = {(role, name) for role in ("article", "heading") for name in CASES}
    wanted |= {("combobox", "Sort by"), ("button", "Highest first"), ("button", "Large pictures")}
    named = told(opened)
    for _ in range(100):  # the browser rebuilds this tree some time after the cases have moved
        if wanted <= named:
            break
        time.sleep(0.1)
        named = told(opened)
    assert wanted <= named
    assert any(role == "image" and "synthetic" in name for role, name in named)
    assert not any(role == "image" and not name for role, name in named)
    assert (
        opened.find_element("id", "told").get_attribute("textContent") == "Sorted by number synthesised, lowest first"
    )


def test_a_narrow_window_needs_no_sideways_scrolling(opened: Any) -> None:
    opened.set_window_size(500, 900)
    for _ in ("small pictures", "large ones"):
        assert opened.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        opened.find_element("id", "size").click()
    opened.set_window_size(1400, 1000)
