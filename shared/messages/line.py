"""A run's output."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.messages.declaration import Message, message


class Lines(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: a structured event of `log` with its fields, or text that the code printed (`stream` stdout or stderr)."""

    time: str
    level: str
    message: str
    stream: str = "log"
    fields: dict[str, Any] = {}


@message("line.logged", key="run", by="executor")
class LineChunk(Message, frozen=True, kw_only=True):
    """A chunk of a run's output, in order by (attempt, chunk)."""

    run: str
    workflow: str
    attempt: int
    chunk: int
    lines: list[Lines]
