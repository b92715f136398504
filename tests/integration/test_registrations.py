"""Sources registered with their senders: made, renewed, made anew and removed, whatever the sender or a replica does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.event import listen

from services.events.registrations import plan, reconciling, rows, turn
from services.events.registrations.reconciling import Registrar
from shared import aggregate
from shared.bus import Bus
from shared.db import open_engine, transaction
from shared.envelope import rfc3339, utc_now
from shared.errors import Invalid
from shared.ordered_reader import OrderedReader
from shared.resources import KINDS
from shared.resources.declaration import ResourceChanged
from tests.integration.test_alerts import alerts
from tests.integration.test_gateway import gateway
from tests.support.inside import bus_of, eventually, running
from tests.support.registering import TOKEN, Acme, GitHub, Graph, SenderServer, Stripe, acme, github, graph
from tests.support.resources import got, putting, removing, ring, told
from tests.support.river import Outside, sandbox_settings
from tests.support.servers import Place

RESOURCE = "users/a1/messages"
BEGINNING = "2026-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(plan, "PASSING", (0.05, 0.2))
    monkeypatch.setattr(plan, "LASTING", (0.05, 0.2))
    monkeypatch.setattr(plan, "LEAST_LIFE", timedelta(0))


class Registered:
    """Sources of a place, and what became of their registrations."""

    def __init__(self, place: Place, bus: Bus, server: SenderServer, url: str) -> None:
        self.place = place
        self.bus = bus
        self.server = server
        self.url = url

    async def connect(self, org: str = "default", token: str = TOKEN, *, mapped: bool = True) -> None:
        """Give an organization an integration, a mapping and a connection."""
        await told(self.bus, putting("connection", "tenant", ring(self.place), org=org, token=token))
        await told(self.bus, putting("integration", "sender", org=org))
        if mapped:
            await self.map(org)

    async def map(self, org: str = "default") -> None:
        """Have the integration's mapping name the connection."""
        await told(self.bus, putting("mapping", "sender", org=org, connection="tenant"))

    async def put(
        self,
        name: str = "mail",
        org: str = "default",
        *,
        secret: str | None = None,
        secrets: dict[str, str] | None = None,
        **registration: Any,
    ) -> Any:
        """Put a source that is to be registered."""
        if isinstance(self.server, Graph):
            adapter, wanted = "microsoft-graph", {"resource": RESOURCE, "changes": ["created"]}
        elif isinstance(self.server, Acme):
            adapter, wanted = "acme", {"shop": "a/b", "topics": ["order"]}
        elif isinstance(self.server, Stripe):
            adapter, wanted = "stripe", {"events": ["invoice.paid"]}
        else:
            adapter, wanted = "github", {"repository": "octo/hello", "events": ["push"]}
        settings: dict[str, Any] = {"registration": wanted | {"api_url": self.server.url} | registration}
        settings |= ({} if secret is None else {"secret": secret}) | (secrets or {})
        return await told(
            self.bus, putting("source", name, ring(self.place), org=org, adapter=adapter, settings=settings, integration="sender")
        )

    async def until(self, status: str, name: str = "mail", org: str = "default", **fields: Any) -> Any:
        """Wait until a source's registration has a status, and fields; return it."""

        async def shown() -> Any:
            found = (await got(self.bus, "source", name, org=org)).registration
            fits = found["status"] == status and all(found[field] == value for field, value in fields.items())
            return found if fits else None

        return await eventually(shown)

    async def history(self, id_: str) -> list[str]:
        """Return the types of the messages of a registration."""
        return [one.envelope.type async for one in aggregate.history(self.bus.client, "registration", id_)]


