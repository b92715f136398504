"""Garbage of the bucket `workspace`: content that no file, no kept version, no code and no run refers to, and what no record names.

Nothing here takes a lock. What is about to be referred to has a young record, for whoever commits it has renewed that
(`Blobs.claim`), and a record is removed only as it was when it was looked at. So a process may be killed between any two steps:
what was stored and never committed is collected once it is old, and what was collected half is collected whole by the next round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
import structlog

from services.executor.store import ExecutorStore
from services.executor.workspaces.bundles import Manifest
from services.executor.workspaces.history import History
from shared import aggregate, tasks
from shared.blobs import GRACE, Blobs
from shared.bus import Bus
from shared.envelope import utc_now
from shared.errors import NotFound, Unavailable
from shared.ordered_reader import OrderedReader
from shared.owners.removing import are_level
from shared.projection import Projection, Shards
from shared.pull import api_request

# Manifests that are read at a time.
AT_ONCE = 8
_log = structlog.get_logger()


class GarbageDeps(Protocol):
    """Dependencies of collecting garbage."""

    bus: Bus
    store: ExecutorStore
    history: History
    blobs: Blobs
    catalog: Projection
    versions: Projection
    rows: Shards


class _Found(msgspec.Struct, frozen=True):
    """A record, or content without one: where the stream has it, and since when."""

    sequence: int
    since: datetime


class Garbage:
    """Collects what nothing refers to for `grace` seconds. Another one at the same time does no harm."""

    def __init__(self, deps: GarbageDeps, *, grace: float = GRACE, now: Callable[[], datetime] = utc_now) -> None:
        self._deps = deps
        self._grace = grace
        self._now = now
        # Content that nothing refers to, since when that is known here: a run may have been asked for that its rows do not show.
        self._idle: dict[str, float] = {}

    async def round(self) -> int:
        """Collect once; returns how many contents went. Raises `Unavailable`; nothing that is referred to goes in any case."""
        deps = self._deps
        records, chunks, nuids = await self._stored()
        # What was referred to before this moment is in the rows; what is referred to later was claimed, or is young.
        newest = await aggregate.newest(deps.bus.client, "file", "history", "workflow", "adapter")
        if not (await deps.catalog.caught_up(newest) and await deps.versions.caught_up(newest)):
            raise Unavailable("the rows of the workspaces are behind")
        if await are_level(deps.rows.each):
            raise Unavailable("the rows of the runs are behind")
        used = await deps.history.contents() | await self._code(await deps.store.versions_in_use())
        before = self._now() - timedelta(seconds=self._grace)
        at = time.monotonic()
        self._idle = {sha256: self._idle.get(sha256, at) for sha256 in records if sha256 not in used}
        gone = 0
        for sha256, since in list(self._idle.items()):
            found = records[sha256]
            if found.since < before and at - since >= self._grace and await deps.blobs.remove(sha256, expected=found.sequence):
                gone += 1
        orphans = [nuid for nuid in chunks - nuids if await self._is_old(nuid, before)]
        for nuid in orphans:
            await deps.blobs.purge_chunks(nuid)
        if gone or orphans:
            _log.info("garbage.collected", contents=gone, uploads=len(orphans))
        return gone + len(orphans)

    async def _stored(self) -> tuple[dict[str, _Found], set[str], set[str]]:
        """Return the records by hash, the names of all uploads, and of those that a record names: asked for in this order."""
        deps, blobs = self._deps, self._deps.blobs
        # Uploads first: one that is recorded afterwards is named by a record, one that begins afterwards is not seen.
        chunks = await blobs.uploads()
        records: dict[str, _Found] = {}
        nuids: set[str] = set()
        if not (await self._info(f"$O.{blobs.bucket}.M.>")):
            return records, chunks, nuids
        reader = OrderedReader(
            deps.bus.client, blobs.stream, filters=(f"$O.{blobs.bucket}.M.>",), start="last_per_subject", heartbeats=True
        )
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                for one in batch:
                    meta = msgspec.json.decode(one.data)
                    if meta.get("deleted"):
                        continue
                    records[meta["name"]] = _Found(one.sequence, one.time)
                    nuids.add(meta["nuid"])
                if not batch or not batch[-1].pending:
                    break
        return records, chunks, nuids

    async def _info(self, subjects: str) -> bool:
        info = await api_request(
            self._deps.bus.client, f"$JS.API.STREAM.INFO.{self._deps.blobs.stream}", {"subjects_filter": subjects}
        )
        return bool(info["state"].get("subjects"))

    async def _is_old(self, nuid: str, before: datetime) -> bool:
        """Return whether the last chunk of an upload without a record was stored before a time: it is not going on any more."""
        last = await self._deps.blobs.last_chunk(nuid)
        return last is not None and last < before

    async def _code(self, versions: Collection[str]) -> set[str]:
        """Return these bundles and all content that they have. Raises `Unavailable`."""
        found = set(versions)

        async def add(version: str) -> None:
            try:
                manifest = msgspec.json.decode(await self._deps.blobs.read(version), type=Manifest)
            except (NotFound, msgspec.MsgspecError):
                return
            found.update(manifest.files.values())
            found.update(one.lock for one in manifest.environments.values())

        await tasks.each(AT_ONCE, list(versions), add)
        return found
