"""An OpenAPI document as one page of HTML: no script, nothing loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Any

import msgspec

STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent) }
body { display: grid; grid-template-columns: minmax(14rem, 20rem) minmax(0, 60rem); gap: 2rem; margin: 0 }
body { font: 16px/1.5 system-ui, sans-serif }
nav { position: sticky; top: 0; height: 100vh; overflow: auto; box-sizing: border-box; padding: 1rem; font-size: .875rem }
nav { border-right: 1px solid var(--line) }
nav ul { list-style: none; margin: 0 0 1rem; padding: 0 }
nav a { text-decoration: none; color: inherit }
nav a:hover { text-decoration: underline }
main { padding: 1rem 1rem 4rem }
section, article { border-top: 1px solid var(--line); padding: 1rem 0 }
h3 { font-size: 1rem; overflow-wrap: anywhere }
code, pre { font: .875em ui-monospace, monospace }
b.method { display: inline-block; min-width: 4.5em }
pre { overflow: auto; padding: .75rem; border: 1px solid var(--line); border-radius: 4px }
table { border-collapse: collapse; width: 100%; font-size: .875rem }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line) }
.dim { opacity: .65 }
@media (max-width: 50rem) { body { display: block } nav { position: static; height: auto; border: 0 } }
"""
_CODE = re.compile("`([^`]+)`")
_REFERENCE = "#/components/schemas/"


def page(document: dict[str, Any]) -> str:
    """Return the page of a document that `document` made."""
    operations = [(path, method, one) for path, of_path in document["paths"].items() for method, one in of_path.items()]
    groups = {
        tag["name"]: [(path, method, one) for path, method, one in operations if tag["name"] in one["tags"]]
        for tag in document["tags"]
    }
    info = document["info"]
    links = "".join(f"<p><b>{escape(name)}</b></p><ul>{''.join(map(_link, group))}</ul>" for name, group in groups.items())
    described = "".join(
        f"<section><h2>{escape(name)}</h2>{''.join(_operation(document, *one) for one in group)}</section>"
        for name, group in groups.items()
    )
    schemas = "".join(_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items()))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])} API</title><style>{STYLE}</style>"
        f'<nav><p><b>{escape(info["title"])} {escape(info["version"])}</b><br><a href="/openapi.json">openapi.json</a></p>{links}'
        '<p><a href="#types"><b>types</b></a></p></nav>'
        f"<main><h1>{escape(info['title'])} API</h1><p>{_prose(info['description'])}</p>{described}"
        f'<section id="types"><h2>types</h2>{schemas}</section></main></html>'
    )


def _link(of: tuple[str, str, dict[str, Any]]) -> str:
    path, method, operation = of
    return (
        f'<li><a href="#{operation["operationId"]}"><code>{method.upper()} {escape(path.removeprefix("/api/v1"))}</code></a></li>'
    )


def _operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> str:
    id_ = operation["operationId"]
    whose = " of the platform" if operation.get("x-platform") else ""
    role = f"Needs the role <b>{operation['x-role']}</b>{whose}." if "x-role" in operation else "Needs no key."
    parts = [
        f'<article id="{id_}"><h3><b class="method">{method.upper()}</b> <code>{escape(path)}</code></h3>',
        f"<p>{_prose(operation['summary'])}</p>",
        f"<p>{_prose(operation['description'])}</p>" if "description" in operation else "",
        f'<p class="dim">{role}</p>',
    ]
    if operation["parameters"]:
        rows = ((one["name"], one["in"], one["schema"], one.get("description", "")) for one in operation["parameters"])
        parts.append(
            _table(f"<td><code>{escape(n)}</code></td><td>{i}</td><td>{_type(s)}</td><td>{_prose(d)}</td>" for n, i, s, d in rows)
        )
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body: {_type(content['schema'])} <span class=dim>{escape(media)}</span></p>")
        if "example" in content:
            parts.append(f"<pre>{escape(msgspec.json.format(msgspec.json.encode(content['example'])).decode())}</pre>")
    parts.append(_table(_answer(document, status, one) for status, one in sorted(operation["responses"].items())))
    return "".join(parts) + "</article>"


def _answer(document: dict[str, Any], status: str, response: dict[str, Any]) -> str:
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
    types = " ".join(
        f"{_type(one['schema'])} <span class=dim>{escape(media)}</span>" for media, one in response.get("content", {}).items()
    )
    headers = " ".join(f"<code>{escape(name)}</code>" for name in response.get("headers", {}))
    return f"<td>{status}</td><td>{_prose(response['description'])}</td><td>{types}</td><td>{headers}</td>"


def _schema(name: str, schema: dict[str, Any]) -> str:
    needed = schema.get("required", [])
    rows = (
        f"<td><code>{escape(field)}</code>{'' if field in needed else ' <span class=dim>optional</span>'}</td>"
        f"<td>{_type(one)}</td><td>{_prose(one.get('description', ''))}</td>"
        for field, one in schema.get("properties", {}).items()
    )
    described = f"<h3>{escape(name)}</h3><p>{_prose(schema.get('description', ''))}</p>"
    return f'<article id="type-{escape(name)}">{described}{_table(rows)}</article>'


def _type(schema: dict[str, Any]) -> str:
    """Return a schema in a few words, a component as a link to it."""
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(_REFERENCE))
        return f'<a href="#type-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return " ".join(f"<code>{escape(str(one))}</code>" for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS.items() if key in schema]
    return escape(" ".join([str(schema.get("type", "any")), *([f"({', '.join(bounds)})"] if bounds else [])]))


_BOUNDS = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "minLength": "at least",
    "maxLength": "up to",
    "pattern": "like",
    "default": "else",
}


def _table(rows: Iterator[str]) -> str:
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _prose(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))
