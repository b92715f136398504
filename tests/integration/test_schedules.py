"""Schedules by the real broker and database: each time fires once, whatever happens to timers, processes and clocks."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from services.events.schedules import state
from shared import aggregate
from shared.envelope import derived_id, new_id, rfc3339, utc_now
from shared.errors import Conflict, Invalid, NotFound, Unavailable
from shared.messages import RunRequested, TimerSet
from shared.questions.events import AllFirings, ListDeliveries, NextFirings, RunSchedule
from tests.support.inside import bus_of, eventually, running
from tests.support.programs import started_service
from tests.support.resources import got, putting, removing, ring, told
from tests.support.river import Outside, river, sandbox_settings
from tests.support.servers import Place

TICK = b"""
from millrace import run, wait_for, workflow


@workflow
def tick(x: int = 0) -> int:
    return x


@workflow
def when() -> dict:
    return {"run": run.id, "at": run.scheduled_for and run.scheduled_for.isoformat()}


@workflow
def hold(x: int = 0) -> int:
    wait_for.sync("go", timeout=600)
    return x
"""
FAR = {"cron": "0 0 1 1 *", "workflow": "tick"}


async def requested(outside: Outside, by: str) -> list[RunRequested]:
    """Return the requests of a schedule's runs, in the order of their times."""
    stream = outside.bus.client.jetstream()
    info = await stream.stream_info("RUNS", subjects_filter="run.*.requested.*")
    found: list[RunRequested] = []
    for subject in info.state.subjects or {}:
        stored = await aggregate.first(outside.bus.client, "run", subject.split(".")[1])
        message = None if stored is None else stored.message()
        if isinstance(message, RunRequested) and message.requested_by == f"schedule:{by}":
            found.append(message)
    return sorted(found, key=lambda one: one.received_at or "")


async def firings(place: Place, id_: str) -> list[tuple[str, str]]:
    """Return the messages about the times of a schedule: how each ended, and the time, of missed ones the first."""
    found: dict[str, tuple[str, str]] = {}
    async with bus_of(place, "events") as events:
        async for one in aggregate.history(events.client, "firing", id_):
            message: Any = one.message()
            assert one.envelope.id not in found
            found[one.envelope.id] = (
                one.envelope.type.removeprefix("firing."),
                getattr(message, "scheduled_for", None) or message.first,
            )
    return list(found.values())


async def fired(outside: Outside, name: str, number: int) -> Any:
    async def claim() -> Any:
        return len(await requested(outside, name)) >= number

    await eventually(claim)
    return await got(outside.bus, "schedule", name)


def consecutive(runs: list[RunRequested], seconds: int = 1) -> bool:
    """Return whether no time is missing, and none is there twice."""
    times = [datetime.fromisoformat(one.received_at or "") for one in runs]
    return all(later - earlier == timedelta(seconds=seconds) for earlier, later in pairwise(times))


async def set_back(place: Place, id_: str, by: timedelta) -> None:
    """Have a schedule be as it was so long ago: as if nothing had run since, and its timer had been lost."""
    connection = await asyncpg.connect(place.database_url("events"))
    try:
        set_ = "(handled_until, next_at) = (handled_until - $2::interval, next_at - $2::interval)"
        await connection.execute(f"UPDATE schedule_state SET {set_} WHERE id = $1", id_, by)
    finally:
        await connection.close()


