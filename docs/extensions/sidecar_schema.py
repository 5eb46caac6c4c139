"""The directive `sidecar-schema`: a table of the sidecar's keys, made from modfill/outputs/sidecar.schema.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx


class SidecarSchema(Directive):
    """Rows of key, required or not, type and meaning; nested keys are written `Parent.Key`."""

    def run(self) -> list[nodes.Node]:
        """Build the table."""
        schema = json.loads((files("modfill.outputs") / "sidecar.schema.json").read_text(encoding="utf8"))
        return [table(("key", "", "type", "meaning"), list(rows(schema, schema)))]


def rows(part: dict[str, Any], schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, ...]]:
    """One row for each property, and for those of objects inside."""
    for key, value in part.get("properties", {}).items():
        value = resolved(value, schema)
        needed = "required" if key in part.get("required", ()) else ""
        yield prefix + key, needed, type_of(value, schema), value.get("description", "")
        yield from rows(value, schema, f"{prefix}{key}.")
        yield from rows(merged(value.get("items") or {}, schema), schema, f"{prefix}{key}[].")


def resolved(value: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The definition that a reference names, or the value itself."""
    name = value.get("$ref", "").rpartition("/")[2]
    return {**schema["$defs"][name], **{k: v for k, v in value.items() if k != "$ref"}} if name else value


def merged(value: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The properties of all that a value may be; required are those that each of them requires."""
    forms = [resolved(one, schema) for one in value.get("oneOf", [value])]
    required = set.intersection(*(set(form.get("required", ())) for form in forms))
    return {"properties": {k: v for form in forms for k, v in form.get("properties", {}).items()}, "required": required}


def type_of(value: dict[str, Any], schema: dict[str, Any]) -> str:
    """In words: its type, constant or choices."""
    if "const" in value:
        return json.dumps(value["const"])
    if "enum" in value:
        return ", ".join(json.dumps(one) for one in value["enum"])
    if "oneOf" in value or "anyOf" in value:
        options = [resolved(one, schema) for one in value.get("oneOf", value.get("anyOf"))]
        return " or ".join(dict.fromkeys(type_of(one, schema) for one in options))
    kind = value.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else kind


def table(head: tuple[str, ...], body: list[tuple[str, ...]]) -> nodes.table:
    """A table of texts whose first column is code."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=width) for width in (30, 10, 25, 50)]
    group += nodes.thead("", _row(head, code=False))
    group += nodes.tbody("", *(_row(row, code=True) for row in body))
    return nodes.table("", group)


def _row(cells: tuple[str, ...], code: bool) -> nodes.row:
    row = nodes.row()
    for number, cell in enumerate(cells):
        text = nodes.literal(cell, cell) if code and number in (0, 2) and cell else nodes.Text(cell)
        row += nodes.entry("", nodes.paragraph("", "", text))
    return row


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("sidecar-schema", SidecarSchema)
    return {"parallel_read_safe": True}
