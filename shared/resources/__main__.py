"""Prints the kinds as the command line reads them: `python -m shared.resources > sdk/millrace/cli/kinds.json`."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from shared.resources import KINDS, Kind


def described(kind: Kind) -> dict[str, Any]:
    """Return a kind for clients: its path, and the fields of its body as JSON Schema."""
    schema = msgspec.json.schema(kind.body)["$defs"][kind.body.__name__]
    return {
        "noun": kind.noun,
        "plural": kind.plural,
        "path": kind.path,
        "platform": kind.of_platform,
        "doc": (kind.spec.__doc__ or "").partition("\n")[0],
        "columns": kind.columns,
        "fields": {name: _plain(one) | {"required": name in schema["required"]} for name, one in schema["properties"].items()},
    }


def _plain(schema: Any) -> Any:
    """Return a schema without references: of an object within a body a client is told that it is one."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {"type": "object"} if "$ref" in schema else {name: _plain(one) for name, one in schema.items()}


def document() -> bytes:
    """Return the description of all kinds, as the file holds it."""
    kinds = [described(kind) for _, kind in sorted(KINDS.items())]
    return msgspec.json.format(msgspec.json.encode(kinds), indent=1) + b"\n"


if __name__ == "__main__":
    sys.stdout.buffer.write(document())
