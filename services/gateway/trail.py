"""The audit trail of what the gateway was asked: every change, and every denied attempt without letting those flood it."""

from __future__ import annotations

import asyncio

import structlog

from services.gateway.domain import storable
from shared.bus import Bus
from shared.commit import Refused
from shared.errors import MillraceError
from shared.messages import Audited

# Refusals of one kind are told once in so many seconds, with their number.
WINDOW = 1.0
# Kinds of refusals (a source, a remote address) that are counted apart; above it they share one.
WINDOWS = 1024

_log = structlog.get_logger()


class Trail:
    """Says `Audited`; what cannot be said is logged and never costs the answer."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._windows: dict[tuple[str, str], _Window] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def say(self, audited: Audited, *, org: str) -> None:
        """Record an action; on disk when this returns, unless the log says otherwise."""
        try:
            await self._bus.publish(self._bus.seal(audited, org=org))
        except (MillraceError, Refused) as error:
            _log.error("audit.lost", category=audited.category, verb=audited.verb, target=audited.target, reason=str(error))

    def refused(self, audited: Audited, *, org: str) -> None:
        """Record a refusal in the background, at most one a second per category and target; `detail.count` tells how many."""
        key = (audited.category, audited.target)
        if key not in self._windows and len(self._windows) >= WINDOWS:
            key = (audited.category, "")
        window = self._windows.get(key)
        if window is not None:
            window.audited, window.org = audited, org
            window.count += 1
            return
        self._windows[key] = _Window(audited, org)
        self._send(audited, org, 1)
        asyncio.get_running_loop().call_later(WINDOW, self._close, key)

    async def finish(self) -> None:
        """Say what waits; for the end of the service."""
        for key in list(self._windows):
            self._close(key)
        if self._sending:
            await asyncio.wait(self._sending, timeout=2)

    def _close(self, key: tuple[str, str]) -> None:
        window = self._windows.pop(key, None)
        if window is None or not window.count:
            return
        self._windows[key] = _Window(window.audited, window.org)
        self._send(window.audited, window.org, window.count)
        asyncio.get_running_loop().call_later(WINDOW, self._close, key)

    def _send(self, audited: Audited, org: str, count: int) -> None:
        counted = Audited(
            category=audited.category,
            verb=audited.verb,
            actor=audited.actor,
            target=storable(audited.target),
            outcome=audited.outcome,
            remote=audited.remote,
            detail=audited.detail | {"count": count},
        )
        task = asyncio.create_task(self.say(counted, org=org))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)


class _Window:
    """A second of refusals: the last one, and how many came after the one that was told."""

    def __init__(self, audited: Audited, org: str) -> None:
        self.audited = audited
        self.org = org
        self.count = 0
