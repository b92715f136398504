"""The durable consumers of work: their configuration, and the upkeep by their owner.

`deploy.prepare` makes them. One that an operator deleted is made again by the service that owns it, at the message up to which
everything was acknowledged when it was last looked at: later messages are delivered again, and yield nothing new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from nats.aio.client import Client

from shared.errors import Unavailable
from shared.pull import NO_MESSAGE, StreamError, api_request
from shared.streams import Work

# Seconds between two looks: so long nothing is taken, and so much is delivered again, of a consumer that was deleted.
LOOKED_AT_EVERY = 5.0
NO_CONSUMER = 10014  # nats-server server/errors.json
_NANO = 1_000_000_000

_log = structlog.get_logger()


class WorkBacklog(msgspec.Struct, frozen=True, kw_only=True):
    """The messages that a durable consumer has still to see acknowledged: `undelivered` and `in_work`.

    The first undelivered one is at the sequence `first`, stored at `since`; up to `delivered` all were delivered, and up to
    `acknowledged` all were acknowledged.
    """

    undelivered: int
    in_work: int
    since: datetime | None
    delivered: int = 0
    first: int | None = None
    acknowledged: int = 0

    @property
    def messages(self) -> int:
        """Return how many there are."""
        return self.undelivered + self.in_work


def config_of(work: Work, *, after: int = 0) -> dict[str, Any]:
    """Return the JetStream configuration of a durable consumer that begins after the sequence `after`."""
    start: dict[str, Any] = (
        {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1} if after else {"deliver_policy": "all"}
    )
    return {
        "durable_name": work.name,
        "name": work.name,
        **({"filter_subject": work.subjects[0]} if len(work.subjects) == 1 else {"filter_subjects": list(work.subjects)}),
        **start,
        "ack_policy": "explicit",
        "ack_wait": int(work.ack_wait * _NANO),
        "max_deliver": -1,
        # Messages nacked with a delay count against it: a few of them must not stop all others.
        "max_ack_pending": work.max_ack_pending,
    }


async def bring(client: Client, work: Work, *, after: int = 0) -> None:
    """Make a consumer that is missing, beginning after `after`, and bring one that is there to its configuration.

    Its beginning cannot be changed, and is not. Raises `Unavailable`, `StreamError`.
    """
    config = config_of(work, after=after)
    try:
        existing = (await api_request(client, f"$JS.API.CONSUMER.INFO.{work.stream}.{work.name}", None))["config"]
    except StreamError as error:
        if error.code != NO_CONSUMER:
            raise
    else:
        begins = {name: existing[name] for name in ("deliver_policy", "opt_start_seq") if name in existing}
        config = config_of(work) | begins
    asked = {"stream_name": work.stream, "config": config, "action": ""}
    await api_request(client, f"$JS.API.CONSUMER.CREATE.{work.stream}.{work.name}", asked, wait=15)


async def backlog_of(client: Client, work: Work, *, since: bool = True) -> WorkBacklog:
    """Return what waits for the handlers of some work, and, for `since`, when the first of the undelivered was stored.

    Not the first of the unacknowledged: one message that is put off again and again says nothing of those behind it.
    Raises `Unavailable`, `StreamError`.
    """
    info = await api_request(client, f"$JS.API.CONSUMER.INFO.{work.stream}.{work.name}", None)
    undelivered = int(info["num_pending"])
    delivered = int(info["delivered"]["stream_seq"])
    first, at = await _stored_first(client, work, delivered) if undelivered and since else (None, None)
    in_work = int(info["num_ack_pending"])
    acknowledged = int(info["ack_floor"]["stream_seq"])
    return WorkBacklog(
        undelivered=undelivered, in_work=in_work, since=at, delivered=delivered, first=first, acknowledged=acknowledged
    )


async def _stored_first(client: Client, work: Work, after: int) -> tuple[int | None, datetime | None]:
    """Return where and when the first message of some work after the sequence `after` was stored; None when there is none."""
    found: list[tuple[int, datetime]] = []
    for subject in work.subjects:
        try:
            answer = await api_request(client, f"$JS.API.STREAM.MSG.GET.{work.stream}", {"seq": after + 1, "next_by_subj": subject})
        except StreamError as error:
            if error.code == NO_MESSAGE:
                continue
            raise
        found.append((int(answer["message"]["seq"]), datetime.fromisoformat(answer["message"]["time"])))
    return min(found, default=(None, None))


async def count_for_ever(count: Callable[[], Awaitable[None]], pause: Callable[[], Awaitable[object]], *, failed: str) -> None:
    """Have the broker `count` for ever, with a `pause` after each; the first failure in a row is logged as the event `failed`."""
    failing = False
    while True:
        try:
            await count()
        except (Unavailable, StreamError) as error:
            if not failing:
                _log.warning(failed, reason=str(error))
            failing = True
        else:
            failing = False
        await pause()  # the broker tells of nothing by itself


def lag(backlogs: Mapping[str, WorkBacklog]) -> dict[str, Any]:
    """Return as a fact of `/readyz` how many messages wait for each consumer, for how long, and how many are in work."""
    now = datetime.now(UTC)
    ages = {name: 0.0 if one.since is None else (now - one.since).total_seconds() for name, one in backlogs.items()}
    return {
        "waiting": {name: one.undelivered for name, one in backlogs.items()},
        "in_work": {name: one.in_work for name, one in backlogs.items()},
        "age_s": {name: round(max(0.0, age), 3) for name, age in ages.items()},
    }


async def keep(client: Client, owned: Iterable[Work], backlogs: dict[str, WorkBacklog]) -> None:
    """See for ever that these consumers are there; `backlogs` gets what waits for each at the last look."""
    while True:
        for work in owned:
            try:
                backlogs[work.name] = await backlog_of(client, work)
            except Unavailable:
                continue
            except StreamError as error:
                if error.code == NO_CONSUMER:
                    seen = backlogs.get(work.name)
                    await _make_again(client, work, 0 if seen is None else seen.acknowledged)
                else:
                    _log.warning("consumer.not_seen", consumer=work.name, reason=str(error))
        await asyncio.sleep(LOOKED_AT_EVERY)  # the broker does not announce it


async def _make_again(client: Client, work: Work, after: int) -> None:
    try:
        await bring(client, work, after=after)
    except (Unavailable, StreamError) as error:  # another replica may have been first
        _log.warning("consumer.not_made", consumer=work.name, reason=str(error))
    else:
        _log.error("consumer.made_again", consumer=work.name, after=after)
