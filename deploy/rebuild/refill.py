"""Refilling the streams that the bus has lost, from the archive: the same messages at the same sequences, with their origin.

A stream gets the incarnation that it had, so that checkpoints, registries and digests fit as before, and no reader has to know. Its
sequences are kept by messages that stand for what the archive does not have, and are removed at the end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
from nats.aio.client import Client
from nats.js.errors import NoKeysError
from nats.js.kv import KeyValue

from deploy.errors import StartError
from deploy.positions import held
from deploy.prepare import REFILLING, stream_config
from deploy.rebuild.display import Display
from deploy.sharding import check_archived, info_of, metadata_of
from services.executor.runs.run_state import RunState, resumed
from services.logs.tables import archive_of
from shared import aggregate
from shared.commit import Journal
from shared.durables import bring
from shared.envelope import CONTENT_TYPE, Envelope, derived_id, open_envelope, open_message, rfc3339, seal, utc_now
from shared.errors import Invalid
from shared.messages import Message
from shared.messages.declaration import class_of, declaration_of
from shared.messages.log import SERVICES
from shared.messages.shards import noun_of
from shared.projection import INCARNATION
from shared.pull import ORIGIN, api_request
from shared.runs import BLOCKED, RUN_STREAMS, UNENDED, run_stream
from shared.sending import Outgoing, send_batch, send_one
from shared.streams import REGISTRIES, STREAMS, WORK, Stream

# Messages and bytes that are stored at once: as many as every broker takes.
MOST, MOST_BYTES = 1000, 4 * 1024 * 1024
# Its messages are the broker's schedules, of which the archive has no headers; they are made of runs and schedules (`derived`).
NOT_REFILLED = frozenset({"TIMERS"})
_ROWS = """
    SELECT seq, time, id, type, key, document FROM logs.message m
     WHERE incarnation = $1 AND stream = $2 AND line <= 0 AND seq > $3 AND ($4::timestamptz IS NULL OR time > $4)
       AND NOT EXISTS (SELECT FROM logs.erasure e WHERE e.incarnation = m.incarnation AND e.seq = m.seq)
       AND NOT EXISTS (SELECT FROM executor.run r WHERE $2 = ANY($5) AND r.id = m.run AND r.on_bus = 'gone')
     ORDER BY seq
"""


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream is to hold: the archive's rows of `incarnation` from `first` on, and no sequence up to `last` again."""

    stream: Stream
    incarnation: str
    first: int
    last: int
    since: datetime | None


