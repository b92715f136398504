"""Bytes that nobody should write, on every stream and in every registry: every service goes on and says what it passed over."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import nats
import pytest

from services.logs.tables import archive_of
from shared.questions.events import DeliveryView
from shared.streams import REGISTRIES, STREAMS
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside, sandbox_settings
from tests.support.servers import Place

WORKFLOWS = b"""
from millrace import workflow


@workflow(name="greet")
def greet(event: dict) -> str:
    return event["data"]["ref"]
"""
# By the noun of a subject: verbs that somebody reads.
VERBS = {
    "run": ("requested.normal", "resumed.high", "started", "cancel_requested", "signalled", "waiting", "succeeded", "crashed"),
    "timer": ("fired.executor",),
    "line": ("logged",),
    "webhook": ("received",),
    "event": ("accepted", "routed"),
    "source": ("changed", "removed"),
    "subscription": ("changed",),
    "workflow": ("changed",),
    "file": ("changed",),
    "variable": ("changed",),
}


def garbage(noun: str, verb: str) -> list[bytes]:
    """Return bytes that are no envelope, envelopes of no message, and one that is of an absurd time."""
    type_ = f"{noun}.{verb.partition('.')[0]}"
    envelope = {"id": "i", "type": type_, "source": "/x", "subject": "k", "org": "default", "correlationid": "c"}
    absurd = {"run": "k", "source": "k", "key": "\0", "at": "never"}
    return [
        b"\xff\x00",
        b"",
        b"[" * 5000,
        json.dumps(envelope | {"time": "2026-01-02T03:04:05Z", "data": {}}).encode(),
        json.dumps(envelope | {"time": "0001-01-01T00:00:00+14:00", "data": absurd}).encode(),
    ]


async def test_garbage_on_every_stream_and_in_every_registry_ends_nobody(place: Place, data: Path) -> None:
    client = await nats.connect(place.nats_url("admin"))
    js = client.jetstream()
    for stream in STREAMS:
        for noun in stream.nouns:
            for verb in VERBS.get(noun, ("x",)):
                for document in garbage(noun, verb):
                    await js.publish(f"{noun}.k.{verb}", document)
    for registry in REGISTRIES:
        await js.publish(f"$KV.{registry.bucket}.k", b"\xff")
    async with AsyncExitStack() as stack:
        settings = {
            "executor": {"MILLRACE_DATA": str(data / "executor"), **sandbox_settings()},
            "gateway": {"MILLRACE_PORT": "0"},
        }
        services = {
            name: await stack.enter_async_context(running(place, name, **settings.get(name, {})))
            for name in ("logs", "oauth", "executor", "events", "gateway")
        }
        bus = await stack.enter_async_context(bus_of(place, "gateway"))
        outside = Outside(place, bus)
        await outside.put_file("greet.py", WORKFLOWS)
        source = await outside.source()
        await outside.subscription()
        delivery: DeliveryView = await outside.delivery(await outside.webhook(source, {"ref": "r"}), "routed")
        await outside.run(delivery.runs[0].id, "succeeded")
        # While they run, too.
        for noun, verbs in VERBS.items():
            for verb in verbs:
                for document in garbage(noun, verb):
                    await js.publish(f"{noun}.k.{verb}", document)
        delivery = await outside.delivery(await outside.webhook(source, {"ref": "r"}), "routed")
        await outside.run(delivery.runs[0].id, "succeeded")

        async def all_ready() -> bool:
            return all(runtime.health.ready for runtime in services.values())

        try:
            await eventually(all_ready)
        except AssertionError:
            pytest.fail(str({name: runtime.health.document() for name, runtime in services.items()}))

        async def told() -> bool:
            dead = {name: services[name].health.document()["projections"]["dead"] for name in services if name != "gateway"}
            # The archive keeps every one; of its own resources logs reads what it can.
            return all(dead.values()) and dead["logs"].keys() == {"catalog"}

        await eventually(told)
        assert services["gateway"].health.document()["registry_sources"]["undecodable"] == 1

        async def archived() -> bool:
            last = {info.config.name: info.state.last_seq for info in await js.streams_info()}
            return all([await archived_to(place, one.name) >= last[one.name] for one in STREAMS])

        await eventually(archived)
    await client.close()


async def archived_to(place: Place, stream: str) -> int:
    """Return up to which sequence a stream is archived."""
    connection = await asyncpg.connect(place.database_url("logs"))
    try:
        last = "SELECT last_seq FROM checkpoint WHERE projection = $1"
        return int(await connection.fetchval(last, archive_of(stream)) or 0)
    finally:
        await connection.close()
