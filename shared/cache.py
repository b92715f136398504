"""Answers that take long to work out, kept on the bus for all replicas of a service, and worked out by one of them at a time.

An entry is `fresh` for a while. Readers have it at once then, and for as long as it is `stale`: meanwhile one of them has it made
anew in the background, or has a little before, at a time that is drawn (XFetch: https://cseweb.ucsd.edu/~avattani/papers/cache_stampede.pdf).
Nobody has it after that. Where an answer is missing all who want it wait for one work: those of a process for its one flight,
and those of several for the lock, whose lease is renewed as long as the work goes on. Whoever works has noted its attempt in the
entry before, and the next one has the same attempt if it did not come to its end: work that can be taken up goes on where it is.

Each organization has so many entries, of which any goes for a new one; and so many flights in a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
import structlog
from nats.aio.client import Client

from shared import tasks
from shared.bounded import is_room
from shared.envelope import new_id
from shared.errors import Conflict, ErrorDocument, MillraceError, TooLarge, TooMany, Unavailable, from_document, to_document
from shared.expiring import Expiring
from shared.health import Health
from shared.locks import LEASE, Locks
from shared.messages.declaration import checked_key
from shared.pull import StreamError, api_request
from shared.streams import CACHE, CACHED_KEYS

# Bytes of an answer as JSON.
LARGEST = 256 * 1024
# Seconds for which a process answers from its memory before it looks at the bus again, and bytes of that memory.
LOOKS, REMEMBERED = 1.0, 16 * 1024 * 1024
# Seconds after which work that failed is tried again, from and to.
NEGATIVE = (4.0, 6.0)
# The part of the time that an answer is fresh, by which it may be shorter: those made together do not end together.
JITTER = 0.1
# Seconds between two attempts of a process to have a stale answer made anew, while another one is at it.
TRIES = 1.0
# Flights of an organization in one process, and of all.
MOST, ALTOGETHER = 16, 64

Verdict = Literal["hit", "early", "stale", "failed", "missing"]
_NOTHING = msgspec.Raw(b"null")
_log = structlog.get_logger()


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds for which an answer is fresh, for which it is stale after that, and that working it out may take."""

    fresh: float
    stale: float
    limit: float


class AttemptEnded(Exception):
    """Work has ended for good without an answer, for a reason that is not the answer's: the next one is another attempt."""

    def __init__(self, error: MillraceError) -> None:
        super().__init__(error.detail)
        self.error = error


class Worked(msgspec.Struct, frozen=True):
    """An answer as JSON, and when it was made, in seconds since 1970."""

    value: msgspec.Raw
    at: float


class CacheEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer as the bus has it; times are in seconds since 1970. One that was never made has no `at`.

    `error` is how the last attempt failed, which is not repeated before `retry_at`. `attempt` is one that has not ended.
    """

    value: msgspec.Raw = _NOTHING
    at: float = 0.0
    took: float = 0.0
    fresh_until: float = 0.0
    usable_until: float = 0.0
    error: ErrorDocument | None = None
    retry_at: float = 0.0
    attempt: str | None = None
    attempted_at: float = 0.0


class Cached(msgspec.Struct, frozen=True, kw_only=True):
    """An answer with its age in seconds; `error` is how the last attempt to make a stale one anew failed."""

    value: msgspec.Raw
    age: float
    is_stale: bool
    error: str | None


Work = Callable[[str], Awaitable[Worked]]
"""Works an answer out; given the id of the attempt, which is the same for whoever takes it up.

