"""Decides what an event and a wait for one have to have in common before anything is evaluated. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from shared.messages import EventAccepted

# Characters of a value as it is; longer ones are looked for by their hash, since an index takes no more than some.
LONGEST_VALUE = 200
# Of waits of one source and pattern whose expression demands no value of the event: each is evaluated for every event of them.
MOST_OPEN = 1000


class OpenWait(msgspec.Struct, frozen=True, kw_only=True):
    """A wait of a run, the `ordinal`th for `name`, as `AwaitedEvent` describes it."""

    run: str
    name: str
    ordinal: int
    org: str
    source: str
    type: str
    path: str
    value: str
    expression: str | None
    variables: dict[str, Any]
    since: datetime

    @property
    def key(self) -> tuple[str, int]:
        """Return which of its run's waits for an event it is."""
        return self.name, self.ordinal


class Occurred(msgspec.Struct, frozen=True, kw_only=True):
    """An event with its place in EVENTS and when it was accepted; `document` is as expressions see it."""

    sequence: int
    at: datetime
    event: EventAccepted
    document: dict[str, Any]


def patterns_of(type_: str) -> list[str]:
    """Return every pattern that a type fits: itself, its prefixes up to a dot, and `*`."""
    prefixes = [type_[: place + 1] + "*" for place, one in enumerate(type_) if one == "."]
    return list(dict.fromkeys([type_, *prefixes, "*"]))


def canonical(value: Any) -> str | None:
    """Return the one form of a JSON scalar that all equal ones have, in CEL's sense; None for a list or an object."""
    if isinstance(value, list | dict):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = msgspec.json.encode(value).decode() if not isinstance(value, int) or isinstance(value, bool) else str(value)
    return text if len(text) <= LONGEST_VALUE else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def value_at(document: dict[str, Any], path: str) -> str | None:
    """Return the value of an event at the path of a wait, None where it has none: such an event answers no wait with that path.

    Every event has the empty value at the empty path.
    """
    if not path:
        return ""
    value: Any = document
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return canonical(value)


def in_order(pairs: Sequence[tuple[OpenWait, Occurred]]) -> dict[str, list[tuple[OpenWait, Occurred]]]:
    """Return what may belong together by run, in the order of the events: the first one answers."""
    by_run: dict[str, list[tuple[OpenWait, Occurred]]] = {}
    for wait, occurred in sorted(pairs, key=lambda pair: (pair[1].sequence, pair[0].ordinal, pair[0].name)):
        by_run.setdefault(wait.run, []).append((wait, occurred))
    return by_run
