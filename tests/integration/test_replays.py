"""Replays: many deliveries are routed again by filter and time, at a rate, once each whatever is killed, and can be cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from services.events import replays
from shared import aggregate
from shared.envelope import new_id, rfc3339, utc_now
from shared.errors import Conflict, Invalid, NotFound, Unavailable
from shared.messages import ReplayProgressed
from shared.questions import Page
from shared.questions.replays import CancelReplay, GetReplay, ListReplays, ReplayDeliveries, ReplayPage, ReplayView
from tests.integration.test_deliveries import settled
from tests.integration.test_gateway import gateway, stream
from tests.support.inside import bus_of, eventually, running
from tests.support.resources import putting, ring, told
from tests.support.river import Outside, river
from tests.support.servers import Place

WORKFLOW = b"""
from millrace import workflow

@workflow(name="greet")
def greet(event: dict) -> dict:
    return event["data"]
"""
LATE = WORKFLOW.replace(b"greet", b"late")
BEGINNING = "2026-01-01T00:00:00Z"


def asking(**given: Any) -> ReplayDeliveries:
    return ReplayDeliveries(**{"id": new_id(), "org": "default", "actor": "ann", "since": BEGINNING, "rate": 500.0} | given)


async def ended(outside: Outside, replay: str, status: str = "done", org: str = "default") -> ReplayView:
    async def there() -> ReplayView | None:
        view: ReplayView = await outside.bus.ask(GetReplay(org=org, id=replay))
        return view if view.status == status else None

    view = await eventually(there)
    assert isinstance(view, ReplayView)
    return view


async def unwanted(outside: Outside, number: int, source: Any = None) -> list[str]:
    """Have so many deliveries that nobody wants; return their ids, in their order."""
    source = source or await outside.source()
    ids = [await outside.webhook(source, {"n": n}) for n in range(number)]
    for id_ in ids:
        await outside.delivery(id_, "filtered")
    return ids


async def accepted(place: Place) -> list[str]:
    """Return the deliveries of the events that were made so far, in order."""
    found = [one for one in await stream(place, "EVENTS") if one.type == "event.accepted"]
    return [msgspec.json.decode(one.data)["delivery"] for one in found]


async def test_what_could_not_be_routed_is_replayed_and_what_succeeded_is_not(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="good")
        ids = [await outside.webhook(source, {"ref": str(n)}) for n in range(3)]
        for id_ in ids:
            await settled(outside, id_, runs=1)
        await outside.subscription(name="lost", workflow="late")
        late = await outside.webhook(source, {"ref": "late"})
        await outside.delivery(late, "unroutable")
        await settled(outside, late, runs=1)
        await outside.put_file("late.py", LATE)
        replay: ReplayView = await outside.bus.ask(asking(status="unroutable"))
        assert (replay.status, replay.total, replay.requested_by) == ("running", 1, "ann")
        view = await ended(outside, replay.id)
        assert (view.replayed, view.skipped, view.failed) == (1, 0, 0)
        assert sorted(run.workflow for run in (await settled(outside, late, runs=2)).runs) == ["greet", "late"]
        # The others have had their run of one subscription, and have it now of the one that came later.
        replay = await outside.bus.ask(asking())
        view = await ended(outside, replay.id)
        assert (view.total, view.replayed, view.skipped, view.failed) == (4, 3, 1, 0)
        for id_ in ids:
            assert sorted(run.workflow for run in (await settled(outside, id_, runs=2)).runs) == ["greet", "late"]
        replay = await outside.bus.ask(asking(everything=True))
        assert (await ended(outside, replay.id)).replayed == 4
        await settled(outside, late, runs=4)


async def test_a_replay_is_narrowed_by_time_source_status_and_type(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        one = await outside.source()
        other = await outside.source("other")
        first = await unwanted(outside, 2, one)
        between = rfc3339(utc_now())
        second = await unwanted(outside, 2, other)
        for narrowed, wanted in (
            ({"until": between}, first),
            ({"since": between}, second),
            ({"source": "other"}, second),
            ({"source": one.id, "type": "push"}, first),
            ({"type": "pull"}, []),
            ({"status": "routed"}, []),
            ({"status": "held"}, []),
            ({}, first + second),
        ):
            before = await accepted(place)
            replay: ReplayView = await bus.ask(asking(everything=True, **narrowed))
            assert replay.total == len(wanted)
            view = await ended(outside, replay.id)
            assert view.replayed == len(wanted)
            # The oldest first.
            assert (await accepted(place))[len(before) :] == wanted, narrowed
            await asyncio.gather(*(outside.delivery(id_, "filtered") for id_ in first + second))


async def test_a_replay_keeps_to_its_rate_and_shows_its_progress(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        await unwanted(outside, 12)
        began = asyncio.get_running_loop().time()
        replay: ReplayView = await bus.ask(asking(everything=True, rate=4.0))
        seen = set()

        async def done() -> bool:
            view: ReplayView = await bus.ask(GetReplay(org="default", id=replay.id))
            seen.add(view.replayed)
            return view.status == "done"

        await eventually(done)
        # Those of the first second at once, the rest a second's at a time.
        assert asyncio.get_running_loop().time() - began >= 2.0
        assert {4, 8, 12} <= seen


async def test_a_replay_that_is_killed_goes_on_and_routes_none_twice(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        ids = await unwanted(outside, 5)
    dying = replays.Replayer._replay
    died = asyncio.Event()

    async def killed(self: Any, delivery: Any, replay: Any) -> str:
        counted = await dying(self, delivery, replay)
        if delivery["id"] == ids[2] and not died.is_set():
            died.set()
            raise RuntimeError("killed: it was routed, and that is not recorded yet")
        return counted

    monkeypatch.setattr(replays.Replayer, "_replay", killed)
    async with bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        async with running(place, "events"):
            replay: ReplayView = await bus.ask(asking(everything=True))
            await died.wait()
        async with running(place, "events"):
            view = await ended(outside, replay.id)
            assert (view.total, view.replayed, view.failed) == (5, 5, 0)
            assert await accepted(place) == ids + ids


async def test_a_replay_that_cannot_go_on_delays_no_other_one_and_goes_on_later(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, tries, mended = replays.Replayer._replay, Counter[str](), asyncio.Event()

    async def away(self: Any, delivery: Any, replay: Any) -> str:
        tries[delivery["id"]] += 1
        if delivery["id"] == ids[1] and not mended.is_set():
            raise Unavailable("its adapter does not answer")
        if delivery["id"] == slow[0] and not mended.is_set():
            await mended.wait()
        return await once(self, delivery, replay)

    monkeypatch.setattr(replays.Replayer, "_replay", away)
    monkeypatch.setattr(replays, "AT_ONCE", 2)
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        sources = [await outside.source(name) for name in ("stuck", "slow")]
        theirs = await told(
            bus, putting("source", "repo", ring(place), org="other", adapter="github", settings={"secret": "s3cret"})
        )
        ids, slow = [await unwanted(outside, 3, one) for one in sources]
        other = await outside.webhook(theirs, {}, org="other")
        await outside.delivery(other, "filtered", org="other")
        stuck, hangs = [(await bus.ask(asking(everything=True, source=name))).id for name in ("stuck", "slow")]
        ends = (await bus.ask(asking(org="other", everything=True))).id
        assert (await ended(outside, ends, org="other")).replayed == 1

        async def recorded() -> bool:
            return bool((await bus.ask(GetReplay(org="default", id=stuck))).replayed == 1 and tries[ids[1]] == 2)

        await eventually(recorded)
        mended.set()
        for id_ in (stuck, hangs):
            assert (await ended(outside, id_)).replayed == 3
        # Of what was done before the obstacle nothing is done again.
        assert (tries[ids[0]], tries[ids[2]]) == (1, 1)


async def test_a_replay_is_cancelled_for_good_and_its_command_begins_one(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus, bus_of(place, "admin") as admin:
        outside = Outside(place, bus)
        await unwanted(outside, 6)
        asked = asking(everything=True, rate=1.0)
        replay, again = await bus.ask(asked), await bus.ask(asked)
        assert replay.id == again.id
        view: ReplayView = await bus.ask(CancelReplay(id=new_id(), org="default", actor="ann", replay=replay.id))
        assert view.status == "cancelled"
        assert (await ended(outside, replay.id, "cancelled")).replayed < 6
        with pytest.raises(Conflict, match="cancelled already"):
            await bus.ask(CancelReplay(id=new_id(), org="default", actor="ann", replay=replay.id))
        await asyncio.sleep(2.5)  # nothing tells that nothing more comes
        types = [one.envelope.type async for one in aggregate.history(admin.client, "replay", replay.id)]
        assert types.count("replay.requested") == 1
        assert types[-1] == "replay.ended"
        page: ReplayPage = await bus.ask(ListReplays(org="default", page=Page(limit=1)))
        assert [one.id for one in page.items] == [replay.id]
        for wrong in (GetReplay(org="other", id=replay.id), CancelReplay(id=new_id(), org="other", actor="x", replay=replay.id)):
            with pytest.raises(NotFound):
                await bus.ask(wrong)


async def test_what_cannot_be_replayed_is_counted_and_holds_nothing_up(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus, bus_of(place, "admin") as admin:
        outside = Outside(place, bus)
        source = await outside.source(adapter="hmac", settings={"event_path": "kind"})
        dead = await outside.webhook(source, {"ref": "main"})
        await outside.delivery(dead, "dead")
        gone = await outside.webhook(source, {"kind": "x"})
        await outside.delivery(gone, "filtered")
        await admin.client.jetstream().purge_stream("WEBHOOKS")
        later = await outside.webhook(source, {"kind": "x"})
        await outside.delivery(later, "filtered")
        replay: ReplayView = await bus.ask(asking(everything=True))
        view = await ended(outside, replay.id)
        assert (view.replayed, view.failed) == (1, 2)


async def test_replays_are_made_anew_from_their_stream(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        await unwanted(outside, 3)
        replay: ReplayView = await bus.ask(asking(everything=True))
        before = await ended(outside, replay.id)
    connection = await asyncpg.connect(place.database_url("events"))
    await connection.execute("TRUNCATE delivery, replay; DELETE FROM checkpoint WHERE projection <> 'catalog'")
    await connection.close()
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        assert await ended(Outside(place, bus), replay.id) == before


async def test_a_replay_that_does_not_fit_is_refused_with_its_field(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus, gateway(place) as client:
        with pytest.raises(Invalid, match="no source 'nowhere'"):
            await bus.ask(asking(source="nowhere"))
        with pytest.raises(Invalid, match="until is not after since"):
            await bus.ask(asking(until=BEGINNING))
        for body, path in (
            ({}, "since"),
            ({"since": "yesterday"}, "since"),
            ({"since": BEGINNING, "rate": 0}, "rate"),
            ({"since": BEGINNING, "rate": 501}, "rate"),
            ({"since": BEGINNING, "status": "lost"}, "status"),
            ({"since": BEGINNING, "what": 1}, "what"),
        ):
            got = await client("POST", "/api/v1/deliveries/replay", json=body)
            assert (got.status, [path in one["path"] for one in got.json["errors"]]) == (422, [True]), (body, got.json)
        outside = Outside(place, bus)
        await unwanted(outside, 2)
        since = rfc3339(utc_now() - timedelta(hours=1))
        for _ in range(replays.MOST_RUNNING):
            got = await client("POST", "/api/v1/deliveries/replay", json={"since": since, "rate": 0.01})
            assert (got.status, got.headers["Location"]) == (202, f"/api/v1/replays/{got.json['id']}")
        assert (await client("POST", "/api/v1/deliveries/replay", json={"since": since})).status == 409
        one = got.json["id"]
        assert (await client("GET", f"/api/v1/replays/{one}")).json["rate"] == 0.01
        assert (await client("POST", f"/api/v1/replays/{one}/cancel")).json["status"] == "cancelled"
        assert len((await client("GET", "/api/v1/replays")).json["items"]) == replays.MOST_RUNNING


async def test_those_that_begin_at_the_same_time_are_counted_too(place: Place) -> None:
    async with running(place, "events"), running(place, "events"), bus_of(place, "gateway") as bus:
        await unwanted(Outside(place, bus), 2)
        every = [asking(rate=0.01) for _ in range(4 * replays.MOST_RUNNING)]
        begun = await asyncio.gather(*(bus.ask(one) for one in every), bus.ask(every[0]), return_exceptions=True)
        admitted = {one.id for one in begun if isinstance(one, ReplayView)}
        assert len(admitted) == replays.MOST_RUNNING
        assert all(isinstance(one, ReplayView | Conflict) for one in begun), begun
        # Asked once more, one that has begun is no other.
        again = next(one for one in every if one.id in admitted)
        assert (await bus.ask(again)).id == again.id


def test_progress_says_where_it_is() -> None:
    made = ReplayProgressed(replay="r", after=BEGINNING, after_id="d", replayed=3)
    assert replays._counts("r", made, {}) == replays.ReplayCounts(replay="r", after=BEGINNING, after_id="d", replayed=3)  # type: ignore[arg-type]
