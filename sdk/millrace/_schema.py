"""JSON Schema 2020-12 from a function's signature."""

import dataclasses
import json
import re
from collections import abc
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, get_args, get_origin
from uuid import UUID

from millrace import _bounds
from millrace._docstring import described
from millrace._hints import (
    MISSING,
    Field,
    Unsupported,
    bare,
    described_as,
    fields_of,
    is_typed_dict,
    members,
    parameters_of,
    shown,
)
from millrace._runtime.encode import clean, complaint, to_json
from millrace.errors import ResultError

__all__ = ["ARRAYS", "MAPPINGS", "Unsupported", "form_schema", "input_schema"]

Schema = dict[str, Any]

DECIMAL = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
"""Texts that become a Decimal: numbers of JSON, and no NaN or infinity."""
TIME = r"^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]+)?)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?$"
"""Texts that become a time of day, with an offset or without."""

LARGEST = 128 * 1024
"""Bytes of one schema."""
LONGEST_NAME = 100
"""Characters of the name of a type; some more distinguish it from others."""
_UNNAMEABLE = re.compile(r"[^\w.-]")

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
    # Not the format "time", which demands an offset: half past nine is half past nine without one.
    time: {"type": "string", "pattern": TIME},
    UUID: {"type": "string", "format": "uuid"},
    Decimal: {"anyOf": [{"type": "number"}, {"type": "string", "pattern": DECIMAL}]},
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
    TypedDicts stand under `$defs`; a dataclass refuses unknown names, a TypedDict, like its type, does not. A docstring's
    text about a parameter or a field is its description, unless `Annotated` has another. Raises `Unsupported`,
    naming the parameter, for a type that no JSON value can become, and for a signature of more than `LARGEST` bytes as JSON.
    """
    parameters = parameters_of(function)
    definitions = _Definitions()
    schema: Schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= definitions.object_of(parameters.fields, "parameter", described(function.__doc__))
    schema["additionalProperties"] = False
    if parameters.extra is not MISSING:
        schema["additionalProperties"] = definitions.of(parameters.extra, "**kwargs") or True
    if definitions.known:
        schema["$defs"] = definitions.known
    try:
        to_json(schema, what="the signature as JSON Schema", limit=LARGEST)
    except ResultError as error:
        raise Unsupported(str(error)) from error
    return schema


def form_schema(form: Any) -> Schema:
    """Describe a dataclass as `input_schema` does a function: an object with one property per field."""
    if not (isinstance(form, type) and dataclasses.is_dataclass(form)):
        msg = f"a form is a dataclass, not {shown(form)}"
        raise TypeError(msg)
    definitions = _Definitions()
    schema: Schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= definitions.object_of(fields_of(form), "field", described(_own_doc(form))) | {"additionalProperties": False}
    return schema | ({"$defs": definitions.known} if definitions.known else {})


class _Definitions:
    """Schemas of one function's types; named ones are kept once, so that a type may hold itself."""

    def __init__(self) -> None:
        self.known: dict[str, Schema] = {}
        self._names: dict[Any, str] = {}

    def object_of(self, fields: tuple[Field, ...], what: str, texts: Mapping[str, str]) -> Schema:
        properties: Schema = {}
        for field in fields:
            if clean(field.name, _bounds.NAME) != field.name:
                msg = f"{what} {clean(field.name, 60)!r}: a name has at most {_bounds.NAME} characters that can be stored"
                raise Unsupported(msg)
            schema = dict(self.of(field.hint, f"{what} {field.name}"))
            if field.name in texts:
                schema.setdefault("description", clean(texts[field.name]))
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
        return schema | {"description": clean(text, 1000)} if text else schema

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
        if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or is_typed_dict(hint)):
            return self._named(hint)
        msg = f"{where}: no JSON value becomes {shown(hint)}"
        raise Unsupported(msg)

    def _named(self, kind: type) -> Schema:
        if kind not in self._names:
            name = _UNNAMEABLE.sub("_", kind.__name__)[:LONGEST_NAME] or "_"
            while name in self.known:
                name += "_"
            self._names[kind] = name
            self.known[name] = {}
            self.known[name] = self.object_of(fields_of(kind), f"{kind.__name__} field", described(_own_doc(kind)))
            if not is_typed_dict(kind):
                self.known[name]["additionalProperties"] = False
        return {"$ref": f"#/$defs/{self._names[kind]}"}

    @staticmethod
    def _scalar(value: object, where: str) -> Any:
        value = value.value if isinstance(value, Enum) else value
        if value is None or isinstance(value, bool | int | float | str):
            wrong = complaint("it", value, None)
            if wrong is None:
                return value
        msg = f"{where}: {value!r} is not a plain JSON value"
        raise Unsupported(msg)


def _own_doc(kind: type) -> str | None:
    """Return the author's own docstring: a dataclass without one is given its signature."""
    doc = kind.__doc__
    return None if doc is not None and doc.startswith(f"{kind.__name__}(") else doc


def _hashable(hint: Any) -> bool:
    try:
        hash(hint)
    except TypeError:
        return False
    return True
