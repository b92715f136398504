"""Reads the values that people type: `k=v` by a schema, JSON, files, secrets. `click.UsageError` names the one that it cannot."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

Schema = dict[str, Any]
# Bytes of a secret in a file; the API takes none that is as long.
MOST_SECRET = 512 * 1024
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object", type(None): "null"}


def pairs(given: Iterable[str], schema: Schema, option: str) -> dict[str, Any]:
    """Return `k=v`s as values: JSON where it fits the schema's property, else text."""
    found: dict[str, Any] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise click.UsageError(f"{option} takes NAME=VALUE, not {pair!r}.")
        found[name] = fitting(text, schema.get("properties", {}).get(name, {}), schema)
    return found


def fitting(text: str, wanted: Schema, root: Schema) -> Any:
    """Return text as the schema `wanted` (within `root`) takes it: `5` is a number unless only text is wanted."""
    allowed = types_of(wanted, root)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    kind = _TYPES[type(value)]
    fits = not allowed or kind in allowed or (kind == "integer" and "number" in allowed)
    # `null` for `str | None` is as likely a word; to mean None, leave the value out.
    if "string" in allowed and (kind == "null" or not fits):
        return text
    return value


def types_of(wanted: Schema, root: Schema, depth: int = 10) -> set[str]:
    """Return the JSON types that a schema takes; an empty set means any."""
    if depth == 0:
        return set()
    reference = wanted.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = root
        for step in reference[2:].split("/"):
            target = target.get(step, {}) if isinstance(target, dict) else {}
        return types_of(target, root, depth - 1)
    if "enum" in wanted or "const" in wanted:
        return {_TYPES[type(value)] for value in wanted.get("enum", [wanted.get("const")])}
    for several in ("anyOf", "oneOf"):
        if several in wanted:
            each = [types_of(one, root, depth - 1) for one in wanted[several]]
            return set().union(*each) if all(each) else set()
    said = wanted.get("type", [])
    return {said} if isinstance(said, str) else set(said)


def an_object(text: str, option: str) -> dict[str, Any]:
    """Return a JSON object that is given as such, as `@FILE`, or as `-` for standard input."""
    value = a_value(text, option)
    if not isinstance(value, dict):
        raise click.UsageError(f"{option} must be a JSON object.")
    return value


def a_value(text: str, option: str) -> Any:
    """Return any JSON value that is given like that."""
    source = text
    if text == "-":
        source = content("-").decode("utf-8", "replace")
    elif text.startswith("@"):
        source = content(text[1:]).decode("utf-8", "replace")
    try:
        return json.loads(source)
    except RecursionError as error:
        raise click.UsageError(f"{option} nests deeper than anything is taken.") from error
    except ValueError as error:
        raise click.UsageError(f"{option} is not JSON: {error}.") from error


def content(path: str) -> bytes:
    """Return the bytes of a file, or of standard input for `-`."""
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}.") from error


def secret(path: str | None, what: str) -> str:
    """Return a secret from a file (`-`: standard input), without the line's end; without a file it is asked for unseen."""
    if path is None:
        if not sys.stdin.isatty():
            raise click.UsageError(f"{what} is a secret: give it in a file, or by standard input with `-`.")
        return str(click.prompt(what, hide_input=True, err=True))
    try:
        return _line(content(path))
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path} is not text.") from error


def secret_beside(path: Path) -> str:
    """Return a secret from a regular file that a document names, without the line's end."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise click.UsageError(f"{path} cannot be read: it is no regular file.")
        with path.open("rb") as file:
            data = file.read(MOST_SECRET + 1)
        if len(data) > MOST_SECRET:
            raise click.UsageError(f"{path} has more than {MOST_SECRET} bytes.")
        return _line(data)
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path} is not text.") from error


def _line(data: bytes) -> str:
    return data.decode().removesuffix("\n").removesuffix("\r")
