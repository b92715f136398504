"""Subscribers: by a key for NATS they read what is archived of their organization, nothing else, and until the key is over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import nats
import nats.errors
import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from deploy.permissions import SUBSCRIPTIONS
from services.logs.subscribers import connections
from shared.bus import Bus
from shared.client import LeanClient
from shared.envelope import new_id, rfc3339, utc_now
from shared.errors import MillraceError
from shared.messages import DECLARATIONS, RunRequested
from shared.messages.declaration import hashed_key
from shared.registry import RegistryWriter
from shared.removals import RemovalEntry
from shared.streams import BUCKETS, REGISTRIES, STREAMS, WORK
from shared.subscribers import READABLE
from tests.integration.test_gateway import Client, gateway
from tests.support.inside import bus_of, eventually, running
from tests.support.servers import Place, Servers


@pytest.fixture
async def admitting(servers: Servers) -> AsyncIterator[Place]:
    """A place in the account that subscribers read of."""
    async with servers.place(admitting=True) as given:
        yield given


@asynccontextmanager
async def archive(place: Place) -> AsyncIterator[None]:
    async with running(place, "logs", MILLRACE_NATS_ISSUER=place.credentials.nats_issuer):
        yield


# A connection that is cut, or refused, is not made again.
ONCE: dict[str, Any] = {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0}


class House:
    """The gateway, the archive, and a bus on which runs are asked for."""

    def __init__(self, place: Place, client: Client, bus: Bus) -> None:
        self.place = place
        self.client = client
        self.bus = bus
        self.refused: list[str] = []

    async def key(self, name: str = "tool", *, org: str = "acme", **fields: Any) -> dict[str, Any]:
        got = await self.client("POST", f"/api/v1/keys?org={org}", json={"name": name, "nats": True} | fields)
        assert got.status == 201, got.body
        made: dict[str, Any] = got.json
        return made

    @property
    def address(self) -> str:
        return f"nats://{urlsplit(self.place.nats_url('admin')).netloc.rpartition('@')[2]}"

    @asynccontextmanager
    async def connected(self, key: str, **options: Any) -> AsyncIterator[Nats]:
        """Connect by a key, which the archive may be about to hear of."""

        async def failed(error: Exception) -> None:
            self.refused.append(str(error).lower())

        async def admitted() -> Nats | None:
            made = LeanClient()
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                await made.connect(self.address, token=key, error_cb=failed, **(ONCE | options))
            if made.is_connected:
                return made
            await made.close()
            return None

        client = await eventually(admitted, every=0.1)
        assert isinstance(client, Nats)
        try:
            yield client
        finally:
            await client.close()

    async def say(self, *workflows: str, org: str = "acme") -> list[str]:
        runs = []
        for workflow in workflows:
            runs.append(new_id())
            asked = RunRequested(run=runs[-1], workflow=workflow, version="v", requested_by="t", timeout=60.0)
            await self.bus.publish(self.bus.seal(asked, org=org))
        return runs


@asynccontextmanager
async def house(place: Place) -> AsyncIterator[House]:
    async with archive(place), gateway(place) as client, bus_of(place, "executor") as bus:
        yield House(place, client, bus)


@pytest.fixture
async def home(admitting: Place) -> AsyncIterator[House]:
    async with house(admitting) as made:
        yield made


class Heard:
    """What comes on subjects."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[Msg] = asyncio.Queue()

    async def take(self, msg: Msg) -> None:
        self.came.put_nowait(msg)

    async def next(self, number: int) -> list[tuple[str, str]]:
        """Return the organizations and workflows of the next messages."""
        async with asyncio.timeout(30):
            found = [json.loads((await self.came.get()).data) for _ in range(number)]
        return [(one["org"], one["data"]["workflow"]) for one in found]


async def listening(client: Nats, *subjects: str) -> Heard:
    heard = Heard()
    for subject in subjects:
        await client.subscribe(subject, cb=heard.take)
    await client.flush()
    return heard


async def cut(client: Nats) -> None:
    """Return when a connection that is not made anew has ended."""

    async def ended() -> bool:
        return client.is_closed

    await eventually(ended, within=30)


