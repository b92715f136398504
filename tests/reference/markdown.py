"""Tables in Markdown, and JSON Schemas in a few words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


def cell(text: str) -> str:
    """Return a text as a cell of a table: on one line, and without what ends a cell."""
    return re.sub(r"\s+", " ", text).replace("|", r"\|").strip()


def code(text: str) -> str:
    """Return a text as code."""
    return f"`{text}`" if text else ""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table, with an empty line behind it."""
    titles = [*head]
    lines = [titles, ["---"] * len(titles), *([cell(one) for one in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def typed(schema: Mapping[str, Any]) -> str:
    """Return what values a schema is for, in a few words; a struct by its name."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return code(str(schema["const"]))
    if "enum" in schema:
        return ", ".join(code(str(one)) for one in schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema and all("type" in one or "$ref" in one or "enum" in one for one in schema[several]):
            return " or ".join(dict.fromkeys(typed(one) for one in schema[several]))
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        inner = typed(schema.get("items", {}))
        return "list" if inner == "any" else f"list of {inner}"
    return str(kind) + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is None and most is None:
        return ""
    if most is None:
        return f" ≥ {least:,}"
    return f" ≤ {most:,}" if least is None else f" {least:,} to {most:,}"