async def test_an_interval_fires_once_for_each_of_its_times_until_it_is_switched_off(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("tick.py", TICK)
        made = await told(outside.bus, putting("schedule", "often", every=1, workflow="tick", input={"x": 7}, overlap="allow"))
        assert made.next_at is not None
        shown = await fired(outside, "often", 4)
        runs = await requested(outside, "often")
        assert consecutive(runs)
        assert [one.run for one in runs] == [derived_id(derived_id(made.id, one.received_at or ""), "run") for one in runs]
        assert (await outside.run(runs[0].run, "succeeded")).result == 7
        assert (shown.last["outcome"], shown.declared_by) == ("fired", None)
        expected = [("fired", one.received_at) for one in runs]

        async def recorded() -> bool:
            return (await firings(place, made.id))[: len(runs)] == expected

        await eventually(recorded)
        await told(outside.bus, putting("schedule", "often", enabled=False, patch=True))
        assert (await got(outside.bus, "schedule", "often")).next_at is None
        # What was due before is fired; after that nothing is.
        await asyncio.sleep(1.5)
        left = await requested(outside, "often")
        await asyncio.sleep(2.5)
        assert await requested(outside, "often") == left
        await outside.bus.ask(removing("schedule", "often"))
        with pytest.raises(NotFound):
            await outside.bus.ask(NextFirings(org="default", name="often"))


async def test_two_replicas_and_timers_too_many_fire_each_time_once(place: Place, data: Path) -> None:
    async with river(place, data) as outside, running(place, "events"), bus_of(place, "events") as events:
        await outside.put_file("tick.py", TICK)
        made = await told(outside.bus, putting("schedule", "often", every=1, workflow="tick", overlap="allow"))
        for number in range(12):
            # Late ones, repeated ones and early ones, which take the place of the right one.
            at = utc_now() + timedelta(seconds=(-3600, -1, 0.3, 2)[number % 4])
            await events.publish(events.seal(TimerSet(key=made.id, owner="events", at=rfc3339(at)), org="default"))
            await asyncio.sleep(0.25)
        await fired(outside, "often", 5)
        assert consecutive(await requested(outside, "often"))


async def test_a_replica_that_is_killed_at_a_time_of_a_schedule_loses_and_repeats_none(place: Place, data: Path) -> None:
    async with (
        running(place, "executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings()),
        bus_of(place, "gateway") as bus,
        started_service(place, "events") as first,
    ):
        outside = Outside(place, bus)
        await outside.put_file("tick.py", TICK)
        spec = {"every": 1, "workflow": "tick", "overlap": "allow", "catch_up": "none"}
        await told(bus, putting("schedule", "often", **spec))
        await fired(outside, "often", 2)
        async with started_service(place, "events"):
            # The first replica is the one that follows; it dies while a time is due, and within it.
            await asyncio.sleep(1 - utc_now().microsecond / 1e6 + 0.004)
            first.kill()
            await first.wait()
            number = len(await requested(outside, "often"))
            await fired(outside, "often", number + 4)
            runs = await requested(outside, "often")
            assert consecutive(runs)
            assert len({one.received_at for one in runs}) == len(runs)


async def test_a_look_that_is_cut_off_is_done_again_and_loses_and_repeats_nothing(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, cut = state.write, 0

    async def cut_off(connection: Any, id_: str, after: Any) -> None:
        nonlocal cut
        if after.last is not None and cut < 4:
            cut += 1
            raise Unavailable("cut off")
        await written(connection, id_, after)

    monkeypatch.setattr(state, "write", cut_off)
    async with river(place, data) as outside:
        await outside.put_file("tick.py", TICK)
        await told(outside.bus, putting("schedule", "often", every=1, workflow="tick", overlap="allow"))
        await fired(outside, "often", 6)
        assert cut == 4
        assert consecutive(await requested(outside, "often"))


async def test_after_an_outage_what_was_missed_is_made_up_for_as_the_schedule_has_it(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("tick.py", TICK)
        # Half an hour from now, and so never within this test but where the clock is set back.
        minute = (utc_now() + timedelta(minutes=30)).minute
        ids: dict[str, str] = {}
        for catch_up in ("none", "one", "all"):
            spec = {"cron": f"{minute} * * * *", "workflow": "tick", "catch_up": catch_up, "overlap": "allow"}
            made = await told(outside.bus, putting("schedule", catch_up, **spec))
            await eventually(lambda id_=made.id: seen(place, id_))  # type: ignore[misc]
            ids[catch_up] = made.id
            await set_back(place, made.id, timedelta(hours=5))
        await fired(outside, "all", 5)
        await fired(outside, "one", 1)
        for name, number in (("all", 5), ("one", 2), ("none", 1)):

            async def recorded(id_: str = ids[name], number: int = number) -> bool:
                return len(await firings(place, id_)) >= number

            await eventually(recorded)
        assert consecutive(await requested(outside, "all"), 3600)
        # What was not made up for has a message, too.
        missed = (await requested(outside, "all"))[0].received_at
        assert (await firings(place, ids["one"]))[0] == ("missed", missed)
        assert await firings(place, ids["none"]) == [("missed", missed)]
        assert [outcome for outcome, _ in await firings(place, ids["all"])] == ["fired"] * 5
        found = {name: len(await requested(outside, name)) for name in ("none", "one", "all")}
        assert found == {"none": 0, "one": 1, "all": 5}
        [one] = await requested(outside, "one")
        assert one.received_at == (await requested(outside, "all"))[-1].received_at


async def test_a_schedule_that_was_switched_off_makes_up_for_nothing(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("tick.py", TICK)
        spec = {"every": 1, "workflow": "tick", "catch_up": "all", "overlap": "allow"}
        made = await told(outside.bus, putting("schedule", "paused", enabled=False, **spec))
        await asyncio.sleep(3)
        begun = utc_now()
        await told(outside.bus, putting("schedule", "paused", enabled=True, patch=True))
        await fired(outside, "paused", 2)
        assert all(
            datetime.fromisoformat(one.received_at or "") > begun - timedelta(seconds=0.1)
            for one in await requested(outside, made.name)
        )


async def test_runs_that_overlap_are_skipped_queued_replaced_or_allowed(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("tick.py", TICK)

        async def run(name: str) -> str:
            answer = await outside.bus.ask(RunSchedule(id=new_id(), org="default", actor="test", name=name))
            assert answer.run is not None
            return str(answer.run)

        first: dict[str, str] = {}
        for overlap in ("skip", "queue", "replace", "allow"):
            made = await told(outside.bus, putting("schedule", overlap, **(FAR | {"workflow": "hold", "overlap": overlap})))
            await eventually(lambda id_=made.id: seen(place, id_))  # type: ignore[misc]
            first[overlap] = await run(overlap)
            await outside.run(first[overlap], "waiting")
        with pytest.raises(Conflict, match=f"run {first['skip']} goes on"):
            await run("skip")
        skipping = await got(outside.bus, "schedule", "skip")
        assert skipping.last["outcome"] == "skipped"
        queued, allowed, newest = await run("queue"), await run("allow"), await run("replace")
        assert (await outside.run(newest, "waiting")).status == "waiting"
        await outside.run(first["replace"], "cancelled")
        await outside.run(allowed, "waiting")
        assert "run.started" not in await outside.types(queued)
        await outside.signal(first["queue"], "go")
        await outside.run(first["queue"], "succeeded")
        await outside.signal(first["skip"], "go")
        await outside.run(first["skip"], "succeeded")
        await run("skip")

        async def begun() -> bool:
            return "run.started" in await outside.types(queued)

        await eventually(begun)


async def test_a_topic_has_an_event_at_the_times_of_a_schedule(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("tick.py", TICK)
        await told(outside.bus, putting("source", "clock", ring(place), adapter="topic", settings={}))
        await outside.subscription(source="clock", event="minute", workflow="tick", input={"x": "event.data.x"})
        spec = {"every": 1, "source": "clock", "event": "minute", "input": {"x": 3}}
        await told(outside.bus, putting("schedule", "beat", **spec))

        async def routed() -> Any:
            found = (await outside.bus.ask(ListDeliveries(org="default", source="clock", status="routed"))).items
            return found if len(found) >= 3 else None

        found: Any = await eventually(routed)
        assert (await outside.run(found[-1].runs[0].id, "succeeded")).result == 3
        assert (await got(outside.bus, "schedule", "beat")).last["delivery"]
        await outside.bus.ask(removing("subscription", "on-push"))
        with pytest.raises(Conflict, match="schedules refer to source 'clock', remove them first: beat"):
            await outside.bus.ask(removing("source", "clock"))


async def test_what_cannot_fire_is_shown_and_keeps_nobody_from_firing(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("tick.py", TICK)
        await told(outside.bus, putting("schedule", "lost", every=1, workflow="nowhere"))
        await told(outside.bus, putting("schedule", "misfit", every=1, workflow="tick", input={"x": "seven"}))
        await told(outside.bus, putting("schedule", "sound", every=1, workflow="tick"))
        await fired(outside, "sound", 3)
        lost, misfit = [(await got(outside.bus, "schedule", name)).last for name in ("lost", "misfit")]
        assert (lost["outcome"], lost["reason"]) == ("failed", "there is no workflow 'nowhere'")
        assert misfit["reason"].startswith("the input does not fit tick: x")
        with pytest.raises(Invalid, match="there is no workflow"):
            await outside.bus.ask(RunSchedule(id=new_id(), org="default", actor="test", name="lost"))


async def test_a_schedule_that_says_too_little_or_too_much_is_refused_by_the_field(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.source("repo")
        for field, given in (
            ("cron", {"workflow": "tick"}),
            ("cron", {"cron": "* * * * *", "every": 5, "workflow": "tick"}),
            ("cron", {"cron": "* * * *", "workflow": "tick"}),
            ("cron", {"cron": "0 25 * * *", "workflow": "tick"}),
            ("timezone", FAR | {"timezone": "Mars/Olympus"}),
            ("timezone", FAR | {"timezone": "localtime"}),
            ("timezone", FAR | {"timezone": "Factory"}),
            ("cron,timezone", {"cron": "* * * *", "timezone": "Mars/Olympus", "workflow": "tick"}),
            ("workflow", {"every": 5}),
            ("workflow", FAR | {"source": "repo", "event": "x"}),
            ("event", {"every": 5, "source": "repo"}),
            ("event", {"every": 5, "source": "repo", "event": "a b"}),
            ("source", {"every": 5, "source": "repo", "event": "x"}),
            ("every", {"every": 0, "workflow": "tick"}),
            ("overlap", FAR | {"overlap": "maybe"}),
            ("input", FAR | {"input": {"x": "y" * 300_000}}),
        ):
            with pytest.raises(Invalid) as caught:
                await outside.bus.ask(putting("schedule", "wrong", **given))
            assert [one.path for one in caught.value.errors] == field.split(","), given
        await outside.put_file("tick.py", TICK)
        yearly = FAR | {"timezone": "Europe/Vienna"}

        async def heard() -> bool:
            return bool((await told(outside.bus, putting("schedule", "yearly", **yearly))).warnings == [])

        await eventually(heard)
        [warning] = (await told(outside.bus, putting("schedule", "typo", **(yearly | {"workflow": "tikc"})))).warnings
        assert warning == {"path": "workflow", "message": "there is no workflow 'tikc' yet; did you mean 'tick'?"}
        times = await outside.bus.ask(NextFirings(org="default", name="yearly", n=2))
        assert [one.local[4:] for one in times] == ["-01-01T00:00:00+01:00"] * 2


async def test_the_schedules_of_an_organization_come_so_often_at_most(place: Place, data: Path) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        often = {"every": 1, "workflow": "nowhere"}
        await told(bus, putting("schedule", "off", enabled=False, **often))
        for number in range(20):
            await told(bus, putting("schedule", f"each-{number}", **often))
        for name, refused in (("more", often), ("more", often | {"every": 59}), ("off", often)):
            with pytest.raises(Invalid, match=r"every: the schedules of default would come 1,2[0-9]+ times a minute together"):
                await bus.ask(putting("schedule", name, **refused))
        await told(bus, putting("schedule", "each-0", input={"x": 1}, **often))
        await told(bus, putting("schedule", "each-1", **(often | {"every": 2})))
        await told(bus, putting("schedule", "more", **(often | {"every": 2})))
        planned = {one.schedule: one for one in await bus.ask(AllFirings(org="default", hours=1))}
        assert planned.keys() == {"more", *(f"each-{number}" for number in range(20))}
        assert all(one.more and len(one.times) > 50 for one in planned.values())


async def seen(place: Place, id_: str) -> bool:
    """Return whether a schedule was looked at."""
    connection = await asyncpg.connect(place.database_url("events"))
    try:
        return bool(await connection.fetchval("SELECT count(*) FROM schedule_state WHERE id = $1", id_))
    finally:
        await connection.close()


DECLARED = b"""
from millrace import workflow


@workflow(schedule={"every": 1, "input": {"x": 5}, "overlap": "allow"})
def beat(x: int) -> int:
    return x
"""


async def test_a_run_knows_the_time_that_it_is_for(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("tick.py", TICK)
        await told(outside.bus, putting("source", "clock", ring(place), adapter="topic", settings={}))
        await outside.subscription(source="clock", event="minute", workflow="when", input={})
        await told(outside.bus, putting("schedule", "straight", every=1, workflow="when"))
        by_events = await told(outside.bus, putting("schedule", "by-event", every=1, source="clock", event="minute"))
        await fired(outside, "straight", 2)
        for one in (await requested(outside, "straight"))[:2]:
            done = await outside.run(one.run, "succeeded")
            assert done.scheduled_for == one.scheduled_for == one.received_at
            result: Any = done.result
            assert result["run"] == one.run
            assert datetime.fromisoformat(result["at"]) == datetime.fromisoformat(one.scheduled_for or "")

        async def routed() -> Any:
            return (await outside.bus.ask(ListDeliveries(org="default", source="clock", status="routed"))).items

        found: Any = await eventually(routed)
        run = await outside.run(found[-1].runs[0].id, "succeeded")
        by_event: Any = run.result
        assert datetime.fromisoformat(by_event["at"]) == datetime.fromisoformat(run.scheduled_for or "")

        # The firing begins the chain.
        async def begun() -> bool:
            first = await aggregate.first(outside.bus.client, "firing", by_events.id)
            return first is not None and first.envelope.id == run.correlation_id

        await eventually(begun)
        by_hand = await outside.run(await outside.request("when"), "succeeded")
        assert by_hand.result == {"run": by_hand.id, "at": None}


async def test_a_time_at_which_a_schedule_cannot_fire_is_an_alert(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("tick.py", TICK)
        await outside.subscription(name="watch", source="millrace", event="millrace.schedule_failed", workflow="tick", input={})
        await told(outside.bus, putting("schedule", "lost", every=1, workflow="nowhere"))

        async def reported() -> Any:
            return (await outside.bus.ask(ListDeliveries(org="default", source="millrace", status="routed"))).items

        found: Any = await eventually(reported)
        assert found[-1].type == "millrace.schedule_failed"
        await told(outside.bus, putting("schedule", "lost", enabled=False, patch=True))


async def test_a_schedule_beside_the_code_comes_and_goes_with_it(place: Place, data: Path) -> None:
    async def there(outside: Outside, *, cron: str | None = None, every: int | None = None) -> bool:
        try:
            found = await got(outside.bus, "schedule", "beat")
        except NotFound:
            return False
        return bool((found.declared_by, found.cron, found.every) == ("beat", cron, every))

    async with river(place, data) as outside:
        await outside.put_file("beat.py", DECLARED)
        await eventually(lambda: there(outside, every=1))
        await fired(outside, "beat", 2)
        assert (await outside.run((await requested(outside, "beat"))[0].run, "succeeded")).result == 5
        # One that is wrong is a problem of its file, and the last good one goes on.
        wrong = await outside.put_file("beat.py", DECLARED.replace(b'"every": 1', b'"cron": "61 * * * *"'))
        assert [(one.path, one.line, one.message) for one in wrong.problems] == [
            ("beat.py", 5, "beat: schedule: bad minute in the cron expression '61 * * * *'")
        ]
        assert await there(outside, every=1)
        # Switched off by somebody it stays off; taken out of the code it is gone.
        await told(outside.bus, putting("schedule", "beat", enabled=False, patch=True))
        await outside.put_file("beat.py", DECLARED.replace(b'"every": 1', b'"cron": "0 9 * * MON"'))
        await eventually(lambda: there(outside, cron="0 9 * * MON"))
        assert not (await got(outside.bus, "schedule", "beat")).enabled
        await outside.put_file("beat.py", DECLARED[: DECLARED.index(b"(schedule")] + DECLARED[DECLARED.index(b"\ndef") :])

        async def gone() -> bool:
            try:
                await got(outside.bus, "schedule", "beat")
            except NotFound:
                return True
            return False

        await eventually(gone)


async def test_a_registration_that_is_read_again_puts_no_schedule_back(place: Place, data: Path) -> None:
    async def declares(outside: Outside, minute: int) -> None:
        async def put() -> bool:
            try:
                return bool((await got(outside.bus, "schedule", "beat")).cron == f"{minute} 0 1 1 *")
            except NotFound:
                return False

        await outside.put_file("beat.py", DECLARED.replace(b'"every": 1', b'"cron": "%d 0 1 1 *"' % minute))
        await eventually(put)

    async def read_again() -> None:
        connection = await asyncpg.connect(place.database_url("events"))
        last = "SELECT last_seq FROM checkpoint WHERE projection = 'declared-schedules'"
        try:
            before = await connection.fetchval(last)
            await connection.execute("UPDATE checkpoint SET last_seq = 0 WHERE projection = 'declared-schedules'")
            async with running(place, "events"):

                async def followed() -> bool:
                    return bool(await connection.fetchval(last) >= before)

                await eventually(followed)
        finally:
            await connection.close()

    async with (
        running(place, "executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings()),
        bus_of(place, "gateway") as bus,
    ):
        outside = Outside(place, bus)
        async with running(place, "events"):
            for minute in (1, 2, 3):
                await declares(outside, minute)
            await told(bus, putting("schedule", "beat", cron="9 0 1 1 *", patch=True))
            changed = await got(bus, "schedule", "beat")
            await asyncio.sleep(1.5)
        await read_again()
        async with running(place, "events"):
            assert (await got(bus, "schedule", "beat")).version == changed.version
            await declares(outside, 4)
            await bus.ask(removing("schedule", "beat"))
            await asyncio.sleep(1.5)
        await read_again()
        async with running(place, "events"):
            with pytest.raises(NotFound):
                await got(bus, "schedule", "beat")
            await declares(outside, 5)


async def test_a_schedule_that_waits_for_the_executor_holds_no_other_one_up(place: Place, data: Path) -> None:
    executor = running(place, "executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings())
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        async with executor:
            await outside.put_file("tick.py", TICK)
        # Nobody can tell whether these are there: more of them than are looked at together, and before the sound one.
        for number in range(5):
            await told(bus, putting("schedule", f"a-{number}", every=1, workflow="nowhere"))
        await told(bus, putting("schedule", "sound", every=1, workflow="tick", overlap="allow"))
        await fired(outside, "sound", 4)
        assert consecutive(await requested(outside, "sound"))
        assert [(await got(bus, "schedule", f"a-{number}")).last for number in range(5)] == [None] * 5
        async with running(place, "executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings()):

            async def failed() -> bool:
                return all([(await got(bus, "schedule", f"a-{number}")).last for number in range(5)])

            await eventually(failed)


async def test_a_schedule_that_was_put_is_not_taken_over_by_code(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await told(outside.bus, putting("schedule", "beat", cron="0 0 1 1 *", workflow="other"))
        await outside.put_file("beat.py", DECLARED)
        await outside.put_file("beat.py", DECLARED.replace(b"    return x", b"    return x + 1"))
        found = await got(outside.bus, "schedule", "beat")
        assert (found.workflow, found.declared_by) == ("other", None)


async def test_a_schedule_is_put_shown_and_fired_over_the_api(place: Place, data: Path) -> None:
    async with (
        river(place, data) as outside,
        running(place, "gateway", MILLRACE_PORT="0") as gateway,
        aiohttp.ClientSession() as session,
    ):
        await outside.put_file("tick.py", TICK)
        url = gateway.health.document()["url"]
        key = {"Authorization": f"Bearer {place.credentials.admin_key}"}

        async def call(method: str, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
            given = key | {name.replace("_", "-"): value for name, value in headers.items()}
            async with session.request(method, f"{url}/api/v1/schedules{path}", json=body, headers=given) as response:
                assert response.status == status, await response.text()
                return await response.json() if status != 204 else None

        spec = {"cron": " 30 2 * * * ", "timezone": "Europe/Vienna", "workflow": "tick", "enabled": False}
        made = await call("PUT", "/nightly", spec)
        assert (made["cron"], made["overlap"], made["catch_up"], made["next_at"]) == ("30 2 * * *", "skip", "one", None)
        times = (await call("GET", "/nightly/next?n=3"))["items"]
        assert [one["local"][11:19] for one in times] == ["02:30:00"] * 3
        assert len((await call("GET", "/nightly/next"))["items"]) == 5
        for wrong in ("0", "101", "many"):
            await call("GET", f"/nightly/next?n={wrong}", status=422)
        await call("GET", "/absent/next", status=404)
        await call("POST", "/absent/run", status=404)
        # The same request sent again is one run.
        one, again = [await call("POST", "/nightly/run", status=202, Idempotency_Key="k") for _ in range(2)]
        assert one == again
        assert (await outside.run(one["run"], "succeeded")).requested_by == "schedule:nightly"
        assert (await call("POST", "/nightly/run", status=202))["run"] != one["run"]
        assert (await call("GET", "/nightly"))["last"]["outcome"] == "fired"
        await call("DELETE", "/nightly", status=204)
