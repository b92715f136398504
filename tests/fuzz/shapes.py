"""Where declarations have places for values: an example of any declared type, and the spots in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

# What fields are called that hold a time, however they are typed.
TIMES = ("at", "time", "until", "since")


class Spot(NamedTuple):
    """A place in a document: the keys that lead there, and what is declared there: `text`, `time`, `number` or `value`."""

    path: tuple[str | int, ...]
    of: str

    @property
    def name(self) -> str:
        """Return the path as errors have it: dotted."""
        return ".".join(map(str, self.path))


def example(type_: Any, known: Mapping[str, Any], name: str = "") -> Any:
    """Return a JSON value that fits a declared type; fields that `known` names have its values."""
    return _example(msgspec.inspect.type_info(type_), known, name)


def spots(value: Any, name: str = "", path: tuple[str | int, ...] = ()) -> Iterator[Spot]:
    """Yield every place in an example, outermost first."""
    if path:
        yield Spot(path, _kind(value, name))
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from spots(inner, str(key), (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from spots(inner, name, (*path, index))


def placed(value: Any, path: tuple[str | int, ...], hostile: Any) -> Any:
    """Return an example with another value at a place of it."""
    if not path:
        return hostile
    made = dict(value) if isinstance(value, dict) else list(value)
    made[path[0]] = placed(made[path[0]], path[1:], hostile)
    return made


def without(value: Any, path: tuple[str | int, ...]) -> Any:
    """Return an example that lacks a place."""
    made = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1:
        del made[path[0]]
    else:
        made[path[0]] = without(made[path[0]], path[1:])
    return made


def _kind(value: Any, name: str) -> str:
    if isinstance(value, bool) or value is None or isinstance(value, dict | list):
        return "value"
    if isinstance(value, int | float):
        return "number"
    return "time" if name.rpartition("_")[2] in TIMES else "text"


def _example(info: Any, known: Mapping[str, Any], name: str) -> Any:
    if name in known:
        return known[name]
    match info:
        case msgspec.inspect.Metadata():
            return _example(info.type, known, name)
        case msgspec.inspect.StructType():
            made = {} if info.tag_field is None else {info.tag_field: info.tag}
            return made | {field.encode_name: _example(field.type, known, field.encode_name) for field in info.fields}
        case msgspec.inspect.UnionType():
            chosen = next((one for one in info.types if not isinstance(one, msgspec.inspect.NoneType)), None)
            return _example(chosen, known, name)
        case msgspec.inspect.DictType():
            return {"a": _example(info.value_type, known, "")}
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType() | msgspec.inspect.CollectionType():
            return [_example(info.item_type, known, "")]
        case msgspec.inspect.TupleType():
            return [_example(one, known, "") for one in info.item_types]
        case msgspec.inspect.LiteralType():
            return info.values[0]
        case msgspec.inspect.EnumType():
            return next(iter(info.cls)).value
        case msgspec.inspect.StrType():
            return _time_or_text(name)
        case msgspec.inspect.DateTimeType():
            return "2026-11-01T00:00:00Z"
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return max(1, info.ge or 0)
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.BytesType():
            return "YQ=="
        case msgspec.inspect.NoneType():
            return None
    return {"a": ["b", 1, 1.5, True, None]}


def _time_or_text(name: str) -> str:
    return "2026-11-01T00:00:00.000000Z" if name.rpartition("_")[2] in TIMES else "a"