class Refill:
    """Refills streams; `admin` and `connection` have administrator rights."""

    def __init__(self, admin: Client, connection: asyncpg.Connection[Any], display: Display) -> None:
        """Touch nothing yet."""
        self._admin = admin
        self._connection = connection
        self._display = display
        self.refused: list[str] = []
        self.timers_lost = False

    async def run(self) -> dict[str, int]:
        """Refill every stream that is missing or empty, or go on with it; return the last restored sequence of each, by name.

        Of those that hold something else `refused` tells. Raises `StartError`, `Unavailable`, `StreamError`.
        """
        await check_archived(self._connection)
        _, _, self.timers_lost = await self._known("TIMERS")
        done: dict[str, int] = {}
        with self._display.progressing():
            for stream in STREAMS:
                if stream.name not in NOT_REFILLED and (wanted := await self._wanted(stream)) is not None:
                    await self._fill(wanted)
                    done[stream.name] = wanted.last
        for work in WORK:
            if work.stream in done:
                # Behind all of it: what was worked on is not worked on again.
                await bring(self._admin, work, after=done[work.stream])
        return done

    async def offer(self, done: dict[str, int]) -> int:
        """Offer the runs that never ended, and wait for nothing, to the workers again; return how many. Rows must be up to date."""
        if done.keys().isdisjoint(RUN_STREAMS):
            return 0
        offered = 0
        asked = "SELECT state FROM executor.run WHERE status = ANY($1)"
        for row in await self._connection.fetch(asked, list(UNENDED)):
            state = msgspec.json.decode(row["state"], type=RunState)
            reached = done.get(run_stream(state.id))
            if reached is None or (state.status in BLOCKED and not state.held) or max(state.work_seq, state.last_seq) > reached:
                continue
            again = seal(
                resumed(state),
                service="executor",
                org=state.org,
                now=utc_now(),
                id=derived_id(state.id, "rebuilt", str(state.last_seq)),
                correlation=state.correlation_id,
            )
            await aggregate.append(self._admin, Journal(self._admin), again, state.last_seq, since=state.last_seq)
            offered += 1
        return offered

    async def _wanted(self, stream: Stream) -> Range | None:
        """Return what is to be put into a stream, None for one that is well or that the archive knows nothing of."""
        archived, there, is_lost = await self._known(stream.name)
        metadata = {} if there is None else there["config"].get("metadata") or {}
        if archived is None or not (is_lost or REFILLING in metadata):
            return None
        if there is not None and REFILLING not in metadata and there["state"]["last_seq"]:
            count = there["state"]["messages"]
            self.refused.append(f"{stream.name} was left alone: it was made anew and has {count} other messages by now.")
            return None
        since = None if stream.max_age is None else datetime.now(UTC) - timedelta(seconds=stream.max_age)
        last = await self._reached(stream.name, archived)
        if REFILLING in metadata:
            first = int(metadata[REFILLING])
        else:
            found = await self._connection.fetchrow(f"{_ROWS} LIMIT 1", archived, stream.name, 0, since, RUN_STREAMS)
            first = last + 1 if found is None else found["seq"]
        return Range(stream=stream, incarnation=archived, first=first, last=last, since=since)

    async def _known(self, stream: str) -> tuple[str | None, dict[str, Any] | None, bool]:
        """Return the incarnation of a stream that is archived, what the broker has of it, and whether that is another one."""
        asked = "SELECT incarnation FROM logs.checkpoint WHERE projection = $1"
        archived = await self._connection.fetchval(asked, archive_of(stream))
        there = await info_of(self._admin, stream)
        found = None if there is None else (there["config"].get("metadata") or {}).get(INCARNATION)
        return archived, there, archived is not None and found != archived

    async def _reached(self, stream: str, incarnation: str) -> int:
        """Return the highest sequence that any row or registry reflects: none up to it may be given to another message."""
        reached = 0
        for service in SERVICES:
            if await self._connection.fetchval("SELECT to_regclass($1)", f"{service}.checkpoint") is not None:
                asked = f"SELECT max(last_seq) FROM {service}.checkpoint WHERE stream = $1 AND incarnation = $2"  # noqa: S608
                reached = max(reached, await self._connection.fetchval(asked, stream, incarnation) or 0)
        if stream == "CATALOG":
            for registry in REGISTRIES:
                if await info_of(self._admin, f"KV_{registry.bucket}") is None:
                    continue
                kv = await self._admin.jetstream().key_value(registry.bucket)
                for key in await _keys(kv):
                    reached = max(reached, int(msgspec.json.decode((await kv.get(key)).value or b"{}").get("seq", 0)))
        return reached

    async def _fill(self, wanted: Range) -> None:
        name = wanted.stream.name
        there = await info_of(self._admin, name)
        if there is None or REFILLING not in (there["config"].get("metadata") or {}):
            if there is not None:
                await api_request(self._admin, f"$JS.API.STREAM.DELETE.{name}", None, wait=15)
            mark = {INCARNATION: wanted.incarnation, REFILLING: str(wanted.first)} | metadata_of(name)
            config = stream_config(wanted.stream, 1) | {"first_seq": wanted.first, "max_age": 0, "metadata": mark}
            await api_request(self._admin, f"$JS.API.STREAM.CREATE.{name}", config, wait=15)
        gap = f"{wanted.stream.nouns[0]}.rebuild.gap"
        at = max((await held(self._admin, name)).last, wanted.first - 1)
        async for batch in self._batches(wanted, at, gap):
            await self._store(batch, at, gap)
            at += len(batch)
            self._display.progress(name, at - wanted.first + 1, wanted.last - wanted.first + 1)
        await api_request(self._admin, f"$JS.API.STREAM.PURGE.{name}", {"filter": gap}, wait=60)
        config = (await api_request(self._admin, f"$JS.API.STREAM.INFO.{name}", None))["config"]
        whole = {key: value for key, value in config["metadata"].items() if key != REFILLING}
        await api_request(self._admin, f"$JS.API.STREAM.UPDATE.{name}", config | {"metadata": whole}, wait=15)

    async def _batches(self, wanted: Range, after: int, gap: str) -> AsyncIterator[list[Outgoing]]:
        """Yield the messages that follow `after`, one for each sequence."""
        batch: list[Outgoing] = []
        size, at = 0, after
        async with self._connection.transaction():
            rows = self._connection.cursor(
                *(_ROWS, wanted.incarnation, wanted.stream.name, after, wanted.since, RUN_STREAMS), prefetch=MOST
            )
            async for row in rows:
                again = _outgoing(row, wanted.incarnation)
                if wanted.stream.name in RUN_STREAMS and again.subject.partition(".")[0] not in wanted.stream.nouns:
                    again = Outgoing(gap, b"", {})  # of a run that was gone before there were as many shards
                for one in (*(Outgoing(gap, b"", {}) for _ in range(at + 1, row["seq"])), again):
                    if batch and (len(batch) == MOST or size + len(one.document) > MOST_BYTES):
                        yield batch
                        batch, size = [], 0
                    batch.append(one)
                    size += len(one.document)
                at = row["seq"]
        for _ in range(at + 1, wanted.last + 1):
            if len(batch) == MOST:
                yield batch
                batch = []
            batch.append(Outgoing(gap, b"", {}))
        if batch:
            yield batch

    async def _store(self, batch: Sequence[Outgoing], after: int, gap: str) -> None:
        """Store messages after the sequence `after`. One whose id is there already gives its place to a message of the gap."""
        if await send_batch(self._admin, batch) is not None:
            return
        for number, one in enumerate(batch, start=after + 1):
            answer = await send_one(self._admin, one)
            if answer.get("duplicate"):
                answer = await send_one(self._admin, Outgoing(gap, b"", {}))
            if answer.get("seq") != number:
                raise StartError(f"{one.subject} cannot be put back at {number}: {answer.get('error') or answer}.")


def _outgoing(row: asyncpg.Record, incarnation: str) -> Outgoing:
    """Return the message of a row, with its id and its origin."""
    headers = {ORIGIN: f"{incarnation} {row['seq']} {rfc3339(row['time'])}", "Content-Type": CONTENT_TYPE}
    try:
        envelope = open_envelope(row["document"])
    except Invalid:
        # Of bytes that nothing can be made of the key is the subject that they came by.
        return Outgoing(row["key"], row["document"], headers)
    if all(32 < ord(character) < 127 for character in envelope.id):
        headers["Nats-Msg-Id"] = envelope.id
    return Outgoing(_subject(envelope), row["document"], headers)


def _subject(envelope: Envelope) -> str:
    noun, _, verb = envelope.type.partition(".")
    try:
        if class_of(envelope.type) is not None:
            message: Message = open_message(envelope)
            return declaration_of(message).subject(message, envelope.subject)
    except (Invalid, ValueError):
        pass
    return f"{noun_of(noun, envelope.subject)}.{envelope.subject}.{verb}"


async def _keys(kv: KeyValue) -> list[str]:
    try:
        return list(await kv.keys())
    except NoKeysError:
        return []
