"""`wait_for_event`: waiting for something that happens outside, which holds no process.

In a workflow:

    from millrace import step, wait_for_event, workflow

    @workflow
    async def sell(invoice: str) -> None:
        await step("send", send, invoice)
        where = "event.data.data.object.id == invoice"
        paid = await wait_for_event("invoice.paid", source="stripe", where=where, timeout=86400)
"""

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from millrace import _bounds, _order, _run, _waiting
from millrace._runtime.encode import to_json
from millrace.errors import EventTimeout

VALUES = 16 * 1024
"""Bytes as JSON of the values of one wait."""
_NAME = re.compile(r"(?<![.\w])[A-Za-z_]\w*")


class WaitForEvent:
    """Waits for an event; see `__call__`."""

    async def __call__(
        self,
        type: str,  # noqa: A002 - the word of the API
        /,
        *,
        source: str,
        where: str | None = None,
        values: Mapping[str, Any] | None = None,
        timeout: float | timedelta | None = None,
    ) -> dict[str, Any]:
        """Await the next event of a source: `{"id", "type", "source", "time", "data", "headers"}`, as a workflow is given it.

        `type` is an event's type, a prefix such as "invoice.*", or "*". `where` is a CEL expression that is true of the event: over
        `event`, the `values`, and the fields of the run's own input that it names. An equality such as
        `event.data.order == order` lets very many runs wait beside each other.

        An event answers every run that waits for it, and one wait of each. One that came up to ten minutes before the wait counts,
        unless an earlier wait of this run has had it. `data` of more than 256 KiB is answered as `{"$ref", "bytes"}`.

        Raises `EventTimeout` after `timeout` seconds, `Refused` for a source that is not there and for an expression that is none,
        with its place, `NotInRun` outside a run.
        """
        call, seconds, event = _waited(type, source, where, values, timeout)
        return _event(call, await _waiting.over(call, seconds, ("wait_for_event", {"asked": event})))

    def sync(
        self,
        type: str,  # noqa: A002 - likewise
        /,
        *,
        source: str,
        where: str | None = None,
        values: Mapping[str, Any] | None = None,
        timeout: float | timedelta | None = None,
    ) -> dict[str, Any]:
        """Do the same in a plain `def` workflow."""
        call, seconds, event = _waited(type, source, where, values, timeout)
        return _event(call, _waiting.over_sync(call, seconds, ("wait_for_event", {"asked": event})))


def _waited(
    type_: object, source: object, where: object, values: Mapping[str, Any] | None, timeout: float | timedelta | None
) -> tuple[_order.Call, float | None, dict[str, Any]]:
    kind, of = _bounds.text(type_, "an event's type"), _bounds.text(source, "source")
    expression = None if where is None else _bounds.text(where, "where", _bounds.EXPRESSION)
    seconds = None if timeout is None else _bounds.seconds(timeout, "timeout")
    given = {**_of_input(expression), **_bounds.mapping(values, "values")}
    kept = json.loads(to_json(given, what="the values of a wait", rich=True, limit=VALUES))
    name = _bounds.text(f"{kind} from {of}", "an event's type with its source")
    return _waiting.next_wait("event", name), seconds, {"source": of, "type": kind, "where": expression, "values": kept}


def _of_input(where: str | None) -> dict[str, Any]:
    """Answer the fields of the run's input that an expression may name: those with a name that stands in it."""
    given = (_run.job or {}).get("input")
    if where is None or not isinstance(given, dict):
        return {}
    return {name: given[name] for name in _NAME.findall(where) if name in given and name != "event"}


def _event(call: _order.Call, found: Any) -> dict[str, Any]:
    if found.get("timed_out"):
        msg = f"no event {call.name} came in time"
        raise EventTimeout(msg)
    event: dict[str, Any] = found["result"]
    return event


wait_for_event = WaitForEvent()
