"""Questions and commands in: many deliveries are routed again, at a rate, with their progress on record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Protocol
from weakref import WeakValueDictionary

import msgspec
import structlog
from sqlalchemy import RowMapping

from services.events.deliveries import DeliveryDeps, begun
from services.events.letter_ends import end_repaired
from services.events.replay_rows import ReplayRows
from services.events.retries import again, catch_up, publish_again
from services.events.sandboxed import AdapterLost
from shared import aggregate
from shared.asking import Questions
from shared.bounded import BoundedTasks, Turns
from shared.db import held_lock
from shared.durables import backlog_of
from shared.envelope import Sealed, derived_id, rfc3339, utc_now
from shared.errors import Conflict, Invalid, MillraceError, NotFound, Problem, Unavailable
from shared.messages import Message, ReplayEnded, ReplayProgressed, ReplayRequested
from shared.messages.replay import ReplayCounts
from shared.pull import StreamError
from shared.questions.declaration import MOST_ITEMS, fitting
from shared.questions.replays import CancelReplay, GetReplay, ListReplays, ReplayDeliveries, ReplayPage, ReplayView
from shared.streams import BULK_LANES, WORK
from shared.values import moment_at

# Of one organization at a time: each is looked at every second.
MOST_RUNNING = 5
# Replays of one look, and those that go on at the same time.
CARRIED_OUT, AT_ONCE = 50, 8
# Seconds after which one is to be asked for again.
LATER = 1.0
# Seconds after which a replay leaves its place to others; and the longest that it may have it, or rest after an obstacle.
TURN, LONGEST = 2.0, 60.0
# Nobody waits for them as for a webhook.
LANE = BULK_LANES[-1]
# Events that may wait in that lane before a replay waits for it.
ROOM = 1000
_ROUTED = next(work for work in WORK if work.name == f"events-route-{LANE}")

_log = structlog.get_logger()


class ReplayDeps(DeliveryDeps, Protocol):
    """Further dependencies of these questions and commands."""

    database_url: str
    replays: ReplayRows
    replay_turns: WeakValueDictionary[str, asyncio.Lock]


async def replay_deliveries(asked: ReplayDeliveries, deps: ReplayDeps) -> ReplayView:
    """Record that deliveries are to be routed again; one that has the command's id is returned as it is.

    Raises `Invalid`, `Conflict` where as many go on already as may, `Unavailable`.
    """
    known = await deps.replays.get(asked.org, asked.id)
    if known is not None:
        return replay_view(known)
    since = moment_at(asked.since, "since")
    until = utc_now() if asked.until is None else moment_at(asked.until, "until")
    if until <= since:
        raise Invalid("until is not after since", errors=(Problem("until", "is not after since"),))
    source = None
    if asked.source is not None:
        source = await deps.resources.named("source", asked.org, asked.source)
        if source is None:
            raise Invalid(f"there is no source {asked.source!r}", errors=(Problem("source", "is not there"),))
    requested = ReplayRequested(
        replay=asked.id,
        actor=asked.actor,
        since=rfc3339(since),
        until=rfc3339(until),
        rate=asked.rate,
        total=0,
        source=None if source is None else source.id,
        source_name=None if source is None else source.name,
        status=asked.status,
        type=asked.type,
        everything=asked.everything,
    )
    await catch_up(deps)
    requested = msgspec.structs.replace(requested, total=await deps.store.counted(asked.org, requested))
    sealed = deps.bus.seal(requested, org=asked.org, id=derived_id(asked.id, "replay"))
    # Of two that begin at the same time, here or in another replica, the second one counts the first.
    turn = deps.replay_turns.setdefault(asked.org, asyncio.Lock())
    async with turn, held_lock(deps.database_url, f"events.replays.{asked.org}", service="events") as held:
        if not await catch_up(deps, {"EVENTS"}):
            raise Unavailable("the rows of replays are behind", retry_after=LATER)
        known = await deps.replays.get(asked.org, asked.id)
        if known is not None:
            return replay_view(known)
        if await deps.replays.running_of(asked.org) >= MOST_RUNNING:
            raise Conflict(f"{MOST_RUNNING} replays go on already: cancel one, or wait for it")
        if held.lost.is_set():
            raise Unavailable("the database was away meanwhile", retry_after=LATER)
        await deps.bus.publish(sealed)
    return _begun_view(requested, asked.org, rfc3339(sealed.envelope.time))


async def cancel_replay(asked: CancelReplay, deps: ReplayDeps) -> ReplayView:
    """Record that no more deliveries of a replay are to be routed again."""
    row = await _row(asked.org, asked.replay, deps)

    async def decide(last: aggregate.Stored | None) -> Message:
        message = None if last is None else last.message()
        if isinstance(message, ReplayEnded):
            raise Conflict(f"replay {asked.replay} is {message.outcome} already")
        counts = _counts(asked.replay, message, row)
        return ReplayEnded(**msgspec.structs.asdict(counts), outcome="cancelled", actor=asked.actor)

    changed = await aggregate.change(deps.bus, "replay", asked.replay, decide, org=asked.org, command=asked.id)
    ended = changed.message
    view = replay_view(row)
    if not isinstance(ended, ReplayEnded):
        return view
    counted = {name: getattr(ended, name) for name in ("replayed", "skipped", "failed")}
    return msgspec.structs.replace(
        view, status="cancelled" if ended.outcome == "cancelled" else "done", ended_at=rfc3339(changed.envelope.time), **counted
    )


async def list_replays(asked: ListReplays, deps: ReplayDeps) -> ReplayPage:
    """Return a page of replays, newest first."""
    limit = asked.page.within(MOST_ITEMS)
    rows = await deps.replays.page(asked.org, asked.page.before(), limit + 1)
    items = fitting([replay_view(row) for row in rows[:limit]])
    more = f"{items[-1].requested_at}|{items[-1].id}" if len(rows) > len(items) else None
    return ReplayPage(items, more)


async def get_replay(asked: GetReplay, deps: ReplayDeps) -> ReplayView:
    """Return one replay. Raises `NotFound`."""
    return replay_view(await _row(asked.org, asked.id, deps))


class Replayer:
    """Carries replays out, a second's deliveries of each at a time; one replica at a time does it.

    Each goes on by itself, in turns of the organizations: one that is stuck, or large, keeps no other from going on.
    """

    def __init__(self, deps: ReplayDeps, *, now: Callable[[], float] = monotonic) -> None:
        self._deps = deps
        self._now = now
        # When those that are slow, or met an obstacle, go on; the pause that an obstacle led to; those that go on now.
        self._next: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._busy: set[str] = set()
        by_org: Turns[tuple[RowMapping, float]] = Turns(lambda of: str(of[0]["org"]))
        self._going_on = BoundedTasks(self._go_on, AT_ONCE, by_org, lambda of: self._busy.discard(of[0]["id"]))

    async def once(self) -> int:
        """Have some deliveries of replays routed again; returns of how many replays."""
        now = self._now()
        self._next = {id_: at for id_, at in self._next.items() if at > now}
        due = await self._deps.replays.running(CARRIED_OUT, besides=self._busy | self._next.keys())
        if not due or (await backlog_of(self._deps.bus.client, _ROUTED, since=False)).messages >= ROOM:
            return 0
        await catch_up(self._deps)
        for row in due:
            self._busy.add(row["id"])
            self._going_on.offer((row, now))
        return len(due)

    async def close(self) -> None:
        """End what goes on: it is done again."""
        await self._going_on.drain(0)

    async def _go_on(self, of: tuple[RowMapping, float]) -> None:
        row, since = of
        id_ = row["id"]
        try:
            async with asyncio.timeout(LONGEST):
                obstacle = await self._some(row, since)
        except (MillraceError, StreamError) as error:
            obstacle = str(error)
        except TimeoutError:
            obstacle = f"a delivery took longer than {LONGEST:g} s"
        except Exception:
            _log.exception("replay.bug", replay=id_)
            obstacle = "a bug"
        if obstacle is None:
            self._pauses.pop(id_, None)
            return
        self._pauses[id_] = min(2 * self._pauses.get(id_, 0.5), LONGEST)
        self._next[id_] = self._now() + self._pauses[id_]
        _log.warning("replay.interrupted", replay=id_, org=row["org"], reason=obstacle)

    async def _some(self, row: RowMapping, since: float) -> str | None:
        """Route some deliveries again, for a while, and record them; return the obstacle that was met. Raises `Unavailable`."""
        deps, id_, until = self._deps, row["id"], self._now() + TURN
        last = await aggregate.last(deps.bus.client, "replay", id_)
        message = None if last is None else last.message()
        if last is None or isinstance(message, ReplayEnded):
            # The row is behind, for a moment.
            self._next[id_] = since + 1
            return None
        counts = _counts(id_, message, row)
        after = (datetime.fromisoformat(counts.after), counts.after_id) if counts.after_id else None
        number = max(1, round(row["rate"]))
        deliveries, found = await deps.store.replayable(row["org"], row, after, number)
        done, obstacle = 0, None
        try:
            while done < len(deliveries) and (not done or self._now() < until):
                one = deliveries[done]
                counted = await self._replay(one, row)
                counts = msgspec.structs.replace(
                    counts, after=rfc3339(one["received_at"]), after_id=one["id"], **{counted: getattr(counts, counted) + 1}
                )
                done += 1
        except (MillraceError, StreamError) as error:
            obstacle = str(error)
        self._next[id_] = since + done / row["rate"]
        is_over = done == found < number
        if done or is_over:
            fields = msgspec.structs.asdict(counts)
            said = ReplayEnded(**fields, outcome="done") if is_over else ReplayProgressed(**fields)
            said_id = derived_id(id_, type(said).__name__, str(last.sequence))
            sealed: Sealed[Message] = deps.bus.seal(said, org=row["org"], id=said_id)
            try:
                await deps.bus.append(sealed, last.sequence)
            except Conflict:
                _log.info("replay.cancelled", replay=id_)
        return obstacle

    async def _replay(self, delivery: RowMapping, replay: RowMapping) -> str:
        """Route one delivery again; returns which count it adds to. The ids are the same if it is done twice."""
        retry = derived_id(replay["id"], delivery["id"])
        if delivery["retried_by"] == retry:
            return "replayed"
        try:
            first = await begun(delivery, self._deps)
            if first is None:
                return "failed"
            letters = await self._deps.letters.open_of(delivery["org"], delivery["id"])
            left_of = None if replay["everything"] else delivery
            events = [event async for event in again(first, self._deps, retry=retry, row=left_of)]
            if not events:
                return "skipped"
            await publish_again([msgspec.structs.replace(event, lane=LANE) for event in events], first, self._deps)
            await end_repaired(letters, self._deps.bus, retry=retry, actor=replay["actor"])
        except (Invalid, NotFound, AdapterLost) as error:
            _log.warning("delivery.not_replayed", delivery=delivery["id"], replay=replay["id"], reason=error.detail)
            return "failed"
        return "replayed"


def _counts(id_: str, message: Message | None, row: RowMapping) -> ReplayCounts:
    if isinstance(message, ReplayProgressed):
        return ReplayCounts(**msgspec.structs.asdict(message))
    return ReplayCounts(replay=id_, after=rfc3339(row["since"]), after_id="")


async def _row(org: str, id_: str, deps: ReplayDeps) -> RowMapping:
    await catch_up(deps)
    row = await deps.replays.get(org, id_)
    if row is None:
        raise NotFound(f"there is no replay {id_}")
    return row


def _begun_view(asked: ReplayRequested, org: str, at: str) -> ReplayView:
    return ReplayView(
        id=asked.replay,
        org=org,
        status="running",
        since=asked.since,
        until=asked.until,
        source=asked.source,
        delivery_status=asked.status,
        type=asked.type,
        all=asked.everything,
        rate=asked.rate,
        total=asked.total,
        replayed=0,
        skipped=0,
        failed=0,
        requested_by=asked.actor,
        requested_at=at,
        ended_at=None,
    )


def replay_view(row: RowMapping) -> ReplayView:
    """Return a replay as users see it."""
    names = ("id", "org", "status", "source", "delivery_status", "type", "rate", "total", "replayed", "skipped", "failed")
    return ReplayView(
        **{name: row[name] for name in names},
        since=rfc3339(row["since"]),
        until=rfc3339(row["until"]),
        all=row["everything"],
        requested_by=row["actor"],
        requested_at=rfc3339(row["requested_at"]),
        ended_at=None if row["ended_at"] is None else rfc3339(row["ended_at"]),
    )


QUESTIONS: Questions = {
    ReplayDeliveries: replay_deliveries,
    CancelReplay: cancel_replay,
    ListReplays: list_replays,
    GetReplay: get_replay,
}
