"""The backlog: the webhooks that were accepted and are not handled yet. Bounded in messages, bytes and age, and shared by source.

The broker counts it about once a second (`watch`); what is admitted in between is counted here. A source may hold up to `SHARE`
times what is left, so that one alone gets four fifths and the rest stays for the others (dynamic thresholds: Choudhury, Hahne,
IEEE/ACM Transactions on Networking 6(2), 1998). All sources of an organization together may hold `ORG_SHARE` times what is left,
however many it makes and whatever weights it gives them. Consumption takes from all sources in proportion: the broker counts
messages and knows nothing of sources, nor of sizes. A webhook whose body is larger than the bounds allow on average counts as
several messages; one that another gateway admitted, or this one before a restart, counts as one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import msgspec
import structlog
from nats.aio.client import Client

from services.gateway.lanes import Lanes
from shared.durables import WorkBacklog, backlog_of, count_for_ever
from shared.errors import Unavailable
from shared.queued import RunQueue
from shared.streams import BULK_LANES, WORK

COUNTED = {work.name: work for work in WORK if work.service == "events" and "gateway" in work.watched_by}
# Seconds between two counts while webhooks come or wait, and otherwise: other gateways may have admitted some.
COUNTED_EVERY = 1.0
COUNTED_AT_REST = 10.0
# Seconds after which a count says nothing any more. Without one all are admitted: the broker still refuses what it cannot hold.
OUTDATED = 30.0
# A source holds at most so many times what is left, and all of an organization.
SHARE, ORG_SHARE = 4, 8
# Parts of a bound at which the backlog is told as crowded, at which it is no more, and below which it is full no more. A lone
# source is refused at the first.
CROWDED, EASY, FULL_NO_MORE = 0.8, 0.6, 0.8
# Seconds until a refused sender comes again: by the pace of consumption within these, the last where nothing is consumed.
AGAIN = (5.0, 60.0)
# Less is held by nobody: shares are estimates.
NOTHING = 0.5

_log = structlog.get_logger()


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of the backlog: messages, bytes of their bodies, and seconds that the oldest of them has waited."""

    messages: int
    bytes: int
    seconds: float


