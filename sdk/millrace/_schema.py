"""JSON Schema 2020-12 from a function's signature."""

import dataclasses
import json
import typing
from collections import abc
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, get_args, get_origin
from uuid import UUID

from millrace._hints import (
    MISSING,
    Field,
    Unsupported,
    bare,
    described_as,
    fields_of,
    members,
    parameters_of,
    shown,
)
from millrace._runtime.encode import to_json
from millrace.errors import ResultError

__all__ = ["ARRAYS", "MAPPINGS", "Unsupported", "input_schema"]

Schema = dict[str, Any]

_PLAIN: dict[Any, Schema] = {
    Any: {},
    object: {},
    None: {"type": "null"},
    type(None): {"type": "null"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
    time: {"type": "string", "format": "time"},
    UUID: {"type": "string", "format": "uuid"},
    Decimal: {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"}]},
}
ARRAYS: frozenset[Any] = frozenset(
    {list, tuple, set, frozenset, abc.Sequence, abc.Iterable, abc.Collection, abc.Set, abc.MutableSequence}
)
"""The containers that a JSON array can become."""
MAPPINGS: frozenset[Any] = frozenset({dict, abc.Mapping, abc.MutableMapping})
"""The containers that a JSON object can become."""


def input_schema(function: Callable[..., Any]) -> Schema:
    """Describe the input of a function: an object with one property per parameter.

    A parameter without a default is required; other names are refused unless there is `**kwargs`. Dataclasses and
    TypedDicts stand under `$defs`; a dataclass refuses unknown names, a TypedDict, like its type, does not. Raises
    `Unsupported`, naming the parameter, for a type that no JSON value can become.
    """
    parameters = parameters_of(function)
    definitions = _Definitions()
    schema: Schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= definitions.object_of(parameters.fields, "parameter")
    schema["additionalProperties"] = False
    if parameters.extra is not MISSING:
        schema["additionalProperties"] = definitions.of(parameters.extra, "**kwargs") or True
    if definitions.known:
        schema["$defs"] = definitions.known
    return schema


class _Definitions:
    """Schemas of one function's types; named ones are kept once, so that a type may hold itself."""

    def __init__(self) -> None:
        self.known: dict[str, Schema] = {}
        self._names: dict[Any, str] = {}

    def object_of(self, fields: tuple[Field, ...], what: str) -> Schema:
        properties: Schema = {}
        for field in fields:
            schema = dict(self.of(field.hint, f"{what} {field.name}"))
            if field.default is not MISSING:
                try:
                    schema["default"] = json.loads(to_json(field.default, what="default", rich=True))
                except ResultError:
                    schema.pop("default", None)  # a default that is not JSON is still a default, only not shown
            properties[field.name] = schema
        required = [field.name for field in fields if field.required]
        return {"type": "object", "properties": properties} | ({"required": required} if required else {})

    def of(self, hint: Any, where: str) -> Schema:
        """Describe one hint; `where` names it in an error."""
        text = described_as(hint)
        schema = self._of(bare(hint), where)
        return schema | {"description": text} if text else schema

    def _of(self, hint: Any, where: str) -> Schema:
        if _hashable(hint) and hint in _PLAIN:
            return _PLAIN[hint]
        origin, arguments = get_origin(hint) or hint, get_args(hint)
        union = members(hint)
        if union is not None:
            return {"anyOf": [self.of(member, where) for member in union]}
        if origin is Literal:
            return {"enum": [self._scalar(value, where) for value in arguments]}
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            items = [self.of(one, where) for one in arguments if one != ()]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        if origin in ARRAYS:
            unique = {"uniqueItems": True} if origin in (set, frozenset, abc.Set) else {}
            return {"type": "array", "items": self.of(arguments[0], where) if arguments else {}} | unique
        if origin in MAPPINGS:
            if arguments and bare(arguments[0]) not in (str, Any):
                msg = f"{where}: the keys of a JSON object are str, not {shown(arguments[0])}"
                raise Unsupported(msg)
            values = self.of(arguments[1], where) if arguments else {}
            return {"type": "object"} | ({"additionalProperties": values} if values else {})
        if isinstance(hint, type) and issubclass(hint, Enum):
            return {"enum": [self._scalar(member.value, where) for member in hint]}
        if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or typing.is_typeddict(hint)):
            return self._named(hint)
        msg = f"{where}: no JSON value becomes {shown(hint)}"
        raise Unsupported(msg)

    def _named(self, kind: type) -> Schema:
        if kind not in self._names:
            name = kind.__name__
            while name in self.known:
                name += "_"
            self._names[kind] = name
            self.known[name] = {}
            self.known[name] = self.object_of(fields_of(kind), f"{kind.__name__} field")
            if not typing.is_typeddict(kind):
                self.known[name]["additionalProperties"] = False
        return {"$ref": f"#/$defs/{self._names[kind]}"}

    @staticmethod
    def _scalar(value: object, where: str) -> Any:
        value = value.value if isinstance(value, Enum) else value
        if value is None or isinstance(value, bool | int | float | str):
            return value
        msg = f"{where}: {value!r} is not a plain JSON value"
        raise Unsupported(msg)


def _hashable(hint: Any) -> bool:
    try:
        hash(hint)
    except TypeError:
        return False
    return True
