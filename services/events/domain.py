"""Pure decisions of routing: what matches, what a run gets as input, what a name may be."""

from __future__ import annotations

import functools
import re
from typing import Any

import cel
import msgspec

from services.events.schemas import validator_of
from shared.envelope import derived_id
from shared.errors import Invalid, Problem
from shared.messages import EventAccepted, EventFiltered, EventRouted, EventUnroutable
from shared.questions.events import SubscriptionEntry

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
EVENT_PATTERN = re.compile(r"(\*|[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*(\.\*)?)\Z")
# How many filters stay compiled.
COMPILED = 1024


class FilterTrouble(Exception):
    """A filter could not be evaluated on this event; says why."""


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """How a delivery was routed, as far as its messages tell."""

    type: str | None = None
    retried_by: str | None = None
    outcome: str = "accepted"
    reason: str | None = None


# Of several outcomes of a delivery the one that needs a person counts.
OUTCOMES = ("accepted", "filtered", "routed", "unroutable")


def routing(before: Routing, message: EventAccepted | EventRouted | EventFiltered | EventUnroutable) -> Routing:
    """Return the routing after one more message; the first event of a retry sets the outcome back."""
    match message:
        case EventAccepted():
            again = before.retried_by != message.retried_by
            after = Routing(outcome="accepted") if again else before
            return msgspec.structs.replace(after, type=message.type, retried_by=message.retried_by)
        case EventRouted():
            outcome, reason = "routed", None
        case EventFiltered():
            outcome, reason = "filtered", message.reason
        case EventUnroutable():
            outcome, reason = "unroutable", message.reason
    if OUTCOMES.index(outcome) > OUTCOMES.index(before.outcome):
        return msgspec.structs.replace(before, outcome=outcome, reason=reason)
    return before


def checked_name(name: str) -> str:
    """Return `name` if an entity may be called so. Raises `Invalid`."""
    if not NAME.match(name):
        detail = "a name has 1 to 100 letters, digits, dots, underscores and hyphens, and begins with a letter or digit"
        raise Invalid(f"{name[:120]!r} cannot be a name: {detail}", errors=(Problem("name", detail),))
    return name


def checked_text(value: Any, at: str) -> None:
    """Raise `Invalid` naming the place where a text within `value` holds a NUL, which no row can keep."""
    if isinstance(value, str):
        if "\0" in value:
            raise Invalid(f"{at} holds a NUL character", errors=(Problem(at, "holds a NUL character"),))
    elif isinstance(value, dict):
        for name, one in value.items():
            checked_text(name, at)
            checked_text(one, f"{at}.{name}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            checked_text(one, f"{at}.{number}")


def matches(pattern: str, type_: str) -> bool:
    """Return whether an event type fits `push`, `pull_request.*` or `*`."""
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return type_.startswith(pattern[:-1])
    return pattern == type_


def checked_pattern(pattern: str) -> str:
    """Return an event pattern that can match. Raises `Invalid`."""
    if not EVENT_PATTERN.match(pattern):
        detail = "an event pattern is a type such as push, a prefix such as pull_request.*, or *"
        raise Invalid(f"{pattern[:120]!r} cannot match any event: {detail}", errors=(Problem("event", detail),))
    return pattern


@functools.lru_cache(COMPILED)
def compiled_filter(source: str) -> cel.Program:
    """Return the compiled CEL expression. Raises `Invalid` with the place of the mistake."""
    try:
        return cel.compile(source)
    except ValueError as error:
        raise Invalid(f"the filter is not a CEL expression: {error}", errors=(Problem("filter", str(error)),)) from error


def passes(filter_: str | None, event: dict[str, Any]) -> bool:
    """Return whether the event passes a CEL filter. Raises `FilterTrouble` when the filter does not fit the event."""
    if filter_ is None:
        return True
    try:
        answer = compiled_filter(filter_).execute({"event": event})
    except Exception as error:
        # The library raises KeyError, TypeError, ValueError, RuntimeError …: all of them are the filter's business.
        raise FilterTrouble(f"the filter could not be evaluated: {type(error).__name__}: {error}") from error
    if not isinstance(answer, bool):
        raise FilterTrouble(f"the filter gave {type(answer).__name__}, not true or false")
    return answer


def event_document(event: EventAccepted, data: Any) -> dict[str, Any]:
    """Return the event as filters, mappings and workflows see it."""
    return {
        "id": event.event,
        "type": event.type,
        "source": event.source_name,
        "time": event.received_at,
        "data": data,
        "headers": event.headers,
    }


def mapped(mapping: dict[str, Any] | None, event: dict[str, Any]) -> dict[str, Any]:
    """Return a run's input: by default `{"event": event}`, else each parameter from `event.…` or as the literal that it is.

    Raises `Invalid` naming the parameter whose path is not in this event.
    """
    if mapping is None:
        return {"event": event}
    return {parameter: _mapped_value(parameter, value, event) for parameter, value in mapping.items()}


def _mapped_value(parameter: str, value: Any, event: dict[str, Any]) -> Any:
    if not isinstance(value, str) or not (value == "event" or value.startswith("event.")):
        return value
    found: Any = event
    for part in value.split(".")[1:]:
        if isinstance(found, dict) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            raise Invalid(f"input {parameter}: this event has no {value}", errors=(Problem(f"input.{parameter}", value),))
    return found


def misfit(schema: dict[str, Any], value: dict[str, Any]) -> str | None:
    """Return in a sentence how `value` does not fit a JSON Schema, or None when it does."""
    validator = validator_of(msgspec.json.encode(schema))
    for error in validator.iter_errors(value):
        path = ".".join(str(part) for part in error.instance_path)
        return f"{path or 'input'}: {error.message}"[:500]
    return None


def run_id(event: str, subscription: str) -> str:
    """Return the id of the run that an event starts through a subscription: the same on every redelivery."""
    return derived_id(event, subscription)


def event_id(delivery: str, number: int, retry: str | None) -> str:
    """Return the id of the `number`-th event of a delivery; a retry makes new ones."""
    return derived_id(delivery, "event", str(number), *((retry,) if retry else ()))


def matching(subscriptions: list[SubscriptionEntry], source: str, type_: str) -> list[SubscriptionEntry]:
    """Return the enabled subscriptions of a source whose pattern fits, in the order of their ids."""
    found = [one for one in subscriptions if one.enabled and one.source == source and matches(one.event, type_)]
    return sorted(found, key=lambda one: one.id)
