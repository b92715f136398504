"""The page of the HTTP API: each endpoint by its tag, as /openapi.json has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from services.gateway.api.application import ENDPOINTS
from services.gateway.api.document import document
from tests.reference.markdown import code, table, typed

HEAD = """\
# Endpoints

Made of the declarations of the endpoints by `python -m tests.reference`. [The HTTP API](http-api.md) says what holds for all of
them: keys, organizations, lists, `ETag`, errors. A running Millrace has the whole of it, with every schema, example and error,
at `/docs` and `/openapi.json`. `?` is a field that may be left out, and the role is the least one:
[permissions](permissions.md).

"""


def page() -> str:
    """Return the page in Markdown."""
    described = document(ENDPOINTS)
    schemas = described["components"]["schemas"]
    made = HEAD
    for tag in described["tags"]:
        made += f"## {tag['name']}\n\n"
        rows = [
            (method, path, operation)
            for path, methods in described["paths"].items()
            for method, operation in methods.items()
            if operation["tags"] == [tag["name"]]
        ]
        made += table(("call", "does", "role", "query", "body", "answers"), (_row(*one, schemas) for one in rows))
    return made


def _row(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    yield code(f"{method.upper()} {path}")
    yield operation["summary"]
    yield operation.get("x-role", "")
    queries = [one for one in operation["parameters"] if one["in"] == "query" and one["name"] != "org"]
    yield ", ".join(code(one["name"] + ("" if one["required"] else "?")) for one in queries)
    yield _body(operation.get("requestBody"), schemas)
    yield ", ".join(status for status in operation["responses"] if status < "4")


def _body(body: dict[str, Any] | None, schemas: dict[str, Any]) -> str:
    if body is None:
        return ""
    ((media, content),) = body["content"].items()
    schema = content["schema"]
    named = schemas.get(str(schema.get("$ref", "")).rpartition("/")[2])
    if named is None:
        return "bytes" if media == "application/octet-stream" else typed(schema)
    required = named.get("required", ())
    return ", ".join(code(name + ("" if name in required else "?")) for name in named.get("properties", {}))
