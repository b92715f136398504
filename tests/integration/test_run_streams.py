"""A run's stream: every state and every line once, in order, whatever happens to the client, the run and the broker meanwhile."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from services.executor.runs.purge import purge
from services.gateway import serving, watching
from services.gateway.api import sse
from services.gateway.config import MAX_CONNECTIONS
from shared.envelope import new_id
from shared.questions.runs import SignalRun
from tests.integration import test_durable
from tests.integration.test_gateway import Client, Cut, gateway
from tests.integration.test_run_routes import WORKFLOWS, House, house
from tests.support.inside import eventually
from tests.support.places import open_folder
from tests.support.river import river
from tests.support.servers import Place, Servers


class Event(msgspec.Struct):
    """One event of a stream."""

    id: str
    kind: str
    data: Any


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def home(servers: Servers) -> AsyncIterator[House]:
    with open_folder() as folder:
        async with servers.place() as place, house(place, folder) as made:
            yield made


@pytest.fixture
async def own(place: Place, data: Path) -> AsyncIterator[House]:
    """A house in which nobody else has had a stream."""
    async with house(place, data) as made:
        yield made


async def events(client: Client, run: str, last: str | None = None) -> AsyncGenerator[Event, None]:
    headers = client.key | ({} if last is None else {"Last-Event-ID": last})
    async with client.session.get(f"{client.url}/api/v1/runs/{run}/stream", headers=headers) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream"), await response.text()
        fields: dict[str, str] = {}
        while line := (await response.content.readline()).decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif fields.get("event"):
                yield Event(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
                fields = {}


async def all_of(client: Client, run: str, last: str | None = None) -> list[Event]:
    async with asyncio.timeout(60):
        return [event async for event in events(client, run, last)]


def statuses(found: list[Event]) -> list[str]:
    return [event.data["status"] for event in found if event.kind == "state"]


def numbers(found: list[Event]) -> list[int]:
    return [event.data["n"] for event in found if event.kind == "line"]


async def test_a_stream_tells_every_state_and_every_line_and_then_the_end(home: House) -> None:
    run = (await home.run("talk", input={"lines": 30}))["id"]
    found = await all_of(home.client, run)
    assert statuses(found) == ["queued", "running", "succeeded"]
    assert numbers(found) == list(range(1, 31))
    assert [event.kind for event in found].index("end") == len(found) - 1
    assert found[-1].data == await home.get(f"/runs/{run}")
    assert found[-1].data["result"] == "talked"


async def test_a_stream_goes_on_after_any_of_its_events_with_nothing_lost_and_nothing_twice(home: House) -> None:
    run = (await home.run("talk", input={"lines": 4}))["id"]
    live = await all_of(home.client, run)
    for number, event in enumerate(live[:-1], start=1):
        rest = await all_of(home.client, run, event.id)
        assert statuses(live[:number]) + statuses(rest) == statuses(live)
        assert numbers(live[:number]) + numbers(rest) == numbers(live)
        assert rest[-1] == live[-1]
    headers = home.client.key | {"Last-Event-ID": live[-1].id}
    assert (await home.client("GET", f"/api/v1/runs/{run}/stream", headers=headers)).status == 204


async def test_a_stream_of_a_run_that_waits_goes_on_when_the_run_does(home: House) -> None:
    run = (await home.run("approval", "waiting"))["id"]
    found: list[Event] = []
    async with asyncio.timeout(60), aclosing(events(home.client, run)) as stream:
        async for event in stream:
            found.append(event)
            if statuses(found)[-2:] == ["running", "waiting"] and event.kind == "state":
                assert (await home.client("POST", f"/api/v1/runs/{run}/signals/approval", json={"yes": True})).status == 202
    assert found[-1].kind == "end"
    assert found[-1].data["result"]["again"] == {"yes": True}
    once = ["running", "waiting", "waiting", "queued"]
    assert statuses(found) == ["queued", *once, *once, "running", "succeeded"]


async def test_a_run_that_left_the_bus_is_told_from_its_rows(home: House) -> None:
    run = (await home.run("talk", "succeeded", input={"lines": 3}))["id"]
    before = await all_of(home.client, run)
    await home.outside.recorded(run)
    async with home.executor_bus() as bus:
        await purge(bus.client, run, 2**52)
    after = await all_of(home.client, run)
    assert (statuses(after), numbers(after), after[-1]) == (["succeeded"], [1, 2, 3], before[-1])
    rest = await all_of(home.client, run, before[1].id)
    assert (statuses(rest), numbers(rest)) == (["succeeded"], [1, 2, 3])


async def test_what_cannot_be_streamed_is_refused_before_anything_is_sent(home: House) -> None:
    run = (await home.run("talk", "succeeded", input={"lines": 1}))["id"]
    path = f"/api/v1/runs/{run}/stream"
    assert (await home.client("GET", path, headers={})).status == 401
    assert (await home.client("GET", path + "?org=other")).status == 404
    assert (await home.client("GET", f"/api/v1/runs/{new_id()}/stream")).status == 404
    for id_ in ("x", "1", "1.2.3", "-1.0", "1.2.end.end", "1.", "9" * 30 + ".1"):
        got = await home.client("GET", path, headers=home.client.key | {"Last-Event-ID": id_})
        assert (got.status, got.json["errors"][0]["path"]) == (400, "Last-Event-ID"), id_


async def test_streams_are_bounded_in_number_and_a_client_that_leaves_makes_room(
    own: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "OF_CONNECTIONS", MAX_CONNECTIONS)
    monkeypatch.setattr(sse, "THERE", 0.05)
    run = (await own.run("approval", "waiting"))["id"]
    path = f"/api/v1/runs/{run}/stream"
    async with own.client.session.get(own.client.url + path, headers=own.client.key) as response:
        await response.content.readline()
        got = await own.client("GET", path)
        assert (got.status, got.headers["Retry-After"]) == (503, "5")
        response.close()

    await eventually(lambda: room(own, run))


async def room(home: House, run: str) -> bool:
    """Return whether there is room for another stream, without taking it."""
    async with home.client.session.get(f"{home.client.url}/api/v1/runs/{run}/stream", headers=home.client.key) as response:
        response.close()
        return response.status == 200


async def test_a_quiet_stream_says_that_it_is_there(own: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT", 0.1)
    monkeypatch.setattr(sse, "THERE", 0.05)
    run = (await own.run("approval", "waiting"))["id"]
    async with (
        asyncio.timeout(60),
        own.client.session.get(f"{own.client.url}/api/v1/runs/{run}/stream", headers=own.client.key) as response,
    ):
        while await response.content.readline() != b": \n":
            pass
        response.close()


async def test_a_client_that_takes_nothing_is_cut_and_told_why(own: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "SLOW", 0.3)
    monkeypatch.setattr(watching, "OF_CONNECTIONS", MAX_CONNECTIONS)
    run = (await own.run("talk", "succeeded", input={"lines": 200, "length": 60_000}))["id"]
    address = urlsplit(own.client.url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (address.hostname, address.port))
        key = own.client.key["Authorization"]
        await loop.sock_sendall(
            client, f"GET /api/v1/runs/{run}/stream HTTP/1.1\r\nHost: h\r\nAuthorization: {key}\r\n\r\n".encode()
        )
        assert await loop.sock_recv(client, 15) == b"HTTP/1.1 200 OK"
        # It takes nothing more until its place is free again.
        await eventually(lambda: room(own, run))
        read = b""
        async with asyncio.timeout(60):
            while part := await loop.sock_recv(client, 1 << 20):
                read = (read + part)[-100_000:]
    assert b"event: error" in read.rpartition(b"event: line")[2]
    assert b"event: end" not in read


async def test_a_stream_goes_on_without_loss_when_the_broker_was_away(place: Place, data: Path) -> None:
    async with (
        river(place, data) as outside,
        Cut(place.nats_url("gateway")) as cut,
        gateway(place, MILLRACE_NATS_URL=cut.url) as client,
    ):
        for name, code in (("here", WORKFLOWS), ("durable", test_durable.WORKFLOWS)):
            await outside.put_file(f"{name}.py", code)
        run = await outside.request("approval")
        await outside.run(run, "waiting")
        found: list[Event] = []
        async with asyncio.timeout(60), aclosing(events(client, run)) as stream:
            async for event in stream:
                found.append(event)
                if event.kind == "state" and event.data["status"] == "waiting" and len(found) == 3:
                    await cut.close()
                    for _ in range(2):
                        asked = SignalRun(id=new_id(), org="default", actor="t", run=run, name="approval", data=1)
                        await outside.bus.ask(asked)
                    await outside.run(run, "succeeded")
                    await cut.open()
        assert statuses(found)[:3] == ["queued", "running", "waiting"]
        assert [stored for stored in statuses(found) if stored == "succeeded"] == ["succeeded"]
        assert found[-1].kind == "end"
        whole = await all_of(client, run)
        assert [event.id for event in found if event.kind == "state"] == [event.id for event in whole if event.kind == "state"]


async def test_streams_end_when_the_gateway_does(place: Place, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A stream that did not end would be waited for so long.
    monkeypatch.setattr(serving, "DRAIN", 600.0)
    async with river(place, data) as outside:
        await outside.put_file("durable.py", test_durable.WORKFLOWS)
        run = await outside.request("approval")
        await outside.run(run, "waiting")
        async with asyncio.timeout(None) as ending, gateway(place) as client:
            response = await client.session.get(f"{client.url}/api/v1/runs/{run}/stream", headers=client.key)
            assert response.status == 200
            await response.content.readline()
            ending.reschedule(asyncio.get_running_loop().time() + 60)
        response.close()
        with pytest.raises((aiohttp.ClientError, RuntimeError)):
            await client("GET", "/healthz")
