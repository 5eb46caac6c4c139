"""HTML pages: Jinja2 templates, filled in and written whole."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from modfill.atomic import replacing, writable
from modfill.errors import printable

__all__ = ["save_page"]


def save_page(path: Path, template: str, **data: object) -> None:
    r"""Fill in a template and write the page whole or not at all.

    Every text is escaped: markup as HTML entities, characters that are not printable as in a terminal, e.g. ``\x1b``.

    Args:
        path: The file to write.
        template: Name of a file in ``templates``.
        data: What the template names.

    Raises:
        ModfillError: The page cannot be written.
        jinja2.UndefinedError: The template names something that is not in ``data``.
    """
    page = _environment().get_template(template).render(data)
    with writable(path), replacing(path) as temporary:
        temporary.write_text(page, encoding="utf8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("modfill.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _printable(value: Any) -> Any:
    """Text in characters that UTF-8 and HTML can hold; anything else, finished markup too, as it is."""
    return printable(value) if type(value) is str and not value.isprintable() else value
