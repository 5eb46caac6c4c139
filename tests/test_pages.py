"""Pages from templates: text stays text whatever it holds, and a page is written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import pytest

from modfill.errors import ModfillError, printable
from modfill.reports.figures import Figure
from modfill.reports.pages import save_page
from modfill.reports.reported_case import ReportedCase
from modfill.reports.strips import Strip
from modfill.reports.volumes import EncodedVolume

ODD = [
    "<script>alert(1)</script>",
    "</title></style></script><img src=x onerror=alert(1)>",
    '"\'><b onclick="alert(1)">',
    "a&amp;b &#60;i&#62;",
    "{{ title }} {% raw %} {# no comment ${title}",
    "\x1b[31m\x07\t\r\n\x00\x7f",
    "no\udcffunicode \u202egnp.exe",
    "Ω…🧠",
]
URI = "data:image/jpeg;base64,/9j/4AAQ+SkZJRg=="


class Page(HTMLParser):
    """What a browser makes of a page: the tags, the values of attributes and the texts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(f"{tag} {name}", value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def cohort(path: Path, name: str) -> None:
    figures = [
        Figure(name, "synthetic", name, Strip(URI, 2, 1), name, EncodedVolume(name, (1, 1, 1)), name),
        Figure(name, "acquired", name),
    ]
    cases = [ReportedCase(name, {"psnr": name}, [name], figures, [(name, {name: name})], grid=name),
             ReportedCase(name), ReportedCase(name, damage=name)]  # fmt: skip
    save_page(path, "cohort.html", title=name, version=name, cases=cases, images=1, whole=1, failures=[name],
              measures={"psnr": name}, full_amber=name, full_amber_share=0.25, most_megabytes=1,
              most_volume_megabytes=1)  # fmt: skip


def scan(path: Path, name: str) -> None:
    tables = {name: {"columns": [name], "data": [[name]]}}
    findings = {name: [name]}
    save_page(path, "scan.html", title=name, version=name, depth=name, states=(), findings=findings, tables=tables)


@pytest.mark.parametrize("name", ODD, ids=ascii)
@pytest.mark.parametrize("write", [cohort, scan])
def test_odd_text_is_text(tmp_path: Path, write: Callable[[Path, str], None], name: str) -> None:
    """It makes no tag and no attribute, and reads as it does in a terminal."""
    write(tmp_path / "odd.html", name)
    write(tmp_path / "plain.html", "plain")
    odd, plain = Page(tmp_path / "odd.html"), Page(tmp_path / "plain.html")
    assert odd.tags == plain.tags
    assert [key for key, _ in odd.attributes] == [key for key, _ in plain.attributes]
    values = [value for key, value in plain.attributes if "plain" in (value or "")]
    named = [value for key, value in odd.attributes if printable(name) in (value or "")]
    assert len(named) == len(values)
    assert [text.replace("plain", printable(name)) for text in plain.texts] == odd.texts


def test_pictures_are_not_altered(tmp_path: Path) -> None:
    cohort(tmp_path / "page.html", "p1")
    assert [value for key, value in Page(tmp_path / "page.html").attributes if key == "img src"] == [URI]


@pytest.mark.parametrize("left_out", ["title", "version", "depth", "findings", "tables"])
def test_what_a_template_names_must_be_given(tmp_path: Path, left_out: str) -> None:
    data: dict[str, Any] = {"title": "t", "version": "1", "depth": "d", "findings": {}, "tables": {}}
    del data[left_out]
    with pytest.raises(jinja2.UndefinedError, match=left_out):
        save_page(tmp_path / "page.html", "scan.html", **data)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModfillError, match="cannot write .*page.html"):
        scan(tmp_path / "file" / "page.html", "p1")