async def test_an_organization_hears_its_own_and_the_platform_all_on_the_bus_own_subjects(home: House) -> None:
    mine, theirs = await home.key(), await home.key(org="globex")
    platform = await home.key(org="global")
    assert [one["nats_url"] for one in (mine, platform)] == [home.address] * 2
    async with (
        home.connected(mine["key"]) as ours,
        home.connected(theirs["key"]) as others,
        home.connected(platform["key"]) as staff,
    ):
        acme = await listening(ours, "org.acme.run.*.requested.*")
        globex = await listening(others, "org.globex.>")
        assert home.refused == []
        everything = await listening(staff, "run.*.requested.normal")
        await home.say("a")
        await home.say("b", org="globex")
        await home.say("c")
        assert await acme.next(2) == [("acme", "a"), ("acme", "c")]
        assert await everything.next(3) == [("acme", "a"), ("globex", "b"), ("acme", "c")]
        assert await one_run(globex) == ("globex", "b")
        await home.say("d")
        async with asyncio.timeout(30):
            msg = await acme.came.get()
        assert msg.subject.startswith("org.acme.run.")
        assert msg.headers is not None
        assert (msg.headers["Content-Type"], msg.headers["Nats-Stream"]) == ("application/cloudevents+json", "RUNS")
    assert home.refused == []


async def test_what_an_organization_said_that_was_removed_is_not_told_to_another_one_of_its_name(admitting: Place) -> None:
    async with bus_of(admitting, "executor") as bus, bus_of(admitting, "gateway") as gateways:
        late, own = (
            bus.seal(RunRequested(run=new_id(), workflow=of, version="v", requested_by="t", timeout=60.0), org="acme")
            for of in ("late", "own")
        )
        began, until = late.envelope.time, late.envelope.time
        assert until < own.envelope.time
        entry = RemovalEntry(organization="acme", id=new_id(), actor="t", began_at=began, until=until)
        await RegistryWriter(gateways.client, "removals", RemovalEntry).put("acme", 1, entry)
        async with house(admitting) as home, home.connected((await home.key())["key"]) as ours:
            acme = await listening(ours, "org.acme.run.>")
            # As by a process that stood still.
            for one in (late, own):
                await bus.publish(one)
            assert await acme.next(1) == [("acme", "own")]


async def test_what_is_refused_by_the_broker_is_told_to_nobody(home: House) -> None:
    platform = await home.key(org="global", subjects=["run.>"])
    async with home.connected(platform["key"]) as staff:
        heard = await listening(staff, "run.>")
        asked = RunRequested(run=new_id(), workflow="once", version="v", requested_by="t", timeout=60.0)
        sealed = home.bus.seal(asked, org="acme")
        await home.bus.publish(sealed)
        # The same again is a duplicate, which the broker takes and does not store.
        subject, name = f"run.{asked.run}.requested.normal", sealed.envelope.id
        await home.bus.client.request(subject, sealed.document, headers={"Nats-Msg-Id": name}, timeout=5)
        await home.say("after")
        assert await heard.next(2) == [("acme", "once"), ("acme", "after")]


def forbidden(org: str, own: str) -> list[str]:
    """Subjects that nobody but a service, or another organization, may hear; of `org` what its key does not name too."""
    found = [">", "*", "*.>", "org.>", "org.*.>", "org.globex.>", "told.>", "$SYS.>", "$SYS.ACCOUNT.*.>", "$SYS.REQ.USER.AUTH"]
    found += ["_INBOX.>", "_INBOX_logs.>", "ask.>", "do.>", "timer.>", "org.acme.timer.>", "$JS.EVENT.>", "$JS.ACK.>"]
    found += [f"$KV.{one.bucket}.>" for one in REGISTRIES] + [f"$O.{one.name}.>" for one in BUCKETS]
    found += [f"{noun}.>" for noun in sorted(READABLE)] if org != "global" else ["org.acme.run.x.failed", "dead.>", "run.x.started"]
    return [one for one in found if one != own]


