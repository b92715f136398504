"""The input of a run, as a subscription maps it from an event: paths, literals, CEL expressions and defaults. Pure but for CEL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from shared.errors import Invalid, Problem
from shared.expressions.pool import Trouble

# Of an input mapping: bounds the work for every event.
MOST_PARAMETERS = 100
# Of one mapping; each is a question to another process.
MOST_EXPRESSIONS = 20
LARGEST_MAPPING = 64 * 1024
LONGEST_PATH = 1000
# A body may have 25 MiB; a workflow that wants it has it twice with room to spare.
LARGEST_INPUT = 64 << 20
PATH, CEL, VALUE, DEFAULT = "$path", "$cel", "$value", "$default"
_FORMS = (PATH, CEL, VALUE)
# The expression of an organization, for an event's variables. Raises `Trouble`, `Unavailable`.
Evaluate = Callable[[str], Awaitable[Any]]
_ABSENT = object()


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """The origin of a parameter's value: exactly one of a path, an expression and a literal; `default` stands in for none."""

    path: str | None = None
    cel: str | None = None
    value: Any = None
    default: Any = _ABSENT


def parameter_of(name: str, given: Any) -> Parameter:
    """Return the meaning of a value of an input mapping. Raises `Invalid` naming the part that means nothing.

    A text that is `event` or begins with `event.` or `integration.` is a path; an object with `$path`, `$cel` or `$value`, and
    beside the first two `$default`, names its kind; everything else is the literal that it is.
    """
    if _is_path(given):
        return Parameter(path=_checked_path(f"input.{name}", given))
    if not isinstance(given, dict) or not any(form in given for form in (*_FORMS, DEFAULT)):
        return Parameter(value=given)
    forms = [form for form in _FORMS if form in given]
    if len(forms) != 1 or given.keys() - {*forms, DEFAULT} or (VALUE in given and DEFAULT in given):
        raise _refused(f"input.{name}", f"has exactly one of {', '.join(_FORMS)}; beside the first two there may be {DEFAULT}")
    (form,) = forms
    held = given[form]
    if form == VALUE:
        return Parameter(value=held)
    if not isinstance(held, str):
        raise _refused(f"input.{name}.{form}", "is a text")
    default = given.get(DEFAULT, _ABSENT)
    if form == CEL:
        return Parameter(cel=held, default=default)
    if not _is_path(held):
        raise _refused(f"input.{name}.{PATH}", "is event, or begins with event. or integration.")
    return Parameter(path=_checked_path(f"input.{name}.{PATH}", held), default=default)


def parameters_of(mapping: dict[str, Any]) -> dict[str, Parameter]:
    """Return the parameters of an input mapping. Raises `Invalid` naming the part that exceeds the bounds for every event."""
    if len(mapping) > MOST_PARAMETERS:
        raise _refused("input", f"has {len(mapping)} parameters, and {MOST_PARAMETERS} are the most")
    if len(msgspec.json.encode(mapping)) > LARGEST_MAPPING:
        raise _refused("input", f"is larger than {LARGEST_MAPPING // 1024} KiB of JSON")
    found = {name: parameter_of(name, value) for name, value in mapping.items()}
    if sum(one.cel is not None for one in found.values()) > MOST_EXPRESSIONS:
        raise _refused("input", f"has more than {MOST_EXPRESSIONS} expressions")
    return found


async def mapped(
    mapping: dict[str, Any] | None, event: dict[str, Any], integration: dict[str, Any] | None, evaluate: Evaluate
) -> dict[str, Any]:
    """Return a run's input, by default `{"event": event}`. Raises `Invalid` naming the parameter without a value, `Unavailable`."""
    if mapping is None:
        return {"event": event}
    parameters = parameters_of(mapping)
    roots = {"event": event, "integration": integration}
    # All at once: they share their way to where they are evaluated.
    computed = {name: one for name, one in parameters.items() if one.cel is not None}
    values = dict(zip(computed, await asyncio.gather(*(_computed(*one, evaluate) for one in computed.items())), strict=True))
    return {name: values[name] if name in values else _found(name, one, roots) for name, one in parameters.items()}


async def _computed(name: str, parameter: Parameter, evaluate: Evaluate) -> Any:
    assert parameter.cel is not None  # noqa: S101 - only those are computed
    try:
        return await evaluate(parameter.cel)
    except Trouble as trouble:
        if parameter.default is not _ABSENT:
            return parameter.default
        detail = f"input {name}: the expression has no value: {trouble}"
        raise Invalid(detail, errors=(Problem(f"input.{name}", str(trouble)),)) from trouble


def _found(name: str, parameter: Parameter, roots: dict[str, Any]) -> Any:
    if parameter.path is None:
        return parameter.value
    try:
        return at(f"input {name}", f"input.{name}", parameter.path, roots)
    except Invalid:
        if parameter.default is not _ABSENT:
            return parameter.default
        raise


def at(what: str, place: str, path: str, roots: dict[str, Any]) -> Any:
    """Return the value at a path such as `event.data.0.id`. Raises `Invalid` naming `what` lacks it."""
    root, *parts = path.split(".")
    found: Any = roots[root]
    if found is None:
        raise Invalid(f"{what}: the source of this event names no integration", errors=(Problem(place, path),))
    for part in parts:
        if isinstance(found, dict) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and len(part) < 10 and int(part) < len(found):
            found = found[int(part)]
        else:
            raise Invalid(f"{what}: this {root} has no {path}", errors=(Problem(place, path),))
    return found


def within_bounds(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return a run's input. Raises `Invalid` when it is too large: each parameter may be the whole event once more."""
    size = 0
    for value in inputs.values() if len(inputs) > 1 else ():
        size += len(msgspec.json.encode(value))
        if size > LARGEST_INPUT:
            raise Invalid(f"the input is larger than {LARGEST_INPUT >> 20} MiB of JSON")
    return inputs


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and (value == "event" or value.startswith(("event.", "integration.")))


def _checked_path(place: str, path: str) -> str:
    if len(path) > LONGEST_PATH or "" in path.split("."):
        raise _refused(place, f"is no path of at most {LONGEST_PATH} characters with a name after each dot")
    return path


def _refused(place: str, detail: str) -> Invalid:
    return Invalid(f"{place} {detail}", errors=(Problem(place, detail),))
