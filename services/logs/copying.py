"""Rows of the archive as COPY takes them: binary, a few at a time, made while Postgres stores those before them."""

from __future__ import annotations

import asyncio
import functools
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime

from services.logs.domain import Row
from shared.statements import Copy

# Bytes that are made before they are sent, and others have their turn in the event loop: a millisecond's work.
TOGETHER = 64 * 1024
# The form is that of PostgreSQL's documentation, "COPY", section "Binary Format"; times are microseconds since 2000.
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_JSONB = b"\x01"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_DAY, _SECOND = 86_400_000_000, 1_000_000
_COLUMNS = (
    *("seq", "time", "said_at", "line", "version"),
    *("stream", "incarnation", "type", "level", "service", "org"),
    *("key", "id", "correlation_id", "message", "run", "causation_id", "workflow"),
    *("data", "document", "tsv"),
)
# The number of columns, and the first five of them, each after its size.
_FIRST = struct.Struct(">h iq iq iq ii ih")
_size = struct.Struct(">i").pack


def copy(rows: Iterable[Row]) -> Copy:
    """Insert rows of which none is there already. They are made when their turn has come, once."""
    return Copy("message", _COLUMNS, functools.partial(_sent, rows))


async def _sent(rows: Iterable[Row]) -> AsyncIterator[bytes]:
    parts, size = [_HEADER], 0
    for row in rows:
        made = encoded(row)
        parts.append(made)
        size += len(made)
        if size >= TOGETHER:
            yield b"".join(parts)
            parts, size = [], 0
            await asyncio.sleep(0)
    yield b"".join((*parts, _TRAILER))


def encoded(row: Row) -> bytes:
    """Return a row as COPY takes it."""
    parts = [
        _FIRST.pack(len(_COLUMNS), 8, row.seq, 8, _moment(row.time), 8, _moment(row.said_at), 4, row.line, 2, row.version),
        _texts((row.stream, row.incarnation, row.type, row.level, row.service, row.org)),
    ]
    for text in (row.key, row.id, row.correlation_id, row.message, row.run, row.causation_id, row.workflow):
        if text is None:
            parts.append(_NULL)
        else:
            value = text.encode()
            parts += (_size(len(value)), value)
    if row.data is None:
        parts.append(_NULL)
    else:
        data = row.data.encode()
        parts += (_size(len(data) + 1), _JSONB, data)
    parts += (_size(len(row.document)), row.document, _size(len(row.words)), row.words)
    return b"".join(parts)


@functools.lru_cache(1024)
def _texts(values: Sequence[str]) -> bytes:
    """Return texts that many rows have alike."""
    return b"".join(_size(len(value)) + value for value in map(str.encode, values))


def _moment(time: datetime) -> int:
    since = time - _EPOCH
    return since.days * _DAY + since.seconds * _SECOND + since.microseconds
