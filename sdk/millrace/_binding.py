"""A JSON input into the types that a function's parameters name."""

import dataclasses
import re
from collections import abc
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from enum import Enum
from inspect import CO_VARARGS, CO_VARKEYWORDS
from types import FunctionType
from typing import Any, Literal, get_args, get_origin
from uuid import UUID

from millrace._hints import MISSING, Field, bare, fields_of, is_typed_dict, members, parameters_of, shown
from millrace._schema import ARRAYS, DECIMAL, MAPPINGS, TIME
from millrace.errors import InputError

_MOST_FAULTS = 20

Faults = list[tuple[str, str]]

_DECIMAL, _TIME = re.compile(DECIMAL.replace("$", r"\Z")), re.compile(TIME.replace("$", r"\Z"))
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_DATE_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})\Z")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z")

_MISFIT: Any = object()
"""A conversion's answer after it has recorded a fault."""


def bind(function: Callable[..., Any], given: object) -> tuple[list[Any], dict[str, Any]]:
    """Answer the arguments to call `function` with. Raises `InputError` naming every path that does not fit."""
    if given == {} and _takes_nothing(function):
        return [], {}
    parameters = parameters_of(function)
    if not parameters.fields and parameters.extra is MISSING and given == {}:
        return [], {}
    faults: Faults = []
    values = _object(given, parameters.fields, "input", faults, extra=parameters.extra)
    if faults:
        raise InputError(faults[:_MOST_FAULTS])
    args: list[Any] = []
    for field in parameters.fields:
        if field.positional:
            if field.name not in values and field.required:
                break
            args.append(values.pop(field.name, field.default))
    return args, values


def value_of(given: object, hint: Any, path: str) -> Any:
    """Answer a JSON value as the type that a hint names. Raises `InputError` naming every path that does not fit."""
    faults: Faults = []
    found = _convert(given, hint, path, faults)
    if faults:
        raise InputError(faults[:_MOST_FAULTS])
    return found


def _takes_nothing(function: Callable[..., Any]) -> bool:
    """Answer whether a plain function has no parameter at all, without reading its signature, which takes a child long."""
    if type(function) is not FunctionType or function.__dict__:
        return False
    code = function.__code__
    return not (code.co_argcount or code.co_kwonlyargcount or code.co_flags & (CO_VARARGS | CO_VARKEYWORDS))


def _object(given: object, fields: tuple[Field, ...], path: str, faults: Faults, *, extra: Any) -> Any:
    """Convert field by field. `extra` is the type of names that are no field; MISSING refuses them."""
    if not isinstance(given, dict):
        return _misfit(path, "an object", given, faults)
    known = {field.name: field for field in fields}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in known:
            values[name] = _convert(value, known[name].hint, f"{path}.{name}", faults)
        elif extra is MISSING:
            faults.append((f"{path}.{name}", "is not a known name"))
        else:
            values[name] = _convert(value, extra, f"{path}.{name}", faults)
    faults.extend((f"{path}.{field.name}", "is required") for field in fields if field.required and field.name not in given)
    return values


def _convert(value: Any, hint: Any, path: str, faults: Faults) -> Any:
    hint = bare(hint)
    scalar = _SCALARS.get(hint) if hint.__hash__ is not None else None
    if scalar is not None:
        return scalar(value, path, faults)
    if hint in (Any, object):
        return value
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    union = members(hint)
    if union is not None:
        return _one_of(value, union, path, faults)
    if origin is Literal:
        return _among(value, {_key(one): one for one in arguments}, path, faults)
    if isinstance(origin, type) and issubclass(origin, Enum):
        return _among(value, {_key(one.value): one for one in origin}, path, faults)
    if origin in ARRAYS:
        return _array(value, origin, arguments, path, faults)
    if origin in MAPPINGS:
        return _object(value, (), path, faults, extra=arguments[1] if arguments else Any)
    if isinstance(hint, type) and is_typed_dict(hint):
        return _object(value, fields_of(hint), path, faults, extra=Any)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _instance(value, hint, path, faults)
    faults.append((path, f"no JSON value becomes {shown(hint)}"))
    return _MISFIT


def _instance(value: Any, kind: type, path: str, faults: Faults) -> Any:
    before = len(faults)
    values = _object(value, fields_of(kind), path, faults, extra=MISSING)
    if len(faults) > before:
        return _MISFIT
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:  # an error of `__post_init__` is about the input
        faults.append((path, str(error)))
        return _MISFIT