`Unavailable` and `TooMany` leave the attempt to the next one; `AttemptEnded` and all other errors end it, and are told for a while.
"""


def judge(entry: CacheEntry, now: float, drawn: float) -> Verdict:
    """Return whether an entry answers, and whether it is to be made anew; `drawn` is above 0 and at most 1."""
    if entry.at and now < entry.fresh_until:
        return "early" if now - entry.took * math.log(drawn) >= entry.fresh_until else "hit"
    if entry.at and now < entry.usable_until:
        return "stale"
    return "failed" if entry.error is not None and now < entry.retry_at else "missing"


def made(worked: Worked, terms: Terms, took: float, drawn: float) -> CacheEntry:
    """Return the entry of an answer."""
    fresh = worked.at + terms.fresh * (1 - JITTER * drawn)
    return CacheEntry(
        value=worked.value, at=worked.at, took=took, fresh_until=fresh, usable_until=worked.at + terms.fresh + terms.stale
    )


class _Seen(msgspec.Struct):
    """What a process has seen of an entry, by the clock of the event loop."""

    entry: CacheEntry
    looked_at: float
    tried_at: float = -math.inf


class Cache:
    """The answers of one service of the kind `name`, under which they are counted. Its creator must `close` it."""

    def __init__(
        self, client: Client, service: str, name: str, health: Health, *, lease: int = LEASE, now: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._messages = Expiring(client, CACHE)
        self._locks = Locks(client, service, lease=lease)
        self._lease = lease
        self._now = now
        self._root = f"{self._messages.prefix}.{service}"
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._bytes = 0
        self._flights: dict[str, asyncio.Task[CacheEntry | None]] = {}
        self._flying: Counter[str] = Counter()
        self.counts = dict.fromkeys(("hits", "misses", "stale", "waits", "early", "failed", "worked", "evicted"), 0)
        health.state(f"cache_{name}", lambda: dict(self.counts), counters=tuple(self.counts))

    async def close(self) -> None:
        """Let go of what is being worked out here; whoever wants it next takes it up."""
        await tasks.end(self._flights.values())

    async def get(self, org: str, key: str, terms: Terms, work: Work, *, wait: float, newest: bool = False) -> Cached:
        """Return the answer for a key of an organization, within `wait` seconds; `newest`: none that was made before now.

        `work` may be another reader's of the same key. Raises its errors, `Unavailable`, `TooMany`.
        """
        subject = f"{self._root}.{checked_key(org)}.{hashlib.sha256(key.encode()).hexdigest()}"
        entry, now = await self._look(subject), self._now()
        verdict = "missing" if newest else judge(entry, now, 1 - random.random())  # noqa: S311 - no secret
        if verdict == "failed" and entry.error is not None:
            self.counts["failed"] += 1
            raise from_document(entry.error)
        if verdict == "missing":
            entry = await self._awaited(org, subject, terms, work, wait, now if newest else 0.0, newest=newest)
        else:
            self.counts[{"hit": "hits"}.get(verdict, verdict)] += 1
            if verdict != "hit" and now >= entry.retry_at:
                self._refresh(org, subject, terms, work, entry)
        now = self._now()
        told = None if entry.error is None else entry.error.detail
        return Cached(value=entry.value, age=max(0.0, now - entry.at), is_stale=now >= entry.fresh_until, error=told)

    async def forget(self, org: str) -> int:
        """Remove all entries of an organization; returns how many there were. Raises `Unavailable`."""
        found = await self._subjects(org)
        for subject in found:
            await self._messages.remove(subject)
        for subject in [one for one in self._seen if one.startswith(f"{self._root}.{org}.")]:
            self._drop(subject)
        return len(found)

    # -- what waits for work --------------------------------------------------------------------------------------------------

    async def _awaited(
        self, org: str, subject: str, terms: Terms, work: Work, wait: float, older: float, *, newest: bool
    ) -> CacheEntry:
        """Return an entry with an answer, of a flight that is under way or begins now."""
        until = asyncio.get_running_loop().time() + wait
        kind = "waits" if subject in self._flights else "misses"
        self.counts[kind] += 1
        entry: CacheEntry | None = None
        while entry is None:
            flight = self._flights.get(subject)
            if flight is None:
                if not self._is_room(org):
                    raise TooMany("many answers of this organization are being worked out", retry_after=2.0)
                flight = self._begin(org, subject, self._fly(org, subject, terms, work, older, newest=newest, waits=True))
            done, _ = await asyncio.wait((flight,), timeout=max(0.0, until - asyncio.get_running_loop().time()))
            if not done or flight.cancelled():
                raise Unavailable("the answer is still being worked out")
            entry = flight.result()
        if entry.error is not None:
            raise from_document(entry.error)
        return entry

    def _refresh(self, org: str, subject: str, terms: Terms, work: Work, entry: CacheEntry) -> None:
        """Have an entry made anew in the background, unless that is under way."""
        seen, now = self._seen.get(subject), asyncio.get_running_loop().time()
        if subject in self._flights or not self._is_room(org) or seen is None or now - seen.tried_at < TRIES:
            return
        seen.tried_at = now
        self._begin(org, subject, self._fly(org, subject, terms, work, entry.at, newest=False, waits=False))

    def _is_room(self, org: str) -> bool:
        return is_room(self._flying[org], self._flying.total(), MOST, ALTOGETHER)

    def _begin(self, org: str, subject: str, flight: Any) -> asyncio.Task[CacheEntry | None]:
        task: asyncio.Task[CacheEntry | None] = asyncio.create_task(flight)
        self._flights[subject] = task
        self._flying[org] += 1

        def ended(_task: asyncio.Task[CacheEntry | None]) -> None:
            self._flights.pop(subject, None)
            self._flying[org] -= 1
            if not self._flying[org]:
                del self._flying[org]
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.warning("cache.not_worked_out", org=org, reason=str(error)[:300])

        task.add_done_callback(ended)
        return task

    # -- work -----------------------------------------------------------------------------------------------------------------

    async def _fly(
        self, org: str, subject: str, terms: Terms, work: Work, older: float, *, newest: bool, waits: bool
    ) -> CacheEntry | None:
        """Return an entry that was made after `older`, or just failed; None where another process is at it and nobody `waits`."""
        wait, since = terms.limit + self._lease if waits else 0.0, self._now()
        try:
            async with self._locks.hold(f"cache {subject}", wait=wait):
                return await self._work_out(org, subject, terms, work, older, since, newest=newest)
        except Conflict as error:
            if not waits:
                return None
            raise Unavailable("the answer is still being worked out") from error

    async def _work_out(
        self, org: str, subject: str, terms: Terms, work: Work, older: float, since: float, *, newest: bool
    ) -> CacheEntry:
        while True:
            sequence, entry = await self._read(subject)
            now = self._now()
            has_failed = entry.error is not None and now < entry.retry_at and not newest
            # Another one has worked it out, be it no longer fresh: it is what this one waited for.
            if entry.at >= since or (entry.at > older and now < entry.fresh_until) or has_failed:
                self._keep(subject, entry)
                return entry
            if entry.attempt is not None and now - entry.attempted_at < terms.limit:
                attempt = entry.attempt
                break
            attempt = new_id()
            if not sequence:
                await self._make_room(org)
            entry = msgspec.structs.replace(entry, attempt=attempt, attempted_at=now)
            stored = await self._put(subject, entry, terms, sequence)
            if stored is not None:
                sequence = stored
                break
        self.counts["worked"] += 1
        began = time.monotonic()
        outcome = await self._outcome(entry, attempt, terms, work, began)
        self._keep(subject, outcome)
        with contextlib.suppress(Unavailable):
            # What could not be stored is answered here; whoever comes elsewhere takes the attempt up.
            await self._put(subject, outcome, terms, sequence)
        return outcome

    async def _outcome(self, entry: CacheEntry, attempt: str, terms: Terms, work: Work, began: float) -> CacheEntry:
        try:
            async with asyncio.timeout(terms.limit) as limit:
                worked = await work(attempt)
            if len(worked.value) > LARGEST:
                raise TooLarge(f"the answer has {len(worked.value)} bytes as JSON; at most {LARGEST} are kept")
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Unavailable(f"the answer was not there in {terms.limit:g} s") from error
        except (Unavailable, TooMany):
            raise  # it says nothing about the answer, and the attempt may go on
        except (MillraceError, AttemptEnded) as raised:
            told = raised.error if isinstance(raised, AttemptEnded) else raised
            again = self._now() + random.uniform(*NEGATIVE)  # noqa: S311 - no secret
            return msgspec.structs.replace(entry, error=to_document(told), retry_at=again, attempt=None, attempted_at=0.0)
        return made(worked, terms, time.monotonic() - began, random.random())  # noqa: S311 - no secret

    # -- the bus, and what was seen of it ---------------------------------------------------------------------------------------

    async def _look(self, subject: str) -> CacheEntry:
        """Return an entry as it was seen a moment ago, or is now; while the broker is away as it was seen last."""
        seen, now = self._seen.get(subject), asyncio.get_running_loop().time()
        if seen is not None and now - seen.looked_at < LOOKS:
            self._seen.move_to_end(subject)
            return seen.entry
        try:
            _, entry = await self._read(subject)
        except Unavailable:
            if seen is None:
                raise
            return seen.entry
        self._keep(subject, entry)
        return entry

    async def _read(self, subject: str) -> tuple[int, CacheEntry]:
        sequence, document = await self._messages.get(subject)
        if not document:
            return sequence, CacheEntry()
        try:
            return sequence, msgspec.json.decode(document, type=CacheEntry)
        except msgspec.MsgspecError:
            return sequence, CacheEntry()  # another version's: it is made anew

    async def _put(self, subject: str, entry: CacheEntry, terms: Terms, expected: int) -> int | None:
        ends = (entry.usable_until, entry.retry_at, entry.attempted_at + terms.limit if entry.attempt else 0.0)
        seconds = max(1, math.ceil(max(ends) - self._now()))
        return await self._messages.put(subject, msgspec.json.encode(entry), seconds=seconds, expected=expected)

    async def _make_room(self, org: str) -> None:
        """Remove entries of an organization, any of them, until it may have another."""
        found = await self._subjects(org)
        for subject in random.sample(found, max(0, len(found) - CACHED_KEYS + 1)):
            if subject not in self._flights:
                await self._messages.remove(subject)
                self.counts["evicted"] += 1

    async def _subjects(self, org: str) -> list[str]:
        asked = {"subjects_filter": f"{self._root}.{checked_key(org)}.>"}
        try:
            info = await api_request(self._client, f"$JS.API.STREAM.INFO.{self._messages.stream}", asked)
        except StreamError as error:
            raise Unavailable(f"the broker does not tell what is kept: {error}") from error
        return list(info["state"].get("subjects") or {})

    def _keep(self, subject: str, entry: CacheEntry) -> None:
        before = self._drop(subject)
        tried = -math.inf if before is None else before.tried_at
        self._seen[subject] = _Seen(entry, asyncio.get_running_loop().time(), tried)
        self._bytes += len(entry.value) + len(subject)
        while self._bytes > REMEMBERED:
            self._drop(next(iter(self._seen)))

    def _drop(self, subject: str) -> _Seen | None:
        seen = self._seen.pop(subject, None)
        if seen is not None:
            self._bytes -= len(seen.entry.value) + len(subject)
        return seen
