"""Sequences that the archive never got: found by its writer, kept as rows, and recorded in the audit trail."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
import structlog
from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncEngine

from services.logs import store
from services.logs.domain import CATEGORY, GAP
from shared.bus import Bus
from shared.db import Connection, transaction
from shared.envelope import utc_now
from shared.errors import Unavailable
from shared.health import Health
from shared.leader import lead
from shared.messages import Audited
from shared.organizations import PLATFORM
from shared.pull import Delivered, StreamError, api_request
from shared.statements import Statement
from shared.streams import STREAMS, Stream

# Why a message never came: its stream lets messages go singly (ended runs, fired timers), it was older than the stream keeps
# messages, or for no reason that is known: then somebody removed it, or the broker lost it.
Reason = Literal["purged", "aged", "lost"]
# Seconds between two looks for gaps that are not recorded yet, and how many are recorded by one look.
EVERY = 5.0
TOGETHER = 200

# JSNoMessageFoundErr of JetStream's API.
_NO_MESSAGE = 10037
_STREAMS = {stream.name: stream for stream in STREAMS}
_log = structlog.get_logger()


class Gap(msgspec.Struct, frozen=True):
    """The sequences `first_seq` to `last_seq` of a stream are not in the archive."""

    incarnation: str
    first_seq: int
    last_seq: int
    stream: str
    reason: Reason


class GapFinder:
    """Finds what is missing before and within the batches of one stream."""

    def __init__(self, stream: str, client: Client) -> None:
        self._stream = _STREAMS[stream]
        self._client = client
        # The incarnation and the sequence of the last batch, which may not have been committed.
        self._seen: tuple[str, int] | None = None
        # The highest sequence of this incarnation that was archived before the first batch.
        self._highest = 0

    async def before(self, batch: Sequence[Delivered], incarnation: str, connection: Connection) -> list[Statement]:
        """Return the statements that record what is missing. Raises `Unavailable` where the broker still has it."""
        first, last = batch[0].sequence, batch[-1].sequence
        if self._seen != (incarnation, first - 1):
            reached, self._highest = await store.archived_to(connection, self._stream.name, incarnation, first)
        else:
            reached = first - 1
        self._seen = incarnation, last
        if last - reached <= len(batch):
            return []
        found: list[Gap] = []
        before = None if reached == 0 else await store.stored_at(connection, incarnation, reached)
        for one in batch:
            if one.sequence > reached + 1:
                found += await self._gaps(incarnation, reached + 1, one, before, connection)
            if one.sequence > reached:
                reached, before = one.sequence, one.time
        return [store.insert_gaps(found)] if found else []

    def are_new(self, batch: Sequence[Delivered]) -> bool:
        """Return whether no message of the batch that `before` was given last is in the archive."""
        return batch[0].sequence > self._highest

    async def _gaps(
        self, incarnation: str, first: int, following: Delivered, before: datetime | None, connection: Connection
    ) -> list[Gap]:
        there = await self._next(first)
        if there is not None and there < following.sequence:
            self._seen = None
            raise Unavailable(f"the reader of {self._stream.name} passed over {there}, which the broker has")
        reason = reason_of(self._stream, before, utc_now())
        last = following.sequence - 1
        # Erased messages are archived, without their content, and are no gap where a stream is read again.
        erased = await store.erased_within(connection, self._stream.name, incarnation, first, last)
        found: list[Gap] = []
        for end in (*erased, last + 1):
            if end > first:
                found.append(Gap(incarnation, first, end - 1, self._stream.name, reason))
            first = end + 1
        return found

    async def _next(self, sequence: int) -> int | None:
        """Return the first sequence from this one on that the broker has; None where all are gone, what follows included."""
        request = {"seq": sequence, "next_by_subj": ">"}
        try:
            answer = await api_request(self._client, f"$JS.API.STREAM.MSG.GET.{self._stream.name}", request)
        except StreamError as error:
            if error.code == _NO_MESSAGE:
                return None
            raise
        return int(answer["message"]["seq"])


def reason_of(stream: Stream, before: datetime | None, now: datetime) -> Reason:
    """Return why messages that followed one stored at `before` (None: nothing is known of it) are gone.

    Every one of them is younger than the one before them: if that is younger than the stream's age, none has gone by age.
    """
    if stream.purged_by is not None or stream.schedules:
        return "purged"
    if stream.max_age is not None and (before is None or before < now - timedelta(seconds=stream.max_age)):
        return "aged"
    return "lost"


class Gaps:
    """The gaps that are known, as the fact `gaps` and, where messages were lost, as a fault of the archive."""

    def __init__(self, engine: AsyncEngine, bus: Bus, health: Health) -> None:
        self._engine = engine
        self._bus = bus
        self._health = health
        self._counts: dict[str, int] = {}
        self._lost: dict[str, int] = {}
        health.state(
            "gaps",
            lambda: {"messages": self._counts, "lost": self._lost},
            labels=dict.fromkeys(("messages", "lost"), "stream"),
        )

    async def record(self) -> int:
        """Put gaps that are not in the audit trail there; return of how many.

        A gap is marked after its message is on disk: one that was recorded twice is still one.
        """
        async with transaction(self._engine) as connection:
            found = await store.unrecorded_gaps(connection, TOGETHER)
            counted = await store.count_gaps(connection)
        for one in found:
            ranges = [[one["first_seq"], one["last_seq"]]]
            detail: dict[str, Any] = {"incarnation": one["incarnation"], "ranges": ranges, "reason": one["reason"]}
            outcome = "lost" if one["reason"] == "lost" else "ok"
            audited = Audited(category=CATEGORY, verb=GAP, actor="logs", target=one["stream"], outcome=outcome, detail=detail)
            await self._bus.publish(self._bus.seal(audited, org=PLATFORM))
            if one["reason"] == "lost":
                _log.error("archive.messages_lost", stream=one["stream"], ranges=ranges)
            async with transaction(self._engine) as connection:
                await store.mark_gap(connection, one["incarnation"], one["stream"], one["first_seq"])
        self._counts = {row["stream"]: int(row["messages"]) for row in counted}
        self._lost = {row["stream"]: int(row["lost"]) for row in counted if row["lost"]}
        return len(found)


async def record_gaps(gaps: Gaps, url: str) -> None:
    """Record gaps for ever, while no other replica with the database at `url` does."""
    await lead(
        gaps.record,
        url=url,
        service="logs",
        lock="logs.gaps",
        pause=EVERY,
        first=1.0,
        full=TOGETHER,
        interrupted="archive.gaps_not_recorded",
    )
