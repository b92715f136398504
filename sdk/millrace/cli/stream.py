"""A run's stream, followed to its end: a connection that breaks is made again, and goes on where it stood."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from millrace.cli import show
from millrace.cli.api import Api, Refused, Unreachable

# Seconds between tries.
PAUSE = 0.25


class Event(NamedTuple):
    """One server-sent event; `data` is decoded."""

    id: str
    kind: str
    data: Any


def followed(api: Api, id_: str, deadline: float, shown: Callable[[dict[str, Any]], None] | None) -> dict[str, Any]:
    """Return a run when it has ended, or as it is at the deadline (monotonic), having shown its lines as they came.

    A server that goes away meanwhile is asked again: the run does not depend on it.
    """
    run: dict[str, Any] = {}
    last: str | None = None
    complained = False
    while time.monotonic() < deadline:
        try:
            for event in events(api.lines("/runs", id_, "stream", headers={"Last-Event-ID": last or ""}, until=deadline)):
                if event.kind == "line" and shown is not None:
                    shown(event.data)
                    sys.stdout.flush()
                elif event.kind in {"state", "end"}:
                    run = event.data
                if event.kind == "end":
                    return run
                if time.monotonic() >= deadline:
                    break
                last = event.id or last
        except (Refused, Unreachable) as error:
            if time.monotonic() >= deadline or not run or (isinstance(error, Refused) and not error.is_passing):
                raise
            if not complained:
                show.aside(f"millrace: {error}; the run goes on, trying again", "warning")
                complained = True
        time.sleep(min(PAUSE, max(0.0, deadline - time.monotonic())))
    # The stream's last event may be long ago: it has no more than the ends of attempts.
    return dict(api.get("/runs", id_))


def events(lines: Iterable[str]) -> Iterator[Event]:
    """Yield the events in the lines of a stream, without comments; one that was cut off in the middle is left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line.endswith("\n"):
            return
        name, _, value = line.rstrip("\r\n").partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif not line.strip():
            if "event" in fields:
                yield Event(fields.get("id", ""), fields["event"], json.loads(fields.get("data", "null")))
            fields = {}
