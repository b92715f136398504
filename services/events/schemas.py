"""JSON Schemas that organizations write for configs, and the misfits of values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from shared.errors import Invalid, Problem
from shared.schemas import checker_of

# As JSON: a form's content, with plenty of room. It travels in one message, and to every run that asks for it.
MAX_BYTES = 64 * 1024
ADVICE = "a config is no place for secrets: put them into a connection, or into the organization's secrets"
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

    Raises `Invalid` for one that is no JSON Schema, refers to another document, describes no object, or asks for a secret.
    """
    at = "config_schema"
    try:
        too_large = len(_encoded(schema)) > MAX_BYTES
        secrets = [Problem(path, ADVICE) for path in _secrets(schema, at)]
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


def checked_config(schema: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping's config if it fits. Raises `Invalid` with a problem for each place where it does not."""
    if len(_encoded(config)) > MAX_BYTES:
        raise _refused("config", f"is larger than {MAX_BYTES} bytes")
    problems = misfits(schema, config, at="config")
    if problems:
        detail = f"the config does not fit: {problems[0].path}: {problems[0].message}"
        raise Invalid(detail[:500], errors=tuple(problems))
    return config


def _secrets(schema: Any, at: str) -> Iterator[str]:
    """Yield the paths of all subschemas that describe a secret."""
    if isinstance(schema, list):
        for number, one in enumerate(schema):
            yield from _secrets(one, f"{at}.{number}")
    if not isinstance(schema, dict):
        return
    if schema.get("format") == "password" or schema.get("writeOnly") is True:
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
