"""Held events, from the topic to the end of their runs: in order, at a rate, after a pause; killed, rebuilt, twice and late."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.event import listen

from services.events.holding import plan, releasing, room, state
from services.events.holding.looks import EACH
from services.events.holding.releasing import Releaser
from services.events.parts import Events
from shared import aggregate
from shared.bus import Bus
from shared.db import open_engine, transaction
from shared.envelope import new_id, rfc3339, utc_now
from shared.errors import NotFound, Unavailable
from shared.messages import EventAccepted, EventHeld, RunRequested, TimerSet
from shared.questions.events import EmitEvent, ListHeld, RetryDelivery
from shared.questions.workflows import WorkflowEntry
from tests.integration.test_sweeping import lost
from tests.support.inside import bus_of, eventually, running
from tests.support.programs import started_service
from tests.support.resources import putting, removing, told
from tests.support.river import Outside, river, sandbox_settings
from tests.support.servers import Place

TAKE = b"""
import os
import time

from millrace import workflow


def mark(folder: str, key: str, text: str) -> None:
    with open(f"{folder}/{key}", "a") as file:
        file.write(text)


@workflow
def take(folder: str, key: str, n: int, waits: bool = False, fail: bool = False) -> int:
    mark(folder, key, f"<{n}")
    while waits and not os.path.exists(f"{folder}/go"):
        time.sleep(0.01)
    if fail and not os.path.exists(f"{folder}/mended"):
        raise ValueError("not yet")
    mark(folder, key, f"{n}>")
    return n