def _one_of(value: Any, union: tuple[Any, ...], path: str, faults: Faults) -> Any:
    exact = next((member for member in union if bare(member) is type(value)), None)
    tries = []
    for member in (exact, *union) if exact is not None else union:
        found: Faults = []
        converted = _convert(value, member, path, found)
        if not found:
            return converted
        tries.append(found)
    deepest = max(tries, key=lambda found: len(found[0][0]))
    if len(deepest[0][0]) > len(path):  # it was this member that was meant, and something inside is wrong
        faults.extend(deepest)
        return _MISFIT
    return _misfit(path, " or ".join(dict.fromkeys(shown(bare(member)) for member in union)), value, faults)


def _array(value: Any, origin: Any, arguments: tuple[Any, ...], path: str, faults: Faults) -> Any:
    if not isinstance(value, list):
        return _misfit(path, "an array", value, faults)
    hints: abc.Iterable[Any]
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        wanted = [one for one in arguments if one != ()]
        if len(wanted) != len(value):
            return _misfit(path, f"an array of {len(wanted)}", value, faults)
        hints = wanted
    else:
        hints = [arguments[0] if arguments else Any] * len(value)
    before = len(faults)
    items = [_convert(item, hint, f"{path}.{index}", faults) for index, (item, hint) in enumerate(zip(value, hints, strict=True))]
    if len(faults) > before:
        return _MISFIT
    if origin in (set, frozenset, abc.Set):
        try:
            return frozenset(items) if origin is frozenset else set(items)
        except TypeError as error:
            faults.append((path, str(error)))
            return _MISFIT
    return tuple(items) if origin is tuple else items


def _among(value: Any, choices: dict[tuple[type, Any], Any], path: str, faults: Faults) -> Any:
    if not isinstance(value, list | dict) and _key(value) in choices:
        return choices[_key(value)]
    return _misfit(path, "one of " + ", ".join(repr(key[1]) for key in choices), value, faults)


def _key(value: Any) -> tuple[type, Any]:
    """True and 1 are one key of a dict, but two values of JSON."""
    kind = next((kind for kind in (bool, str) if isinstance(value, kind)), float)
    return (type(None), None) if value is None else (kind, value)


def _misfit(path: str, wanted: str, value: object, faults: Faults) -> Any:
    got = repr(value)
    faults.append((path, f"should be {wanted}, not {got if len(got) <= 60 else got[:60] + '…'}"))
    return _MISFIT


def _boolean(value: Any, path: str, faults: Faults) -> Any:
    return value if isinstance(value, bool) else _misfit(path, "true or false", value, faults)


def _integer(value: Any, path: str, faults: Faults) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():  # JSON Schema counts 1.0 among the integers
        return int(value)
    return _misfit(path, "an integer", value, faults)


def _number(value: Any, path: str, faults: Faults) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return _misfit(path, "a number within the range of a float", value, faults)
    return _misfit(path, "a number", value, faults)


def _string(value: Any, path: str, faults: Faults) -> Any:
    return value if isinstance(value, str) else _misfit(path, "a string", value, faults)


def _null(value: Any, path: str, faults: Faults) -> Any:
    return None if value is None else _misfit(path, "null", value, faults)


def _parsed(form: re.Pattern[str], parse: Callable[[str], Any], wanted: str) -> Callable[[Any, str, Faults], Any]:
    """Make a conversion of texts of a form; the parsers take more, and so more than the schema lets through."""

    def convert(value: Any, path: str, faults: Faults) -> Any:
        if isinstance(value, str) and form.match(value):
            try:
                return parse(value)
            except (ValueError, InvalidOperation):
                pass
        return _misfit(path, wanted, value, faults)

    return convert


def _decimal(value: Any, path: str, faults: Faults) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(str(value))
    return _parsed(_DECIMAL, Decimal, "a decimal number")(value, path, faults)


_SCALARS: dict[Any, Callable[[Any, str, Faults], Any]] = {
    bool: _boolean,
    int: _integer,
    float: _number,
    str: _string,
    None: _null,
    type(None): _null,
    datetime: _parsed(
        _DATE_TIME, lambda text: datetime.fromisoformat(text.upper()), "a date-time with an offset, like 2026-01-31T09:30:00Z"
    ),
    date: _parsed(_DATE, date.fromisoformat, "a date like 2026-01-31"),
    time: _parsed(_TIME, time.fromisoformat, "a time like 09:30:00"),
    UUID: _parsed(_UUID, UUID, "a UUID"),
    Decimal: _decimal,
}