@asynccontextmanager
async def registered(place: Place, server: SenderServer, *, replicas: int = 1, **environment: str) -> AsyncIterator[Registered]:
    """Run gateway, events and oauth at an address that the sender reaches."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    chosen = {"MILLRACE_PUBLIC_URL": url, "MILLRACE_EGRESS_ALLOW": "127.0.0.1"} | environment
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(place, "oauth"))
        for _ in range(replicas):
            await stack.enter_async_context(running(place, "events", **chosen))
        await stack.enter_async_context(gateway(place, MILLRACE_LISTEN_FD=str(listening.detach()), MILLRACE_PUBLIC_URL=url))
        yield Registered(place, await stack.enter_async_context(bus_of(place, "gateway")), server, url)


async def stored(admin: Bus, stream: str) -> list[bytes]:
    """Return all documents of a stream."""
    newest = (await admin.client.jetstream().stream_info(stream)).state.last_seq
    found: list[bytes] = []
    batches = OrderedReader(admin.client, stream, heartbeats=True).batches()
    async with contextlib.aclosing(batches):
        async for batch in batches:
            found += [one.data for one in batch]
            if not batch or batch[-1].sequence >= newest:
                break
    return found


async def until(condition: Callable[[], bool]) -> None:
    async def true() -> bool:
        return condition()

    await eventually(true)


async def test_a_source_is_registered_renewed_changed_and_removed(place: Place) -> None:
    async with graph() as server, registered(place, server) as made:
        await made.connect()
        source = await made.put()
        assert source.registration["status"] == "pending"
        assert source.secrets == ["secret"]
        shown = await made.until("active")
        ((id_, there),) = server.there().items()
        address = f"{made.url}/hooks/{source.id}"
        assert (shown["remote"], shown["error"], shown["tries"]) == (id_, None, 0)
        assert (there["changeType"], there["resource"]) == ("created", RESOURCE)
        assert (there["notificationUrl"], there["lifecycleNotificationUrl"]) == (address, address)
        assert server.validated == [address, address]
        # Three days: it is renewed within one.
        assert datetime.fromisoformat(shown["expires_at"]) == datetime.fromisoformat(there["expirationDateTime"])
        assert datetime.fromisoformat(shown["next_at"]) < utc_now() + timedelta(days=1)
        # What it sends is verified by the secret that it was given, which nobody else knows.
        assert len(there["clientState"]) > 40
        assert await server.notify(id_, changeType="created", resource=RESOURCE) == 202
        server.made["strange"] = there | {"clientState": "a guess"}
        assert await server.notify("strange", changeType="created", resource=RESOURCE) == 401
        del server.made["strange"]
        # Another resource is another subscription; the old one goes first.
        await made.put(resource="users/b2/messages")
        await until(lambda: [one["resource"] for one in server.there().values()] == ["users/b2/messages"])
        await made.until("active")
        assert id_ not in server.made
        # What has nothing to do with it changes nothing there.
        before = len(server.asked)
        await told(made.bus, putting("source", "mail", ring(place), patch=True, settings={"weight": 2}))
        await told(made.bus, putting("source", "mail", ring(place), patch=True, enabled=False))
        await until(lambda: server.there() == {})
        assert [method for method, _ in server.asked[before:]] == ["DELETE"]
        await told(made.bus, putting("source", "mail", ring(place), patch=True, enabled=True))
        await until(lambda: len(server.there()) == 1)
        await made.until("active")
        await made.bus.ask(removing("source", "mail"))
        await until(lambda: server.there() == {})

        async def ended() -> bool:
            return (await made.history(source.id))[-1] == "registration.removed"

        await eventually(ended)


async def test_a_registration_is_renewed_before_it_ends(place: Place) -> None:
    async with graph() as server, registered(place, server) as made:
        server.gives = 1.0
        await made.connect()
        source = await made.put()
        (id_,) = [(await made.until("active"))["remote"]]
        await until(lambda: server.counted()["PATCH"] >= 4)
        assert list(server.there()) == [id_]
        assert server.counted()["POST"] == 1
        assert set(await made.history(source.id)) == {"registration.begun", "registration.confirmed"}


async def test_what_the_sender_ended_without_a_word_is_made_anew(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "RENEWED_AT_LEAST", timedelta(seconds=0.5))
    async with graph() as server, registered(place, server) as made:
        await made.connect()
        await made.put()
        first = (await made.until("active"))["remote"]
        server.made.clear()
        await until(lambda: len(server.there()) == 1)
        (second,) = server.there()
        assert second != first
        await made.until("active", remote=second)


async def test_a_renewal_that_is_refused_ends_in_a_new_one_and_one_that_fails_is_tried_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "RENEWED_AT_LEAST", timedelta(seconds=0.5))
    async with graph() as server, registered(place, server) as made:
        await made.connect()
        await made.put()
        first = (await made.until("active"))["remote"]
        server.answers = [("PATCH", 503, {}), ("PATCH", 500, {})]
        await until(lambda: not server.answers)
        assert (await made.until("active"))["remote"] == first
        server.answers = [("PATCH", 400, {})] * 3
        await until(lambda: not server.answers)
        await until(lambda: list(server.there()) not in ([], [first]))
        (second,) = server.there()
        await made.until("active", remote=second)


@pytest.mark.parametrize("in_seconds", [True, False])
async def test_a_sender_that_asks_for_time_gets_it(place: Place, in_seconds: bool) -> None:
    async with graph() as server, registered(place, server) as made:
        wait = "2" if in_seconds else format_datetime(utc_now() + timedelta(seconds=3), usegmt=True)
        server.answers = [("", 429, {"Retry-After": wait})]
        await made.connect()
        began = asyncio.get_running_loop().time()
        await made.put()
        shown = await made.until("failing")
        assert "429" in shown["error"]
        # Not even for a change.
        await told(made.bus, putting("source", "mail", ring(place), patch=True, settings={"weight": 2}))
        await made.connect()
        await made.until("active")
        assert asyncio.get_running_loop().time() - began >= (2.0 if in_seconds else 1.9)
        assert server.counted() == {"GET": 2, "POST": 1}


async def test_a_validation_that_comes_late_is_waited_for(place: Place) -> None:
    async with graph() as server, registered(place, server) as made:
        server.validates_after = 1.5
        await made.connect()
        await made.put()
        await made.until("creating")
        await made.until("active")
        assert server.counted()["POST"] == 1


async def test_an_answer_that_never_came_is_found_at_the_sender(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.events.registrations.sender.TIMEOUT", 1.0)
    async with graph() as server, registered(place, server) as made:
        server.unanswered = {"POST"}
        server.unique = False
        await made.connect()
        await made.put()
        await made.until("failing")
        server.unanswered = set()
        shown = await made.until("active")
        assert list(server.there()) == [shown["remote"]]
        assert server.counted()["POST"] == 1


async def test_another_subscription_for_the_same_is_named_and_left_alone(place: Place) -> None:
    async with graph() as server, registered(place, server) as made:
        ends = rfc3339(utc_now() + timedelta(days=1))
        other = {"changeType": "created", "resource": RESOURCE, "notificationUrl": "https://elsewhere.example/"}
        server.made["other"] = other | {"id": "other", "expirationDateTime": ends}
        await made.connect()
        await made.put()
        shown = await made.until("failing")
        assert "Subscription Id other already exists" in shown["error"]
        assert "remove that one" in shown["error"]
        del server.made["other"]
        await made.until("active")


async def test_what_is_missing_is_named_and_once_it_is_there_used_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "LASTING", (3600.0, 3600.0))
    async with graph() as server, registered(place, server) as made:
        await told(made.bus, putting("integration", "sender"))
        await made.put()
        assert "no mapping of integration 'sender'" in (await made.until("failing"))["error"]
        await told(made.bus, putting("mapping", "sender"))
        assert "names no connection" in (await made.until("failing", tries=2))["error"]
        await made.map()
        assert "no connection 'tenant'" in (await made.until("failing", tries=3))["error"]
        await made.connect(token="an old one")
        shown = await made.until("failing", tries=4)
        assert "401" in shown["error"]
        assert "connection 'tenant'" in shown["error"]
        await made.connect()
        await made.until("active")


async def test_the_first_failure_of_a_row_is_an_alert(place: Place) -> None:
    async with graph() as server, registered(place, server) as made:
        await made.connect()
        await told(made.bus, putting("subscription", "watch", source="millrace", event="millrace.dead", workflow="w"))
        await made.put()
        remote = (await made.until("active"))["remote"]
        server.answers = [("PATCH", 503, {}), ("PATCH", 503, {})]
        assert await server.notify(remote, lifecycleEvent="reauthorizationRequired") == 202
        await until(lambda: not server.answers)
        await made.until("active")
        outside = Outside(place, made.bus)
        (alert,) = await alerts(outside, 1)
        assert alert.type == "millrace.renewal_failed"


async def test_lifecycle_notifications_renew_make_anew_and_are_events(place: Place) -> None:
    async with graph() as server, registered(place, server) as made:
        await made.connect()
        await made.put()
        first = (await made.until("active"))["remote"]
        for _ in range(2):
            before = server.counted()["PATCH"]
            assert await server.notify(first, lifecycleEvent="reauthorizationRequired") == 202
            await until(lambda before=before: server.counted()["PATCH"] == before + 1)  # type: ignore[misc]
        assert await server.notify(first, lifecycleEvent="missed") == 202

        async def missed() -> bool:
            return (await got(made.bus, "source", "mail")).registration["missed_at"] is not None

        await eventually(missed)
        await made.until("active", remote=first)
        removed = server.made.pop(first)
        server.made["gone"] = removed | {"id": first, "expirationDateTime": "2020-01-01T00:00:00Z"}
        item = {"subscriptionId": first, "lifecycleEvent": "subscriptionRemoved"}
        assert await server.notify("gone", **item) == 202
        await until(lambda: len(server.there()) == 1)
        (second,) = server.there()
        await made.until("active", remote=second)
        # The same once more, late: it is about a subscription that is no more.
        before = len(server.asked)
        assert await server.notify("gone", **item, again=1) == 202
        assert await server.notify(second, lifecycleEvent="reauthorizationRequired") == 202
        await until(lambda: len(server.asked) > before)
        assert [method for method, _ in server.asked[before:]] == ["PATCH"]
        assert list(server.there()) == [second]


async def test_a_service_that_ends_between_making_and_recording_leaves_one_subscription(place: Place) -> None:
    async with graph() as server:
        server.unique = False
        server.unanswered = {"POST"}
        async with registered(place, server) as made:
            await made.connect()
            source = await made.put()
            await until(lambda: len(server.there()) == 1)
            assert await made.history(source.id) == ["registration.begun"]
        server.unanswered = set()
        (id_,) = server.there()
        extra = "00000000-surplus"
        server.made[extra] = server.made[id_] | {"id": extra}
        server.page = 1
        # It is at another address now, so that the one of before is not what is wanted any more.
        async with registered(place, server) as made:
            shown = await made.until("active")
            await until(lambda: list(server.there()) == [shown["remote"]])
            assert server.there()[shown["remote"]]["notificationUrl"].startswith(made.url)


async def test_what_was_made_before_the_end_is_taken_over(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with graph() as server, registered(place, server) as made:
        server.unique = False
        await made.connect()
        confirming = asyncio.Event()

        async def never(*_args: Any) -> None:
            confirming.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as dying:
            dying.setattr(turn.Turn, "_confirm", never)
            await made.put()
            await asyncio.wait_for(confirming.wait(), 20)
            (id_,) = server.there()
            server.made["surplus"] = server.made[id_] | {"id": "surplus"}
            server.page = 1
        connection = await asyncpg.connect(place.database_url("admin"))
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'millrace-events-lock' AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
        )
        await connection.close()
        shown = await made.until("active")
        await until(lambda: len(server.there()) == 1)
        assert list(server.there()) == [shown["remote"]]
        assert server.counted()["POST"] == 1


async def test_rows_that_are_behind_keep_no_replica_busy(place: Place) -> None:
    async with graph() as server, registered(place, server) as made:
        await made.connect()
        source = await made.put()
        await made.until("active")
        connection = await asyncpg.connect(place.database_url("events"))
        before = len(await made.history(source.id))
        # As if the last message had not been read yet: the row says that it is to be done now.
        behind = (
            """UPDATE registration SET state = state || '{"due_at": "2020-01-01T00:00:00Z"}', look_at = '2020-01-01T00:00:00Z'"""
        )
        await connection.execute(behind)
        await connection.close()
        taken: list[Any] = []
        await told(made.bus, putting("mapping", "sender", connection="tenant", entity_id="42"))
        reading = Registrar.look_at

        async def counted(self: Any, *args: Any, **more: Any) -> bool:
            taken.append(args)
            return await reading(self, *args, **more)

        with pytest.MonkeyPatch.context() as watched:
            watched.setattr(Registrar, "look_at", counted)
            await told(made.bus, putting("mapping", "sender", connection="tenant"))
            await asyncio.sleep(1.0)
        assert len(taken) <= 2
        assert len(await made.history(source.id)) == before


async def test_a_look_reads_what_is_due_and_of_each_organization_in_turn(place: Place) -> None:
    now, asked = utc_now(), list[Any]()
    engine = open_engine(place.database_url("events"), service="events")
    put = """
        INSERT INTO registration SELECT CAST(:org AS text) || n, :org, :state, CAST(:at AS timestamptz) + n * interval '1 second'
          FROM generate_series(1, CAST(:number AS integer)) AS n
    """
    state = dict.fromkeys(("source", "source_name", "adapter", "digest"), "s") | {"tried": 1, "due_at": BEGINNING}
    try:
        async with transaction(engine) as connection:
            for org, at, number in (("mean", -600, 300), ("other", -60, 2), ("quiet", 600, 30_000), ("few", 600, 5)):
                given = {"org": org, "at": now + timedelta(seconds=at), "number": number, "state": state}
                await connection.execute(text(put).bindparams(bindparam("state", type_=JSONB)), given)
            await connection.execute(text("ANALYZE registration"))
        listen(engine.sync_engine, "before_cursor_execute", lambda *given: asked.append(given[2:4]))

        async def due(**given: Any) -> tuple[list[str], datetime | None]:
            parts: Any = dict.fromkeys(("sources", "orgs", "besides", "without"), ()) | given
            found, nearest = await rows.due(engine, now, 4, **parts)
            return sorted(one.id for one in found), nearest

        assert await due() == (["mean1", "mean2", "other1", "other2"], now + timedelta(seconds=601))
        for statement, parameters in asked[:3]:
            async with transaction(engine) as connection:
                explained = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
                assert "'Relation Name': 'registration'" in (plan := str(explained.scalar_one()))
                assert max(int(float(rows)) for rows in re.findall(r"'Actual Rows': ([0-9.]+)", plan)) <= 302
                assert {*re.findall(r"'Rows Removed[^']*': ([0-9.]+)", plan)} <= {"0", "0.0"}
        assert (await due(without=["mean"], besides=["other1"]))[0] == ["other2"]
        assert (await due(sources=["quiet7", "gone"]))[0] == ["mean1", "mean2", "other1", "other2", "quiet7"]
        assert len((await due(orgs=["few"]))[0]) == 9
    finally:
        await engine.dispose()


async def test_two_replicas_make_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "RENEWED_AT_LEAST", timedelta(seconds=0.3))
    async with graph() as server, registered(place, server, replicas=2) as made:
        server.unique = False
        await made.connect()
        names = [f"mail-{number}" for number in range(5)]
        for name in names:
            await made.put(name, resource=f"users/{name}/messages")
        for name in names:
            await made.until("active", name)
        await until(lambda: server.counted()["PATCH"] >= 20)
        assert server.counted()["POST"] == len(server.there()) == 5


async def test_a_sender_that_hangs_delays_no_other_organization(place: Place) -> None:
    async with graph() as hanging, graph() as server, registered(place, server) as made:
        hanging.unanswered = {"GET"}
        await made.connect("slow")
        for number in range(8):
            await made.put(f"slow-{number}", "slow", api_url=hanging.url)
        await until(lambda: hanging.counted()["GET"] == 4)
        await made.connect()
        await made.put()
        await made.until("active")
        assert hanging.counted()["GET"] == 4


async def test_a_turn_that_takes_too_long_gives_its_place_to_the_next(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciling, "TURN", 0.5)
    async with graph() as hanging, registered(place, hanging) as made:
        hanging.unanswered = {"GET"}
        await made.connect("slow")
        for number in range(5):
            await made.put(f"slow-{number}", "slow", api_url=hanging.url)
        # Four have a place at a time.
        await until(lambda: hanging.counted()["GET"] >= 5)


async def test_another_secret_is_told_to_the_sender(place: Place) -> None:
    async with graph() as server, registered(place, server) as made:
        await made.connect()
        await made.put(secret="one of my own")
        first = (await made.until("active"))["remote"]
        assert server.made[first]["clientState"] == "one of my own"
        await made.put(secret="another one of my own")
        await until(lambda: [one["clientState"] for one in server.there().values()] == ["another one of my own"])
        (second,) = server.there()
        await made.until("active", remote=second)
        assert await server.notify(second, changeType="created") == 202


async def test_a_secret_that_another_key_seals_is_the_same_one_to_the_sender(place: Place) -> None:
    newer = base64.b64encode(os.urandom(32)).decode()
    async with graph() as server:
        async with registered(place, server) as made:
            await made.connect()
            source = await made.put(secret="one of my own")
            first = (await made.until("active"))["remote"]
            before = await made.history(source.id)
        place.credentials.keys.insert(0, newer)
        try:
            async with registered(place, server, MILLRACE_PUBLIC_URL=made.url) as again:

                async def is_resealed() -> bool:
                    stored = await aggregate.last(again.bus.client, "source", KINDS["source"].key("default", "mail"))
                    assert stored is not None
                    message = stored.message()
                    return isinstance(message, ResourceChanged) and ring(place).is_current(message.sealed["secret"])

                await eventually(is_resealed)

                async def is_looked_at() -> bool:
                    return (await again.history(source.id))[-1] == "registration.confirmed" and (
                        await again.history(source.id) != before
                    )

                # The source is at another version, which is on record; nothing was asked of the sender.
                await eventually(is_looked_at)
                assert list(server.there()) == [first]
        finally:
            place.credentials.keys.remove(newer)


async def test_removing_is_tried_again_and_given_up_where_the_token_is_gone(place: Place) -> None:
    async with graph() as server, registered(place, server) as made:
        await made.connect()
        kept = await made.put("kept")
        await made.until("active", "kept")
        server.answers = [("DELETE", 503, {}), ("DELETE", 503, {})]
        await made.bus.ask(removing("source", "kept"))
        await until(lambda: server.there() == {})
        assert (await made.history(kept.id)).count("registration.failed") == 2
        lost = await made.put("lost")
        await made.until("active", "lost")
        await made.bus.ask(removing("connection", "tenant"))
        await made.bus.ask(removing("source", "lost"))

        async def given_up() -> bool:
            return (await made.history(lost.id))[-1] == "registration.removed"

        await eventually(given_up)
        stored = await aggregate.last(made.bus.client, "registration", lost.id)
        assert stored is not None
        message: Any = stored.message()
        assert (message.remote in server.made, "no connection 'tenant'" in message.error) == (True, True)


async def test_rows_are_the_same_made_anew_from_the_stream(place: Place) -> None:
    connection = await asyncpg.connect(place.database_url("events"))
    try:
        async with graph() as server:
            async with registered(place, server) as made:
                await made.connect()
                for name in ("one", "two", "three"):
                    await made.put(name, resource=f"users/{name}/messages")
                    await made.until("active", name)
                await made.bus.ask(removing("source", "three"))
                await until(lambda: len(server.there()) == 2)

                async def two() -> bool:
                    return bool(await connection.fetchval("SELECT count(*) = 2 FROM registration"))

                await eventually(two)
                before = await connection.fetch("SELECT * FROM registration ORDER BY source")
            await connection.execute("DELETE FROM registration; DELETE FROM checkpoint WHERE projection = 'registrations'")
            async with (
                running(place, "oauth"),
                running(place, "events", MILLRACE_EGRESS_ALLOW="127.0.0.1", MILLRACE_PUBLIC_URL=made.url),
            ):
                await eventually(two)
                assert await connection.fetch("SELECT * FROM registration ORDER BY source") == before
                assert server.counted()["POST"] == 3
    finally:
        await connection.close()


async def test_no_token_and_no_secret_is_in_any_message_row_or_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def tells(self: Graph, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Any:
        said = " ".join((message, TOKEN, *(one["clientState"] for one in self.made.values())))
        return GitHub.refusal(self, status, code, said, headers)  # type: ignore[arg-type]

    secret = "a-secret-of-my-own-choosing"
    async with graph() as server, registered(place, server) as made, bus_of(place, "admin") as admin:
        await made.connect()
        await made.put(secret=secret)
        await made.until("active")
        monkeypatch.setattr(Graph, "refusal", tells)
        server.longest = 1.0
        assert await server.notify(next(iter(server.there())), lifecycleEvent="reauthorizationRequired") == 202
        shown = await made.until("failing")
        assert "[hidden]" in shown["error"]
        told_ = [msgspec.json.encode(shown)]
        for stream in ("CATALOG", "CONNECTIONS", "AUDIT", "LOGS"):
            told_ += await stored(admin, stream)
        assert any(b'"audit.given"' in one and b'"actor":"events"' in one for one in told_)
        whole = b"".join(told_)
        assert (TOKEN.encode() in whole, secret.encode() in whole) == (False, False)


async def test_a_source_that_cannot_be_registered_is_refused_with_what_is_missing(place: Place) -> None:
    async with graph() as server:
        for url, said in ((None, "MILLRACE_PUBLIC_URL is not set"), ("http://example.org", "https addresses only")):
            environment = {} if url is None else {"MILLRACE_PUBLIC_URL": url}
            async with running(place, "oauth"), running(place, "events", **environment), bus_of(place, "gateway") as bus:
                made = Registered(place, bus, server, "")
                await made.connect()
                with pytest.raises(Invalid, match=said):
                    await made.put()
        async with registered(place, server) as made:
            for wrong, path in (
                ({"resource": ""}, "settings.registration.resource"),
                ({"changes": ["renamed"]}, "settings.registration.changes.0"),
                ({"lifetime": 5}, "settings.registration.lifetime"),
                ({"api_url": "ftp://x"}, "settings.registration.api_url"),
                ({"api_url": "https://graph.microsoft.com/v1.0?x=y"}, "settings.registration.api_url"),
                ({"more": 1}, "settings.registration"),
            ):
                with pytest.raises(Invalid) as refused:
                    await made.put(**wrong)
                assert next(one.path for one in refused.value.errors).startswith(path), (wrong, refused.value.errors)
            settings = {"registration": {"resource": RESOURCE, "changes": ["created"]}}
            with pytest.raises(Invalid) as refused:
                await told(made.bus, putting("source", "x", ring(place), adapter="microsoft-graph", settings=settings))
            assert [one.path for one in refused.value.errors] == ["integration"]
            with pytest.raises(Invalid, match="settings do not fit"):
                await told(
                    made.bus,
                    putting("source", "x", ring(place), adapter="slack", settings=settings | {"secret": "s"}, integration="sender"),
                )
        assert server.asked == []


async def test_an_address_inside_is_asked_for_nothing(place: Place) -> None:
    async with graph() as server, registered(place, server, MILLRACE_EGRESS_ALLOW="10.1.2.3") as made:
        await made.connect()
        port = server.url.rpartition(":")[2]
        inside = {"mail": server.url, "named": f"http://localhost:{port}", "v6": f"http://[::ffff:127.0.0.1]:{port}"}
        inside |= {"link": "http://169.254.169.254", "own": "http://192.168.0.1"}
        for name, url in inside.items():
            await made.put(name, api_url=url)
        words = {"mail": "loopback", "named": "loopback", "v6": "IPv4-mapped", "link": "metadata service", "own": "private"}
        for name, word in words.items():
            assert word in (await made.until("failing", name))["error"]
        assert server.asked == []


async def test_a_repository_has_its_webhook_kept_as_wanted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "RENEWED_AT_LEAST", timedelta(seconds=0.5))
    async with github() as server, registered(place, server) as made:
        address = {"url": "https://other.example", "content_type": "json"}
        server.made["7"] = {"at": "/repos/octo/hello/hooks", "config": address, "events": ["push"], "active": True}
        await made.connect()
        source = await made.put("hello", events=["push", "pull_request"])
        shown = await made.until("active", "hello")
        assert shown["expires_at"] is None
        one = server.made[shown["remote"]]
        assert (one["at"], one["events"], one["active"]) == ("/repos/octo/hello/hooks", ["push", "pull_request"], True)
        assert (one["config"]["url"], one["config"]["content_type"]) == (f"{made.url}/hooks/{source.id}", "json")
        # Switched off there, it is switched on again; deleted there, it is made anew.
        one["active"] = False
        await until(lambda: server.made[shown["remote"]]["active"])
        del server.made[shown["remote"]]
        await until(lambda: len(server.made) == 2)
        with pytest.raises(Invalid):
            await made.put("hello", repository="octo/..")
        with pytest.raises(Invalid):
            await made.put("hello", organization="octo")
        await made.bus.ask(removing("source", "hello"))
        await until(lambda: list(server.made) == ["7"])


async def test_a_limit_that_is_used_up_is_waited_for(place: Place) -> None:
    async with github() as server, registered(place, server) as made:
        reset = str(int(utc_now().timestamp()) + 2)
        server.answers = [("", 403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset})]
        await made.connect()
        await made.put("hello")
        await made.until("failing", "hello")
        await made.until("active", "hello")
        assert utc_now().timestamp() >= int(reset)
        assert server.counted() == {"GET": 2, "POST": 1}


ADAPTER = b"""
from millrace import Event, Given, Place, Registering, Request, Scheme, Setting, adapter


