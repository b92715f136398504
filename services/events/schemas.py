"""JSON Schemas of settings, inputs and configs: compiled once, never fetched from anywhere."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import msgspec

from shared.errors import Invalid, Problem

# How many schemas stay compiled.
COMPILED = 1024
# As JSON: what people type into a form, with plenty of room. It travels in one message, and to every run that asks.
MAX_BYTES = 64 * 1024
ADVICE = "a config is no place for secrets: put them into a connection, or into the organization's secrets"
# Below these keywords every key is a name that the author chose; below the others stands what is no schema.
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_VALUES = frozenset({"const", "enum", "default", "examples"})


def misfits(schema: dict[str, Any], value: Any, *, at: str) -> list[Problem]:
    """Return each place where `value` does not fit; paths begin with `at`. A schema must have been checked before."""
    try:
        return [
            Problem(_path(at, error.instance_path), error.message[:500])
            for error in validator_of(_encoded(schema)).iter_errors(value)
        ]
    except RecursionError:
        return [Problem(at, "is nested too deeply")]
    except ValueError as error:
        return [Problem(at, str(error))]


def checked_config_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an integration's config if it may be one.

    Raises `Invalid` for what is no JSON Schema, looks for another document, describes no object, or asks for a secret.
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
        validator_of(_encoded(schema))
    except jsonschema_rs.ValidationError as error:
        raise _refused(_path(at, error.instance_path), f"is no JSON Schema: {error.message}"[:500]) from error
    except ValueError as error:
        raise _refused(at, f"is no JSON Schema: {error}"[:500]) from error


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


def _path(at: str, parts: list[str | int]) -> str:
    return ".".join([at, *(str(part) for part in parts)])


def _encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


@functools.lru_cache(COMPILED)
def validator_of(schema: bytes) -> Any:
    """Return what checks values against a schema, given as JSON. Raises ValueError when it is none."""
    # A schema comes from outside: what it refers to is neither fetched nor read from a file.
    return jsonschema_rs.validator_for(schema.decode(), offline=True)