class WebhookBacklog:
    """Says whether a webhook may be admitted, and counts those that were."""

    def __init__(self, bounds: Bounds, *, now: Callable[[], float] = monotonic) -> None:
        """Begin with nothing counted; `now` is a clock that only goes forward, in seconds."""
        self._bounds = bounds
        self._now = now
        self._counted: Mapping[str, int] = {}
        self._waiting = 0
        self._counted_at: float | None = None
        self._age = 0.0
        self._pace = 0.0
        self._admitted = self._in_flight = self._within_count = 0
        # Messages as which the waiting ones count for their sizes, beyond their number.
        self._surplus = 0.0
        # By source, and by organization.
        self._held: dict[str, float] = {}
        self._held_by_org: dict[str, float] = {}
        self._full = self._crowded = False
        self._old: set[str] = set()
        self._refused = 0
        self.news, self.known = asyncio.Event(), asyncio.Event()

    @property
    def messages(self) -> int:
        """Return how many wait: those of the last count and those that were admitted since."""
        return self._waiting + self._admitted - self._within_count

    @property
    def load(self) -> float:
        """Return as how many messages those count that wait."""
        return self.messages + self._surplus

    @property
    def at_rest(self) -> bool:
        """Return whether nothing waits, and nothing was admitted since it was counted."""
        return not self._waiting and not self.news.is_set()

    @property
    def pace(self) -> float:
        """Return how many were handled a second between the last two counts, as far as they can tell."""
        return self._pace

    @property
    def age(self) -> float:
        """Return for how many seconds the oldest has waited; 0 when none does."""
        return self._age + self._now() - self._counted_at if self._age and self._counted_at is not None else 0.0

    @property
    def problem(self) -> str | None:
        """Return in a sentence how near the backlog is to its bounds; None while it is far from them."""
        if not self._crowded or self._outdated:
            return None
        most, seconds = self._bounds.messages, self._bounds.seconds
        effect = "webhooks are refused" if self._full else "sources that hold most of them are refused"
        large = f", and count as {self.load:.0f} by their sizes" if self._surplus >= 1 else ""
        return f"{self.messages} of {most} messages wait{large}, the oldest for {self.age:.0f} of {seconds:.0f} s: {effect}"

    @property
    def is_full(self) -> bool:
        """Return whether all webhooks are refused."""
        return self._full and not self._outdated

    def fact(self) -> dict[str, Any]:
        """Return the backlog as `/readyz` and `/metrics` show it."""
        return {
            "messages": self.messages,
            "max_messages": self._bounds.messages,
            "load": round(self.load, 1),
            "max_bytes": self._bounds.bytes,
            "age_s": round(self.age, 1),
            "max_age_s": self._bounds.seconds,
            "work": dict(self._counted),
            "refused": self._refused,
            "crowded": self._crowded,
            "full": self.is_full,
            "problem": self.problem,
        }

    def check(self, source: str, org: str, *, weight: int = 1, lane: str | None = None) -> None:
        """Raise `Unavailable` where a webhook of `source`, which is of `org`, would not be admitted now.

        Its share is `weight` times that of others, within its organization's.
        `lane` is the bulk lane that it is in: a lane too old takes no more.
        """
        if self._outdated:
            return
        left = self._bounds.messages - self.load
        if left <= 0:
            self._full = self._crowded = True
        if self._full:
            self._refused += 1
            raise Unavailable(f"too many webhooks wait to be handled: {self.problem}", retry_after=self._again())
        if lane in self._old:
            self._refused += 1
            detail = f"webhooks of this source have waited for more than {self._bounds.seconds:.0f} s"
            raise Unavailable(detail, retry_after=self._again())
        if self._held.get(source, 0.0) >= SHARE * weight * left:
            self._crowded = True
            self._refused += 1
            detail = f"of the {self.messages} webhooks that wait to be handled most are of this source, and the rest is for others"
            raise Unavailable(detail, retry_after=self._again())
        if self._held_by_org.get(org, 0.0) >= ORG_SHARE * left:
            self._crowded = True
            self._refused += 1
            detail = (
                f"of the {self.messages} webhooks that wait to be handled most are of this organization, the rest is for others"
            )
            raise Unavailable(detail, retry_after=self._again())

    @contextlib.contextmanager
    def admitted(self, source: str, org: str, size: int = 0) -> Iterator[None]:
        """Count a webhook of `size` bytes that was checked just before, and is stored or fails to be within the block."""
        load = max(1.0, size * self._bounds.messages / self._bounds.bytes)
        self._surplus += load - 1
        self._admitted += 1
        self._in_flight += 1
        self._held[source] = self._held.get(source, 0.0) + load
        self._held_by_org[org] = self._held_by_org.get(org, 0.0) + load
        self.news.set()
        try:
            yield
        finally:
            self._in_flight -= 1

    def begin_count(self) -> int:
        """Return what `counted` is to be given: how many were admitted and surely stored before the broker is asked."""
        self.news.clear()
        return self._admitted - self._in_flight

    def counted(self, found: Mapping[str, WorkBacklog], begun: int, utc: datetime) -> None:
        """Take what the broker counted since `begun`, by consumer."""
        now = self._now()
        before = self._waiting + begun - self._within_count
        self._counted = {name: one.messages for name, one in found.items()}
        self._waiting = after = sum(self._counted.values())
        self._within_count = begun
        if self._counted_at is not None and now > self._counted_at:
            self._pace = max(0.0, (before - after) / (now - self._counted_at))
        self._counted_at = now
        self.known.set()
        ages = {name: (utc - one.since).total_seconds() for name, one in found.items() if one.since is not None}
        self._age = max(0.0, *ages.values()) if ages else 0.0
        if after < before:
            kept = after / before
            self._surplus *= kept
            self._held = _kept(self._held, kept)
            self._held_by_org = _kept(self._held_by_org, kept)
        # The age of a bulk lane is the matter of those in it.
        old = {lane: max(ages.pop(f"events-{stage}-{lane}", 0.0) for stage in ("parse", "route")) for lane in BULK_LANES}
        seconds = self._bounds.seconds
        self._old = {lane for lane, age in old.items() if age >= seconds * (FULL_NO_MORE if lane in self._old else 1.0)}
        self._turn(self.load / self._bounds.messages, max(ages.values(), default=0.0) / seconds)

    def _turn(self, part: float, prompt_age: float) -> None:
        """Change what is told, at other bounds upwards than downwards: it does not flap."""
        was = self._crowded
        self._full = max(part, prompt_age) >= (FULL_NO_MORE if self._full else 1.0)
        self._crowded = max(part, self._age / self._bounds.seconds) >= (EASY if self._crowded else CROWDED)
        if self._crowded != was:
            _log.warning("backlog.crowded" if self._crowded else "backlog.eased", messages=self.messages, age_s=round(self.age, 1))

    @property
    def _outdated(self) -> bool:
        return self._counted_at is None or self._now() - self._counted_at > OUTDATED

    def _again(self) -> float:
        least, most = AGAIN
        if self._pace <= 0:
            return most
        return min(most, max(least, (self.load - FULL_NO_MORE * self._bounds.messages) / self._pace))


def _kept(held: dict[str, float], part: float) -> dict[str, float]:
    return {holder: left for holder, before in held.items() if (left := before * part) >= NOTHING}


async def count(client: Client, queue: RunQueue, backlog: WebhookBacklog, lanes: Lanes) -> None:
    """Have the broker count once. Raises `Unavailable`, `StreamError`."""
    begun = backlog.begin_count()
    counts = asyncio.gather(*(backlog_of(client, work) for work in COUNTED.values()))
    queued, answers = await asyncio.gather(queue.count(), counts)
    found = dict(zip(COUNTED, answers, strict=True))
    backlog.counted(found, begun, datetime.now(UTC))
    lanes.counted(found, backlog.pace, queued)


async def watch(client: Client, backlog: WebhookBacklog, lanes: Lanes) -> None:
    """Have the broker count for ever."""
    queue = RunQueue(client)

    async def pause() -> None:
        if backlog.at_rest and not lanes.is_overfull:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(COUNTED_AT_REST):
                    await backlog.news.wait()
        await asyncio.sleep(COUNTED_EVERY)

    await count_for_ever(lambda: count(client, queue, backlog, lanes), pause, failed="backlog.not_counted")
