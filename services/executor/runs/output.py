"""A run's output on its way to the stream LINES: gathered for a moment, sent in numbered chunks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from shared.envelope import rfc3339, utc_now
from shared.messages import LineChunk, Lines

# A follower of a run sees its lines within this many seconds; a commit serves all lines of that time.
GATHER = 0.1
# Bytes of the lines of a chunk, as JSON. A line that has more by itself is a chunk of its own.
CHUNK_BYTES = 128 * 1024
# The most of a line's text, in characters, and of its fields, in bytes. As JSON both together stay below half of the broker's
# largest message: a character has at most six bytes there (RFC 8259, section 7).
LINE_CHARS = LINE_BYTES = 64 * 1024


class RunOutput:
    """Lines of one attempt. `publish` stores a chunk and is called for one chunk at a time, in order."""

    def __init__(self, run: str, workflow: str, attempt: int, publish: Callable[[LineChunk], Awaitable[None]]) -> None:
        self._run = run
        self._workflow = workflow
        self._attempt = attempt
        self._publish = publish
        # A chunk keeps its number and its lines until it is stored: one that was cut short is offered again as it was.
        self._chunks: deque[LineChunk] = deque()
        self._count = 0
        self._open: list[Lines] = []
        self._bytes = 0
        self._sending = asyncio.Lock()
        # The one that still waits, and all that have not ended: one that sends is not cancelled.
        self._timer: asyncio.Task[None] | None = None
        self._timers: set[asyncio.Task[None]] = set()

    async def log(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Take a structured line."""
        encoded = msgspec.json.encode(fields)
        if len(encoded) > LINE_BYTES:
            fields = {"_cut": f"the fields have {len(encoded)} bytes; at most {LINE_BYTES} are kept"}
        await self._take(Lines(time=rfc3339(utc_now()), level=level, message=event[:LINE_CHARS], fields=fields))

    async def text(self, stream: str, text: str) -> None:
        """Take printed text; each of its lines is one, or several where it is too long for that."""
        level = "warning" if stream == "stderr" else "info"
        now = rfc3339(utc_now())
        for line in text.splitlines():
            for at in range(0, len(line) or 1, LINE_CHARS):
                await self._take(Lines(time=now, level=level, message=line[at : at + LINE_CHARS], stream=stream))

    async def flush(self) -> None:
        """Store everything taken so far. Raises the errors of `publish`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._open:
            self._close()
        await self._send()

    async def _take(self, line: Lines) -> None:
        size = len(msgspec.json.encode(line))
        is_full = bool(self._open) and self._bytes + size > CHUNK_BYTES
        if is_full:
            self._close()
        self._open.append(line)
        self._bytes += size
        if self._timer is None:
            self._timer = asyncio.create_task(self._later())
            self._timers.add(self._timer)
            self._timer.add_done_callback(self._timers.discard)
        if is_full:
            await self._send()

    def _close(self) -> None:
        lines, self._open, self._bytes = self._open, [], 0
        self._chunks.append(
            LineChunk(run=self._run, workflow=self._workflow, attempt=self._attempt, chunk=self._count, lines=lines)
        )
        self._count += 1

    async def _later(self) -> None:
        await asyncio.sleep(GATHER)
        self._timer = None
        await self.flush()

    async def _send(self) -> None:
        """Store the chunks that are closed."""
        async with self._sending:
            while self._chunks:
                await self._publish(self._chunks[0])
                self._chunks.popleft()
