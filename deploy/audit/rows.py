"""Holds a row against what its message makes: a row repeats parts of it for searches."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

from services.logs.domain import UNDECODABLE, VERSION, WORDED_SINCE, Row, StreamPosition, row_of, undecodable
from services.logs.lines import bare, split
from shared.envelope import rfc3339
from shared.questions.digests import ArchivedRow

# Of what a row repeats from its message; the rest is its place, or made for searching.
_REPEATED = (
    "id",
    "type",
    "level",
    "service",
    "org",
    "key",
    "run",
    "correlation_id",
    "causation_id",
    "message",
    "said_at",
    "workflow",
)
# What another version may have worded otherwise.
_WORDED = frozenset({"level", "message"})


def derived(stream: str, row: ArchivedRow) -> tuple[dict[int, Row], bool]:
    """Return the rows that a message makes, by their line, and whether Postgres refused them: then only the bytes were kept."""
    position = StreamPosition(stream, row.incarnation, row.seq, datetime.fromisoformat(row.time), row.key)
    if row.type == UNDECODABLE:
        return {0: undecodable(position, row.document)}, False
    made = {one.line: one for one in split(row_of(position, row.document))}
    return made, row.line not in made


def differing(made: Row | None, row: ArchivedRow) -> list[str]:
    """Return the names of the columns of a row that are not as its message makes them."""
    if made is None:
        return ["everything"]
    if row.line > 0 and _data(row.data) == _data(bare(made).data):
        return []
    compared = [name for name in _REPEATED if name not in _WORDED or row.version >= WORDED_SINCE]
    found = [name for name in compared if _shown(made, name) != getattr(row, name) and getattr(made, name) is not None]
    if row.version > VERSION:
        found.append(f"version (stored by {row.version}, while this is {VERSION})")
    if _data(made.data) != _data(row.data):
        found.append("data")
    if row.line > 0 and rfc3339(made.time) != row.time:
        found.append("time")
    return found


def _shown(made: Row, name: str) -> Any:
    value = getattr(made, name)
    return rfc3339(value) if isinstance(value, datetime) else value


def _data(text: str | None) -> Any:
    # Postgres writes numbers in its own way, and of equal ones the same.
    return None if text is None else json.loads(text, parse_float=Decimal, parse_int=Decimal)