def unsaid() -> list[str]:
    """Subjects on which services speak, are asked, and ask the broker."""
    found = [one.pattern().replace("*", "x").replace(">", "x") for one, _ in DECLARATIONS.values()]
    found += [f"org.acme.{subject}" for subject in found[:3]] + [
        "told.run.x.failed",
        "ask.oauth.token",
        "do.events.emit",
        "_INBOX.x",
    ]
    found += [f"$JS.API.{verb}.{one.name}" for one in STREAMS for verb in ("STREAM.INFO", "STREAM.MSG.GET", "STREAM.PURGE")]
    found += [f"$JS.API.CONSUMER.CREATE.{one.name}.x.run.>" for one in STREAMS]
    found += [f"$JS.API.CONSUMER.MSG.NEXT.{one.stream}.{one.name}" for one in WORK]
    found += [f"$JS.API.DIRECT.GET.KV_{one.bucket}" for one in REGISTRIES] + [
        f"$JS.API.DIRECT.GET.OBJ_{one.name}" for one in BUCKETS
    ]
    return [
        *found,
        "$JS.API.INFO",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.ACCOUNT.PING.CONNZ",
        "$SYS.REQ.USER.AUTH",
        "$SYS.REQ.USER.INFO",
    ]


@pytest.mark.parametrize("org", ["acme", "global"])
async def test_a_subscriber_hears_nothing_else_and_says_nothing(home: House, org: str) -> None:
    own = "run.*.failed"
    key = await home.key(org=org, subjects=[own])
    allowed = own if org == "global" else f"org.{org}.{own}"
    quiet = await home.bus.client.subscribe("run.x.failed")
    async with home.connected(key["key"]) as client:
        await client.subscribe(allowed)
        await client.flush()
        assert home.refused == []
        subjects = [*forbidden(org, own), "org.acme.run.>", "run.>"]
        for subject in subjects:
            await client.subscribe(subject)
        said = unsaid()
        for subject in said:
            await client.publish(subject, b"{}")
        await client.flush()

        async def all_refused() -> bool:
            return len(home.refused) >= len(subjects) + len(said)

        await eventually(all_refused)
        for subject in subjects:
            assert any(f'subscription to "{subject}"'.lower() in one for one in home.refused), subject
        for subject in said:
            assert any(f'publish to "{subject}"'.lower() in one for one in home.refused), subject
        with pytest.raises(nats.errors.Error):
            await client.request("ask.logs.search", b"{}", timeout=1)
        assert client.is_connected
    with pytest.raises(TimeoutError):
        await quiet.next_msg(timeout=0.05)


async def test_more_subscriptions_than_a_tool_needs_are_refused(home: House) -> None:
    key = await home.key()
    async with home.connected(key["key"]) as client, home.connected(key["key"]) as other:
        for one in (client, other):
            for number in range(SUBSCRIPTIONS):
                await one.subscribe(f"org.acme.run.{number}.>")
            await one.flush()
        await client.subscribe("org.acme.run.x.>")
        await cut(client)
        await other.flush()


@pytest.mark.parametrize("how", ["revoked", "rotated", "narrowed", "expired", "used for the API"])
async def test_a_connection_ends_with_its_key_while_others_go_on(home: House, how: str) -> None:
    expires = {"expires_at": rfc3339(utc_now() + timedelta(seconds=8))} if how == "expired" else {}
    key, stays = await home.key(**expires), await home.key("stays")
    async with home.connected(key["key"]) as client, home.connected(stays["key"]) as other:
        await listening(client, "org.acme.>")
        heard = await listening(other, "org.acme.>")
        assert not client.is_closed
        if how == "revoked":
            assert (await home.client("DELETE", "/api/v1/keys/tool?org=acme")).status == 204
        elif how == "rotated":
            assert (await home.client("POST", "/api/v1/keys/tool/rotate?org=acme", json={})).status == 200
        elif how == "narrowed":
            assert (await home.client("PATCH", "/api/v1/keys/tool?org=acme", json={"subjects": ["dead.>"]})).status == 200
        elif how == "used for the API":
            assert (await home.client("PATCH", "/api/v1/keys/tool?org=acme", json={"nats": False})).status == 200
        await cut(client)
        await home.say("after")
        assert await one_run(heard) == ("acme", "after")
        assert other.is_connected
    if how != "narrowed":
        await stays_out(key["nats_url"], key["key"])


async def one_run(heard: Heard) -> tuple[str, str]:
    """Return the organization and the workflow of the next run that is asked for; what is said of keys is passed over."""
    async with asyncio.timeout(30):
        while True:
            one = json.loads((await heard.came.get()).data)
            if one["type"] == "run.requested":
                return one["org"], one["data"]["workflow"]