@adapter(
    scheme=Scheme(signature=Place(header="x-acme-signature")),
    registering=Registering(
        api="https://api.acme.example/v1",
        collection=("shops", Setting("shop"), "hooks"),
        created={
            "url": Given.CALLBACK, "key": Given.SECRET, "until": Given.EXPIRES,
            "wants": {"topics": Setting("topics"), "note": Setting("note")},
        },
        renew="PUT",
        settings={
            "shop": {"type": "string"},
            "topics": {"type": "array", "items": {"type": "string"}},
            "note": {"type": "string"},
        },
        required=("shop",),
        headers={"X-Api": "2026-01"},
        answer="hook", items="data.hooks", callback="url", expires="until", lifetime=3600,
    ),
)
class Acme:
    def parse(self, request: Request) -> Event:
        return Event("order.paid", request.json())
"""


async def test_sources_of_an_adapter_of_a_workspace_are_registered_as_it_declares(place: Place, data: Path) -> None:
    executor = {"MILLRACE_DATA": str(data / "executor"), **sandbox_settings()}
    async with acme() as server, registered(place, server) as made, running(place, "executor", **executor):
        view = await Outside(place, made.bus).put_file("adapters/acme.py", ADAPTER)
        assert view.problems == []
        await made.connect()
        with pytest.raises(Invalid, match="7 is not of type"):
            await made.put(shop=7)
        # A text that would be a place for the secret, were it read once more, is a text.
        source = await made.put(note="{secret}")
        shown = await made.until("active")
        ((id_, there),) = server.made.items()
        assert (shown["remote"], there["at"], there["api"]) == (id_, "/shops/a/b/hooks", "2026-01")
        assert there["url"] == f"{made.url}/hooks/{source.id}"
        assert there["wants"] == {"topics": ["order"], "note": "{secret}"}
        assert datetime.fromisoformat(shown["expires_at"]) > utc_now() + timedelta(minutes=50)
        assert [path for method, path in server.asked if method == "POST"] == ["/shops/a%2Fb/hooks"]
        signature = hmac.digest(there["key"].encode(), b"{}", "sha256").hex()

        async def is_taken() -> bool:
            async with server.session.post(there["url"], data=b"{}", headers={"X-Acme-Signature": signature}) as answer:
                return answer.status == 202

        await eventually(is_taken)
        server.gives = 1.0
        await made.put(topics=["refund"])
        await until(lambda: [one["wants"] for one in server.made.values()] == [{"topics": ["refund"]}])
        await until(lambda: server.counted()["PUT"] >= 2)
        assert list(server.made) != [id_]
        await made.bus.ask(removing("source", "mail"))
        await until(lambda: server.made == {})
