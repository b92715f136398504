"""A chunk of a run's output as rows, one for each line: pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from services.logs import lexemes, wording
from services.logs.domain import CHUNK, Row, level_named, marks_of, storable

# In the column `line`: a whole message has 0, a line its number in its chunk, from 1, and a chunk whose lines are rows this.
SPLIT = -1
_STEP = timedelta(microseconds=1)
# A line was printed at most so long before or after its chunk was stored: one with another time gets its chunk's time.
APART = timedelta(days=1)


def split(chunk: Row) -> list[Row]:
    """Return the rows of a chunk: itself, which keeps the bytes and shows nothing, and its lines.

    A line's time is when it was printed, moved on by microseconds where two would be equal: with the chunk's place it is its key.
    A row that is no chunk of lines is returned as it is. Equal chunks give equal rows.
    """
    data: Any = msgspec.json.decode(chunk.data) if chunk.type == CHUNK and chunk.data is not None else None
    lines = data.get("lines") if isinstance(data, dict) else None
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        return [chunk]
    made = [msgspec.structs.replace(chunk, line=SPLIT, message="", data=None, words=lexemes.NONE)]
    before: datetime | None = None
    for number, line in enumerate(lines, start=1):
        said_at = _said_at(line.get("time"), chunk.time)
        time = said_at if before is None or said_at > before else before + _STEP
        before = time = time if time != chunk.time else time + _STEP
        made.append(_row(chunk, data, line, number, time, said_at))
    return made


def bare(line: Row) -> Row:
    """Return a line's row with nothing that Postgres could refuse: the chunk's row has it whole."""
    about: dict[str, Any] = {"attempt": None, "fields": {}, "omitted": "Postgres does not take what this line holds"}
    return msgspec.structs.replace(
        line,
        message=line.message[: wording.SHOWN],
        data=msgspec.json.encode(about).decode(),
        words=lexemes.kept("", marks_of(line.stream, line.level), complete=False),
    )


def _row(chunk: Row, data: dict[str, Any], line: dict[str, Any], number: int, time: datetime, said_at: datetime) -> Row:
    fields = line.get("fields")
    about: dict[str, Any] = {
        "workflow": data.get("workflow"),
        "attempt": data["attempt"] if type(data.get("attempt")) is int else None,
        "stream": line.get("stream", "log"),
        "fields": fields if isinstance(fields, dict) else {},
    }
    message = storable(str(line.get("message", "")))
    level = level_named(line.get("level"))
    return msgspec.structs.replace(
        chunk,
        time=time,
        line=number,
        level=level,
        message=message,
        data=msgspec.json.encode(about).decode(),
        document=b"",
        said_at=said_at,
        words=wording.words_of(chunk.type, chunk.key, message, about["fields"], marks_of(chunk.stream, level)),
    )


def _said_at(written: Any, stored: datetime) -> datetime:
    try:
        said_at = datetime.fromisoformat(written).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return stored
    return said_at if abs(said_at - stored) <= APART else stored