async def stays_out(address: str, key: str) -> None:
    """Assert that nobody is let in by a key."""
    client = Nats()
    try:
        with pytest.raises((nats.errors.Error, OSError)):
            await client.connect(address, token=key, error_cb=_quiet, **ONCE)
    finally:
        await client.close()


async def _quiet(_error: Exception) -> None:
    """The error is raised as well."""


async def test_a_connection_that_another_process_admitted_is_cut_when_its_key_is_revoked_while_that_is_away(
    admitting: Place,
) -> None:
    async with gateway(admitting) as client, bus_of(admitting, "executor") as bus:
        home = House(admitting, client, bus)
        async with archive(admitting):
            key = await home.key()
            connected = await stack_of(home, key["key"])
        async with connected as reader:
            # Nobody admits now: one who is there goes on, and nobody else is let in.
            assert reader.is_connected
            await stays_out(key["nats_url"], key["key"])
            assert (await client("DELETE", "/api/v1/keys/tool?org=acme")).status == 204
            assert reader.is_connected
            async with archive(admitting):
                await cut(reader)


async def stack_of(home: House, key: str) -> contextlib.AbstractAsyncContextManager[Nats]:
    """Return a connection that is made already, as a block that ends it."""
    stack = contextlib.AsyncExitStack()
    client = await stack.enter_async_context(home.connected(key))

    @asynccontextmanager
    async def block() -> AsyncIterator[Nats]:
        async with stack:
            yield client

    return block()


async def test_a_key_for_nats_is_of_no_use_to_the_api_and_no_other_key_for_nats(home: House) -> None:
    key, other = await home.key(), (await home.client("POST", "/api/v1/keys?org=acme", json={"name": "api"})).json
    assert (other["role"], other["nats"], other["nats_url"]) == ("viewer", False, None)
    for path in ("/api/v1/runs", "/api/v1/keys", "/metrics"):
        got = await home.client("GET", path, headers={"Authorization": f"Bearer {key['key']}"})
        assert got.status == 403, got.body
    for wrong in (other["key"], "mr_unknown", home.place.credentials.admin_key, ""):
        await stays_out(key["nats_url"], wrong)
    # As a password it counts too: some clients have no tokens.
    client = await nats.connect(key["nats_url"], user="anybody", password=key["key"])
    await client.close()
    for body, path in (
        ({"nats": True, "role": "operator"}, "role"),
        ({"nats": True, "scopes": ["runs"]}, "scopes"),
        ({"subjects": ["run.>"]}, "subjects"),
        ({"nats": True, "subjects": ["timer.>"]}, "subjects.0"),
        ({"nats": True, "subjects": ["run.>", "$SYS.>"]}, "subjects.1"),
        ({"nats": True, "subjects": [">"]}, "subjects.0"),
        ({"nats": True, "subjects": ["run.a b"]}, "subjects.0"),
    ):
        got = await home.client("PUT", "/api/v1/keys/wrong?org=acme", json=body)
        assert (got.status, [one["path"] for one in got.json["errors"]]) == (422, [path]), got.body


