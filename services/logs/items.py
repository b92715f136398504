"""A row of the archive as answers show it."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import asyncpg
import msgspec

from services.logs.domain import Row, data_of
from shared.envelope import rfc3339
from shared.questions import PAGE_BYTES
from shared.questions.logs import LogItem

# A line of a person's screen is never longer; the data holds the rest.
MESSAGE_CHARACTERS = 64 * 1024
# What `item_of` takes of a row, in this order.
COLUMNS = (
    "time", "stream", "seq", "type", "level", "service", "org", "run", "correlation_id", "causation_id", "id", "message",
    "workflow", "line", "data", "document",
)  # fmt: skip
_MESSAGE, _DATA, _DOCUMENT = (COLUMNS.index(name) for name in ("message", "data", "document"))
_columns_of = attrgetter(*COLUMNS)


class _Line(msgspec.Struct):
    """What an item shows of a line's data beside the whole."""

    attempt: Any = None
    fields: dict[str, Any] | None = None


_lines = msgspec.json.Decoder(_Line)


def size_of(found: asyncpg.Record) -> int:
    """Return about how many bytes a row takes in an answer."""
    return len(found[_DOCUMENT]) + len(found[_DATA] or "") + min(len(found[_MESSAGE]), MESSAGE_CHARACTERS)


def item_of(found: Iterable[Any]) -> LogItem:
    """Return a row, by its `COLUMNS`, as it is shown; of a line its `data` is JSON, of a message it is in the document."""
    (
        time, stream, seq, type_, level, service, org, run, correlation_id, causation_id, id_, message, workflow,
        line, data, document,
    ) = found  # fmt: skip
    attempt: Any = None
    fields: dict[str, Any] = {}
    if line > 0:
        about = _lines.decode(data or "{}")
        attempt, fields, shown = about.attempt, about.fields or {}, msgspec.Raw((data or "{}").encode())
    elif len(document) > PAGE_BYTES:
        shown = msgspec.Raw(msgspec.json.encode({"omitted": f"{len(document)} bytes are more than an answer holds"}))
    else:
        shown = data_of(document)
    # By place, which takes half as long as by name: a page has a hundred of them, and an export all that there are.
    return LogItem(
        rfc3339(time), stream, seq, type_, level, service, org, run, correlation_id, causation_id, id_,
        message[:MESSAGE_CHARACTERS], shown, workflow, line if line > 0 else None, attempt, fields,
    )  # fmt: skip


def item_of_row(row: Row) -> LogItem:
    """Return a row as it is shown."""
    return item_of(_columns_of(row))
