"""A row of the archive as answers show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from services.logs.domain import Row, data_of
from shared.envelope import rfc3339
from shared.questions import PAGE_BYTES
from shared.questions.logs import LogItem

# A line of a person's screen is never longer; the data holds the rest.
MESSAGE_CHARACTERS = 64 * 1024
_NAMES = tuple(field.name for field in msgspec.structs.fields(LogItem))


def item_of(found: Mapping[str, Any]) -> LogItem:
    """Return a row, by its columns, as it is shown; of a line its `data` is JSON, of a message it is in the document."""
    is_line = found["line"] > 0
    line: dict[str, Any] = msgspec.json.decode(found["data"] or "{}") if is_line else {}
    document = found["document"]
    data: Any = line if is_line else data_of(document)
    if len(document) > PAGE_BYTES:
        data = {"omitted": f"{len(document)} bytes are more than an answer holds"}
    shown = {name: found[name] for name in _NAMES if name in found} | {
        "time": rfc3339(found["time"]),
        "message": found["message"][:MESSAGE_CHARACTERS],
        "data": data,
        "line": found["line"] if is_line else None,
    }
    return LogItem(**shown, attempt=line.get("attempt"), fields=line.get("fields") or {})


def item_of_row(row: Row) -> LogItem:
    """Return a row as it is shown."""
    return item_of(msgspec.structs.asdict(row))
