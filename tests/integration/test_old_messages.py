"""What an older version wrote before anything was cleaned: its installation is healthy after the new one is started on it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import msgspec
import nats

from shared.envelope import new_id, rfc3339, seal, utc_now
from shared.messages import (
    EventAccepted,
    EventRouted,
    EventUnroutable,
    Message,
    RunFailed,
    RunRequested,
    RunStarted,
    WebhookReceived,
    declaration_of,
)
from shared.messages.run import RunError, RunUsage
from shared.questions.events import DeliveryList, ListDeliveries
from shared.questions.logs import LogPage, Search
from shared.resources import KINDS, ResourceChanged
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside
from tests.support.servers import Place

# Stands where an old version let a NUL, or half of a surrogate pair, through.
SPOT = "¤"


def spoiled(message: Message, escape: bytes, org: str = "default") -> bytes:
    """Return the document of a message as nothing but an older version would write it."""
    document = seal(message, service="events", org=org, now=utc_now()).document
    if isinstance(message, ResourceChanged):
        document = flat(document)
    return document.replace(SPOT.encode(), escape)


def flat(document: bytes) -> bytes:
    """Return the message of a resource as it was written before there was a spec in it; a mapping had no name of its own."""
    whole = msgspec.json.decode(document)
    data = whole["data"]
    data |= data.pop("spec")
    if whole["type"] == "mapping.changed":
        data["integration"] = data.pop("name")
    del data["refs"], data["sealed"], data["applied_as"]
    return msgspec.json.encode(whole)


def webhook(delivery: str, body: bytes) -> WebhookReceived:
    return WebhookReceived(
        source="s",
        delivery=delivery,
        adapter="hmac",
        received_at=rfc3339(utc_now()),
        method="POST",
        query=[],
        headers=[("content-type", "application/json")],
        body_base64=base64.b64encode(body).decode(),
    )


def story(n: int) -> list[Message]:
    """Return what an old version said of a webhook and what followed, with a spot in every text that may have held one."""
    delivery, event, run = f"d{SPOT}{n}", new_id(), f"run-{n}"
    about: dict[str, Any] = {"source": "s", "event": event, "delivery": delivery}
    now = rfc3339(utc_now())
    accepted = EventAccepted(
        **about, source_name=f"n{SPOT}", type=f"a{SPOT}b", data={f"k{SPOT}": SPOT}, headers={}, received_at=now
    )
    requested = RunRequested(
        run=run,
        workflow=f"w{SPOT}",
        version="v",
        requested_by=f"t{SPOT}",
        timeout=1.0,
        delivery=delivery,
        input={SPOT: SPOT},
    )
    return [
        webhook(delivery, b'{"type":"a\\u0000b"}'),
        accepted,
        EventUnroutable(**about, subscription="x", workflow=f"w{SPOT}", reason=f"the input does not fit: a{SPOT}b"),
        EventRouted(**about, subscription="x", workflow=f"w{SPOT}", run=run),
        requested,
        RunStarted(run=run, attempt=1, executor="e", tier="A"),
        RunFailed(run=run, attempt=1, reason="error", error=RunError("E", f"m{SPOT}"), duration_ms=1.0, usage=RunUsage()),
        changed(
            "integration",
            id=f"i{n}",
            key=f"i{n}",
            name=f"n{SPOT}{n}",
            spec={"description": SPOT, "config_schema": {"a": SPOT}, "provider": None},
            created_at=now,
            actor="t",
        ),
        changed(
            "mapping",
            id=f"m{n}",
            key=f"m{n}",
            name=f"n{SPOT}{n}",
            spec={"config": {SPOT: SPOT}, "entity_id": SPOT, "connection": None},
            created_at=now,
            actor="t",
        ),
    ]


def changed(noun: str, **fields: Any) -> ResourceChanged:
    made = KINDS[noun].changed
    assert made is not None
    return made(**fields)


async def put(place: Place, message: Message, document: bytes) -> None:
    client = await nats.connect(place.nats_url("admin"))
    try:
        await client.jetstream().publish(declaration_of(message).subject(message), document)
    finally:
        await client.close()


@asynccontextmanager
async def rows_of(place: Place) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(place.database_url("admin"))
    try:
        yield connection
    finally:
        await connection.close()


async def test_an_installation_full_of_what_old_versions_let_through_is_healthy(place: Place) -> None:
    messages = [(message, escape) for n, escape in enumerate((b"\\u0000", b"\\ud800")) for message in story(n)]
    for message, escape in messages:
        await put(place, message, spoiled(message, escape))
    async with running(place, "events") as events, running(place, "logs") as logs, bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        good = await outside.webhook(await outside.source(), {"ref": "r"})
        assert (await outside.delivery(good, "filtered")).status == "filtered"

        async with rows_of(place) as connection:

            async def kept() -> bool:
                count = await connection.fetchval("SELECT count(*) FROM events.delivery_run WHERE status = 'failed'")
                return int(count) == 2

            await eventually(kept)

            async def both_of(noun: str) -> bool:
                # These rows are another projection's.
                statement = "SELECT count(*) FROM events.resource WHERE noun = $1 AND name LIKE 'n\ufffd_'"
                return bool(await connection.fetchval(statement, noun) == 2)

            await eventually(partial(both_of, "integration"))
            await eventually(partial(both_of, "mapping"))
            runs = await connection.fetch("SELECT workflow, delivery FROM events.delivery_run ORDER BY run")
            assert [tuple(row) for row in runs] == [("w\ufffd", "d\ufffd0"), ("w\ufffd", "d\ufffd1")]

            async def archived() -> bool:
                found = await connection.fetchval("SELECT count(*) FROM logs.message WHERE document = ANY($1)", documents)
                return int(found) == len(documents)

            documents = [spoiled_document async for spoiled_document in stored(place, len(messages))]
            await eventually(archived)

        async def listed() -> list[Any]:
            answer: DeliveryList = await bus.ask(ListDeliveries(org="default"))
            return [one for one in answer.items if one.id.startswith("d\ufffd")]

        found = await eventually(listed)
        assert isinstance(found, list)
        assert {one.id for one in found} == {"d\ufffd0", "d\ufffd1"}

        async def searched() -> bool:
            page: LogPage = await bus.ask(Search(org="default", q="type:run.failed"))
            return len(page.items) == 2

        await eventually(searched)
        for runtime in (events, logs):
            assert runtime.health.ready, runtime.health.document()
            assert not runtime.health.document()["projections"]["dead"]
        assert events.health.document()["projections"]["salvaged"]["runs"] >= 2


async def stored(place: Place, count: int) -> AsyncIterator[bytes]:
    """Yield the documents that were put, as their streams hold them."""
    client = await nats.connect(place.nats_url("admin"))
    try:
        js = client.jetstream()
        for name in ("WEBHOOKS", "EVENTS", "RUNS", "CATALOG"):
            state = (await js.stream_info(name)).state
            for sequence in range(1, state.last_seq + 1):
                data = (await js.get_msg(name, sequence)).data or b""
                if b"\\u0000" in data or b"\\ud800" in data:
                    count -= 1
                    yield data
    finally:
        await client.close()
