"""Logs and audits an attempt's connections and denials, and shows them to its author; however often it tries, in bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from services.executor.runs.output import RunOutput
from services.executor.sandbox.egress.network import Record
from shared.commit import Refused
from shared.errors import MillraceError
from shared.messages import Audited

# Connections of one attempt that get a line of their own; the others are summed up in one at its end.
TOLD = 200
# Targets of one attempt whose denials are reported one by one; those of a port scan beyond that share one report.
TARGETS = 50
# Seconds that an audit message, and the end of the attempt with it, may take.
PATIENCE = 5.0

_log = structlog.get_logger()


class EgressTrail:
    """The trail of one attempt. `record` is called from the event loop and waits for nothing; `finish` once, at the end."""

    def __init__(self, run: str, org: str, audit: Callable[[Audited], Awaitable[None]], lines: RunOutput) -> None:
        self._run = run
        self._org = org
        self._audit = audit
        self._lines = lines
        self._reported = 0
        self._more = {"connections": 0, "sent": 0, "received": 0}
        self._denied: dict[tuple[str, int, str], _Denied] = {}
        self._publishing: set[asyncio.Task[None]] = set()

    def record(self, record: Record) -> None:
        """Record a connection that has ended, or did not come about."""
        if record.outcome == "denied":
            self._deny(record)
        elif self._reported < TOLD:
            self._reported += 1
            _log.info(f"egress.{record.outcome}", run=self._run, org=self._org, **_fields(record))
        else:
            self._more["connections"] += 1
            self._more["sent"] += record.sent
            self._more["received"] += record.received

    async def finish(self) -> None:
        """Publish the counted rest, and wait until all of it is stored, for a moment."""
        if self._more["connections"]:
            _log.info("egress.more", run=self._run, org=self._org, **self._more)
        for denied in self._denied.values():
            if denied.again:
                self._publish_denial(denied.record, denied.again)
        if self._publishing:
            await asyncio.wait(self._publishing)

    def _deny(self, record: Record) -> None:
        key = (record.host, record.port, record.reason)
        if key not in self._denied and len(self._denied) >= TARGETS:
            key = ("", 0, "")
        denied = self._denied.get(key)
        if denied is not None:
            denied.record, denied.again = record, denied.again + 1
            return
        self._denied[key] = _Denied(record)
        self._publish_denial(record, 1)

    def _publish_denial(self, record: Record, count: int) -> None:
        fields = _fields(record) | {"count": count}
        _log.warning("egress.denied", run=self._run, org=self._org, **fields)
        audited = Audited(
            category="egress",
            verb="denied",
            actor=f"run:{self._run}",
            target=f"{record.host}:{record.port}",
            outcome="permission_denied",
            detail=fields,
        )
        task = asyncio.create_task(self._publish(audited, fields))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _publish(self, audited: Audited, fields: dict[str, Any]) -> None:
        await self._lines.log("warning", "egress.denied", fields)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._audit(audited)
        except (MillraceError, Refused, TimeoutError) as error:
            _log.error("audit.lost", category=audited.category, verb=audited.verb, target=audited.target, reason=str(error))


class _Denied:
    """Denials of one kind: the last one, and how many came after the one that was published."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.again = 0


def _fields(record: Record) -> dict[str, Any]:
    fields: dict[str, Any] = {"host": record.host, "port": record.port, "address": record.address, "reason": record.reason}
    if record.outcome == "connected":
        fields |= {"sent": record.sent, "received": record.received}
    return fields | {"duration_ms": record.duration_ms}
