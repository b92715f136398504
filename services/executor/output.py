"""A run's output on its way to the stream LINES: gathered for a moment, sent in numbered chunks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from shared.envelope import rfc3339, utc_now
from shared.messages import LineChunk, Lines

# Someone who follows a run sees its lines within this many seconds; a commit serves all lines of that time.
GATHER = 0.1
# A chunk stays well below what travels inline, whatever its lines hold.
CHUNK_BYTES = 128 * 1024
LINE_BYTES = 64 * 1024


class Output:
    """Lines of one attempt. `publish` stores a chunk and is called for one chunk at a time, in order."""

    def __init__(self, run: str, workflow: str, attempt: int, publish: Callable[[LineChunk], Awaitable[None]]) -> None:
        self._run = run
        self._workflow = workflow
        self._attempt = attempt
        self._publish = publish
        self._waiting: list[Lines] = []
        self._bytes = 0
        self._chunk = 0
        self._sending = asyncio.Lock()
        # The one that still waits, and all that have not ended: one that sends is not cancelled.
        self._timer: asyncio.Task[None] | None = None
        self._timers: set[asyncio.Task[None]] = set()

    async def log(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Take a structured line."""
        encoded = msgspec.json.encode(fields)
        if len(encoded) > LINE_BYTES:
            fields = {"_cut": f"the fields have {len(encoded)} bytes; at most {LINE_BYTES} are kept"}
        await self._take(Lines(time=rfc3339(utc_now()), level=level, message=event[:LINE_BYTES], fields=fields))

    async def text(self, stream: str, text: str) -> None:
        """Take printed text; each of its lines is one."""
        level = "warning" if stream == "stderr" else "info"
        now = rfc3339(utc_now())
        for line in text.splitlines():
            await self._take(Lines(time=now, level=level, message=line[:LINE_BYTES], stream=stream))

    async def flush(self) -> None:
        """Store everything taken so far. Raises what `publish` raises."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._send()

    async def _take(self, line: Lines) -> None:
        self._waiting.append(line)
        self._bytes += len(line.message) + 200
        if self._bytes >= CHUNK_BYTES:
            await self.flush()
        elif self._timer is None:
            self._timer = asyncio.create_task(self._later())
            self._timers.add(self._timer)
            self._timer.add_done_callback(self._timers.discard)

    async def _later(self) -> None:
        await asyncio.sleep(GATHER)
        self._timer = None
        await self._send()

    async def _send(self) -> None:
        async with self._sending:
            while self._waiting:
                lines, self._waiting, self._bytes = self._waiting, [], 0
                await self._publish(
                    LineChunk(run=self._run, workflow=self._workflow, attempt=self._attempt, chunk=self._chunk, lines=lines)
                )
                self._chunk += 1
