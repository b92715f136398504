"""Rates: a bucket of tokens that fills at a steady pace, and the buckets that the replicas of the gateway draw from together.

A replica takes tokens from a bucket of its own, without asking anybody, and tells the others how many it took; they take as many
from theirs. So all buckets of one id are one bucket, some milliseconds late (decision 0075).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from shared.client import subscribe
from shared.envelope import new_id
from shared.streams import among_replicas

SUBJECT = among_replicas("gateway", "used")
# Seconds after which what was taken is told at the latest, and between two messages at the least.
LATEST, SOONEST = 0.25, 0.01
# The part of a bucket that a replica takes before it tells at once.
UNTOLD = 1 / 16
# Buckets in one message: far below what the broker carries.
TOGETHER = 5000
# Seconds between two looks for buckets that are full, which are as good as none.
FORGETTING = 60.0

_log = structlog.get_logger()


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many a second in the long run, and `burst` at once after a rest: those of a second where it is not given."""

    per_second: float
    burst: int | None = None

    @property
    def size(self) -> int:
        """Return how many are let in at once after a rest."""
        return self.burst or max(1, math.ceil(self.per_second))


class DefaultRates(msgspec.Struct, frozen=True, kw_only=True):
    """The rates of those that have none of their own; None: as often as they like. Keys of the platform have none by default."""

    key: Rate | None = None
    org: Rate | None = None
    org_webhooks: Rate | None = None


class TokenBucket:
    """Tokens of one thing; times are seconds of one clock that does not go back."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._per_second = rate.per_second
        self._size = self._tokens = float(rate.size)
        self._at = -math.inf

    def wait(self, now: float) -> float:
        """Return in how many seconds there is a token; 0 when there is one now."""
        if now > self._at:
            self._tokens = min(self._size, self._tokens + (now - self._at) * self._per_second)
            self._at = now
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._per_second

    def take(self, now: float) -> float:
        """Take a token and return 0, or take none and return in how many seconds there is one."""
        wait = self.wait(now)
        if wait == 0:
            self._tokens -= 1
        return wait

    def spend(self, tokens: int, now: float) -> None:
        """Take tokens that were given elsewhere: below nothing, where there are fewer."""
        self.wait(now)
        self._tokens -= tokens

    def left(self, now: float) -> tuple[int, float]:
        """Return how many tokens there are, and in how many seconds it is full."""
        self.wait(now)
        return max(0, int(self._tokens)), (self._size - self._tokens) / self._per_second


class SharedBucket(TokenBucket):
    """This replica's copy of a bucket. `untold`: tokens that it gave and the others have not heard of."""

    def __init__(self, id_: str, rate: Rate, buckets: SharedBuckets) -> None:
        super().__init__(rate)
        self.id = id_
        self.untold = 0
        self._buckets = buckets
        self._soon = max(1.0, rate.size * UNTOLD, rate.per_second * SOONEST)

    def take(self, now: float) -> float:
        """Take a token and return 0, or take none and return in how many seconds there is one."""
        wait = super().take(now)
        if wait == 0:
            self.untold += 1
            if self.untold == 1 or self.untold >= self._soon:
                self._buckets.taken(self, soon=self.untold >= self._soon)
        return wait


class BucketUse(msgspec.Struct, frozen=True, array_like=True):
    """How many tokens a replica took from a bucket since it last told; with its rate, for those who have no such bucket yet."""

    id: str
    per_second: float
    burst: int
    tokens: int


class UseOfReplica(msgspec.Struct, frozen=True, array_like=True):
    """What a replica took."""

    replica: str
    used: list[BucketUse]


class SharedBuckets:
    """All buckets of this replica, by id. Where the broker is away each replica goes on by itself. `hears`: of what others take."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._replica = new_id()
        self._buckets: dict[str, SharedBucket] = {}
        self._taken: list[SharedBucket] = []
        self._soon = asyncio.Event()
        self.hears = False
        self._forgot = time.monotonic()
        self._decoder = msgspec.msgpack.Decoder(UseOfReplica)

    def __len__(self) -> int:
        """Return how many are not full, or were not some time ago."""
        return len(self._buckets)

    def bucket(self, id_: str, rate: Rate) -> SharedBucket:
        """Return the bucket of something with a rate; a full one where it had another rate before. Not to be kept."""
        found = self._buckets.get(id_)
        if found is None or (found.rate is not rate and found.rate != rate):
            found = self._buckets[id_] = SharedBucket(id_, rate, self)
        return found

    def taken(self, bucket: SharedBucket, *, soon: bool) -> None:
        """Have the others told of a bucket that tokens were taken from, `soon` or in time."""
        if bucket.untold == 1:
            self._taken.append(bucket)
        if soon:
            self._soon.set()

    async def run(self) -> None:
        """Tell and hear for ever."""
        await subscribe(self._client, SUBJECT, self._heard)
        self.hears = True
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LATEST):
                    await self._soon.wait()
            self._soon.clear()
            await self._tell()
            self._forget()
            await asyncio.sleep(SOONEST)

    async def _tell(self) -> None:
        taken, self._taken = self._taken, []
        used = [BucketUse(one.id, one.rate.per_second, one.rate.size, one.untold) for one in taken]
        for one in taken:
            one.untold = 0
        for begin in range(0, len(used), TOGETHER):
            # What is not told is not told later either: by then the others' buckets have filled.
            if not self._client.is_connected:
                return
            told = UseOfReplica(self._replica, used[begin : begin + TOGETHER])
            try:
                await self._client.publish(SUBJECT, msgspec.msgpack.encode(told))
            except (nats.errors.Error, OSError) as error:
                _log.debug("rates.untold", reason=type(error).__name__)

    def _heard(self, msg: Msg) -> None:
        told = self._decoder.decode(msg.data)
        if told.replica == self._replica:
            return
        now = time.monotonic()
        for one in told.used:
            found = self._buckets.get(one.id)
            if found is None:
                found = self.bucket(one.id, Rate(one.per_second, one.burst))
            found.spend(one.tokens, now)

    def _forget(self) -> None:
        now = time.monotonic()
        if now - self._forgot < FORGETTING:
            return
        self._forgot = now
        for id_, bucket in list(self._buckets.items()):
            if not bucket.untold and bucket.left(now)[1] <= 0:
                del self._buckets[id_]


def rate_of(settings: Mapping[str, Any]) -> Rate | None:
    """Return the `rate` of a source's settings, or None where it has none. Raises ValueError, `msgspec.ValidationError`."""
    given = settings.get("rate")
    if given is None:
        return None
    return checked(msgspec.convert(given, Rate))


def checked(rate: Rate) -> Rate:
    """Return a rate that lets something in. Raises ValueError."""
    if not 0 < rate.per_second < math.inf or (rate.burst is not None and rate.burst < 1):
        raise ValueError("a rate that lets nothing in")
    return rate