async def test_when_a_key_for_nats_was_last_used_is_told(admitting: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TELLS", 0.1)
    async with house(admitting) as home:
        key, unused = await home.key(), await home.key("unused")
        assert (key["last_used_at"], unused["last_used_at"]) == (None, None)

        async def told(after: str | None) -> str | None:
            got = await home.client("GET", "/api/v1/keys/tool?org=acme")
            found: str | None = got.json["last_used_at"]
            return found if found is not None and found > (after or "") else None

        async with home.connected(key["key"]):
            first = await eventually(lambda: told(None))
            # Also of one that stays.
            await eventually(lambda: told(str(first)))
        assert (await home.client("GET", "/api/v1/keys/unused?org=acme")).json["last_used_at"] is None


async def test_no_organization_takes_all_the_room(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "EACH", 3)
    monkeypatch.setattr(connections, "MOST", 6)
    key, other = await home.key(), await home.key(org="globex")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(home.connected(key["key"]))
        await stays_out(key["nats_url"], key["key"])
        await stack.enter_async_context(home.connected(other["key"]))
    # Those that have gone leave their room.
    async with home.connected(key["key"]):
        pass


async def test_strangers_are_in_the_audit_and_no_key_is_there_or_in_the_log_of_who_came(
    home: House, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    key, over = await home.key(), await home.key("over", expires_at=rfc3339(utc_now() + timedelta(seconds=3)))
    unknown = "mr_" + "unknown-" * 5
    async with home.connected(key["key"]):
        for _ in range(5):
            await stays_out(key["nats_url"], unknown)

    async def is_over() -> bool:
        return bool((await home.client("GET", "/api/v1/keys/over?org=acme")).json["status"] == "expired")

    await eventually(is_over)
    await stays_out(over["nats_url"], over["key"])
    records: dict[str, list[dict[str, Any]]] = {}

    async def audited() -> bool:
        for org in ("acme", "global"):
            got = await home.client("GET", f"/api/v1/audit?q=data.category:access+data.detail.protocol:nats&org={org}")
            assert got.status == 200, got.body
            records[org] = [one["data"] for one in got.json["items"]]
        return bool(records["acme"]) and sum(one["detail"]["count"] for one in records["global"]) >= 5

    # Those of a second are one record, with their number.
    await eventually(audited)
    (of_key,) = {(one["actor"], one["outcome"], one["detail"]["reason"]) for one in records["acme"]}
    (of_stranger,) = {(one["actor"], one["outcome"], one["detail"]["reason"]) for one in records["global"]}
    assert of_key == ("key:over", "unauthenticated", "expired_key")
    assert of_stranger == ("unknown", "unauthenticated", "unknown_key")
    assert {one["remote"] for found in records.values() for one in found} == {"127.0.0.1"}
    said = caplog.text + "".join(capfd.readouterr()) + json.dumps(records)
    assert hashed_key("x") not in said
    for text in (key["key"], unknown):
        assert text not in said


def slow(address: str, key: str) -> socket.socket:
    """Return a connection that has subscribed to all of its organization, and reads nothing of it."""
    parts = urlsplit(address)
    made = socket.create_connection((parts.hostname, parts.port), timeout=30)
    asked = json.dumps({"auth_token": key, "verbose": False, "protocol": 1, "headers": True})
    made.sendall(f"CONNECT {asked}\r\nSUB org.acme.> 1\r\nPING\r\n".encode())
    came = b""
    while b"PONG" not in came:
        came += made.recv(4096)
    return made


async def test_slow_subscribers_are_cut_by_the_broker_and_hurt_nobody(home: House) -> None:
    key = await home.key()
    async with home.connected(key["key"]) as client, bus_of(home.place, "logs") as logs:
        heard = await listening(client, "org.acme.run.*.failed")
        sockets = [await asyncio.to_thread(slow, home.address, key["key"]) for _ in range(3)]
        try:
            # The broker holds 64 MiB back for each.
            body = b"x" * 1024 * 1024
            for number in range(90):
                await logs.client.publish(f"org.acme.run.{number}.failed", body)
                await logs.client.flush()
            async with asyncio.timeout(60):
                came = [(await heard.came.get()).subject for _ in range(90)]
            assert came == [f"org.acme.run.{number}.failed" for number in range(90)]
            for one in sockets:
                await asyncio.to_thread(ended, one)
            fresh = await listening(client, "org.acme.run.*.requested.*")
            await home.say("after")
            assert await fresh.next(1) == [("acme", "after")]
        finally:
            for one in sockets:
                one.close()


def ended(connection: socket.socket) -> None:
    """Read what is left of a connection to its end; TimeoutError where there is none."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(1024 * 1024):
            pass


async def test_a_subscriber_is_admitted_again_after_the_broker_was_away(home: House) -> None:
    key = await home.key()
    again = {"allow_reconnect": True, "max_reconnect_attempts": -1, "reconnect_time_wait": 0.1}
    async with home.connected(key["key"], **again) as client:
        heard = await listening(client, "org.acme.run.*.requested.*")
        os.kill(home.place.broker_pid, signal.SIGKILL)

        async def back() -> bool:
            return client.stats["reconnects"] > 0 and client.is_connected and home.bus.client.is_connected

        await eventually(back)
        await client.flush()

        async def said() -> bool:
            with contextlib.suppress(MillraceError):
                await home.say("after")
                return True
            return False

        await eventually(said)
        assert ("acme", "after") in await heard.next(1)
