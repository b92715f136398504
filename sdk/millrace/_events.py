"""`events`: events of the organization's own, for the workflows that have subscribed to them.

In a workflow:

    from millrace import events, step, workflow

    @workflow
    async def close(ticket: str) -> None:
        await step("tell", events.aemit, "tickets", "ticket.closed", {"ticket": ticket})
"""

import json
from typing import Any

from millrace import _bounds
from millrace._runtime import channel
from millrace._runtime.encode import to_json

_MOST_DATA = 256 * 1024


class Events:
    """Emits to sources of the adapter `topic`.

    An event is emitted at least once for each call: an attempt that is begun again after a crash emits again, unless the call
    is a step that was completed.
    """

    def emit(self, source: str, type: str, data: Any = None) -> str:  # noqa: A002 - the word of the API
        """Emit an event, and answer its id once it is on disk.

        `source` is the topic's name or id, `type` has 1 to 100 letters, digits, dots, underscores and hyphens, `data` is up to
        256 KiB as JSON. Raises `Refused`, which says what does not fit or is missing, `ResultError` for data that is not JSON,
        `NotInRun` outside a run. Inside a coroutine prefer `await events.aemit(…)`: this one holds up the event loop.
        """
        emitted: str = channel.ask("events", "emit", **_event(source, type, data))["id"]
        return emitted

    async def aemit(self, source: str, type: str, data: Any = None) -> str:  # noqa: A002 - likewise
        """Emit an event without holding up the event loop; the rest is as with `emit`."""
        emitted: str = (await channel.aask("events", "emit", **_event(source, type, data)))["id"]
        return emitted


def _event(source: object, type_: object, data: Any) -> dict[str, Any]:
    return {
        "source": _bounds.text(source, "a source"),
        "type": _bounds.text(type_, "an event's type"),
        "data": json.loads(to_json(data, what="the event's data", rich=True, limit=_MOST_DATA)),
    }


events = Events()
