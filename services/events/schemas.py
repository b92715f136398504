"""JSON Schemas that organizations write for configs, and the misfits of values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from shared.errors import Invalid, Problem
from shared.schemas import checker_of

# As JSON: a form's content, with plenty of room. It travels in one message, and to every run that asks for it.
MAX_BYTES = 64 * 1024
ADVICE = "a secret is a text at the top of a config; deeper ones belong into a connection, or into the organization's secrets"
# Below these keywords every key is a name that the author chose; below the others stands no schema.
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_VALUES = frozenset({"const", "enum", "default", "examples"})


def misfits(schema: dict[str, Any], value: Any, *, at: str) -> list[Problem]:
    """Return each place where `value` does not fit; paths begin with `at`. A schema must have been checked before."""
    try:
        return checker_of(_encoded(schema)).problems(value, at)
    except (RecursionError, Invalid) as error:
        # An older version took it; a schema that costs too much is not used.
        return [Problem(at, f"cannot be checked: {error}"[:500])]


def checked_config_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an integration's config if it may be one.

    Raises `Invalid` for one that is no JSON Schema, refers to another document, describes no object, or asks for a secret elsewhere
    than in a text at its top.
    """
    at = "config_schema"
    try:
        too_large = len(_encoded(schema)) > MAX_BYTES
        own = {f"{at}.properties.{name}" for name in secrets_of(schema)}
        secrets = [Problem(path, ADVICE) for path in _secrets(schema, at) if path not in own]
        checked(schema, at)
    except (RecursionError, msgspec.EncodeError) as error:
        raise _refused(at, "is nested too deeply") from error
    if too_large:
        raise _refused(at, f"is larger than {MAX_BYTES} bytes")
    if schema.get("type") != "object":
        raise _refused(f"{at}.type", 'must be "object", as every config is one')
    if secrets:
        raise Invalid(f"{secrets[0].path} is to hold a secret, and {ADVICE}", errors=tuple(secrets))
    return schema


def checked(schema: dict[str, Any], at: str) -> None:
    """Raise `Invalid` unless `schema` is a JSON Schema that stands for itself."""
    try:
        checker_of(_encoded(schema))
    except Invalid as error:
        problem = error.errors[0] if error.errors else Problem("schema", error.detail)
        raise _refused(f"{at}{problem.path.removeprefix('schema')}", problem.message) from error


def secrets_of(schema: dict[str, Any]) -> tuple[str, ...]:
    """Return the secret members of a schema's configs: texts whose schema is `writeOnly`, or of the format `password`."""
    described = schema.get("properties")
    named = described.items() if isinstance(described, dict) else ()
    return tuple(name for name, one in named if isinstance(one, dict) and _is_secret(one) and one.get("type", "string") == "string")


def defaults_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the members that a config has where nobody gives them; no secret has a default."""
    described = schema.get("properties")
    named = described.items() if isinstance(described, dict) else ()
    return {name: one["default"] for name, one in named if isinstance(one, dict) and "default" in one and not _is_secret(one)}


def _is_secret(schema: dict[str, Any]) -> bool:
    return schema.get("format") == "password" or schema.get("writeOnly") is True


def _secrets(schema: Any, at: str) -> Iterator[str]:
    """Yield the paths of all subschemas that describe a secret."""
    if isinstance(schema, list):
        for number, one in enumerate(schema):
            yield from _secrets(one, f"{at}.{number}")
    if not isinstance(schema, dict):
        return
    if _is_secret(schema):
        yield at
    for keyword, value in schema.items():
        if keyword in _NAMED and isinstance(value, dict):
            for name, one in value.items():
                yield from _secrets(one, f"{at}.{keyword}.{name}")
        elif keyword not in _VALUES:
            yield from _secrets(value, f"{at}.{keyword}")


def _refused(path: str, message: str) -> Invalid:
    return Invalid(f"{path} {message}", errors=(Problem(path, message),))


def _encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)
