"""Chains of messages as the archive holds them: what waited for what, and how long each step took."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from bench.support.outcome import BenchError, percentile
from bench.support.webhooks import Webhook

LAST = "run.succeeded"


class _Row(msgspec.Struct, frozen=True):
    id: str
    cause: str | None
    type: str
    time: datetime
    document: bytes


class Chain(msgspec.Struct, frozen=True):
    """One webhook's messages. `path`: (type, epoch seconds) from the first to the run's end, each caused by the one before."""

    path: list[tuple[str, float]]
    messages: int
    tier: str
    in_sandbox_ms: float

    def stored_after(self, sent: float) -> float:
        """Return the milliseconds from `sent` to the moment at which the broker stored the end."""
        return (self.path[-1][1] - sent) * 1000


class Chains:
    """Reads chains from the archive through an administrator's connection."""

    def __init__(self, archive: asyncpg.Connection[Any]) -> None:
        self._archive = archive

    async def of(self, webhooks: list[Webhook]) -> list[Chain]:
        """Return the chains of webhooks, in order; logs and audit records are no part of them."""
        rows = await self._archive.fetch(
            "SELECT correlation_id, id, causation_id, type, time, document FROM logs.message"
            " WHERE correlation_id = ANY($1) AND stream NOT IN ('LOGS', 'AUDIT', 'LINES')",
            [webhook.id for webhook in webhooks],
        )
        found: dict[str, list[_Row]] = {webhook.id: [] for webhook in webhooks}
        for correlation, *row in rows:
            found[correlation].append(_Row(*row))
        return [_chain(found[webhook.id]) for webhook in webhooks]

    @staticmethod
    def steps(followed: list[tuple[Webhook, Chain]]) -> dict[str, float]:
        """Return the median milliseconds from each message of the path to the next, and before and behind them."""
        taken: dict[str, list[float]] = {}
        for webhook, chain in followed:
            before = webhook.sent
            for type_, at in chain.path:
                taken.setdefault(f"-> {type_}", []).append((at - before) * 1000)
                before = at
            taken.setdefault("-> archived", []).append((webhook.archived - before) * 1000)
            taken.setdefault("in the sandbox (of -> run.succeeded)", []).append(chain.in_sandbox_ms)
        return {name: percentile(values, 50) for name, values in taken.items()}


def _chain(rows: list[_Row]) -> Chain:
    by_id = {row.id: row for row in rows}
    row = next((row for row in rows if row.type == LAST), None)
    if row is None:
        raise BenchError(f"a chain has no {LAST}: {sorted(row.type for row in rows)}")
    end = msgspec.json.decode(row.document)["data"]
    started = next(msgspec.json.decode(row.document)["data"] for row in rows if row.type == "run.started")
    path: list[tuple[str, float]] = []
    while row is not None:
        path.append((row.type, row.time.timestamp()))
        row = by_id.get(row.cause or "")
    return Chain(path[::-1], len(rows), started["tier"], end["duration_ms"])
