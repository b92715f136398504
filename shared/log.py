"""Structured logs: an event name and fields, to standard output and, bounded, to the stream LOGS."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import structlog

from shared import tasks, tracing
from shared.errors import Unavailable
from shared.messages import Logged

# Most lines that wait for the bus: above it the oldest go, counted.
WAITING = 2000
# Records below a warning that are handed on in a second, beyond the `WAITING` of a burst: a loop that logs is not to fill the bus.
MOST_A_SECOND = 500
# Seconds between two records of what a flood cost: what is logged amid it is not to be doubled.
TOLD_EVERY = 1.0
# Characters of a field: an error may repeat a sender's input.
LONGEST = 16 * 1024
# Of these, debugging leaves so many to the rest.
RESERVED = WAITING // 2
DEFAULT = "info"
_QUIET = {"debug", "info"}
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_shown = [DEFAULT]


class BusSink:
    """A structlog processor that also hands records to the bus; never blocks, never raises.

    Of a flood it drops what is below a warning, `debug` before `info`, of all that wait the oldest, and counts: `dropped` in all,
    and in a record `log.dropped` when the flood is over.
    """

    def __init__(self, service: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        self._allowed, self._allowed_at = float(WAITING), clock()
        self._flooded, self._told_at = 0, -TOLD_EVERY
        self._waiting: deque[tuple[Logged, str | None]] = deque()
        self._arrived = asyncio.Event()
        self.dropped = 0

    def __call__(self, _logger: Any, method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Remember the record for the bus."""
        if not self._admits(method):
            self.dropped += 1
            self._flooded += 1
            return record
        if self._flooded and self._clock() - self._told_at >= TOLD_EVERY:
            self._told_at = self._clock()
            told = Logged(service=self._service, level="warning", event="log.dropped", fields={"count": self._flooded})
            self._flooded = 0
            self._waiting.append((told, None))
        fields = {key: _plain(value) for key, value in record.items() if key not in {"event", "level", "timestamp"}}
        level = method if method in _LEVELS else "error"
        correlation = fields.get("correlation_id")
        logged = Logged(service=self._service, level=level, event=str(record.get("event", ""))[:LONGEST], fields=fields)
        if len(self._waiting) >= WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append((logged, correlation if isinstance(correlation, str) else None))
        self._arrived.set()
        return record

    def _admits(self, method: str) -> bool:
        now = self._clock()
        self._allowed = min(float(WAITING), self._allowed + (now - self._allowed_at) * MOST_A_SECOND)
        self._allowed_at = now
        if method not in _QUIET:
            return True
        if self._allowed < (1 + RESERVED if method == "debug" else 1):
            return False
        self._allowed -= 1
        return True

    @contextlib.asynccontextmanager
    async def sending(self, publish: Callable[[Logged, str | None], Awaitable[None]]) -> AsyncIterator[None]:
        """Send log lines through `publish` during the block, and the rest at its end for at most a second."""
        task = asyncio.create_task(self._send(publish))
        try:
            yield
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    while self._waiting:
                        await asyncio.sleep(0.01)
            await tasks.end([task])

    async def _send(self, publish: Callable[[Logged, str | None], Awaitable[None]]) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                logged, correlation = self._waiting[0]
                try:
                    await publish(logged, correlation)
                except Unavailable:
                    await asyncio.sleep(1)
                    continue
                except Exception:
                    # The broker will never take this one; those behind it are not to wait for it.
                    self.dropped += 1
                if self._waiting and self._waiting[0][0] is logged:
                    self._waiting.popleft()


def level() -> str:
    """Return the level from which on this process logs."""
    return _shown[0]


def set_level(name: str) -> None:
    """Have this process log from a level on."""
    _shown[0] = name
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[name]))


def is_debugging() -> bool:
    """Return whether `debug` is logged: to be asked on hot paths, where even a record that is dropped costs."""
    return _shown[0] == "debug"


def ms_since(begun: float) -> float:
    """Return the milliseconds since a time of `time.perf_counter`."""
    return round((time.perf_counter() - begun) * 1000, 1)


def configure(service: str) -> BusSink:
    """Set structlog up for this process: JSON lines on standard output, and the sink that is returned."""
    sink = BusSink(service)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            tracing.log_fields,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            sink,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.EventRenamer("event"),
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[DEFAULT]),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(service=service)
    # Libraries that log through the standard library: warnings and worse, to the same place.
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format='{"level": "%(levelname)s", "logger": "%(name)s"}')
    return sink


def _plain(value: Any) -> Any:
    plain = value if isinstance(value, str | int | float | bool | None) else str(value)
    return plain[:LONGEST] if isinstance(plain, str) else plain