"""
INPUT = {
    "folder": "event.data.folder",
    "key": "event.data.key",
    "n": "event.data.n",
    "waits": {"$path": "event.data.waits", "$default": False},
    "fail": {"$path": "event.data.fail", "$default": False},
}


async def begin(outside: Outside, **fields: Any) -> Any:
    """Make a topic `orders` with one subscription."""
    await told(outside.bus, putting("source", "orders", outside._keyring, adapter="topic"))
    await outside.put_file("take.py", TAKE)
    return await told(
        outside.bus, putting("subscription", "take", source="orders", event="*", workflow="take", input=INPUT, **fields)
    )


async def emit(outside: Outside, folder: Path, n: int, key: str = "a", **data: Any) -> str:
    given = {"folder": str(folder), "key": key, "n": n} | data
    command = EmitEvent(id=new_id(), org="default", actor="test", source="orders", type="it", data=given)
    return str((await outside.bus.ask(command)).delivery)


async def requests(outside: Outside) -> list[tuple[RunRequested, datetime]]:
    """Return every request of a run that there is on the bus, in order."""
    found = []
    count = (await outside.bus.client.jetstream().stream_info("RUNS")).state.last_seq
    for sequence in range(1, count + 1):
        stored = await aggregate.stored_at(outside.bus.client, "RUNS", sequence)
        message = None if stored is None else stored.message()
        if stored is not None and isinstance(message, RunRequested):
            found.append((message, stored.envelope.time))
    return found


def marks(folder: Path, key: str = "a") -> str:
    with contextlib.suppress(FileNotFoundError):
        return (folder / key).read_text()
    return ""


async def taken(outside: Outside, deliveries: list[str], status: str = "routed") -> list[Any]:
    views = [await outside.delivery(one, status) for one in deliveries]
    return [await outside.run(view.runs[-1].id, "succeeded") for view in views]


@asynccontextmanager
async def table(place: Place) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(place.database_url("events"))
    try:
        yield connection
    finally:
        await connection.close()


async def test_events_of_one_key_run_one_after_the_other_and_others_beside_them(
    place: Place, data: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups_of, asked = state.groups_of, list[Any]()

    async def counted(connection: Any, runs: Any) -> Any:
        asked.append(runs)
        return await groups_of(connection, runs)

    monkeypatch.setattr(state, "groups_of", counted)
    async with river(place, data) as outside:
        await begin(outside)
        await taken(outside, [await emit(outside, shared_folder, 8, key="c")])
        # Nothing is asked about the end of a run where no subscription holds anything.
        assert asked == []
        ordered = {"ordering": "key", "key": "event.data.key"}
        await told(outside.bus, putting("subscription", "take", patch=True, **ordered))
        deliveries = [await emit(outside, shared_folder, n, waits=n == 0) for n in range(5)]
        beside = await emit(outside, shared_folder, 7, key="b")
        view = await outside.delivery(deliveries[4], "held")
        assert view.reason == 'take holds it with others of the key "a"'
        await taken(outside, [beside])
        assert marks(shared_folder, "b") == "<77>"
        assert marks(shared_folder) == "<0"
        (shared_folder / "go").touch()
        await taken(outside, deliveries)
        assert marks(shared_folder) == "<00><11><22><33><44>"
        assert asked
        async with table(place) as connection:
            assert await connection.fetch("SELECT * FROM held") == []


async def test_events_that_were_received_first_go_first_however_late_they_are_routed(
    place: Place, data: Path, shared_folder: Path
) -> None:
    async with river(place, data) as outside, bus_of(place, "events") as events:
        subscription = await begin(outside, ordering="source")
        first = await emit(outside, shared_folder, 0, waits=True)
        await outside.delivery(first, "routed")
        source = subscription.source
        moment = datetime.now(UTC).replace(microsecond=0)
        deliveries = []
        # Stored in another order than received: as several handlers, and several replicas, may.
        for n, second in ((3, 3), (1, 1), (2, 2)):
            delivery, at = new_id(), rfc3339(moment.replace(year=2026, microsecond=second))
            given = {"folder": str(shared_folder), "key": "a", "n": n}
            event = EventAccepted(
                source=source, source_name="orders", event=new_id(), delivery=delivery, type="it", headers={}, received_at=at,
                data=given,
                emitted_by="test",
            )  # fmt: skip
            await events.publish(events.seal(event, org="default"))
            deliveries.append(delivery)
        for one in deliveries:
            await outside.delivery(one, "held")
        (shared_folder / "go").touch()
        await taken(outside, [first, *deliveries])
        assert marks(shared_folder) == "<00><11><22><33>"


async def test_a_failed_run_holds_up_those_behind_it_only_where_that_is_asked_for(
    place: Place, data: Path, shared_folder: Path
) -> None:
    async with river(place, data) as outside:
        await begin(outside, ordering="key", key="event.data.key", on_failure="block")
        first = await emit(outside, shared_folder, 1, fail=True)
        behind = [await emit(outside, shared_folder, n) for n in (2, 3)]
        [run] = (await outside.delivery(first, "routed")).runs
        await outside.run(run.id, "failed")
        other = await emit(outside, shared_folder, 9, key="b")
        await taken(outside, [other])
        for one in behind:
            assert (await outside.delivery(one, "held")).runs == []
        (shared_folder / "mended").touch()
        await outside.recorded(run.id, "failed")
        [waits] = await outside.bus.ask(ListHeld(org="default", name="take"))
        assert (waits.key, waits.events, waits.run, waits.status, waits.delivery) == ('"a"', 2, run.id, "failed", first)
        with pytest.raises(NotFound):
            await outside.bus.ask(ListHeld(org="other", name="take"))
        await outside.bus.ask(RetryDelivery(id=new_id(), org="default", actor="test", delivery=first))
        await taken(outside, behind)
        assert marks(shared_folder) == "<1<11><22><33>"
        # And where nobody asked for it, they go on.
        (shared_folder / "mended").unlink()
        await told(outside.bus, putting("subscription", "take", patch=True, on_failure=None))
        bad = await emit(outside, shared_folder, 4, fail=True)
        good = await emit(outside, shared_folder, 5)
        await taken(outside, [good])
        await outside.run((await outside.delivery(bad, "routed")).runs[0].id, "failed")
        assert marks(shared_folder).endswith("<4<55>")


async def test_a_blocked_group_is_let_go_by_changing_the_subscription(place: Place, data: Path, shared_folder: Path) -> None:
    async with river(place, data) as outside:
        await begin(outside, ordering="source", on_failure="block")
        first = await emit(outside, shared_folder, 1, fail=True)
        behind = await emit(outside, shared_folder, 2)
        await outside.run((await outside.delivery(first, "routed")).runs[0].id, "failed")
        await outside.delivery(behind, "held")
        await told(outside.bus, putting("subscription", "take", patch=True, on_failure="continue"))
        await taken(outside, [behind])


async def test_of_a_debounced_key_the_last_event_runs_alone(
    place: Place, data: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, held = Releaser._look, asyncio.Event()

    async def looked(self: Releaser, of: Any, now: datetime) -> None:
        await held.wait()
        await look(self, of, now)

    monkeypatch.setattr(Releaser, "_look", looked)
    async with river(place, data) as outside:
        await begin(outside, key="event.data.key", debounce=0.5)
        deliveries = [await emit(outside, shared_folder, n) for n in range(6)]
        other = await emit(outside, shared_folder, 9, key="b")
        # All have come, however long that took, before the first look.
        for one in (*deliveries, other):
            await outside.delivery(one, "held")
        held.set()
        await taken(outside, [deliveries[-1], other])
        assert (marks(shared_folder), marks(shared_folder, "b")) == ("<55>", "<99>")
        for one in deliveries[:-1]:
            view = await outside.delivery(one, "filtered")
            assert "superseded by event" in (view.reason or "")
        again = await emit(outside, shared_folder, 6)
        await taken(outside, [again])
        assert marks(shared_folder) == "<55><66>"
        assert len(await requests(outside)) == 3


async def test_runs_of_a_key_are_no_more_than_its_rate(place: Place, data: Path, shared_folder: Path) -> None:
    async with river(place, data) as outside:
        await begin(outside, key="event.data.key", rate=2, burst=2)
        deliveries = [await emit(outside, shared_folder, n) for n in range(5)]
        other = await emit(outside, shared_folder, 9, key="b")
        await taken(outside, [*deliveries, other])
        asked = [at for one, at in await requests(outside) if one.input["key"] == "a"]
        assert [one.input["n"] for one, _ in await requests(outside) if one.input["key"] == "a"] == list(range(5))
        assert (asked[4] - asked[0]).total_seconds() > 1.3


async def test_what_a_removed_subscription_holds_is_filtered(place: Place, data: Path, shared_folder: Path) -> None:
    async with river(place, data) as outside:
        await begin(outside, debounce=3600)
        delivery = await emit(outside, shared_folder, 1)
        await outside.delivery(delivery, "held")
        await outside.bus.ask(removing("subscription", "take"))
        view = await outside.delivery(delivery, "filtered")
        assert view.reason == "the subscription was removed while it held this event"
        # A retry of what is held is no second one.
        await told(
            outside.bus, putting("subscription", "take", source="orders", event="*", workflow="take", input=INPUT, debounce=3600)
        )
        delivery = await emit(outside, shared_folder, 2)
        await outside.delivery(delivery, "held")
        with pytest.raises(Exception, match="no run of delivery"):
            await outside.bus.ask(RetryDelivery(id=new_id(), org="default", actor="test", delivery=delivery))


async def test_a_key_without_a_value_is_unroutable(place: Place, data: Path, shared_folder: Path) -> None:
    async with river(place, data) as outside:
        await begin(outside, ordering="key", key="event.data.order.id")
        view = await outside.delivery(await emit(outside, shared_folder, 1), "unroutable")
        assert (view.reason or "").startswith("the key has no value: ")


async def test_messages_that_come_twice_and_looks_that_are_cut_off_start_each_run_once(
    place: Place, data: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, cut = Releaser._publish, Counter[str]()

    async def cut_off(self: Releaser, decision: Any, *args: Any) -> int:
        result = await ended(self, decision, *args)
        if decision.released and cut["cut"] < 4:
            cut["cut"] += 1
            raise Unavailable("cut off")
        return result

    monkeypatch.setattr(Releaser, "_publish", cut_off)
    async with river(place, data) as outside, bus_of(place, "events") as events:
        await begin(outside, ordering="key", key="event.data.key", rate=100)
        deliveries = [await emit(outside, shared_folder, n) for n in range(4)]
        await taken(outside, deliveries)
        assert cut["cut"] == 4
        assert marks(shared_folder) == "<00><11><22><33>"
        # The broker remembers no id for ever: all that was held is held again, and a timer comes that nobody set.
        count = (await events.client.jetstream().stream_info("EVENTS")).state.last_seq
        again = [await aggregate.stored_at(events.client, "EVENTS", sequence) for sequence in range(1, count + 1)]
        for one in again:
            message = None if one is None else one.message()
            if one is not None and isinstance(message, EventHeld):
                await events.publish(events.seal(message, org="default", cause=one.envelope, id=new_id()))
                timer = TimerSet(key=f"held-{message.held_group}", owner="events", at=rfc3339(utc_now()))
                await events.publish(events.seal(timer, org="default"))
        last = await emit(outside, shared_folder, 9)
        await taken(outside, [last])
        assert marks(shared_folder) == "<00><11><22><33><99>"
        assert Counter(one.run for one, _ in await requests(outside)).most_common(1)[0][1] == 1


async def test_what_is_held_is_rebuilt_from_the_stream(place: Place, data: Path, shared_folder: Path) -> None:
    rows = "SELECT * FROM held ORDER BY event"
    groups = "SELECT * FROM held_group ORDER BY id"
    async with table(place) as connection:
        async with river(place, data) as outside:
            await begin(outside, key="event.data.key", rate=0.01, burst=2)
            deliveries = [await emit(outside, shared_folder, n, key=key) for key in "ab" for n in range(4)]
            await taken(outside, [*deliveries[:2], *deliveries[4:6]])
            for one in (*deliveries[2:4], *deliveries[6:]):
                await outside.delivery(one, "held")
        before = await connection.fetch(rows), await connection.fetch(groups)
        assert (len(before[0]), len(before[1])) == (4, 2)
        await connection.execute("TRUNCATE held, held_group, delivery")
        await connection.execute("UPDATE checkpoint SET last_seq = 0 WHERE projection IN ('events', 'webhooks', 'held')")
        async with river(place, data) as outside:

            async def rebuilt() -> bool:
                return bool((await connection.fetch(rows), await connection.fetch(groups)) == before)

            await eventually(rebuilt)
            for one in (*deliveries[2:4], *deliveries[6:]):
                await outside.delivery(one, "held")
            assert len(await requests(outside)) == 4
            await told(outside.bus, putting("subscription", "take", patch=True, rate=None, burst=None, key=None))
            await taken(outside, deliveries)
            assert len(await requests(outside)) == 8


async def test_a_timer_that_was_lost_is_made_up_for(
    place: Place, data: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releasing, "fired_for", lambda _owner: "timer.*.fired.nobody-of-these")
    async with (
        running(place, "executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings()),
        bus_of(place, "gateway") as bus,
    ):
        outside = Outside(place, bus)
        monkeypatch.setattr(Releaser, "_fired", Releaser._held)
        async with running(place, "events"):
            await begin(outside, debounce=0.5)
            await taken(outside, [await emit(outside, shared_folder, 1)])


async def test_killed_among_ordered_and_debounced_events_each_runs_once(place: Place, data: Path, shared_folder: Path) -> None:
    async with (
        running(place, "executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings()),
        bus_of(place, "gateway") as bus,
    ):
        outside = Outside(place, bus)
        async with started_service(place, "events") as first:
            await begin(outside, ordering="key", key="event.data.key")
            late = INPUT | {"key": {"$cel": "'late-' + event.data.key"}}
            await told(
                bus,
                putting(
                    "subscription",
                    "late",
                    source="orders",
                    event="*",
                    workflow="take",
                    input=late,
                    debounce=1.0,
                    key="event.data.key",
                ),
            )
            deliveries = [await emit(outside, shared_folder, n, key=key) for n in range(12) for key in "abc"]
            await eventually(lambda: some(shared_folder))
            first.kill()
            await first.wait()
        async with started_service(place, "events") as second:
            await asyncio.sleep(0.3)
            second.kill()
            await second.wait()
        async with running(place, "events"):
            # What was in the killed ones' hands is handed out again after half a minute.
            assert await eventually(lambda: all_routed(place, len(deliveries)), within=120, every=0.5)
            for one in deliveries:
                for run in (await outside.delivery(one, "routed")).runs:
                    await outside.run(run.id, "succeeded")
            in_order = "".join(f"<{n}{n}>" for n in range(12))
            for key in "abc":
                assert marks(shared_folder, key) == in_order
                # A debounce may have ended between two kills: each event has its run, or one that superseded it.
                assert marks(shared_folder, f"late-{key}").endswith("<1111>")
            asked = await requests(outside)
            assert Counter(one.run for one, _ in asked).most_common(1)[0][1] == 1
            views = [await outside.delivery(one, "routed") for one in deliveries]
            outcomes = Counter((taken.name, taken.status) for view in views for taken in view.subscriptions)
            assert outcomes["take", "routed"] == 36
            assert outcomes["late", "routed"] + outcomes["late", "filtered"] == 36
            assert len(asked) == 36 + outcomes["late", "routed"]


async def test_a_look_that_is_cut_off_between_a_run_and_its_record_starts_no_other_one(
    place: Place, data: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, look, held, cut, go_on = Bus.publish, Releaser._look, asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def looked(self: Releaser, of: Any, now: datetime) -> None:
        await (go_on if cut.is_set() else held).wait()
        await look(self, of, now)

    async def cut_off(self: Bus, sealed: Any, **given: Any) -> int:
        if sealed.envelope.type == "event.routed" and not cut.is_set():
            cut.set()
            raise RuntimeError("killed")
        return await publish(self, sealed, **given)

    async with river(place, data) as outside:
        await begin(outside, key="event.data.key", debounce=0.5)
        monkeypatch.setattr(Bus, "publish", cut_off)
        monkeypatch.setattr(Releaser, "_look", looked)
        first = [await emit(outside, shared_folder, n) for n in range(3)]
        for one in first:
            await outside.delivery(one, "held")
        held.set()
        await cut.wait()
        # In the meantime another one came.
        last = await emit(outside, shared_folder, 3)
        await outside.delivery(last, "held")
        go_on.set()
        await taken(outside, [first[-1], last])
        # Each once; which begins first is left open.
        assert sorted(marks(shared_folder)) == sorted("<22><33>")
        for one in first[:-1]:
            assert "superseded by event" in ((await outside.delivery(one, "filtered")).reason or "")
        assert sorted(one.input["n"] for one, _ in await requests(outside)) == [2, 3]


async def test_looks_at_one_organization_that_hang_delay_no_other(
    place: Place, data: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, hanging = Releaser._look, Counter[str]()

    async def hang(self: Releaser, of: Any, now: datetime) -> None:
        if of.org == "default":
            hanging[of.group] += 1
            await asyncio.Event().wait()
        await look(self, of, now)

    monkeypatch.setattr(Releaser, "_look", hang)
    async with river(place, data) as outside:
        await begin(outside, ordering="key", key="event.data.key")
        for key in "abcdef":
            await emit(outside, shared_folder, 1, key=key)

        async def all_places() -> bool:
            return len(hanging) == EACH

        await eventually(all_places)
        await told(outside.bus, putting("source", "orders", outside._keyring, org="other", adapter="topic"))
        await outside.put_file("take.py", TAKE, org="other")
        given = {"source": "orders", "event": "*", "workflow": "take", "input": INPUT, "ordering": "source"}
        await told(outside.bus, putting("subscription", "take", org="other", **given))
        data_ = {"folder": str(shared_folder), "key": "theirs", "n": 1}
        command = EmitEvent(id=new_id(), org="other", actor="test", source="orders", type="it", data=data_)
        theirs = (await outside.bus.ask(command)).delivery
        assert (await outside.delivery(str(theirs), "routed", org="other")).runs
        assert len(hanging) == EACH


async def test_what_waits_for_a_webhook_before_it_is_looked_at_again_ever_more_rarely(
    place: Place, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, ask, count = Releaser._look, Releaser._settled_before, Counter[str]()

    async def looked(self: Releaser, of: Any, now: datetime) -> None:
        count["looks"] += 1
        await look(self, of, now)

    async def asked(self: Releaser, source: str) -> Any:
        count["asked"] += 1
        return await ask(self, source)

    monkeypatch.setattr(Releaser, "_look", looked)
    monkeypatch.setattr(Releaser, "_settled_before", asked)
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        monkeypatch.setattr(Events, "workflow", a_workflow)
        source = await outside.source()
        given = {"ordering": "key", "key": "event.data.key", "input": {"key": "event.data.key"}}
        await outside.subscription(**given)
        before = await lost(outside, source)
        deliveries = [await outside.webhook(source, {"key": key}) for key in "abcde"]
        for one in deliveries:
            await outside.delivery(one, "held")
        count.clear()
        await asyncio.sleep(1)  # ten times as long as the first pause
        assert count["looks"] <= len(deliveries)
        assert count["asked"] <= 4
        await outside.bus.ask(RetryDelivery(id=new_id(), org="default", actor="test", delivery=before))

        async def gone() -> bool:
            return len(await requests(outside)) == len(deliveries)

        await eventually(gone)


async def a_workflow(_self: Any, org: str, name: str) -> WorkflowEntry:
    texts = dict.fromkeys(("module", "function", "path", "doc", "updated_at"), "")
    return WorkflowEntry(
        org=org, name=name, version="v", input_schema={}, line=1, timeout=60.0, retries=0, concurrency=None, **texts
    )


async def test_a_look_at_a_key_with_very_many_events_reads_few_of_them(place: Place) -> None:
    asked: list[Any] = []
    put = """
        INSERT INTO held
        SELECT 'e' || n, 's', 'n', 'w', 'o', 'src', 'd' || n, 0, 'group', 'k', now() + n * interval '1 ms', now(), n, 'o'
          FROM generate_series(1, 10000) AS n
    """
    engine = open_engine(place.database_url("events"), service="events")
    try:
        async with transaction(engine) as connection:
            await connection.execute(text(put))
            await connection.execute(text("ANALYZE held"))
            listen(engine.sync_engine, "before_cursor_execute", lambda *given: asked.append(given[2:4]))
            found = await state.read(connection, "group")
            assert found is not None
            assert (found[1].first[0].event, found[1].newest.event) == ("e1", "e10000")
            for statement, parameters in asked[:]:
                explained = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
                rows = re.findall(r"'Actual Rows': ([0-9.]+)", str(explained.scalar_one()))
                assert max(int(float(number)) for number in rows) <= plan.MOST_AT_ONCE, statement
    finally:
        await engine.dispose()


async def test_an_organization_has_a_bounded_number_of_events_held(
    place: Place, data: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MOST", 2)
    monkeypatch.setattr(room, "COUNTED_EVERY", 0.0)
    async with river(place, data) as outside:
        await begin(outside, debounce=3600)
        held = [await emit(outside, shared_folder, n) for n in range(2)]
        for one in held:
            await outside.delivery(one, "held")
        refused = await emit(outside, shared_folder, 2)
        view = await outside.delivery(refused, "unroutable")
        most = "subscriptions hold 2 events of organization 'default' already, which is the most"
        assert view.reason == f"{most}: retry this delivery when there are fewer"
        await told(outside.bus, putting("subscription", "take", patch=True, debounce=0.1))
        await taken(outside, held[1:])
        await eventually(lambda: nothing_is_held(place))
        await outside.bus.ask(RetryDelivery(id=new_id(), org="default", actor="test", delivery=refused))
        await taken(outside, [refused])


async def test_a_debounce_ends_though_more_than_a_look_takes_goes_on_coming(
    place: Place, data: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (plan, state):
        monkeypatch.setattr(module, "MOST_AT_ONCE", 3)
    async with river(place, data) as outside:
        await begin(outside, debounce=0.4, debounce_most=0.8)
        async with asyncio.timeout(60):
            while True:
                last = await emit(outside, shared_folder, 0)
                if await requests(outside):
                    break
                await asyncio.sleep(0.03)
        await taken(outside, [last])


async def all_routed(place: Place, number: int) -> bool:
    async with table(place) as connection:
        found = await connection.fetchrow("SELECT count(*) FILTER (WHERE outcome = 'routed') AS routed FROM delivery")
        return bool(found["routed"] == number) and await nothing_is_held(place)


async def nothing_is_held(place: Place) -> bool:
    async with table(place) as connection:
        return not await connection.fetchval("SELECT count(*) FROM held")


async def some(folder: Path) -> bool:
    return "<2" in marks(folder)
