"""The archive, followed: each message that matches, as it comes; a connection that breaks is made again where it stood."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from millrace.cli import show
from millrace.cli.api import Api, Query, Refused, Unreachable
from millrace.cli.stream import PAUSE, events


def followed(api: Api, query: Query) -> Iterator[dict[str, Any]]:
    """Yield messages for ever; with a `from` also those that came since, oldest first, each once.

    Raises `Refused`, `Unreachable` only before the first answer, or for a query that is refused.
    """
    asked = {name: value for name, value in query.items() if name in {"q", "saved"}}
    last: str | None = None
    printed: set[tuple[str, int, int | None]] = set()
    complained = False
    while True:
        try:
            headers = {} if last is None else {"Last-Event-ID": last}
            for event in events(api.lines("/logs/tail", query=asked, headers=headers, until=math.inf)):
                complained = False
                if last is None and query.get("from") is not None:
                    # What comes meanwhile is behind the place that the tail begins at.
                    for item in api.pages("/logs", query={**query, "order": "asc"})["items"]:
                        printed.add(_key(item))
                        yield item
                    sys.stdout.flush()
                last = event.id or last
                if event.kind == "dropped":
                    show.aside(f"{event.data['count']:,} messages came too fast and were passed over: a search has them", "warning")
                elif event.kind == "row" and _key(event.data) not in printed:
                    yield event.data
                    sys.stdout.flush()
        except (Refused, Unreachable) as error:
            if last is None or (isinstance(error, Refused) and not error.is_passing):
                raise
            if not complained:
                show.aside(f"millrace: {error}; trying again", "warning")
                complained = True
        time.sleep(PAUSE)


def _key(item: dict[str, Any]) -> tuple[str, int, int | None]:
    return item["stream"], item["seq"], item.get("line")
