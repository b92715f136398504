"""The grammar of the input schemas that the SDK emits (`millrace._schema`): any other schema is refused.

A child runs its author's code, which may replace the SDK's own functions; the gateway and the events service check values against
the schema. So the grammar is no subset of JSON Schema that must be proven harmless, but exactly the output of the SDK.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from shared import schemas
from shared.errors import Invalid

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
FORMATS = frozenset({"date-time", "date", "uuid"})
PATTERNS = frozenset(
    {
        r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$",
        r"^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]+)?)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?$",
    }
)
"""Of decimal numbers and of times of day: authors cannot give their own."""
MOST_CHOICES = 10_000
"""Values of one `enum`, and members of one `anyOf`."""
_NAME = re.compile(r"[^/~%\x00-\x1f]{1,200}")
_REFERENCE = re.compile(r"#/\$defs/[^/~%\x00-\x1f]{1,200}")


def complaint(schema: Any) -> str | None:
    """Return why a schema is none that the SDK emits, in a sentence without its end; None where it is one."""
    try:
        for path, reason in _faults(schema):
            return f"its input schema cannot be used: {path} {reason}"
        if len(msgspec.json.encode(schema)) > schemas.MOST_BYTES:
            return f"its input schema is larger than {schemas.MOST_BYTES} bytes as JSON"
        schemas.costs(schema)
    except Invalid as error:
        return f"its input schema cannot be used: {error.detail}"
    except RecursionError:
        return "its input schema is nested too deeply"
    return None


def _faults(root: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(root, dict) or root.get("type") != "object" or not isinstance(root.get("properties"), dict):
        yield "schema", "does not describe an object with properties"
        return
    if root.get("$schema") != DIALECT:
        yield "schema.$schema", f"is not {DIALECT}"
    definitions = root.get("$defs", {})
    if not isinstance(definitions, dict):
        yield "schema.$defs", "is no object"
        return
    left: list[tuple[str, Any]] = [("schema", {key: value for key, value in root.items() if key not in {"$schema", "$defs"}})]
    for name, one in definitions.items():
        if not _NAME.fullmatch(name):
            yield "schema.$defs", f"has a name that cannot be referred to: {name[:80]!r}"
        left.append((f"schema.$defs.{name}", one))
    while left:
        path, schema = left.pop()
        if schema is True or schema is False:
            continue
        if not isinstance(schema, dict):
            yield path, "is neither an object nor true or false"
            return
        for keyword, value in schema.items():
            rule = _RULES.get(keyword)
            if rule is None:
                yield path, f"says {keyword[:80]!r}, which no signature leads to"
                return
            if not rule(value):
                yield f"{path}.{keyword}", "is not as the SDK says it"
                return
            left += _parts(f"{path}.{keyword}", keyword, value)
        reference = schema.get("$ref")
        if reference is not None and reference.removeprefix("#/$defs/") not in definitions:
            yield f"{path}.$ref", f"refers to {reference[:100]!r}, which is not there"


def _parts(path: str, keyword: str, value: Any) -> list[tuple[str, Any]]:
    """Return the schemas that a keyword holds."""
    if keyword in {"items", "additionalProperties"}:
        return [(path, value)]
    if keyword in {"anyOf", "prefixItems"}:
        return [(f"{path}.{number}", one) for number, one in enumerate(value)]
    if keyword == "properties":
        return [(f"{path}.{name}", one) for name, one in value.items()]
    return []


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _are_schemas(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_CHOICES and all(isinstance(one, dict) for one in value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


_RULES: dict[str, Callable[[Any], bool]] = {
    "description": lambda value: isinstance(value, str),
    "default": lambda _value: True,
    "type": lambda value: isinstance(value, str) and value in TYPES,
    "format": lambda value: isinstance(value, str) and value in FORMATS,
    "pattern": lambda value: isinstance(value, str) and value in PATTERNS,
    "enum": lambda value: isinstance(value, list) and len(value) <= MOST_CHOICES and all(map(_is_plain, value)),
    "anyOf": _are_schemas,
    "prefixItems": _are_schemas,
    "items": _is_schema,
    "additionalProperties": _is_schema,
    "minItems": lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_CHOICES,
    "uniqueItems": lambda value: value is True,
    "properties": lambda value: isinstance(value, dict),
    "required": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "$ref": lambda value: isinstance(value, str) and _REFERENCE.fullmatch(value) is not None,
}
