"""From a received webhook to the end of its run, over the events and executor services in this process."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared import aggregate
from shared.blobs import Blobs
from shared.bus import Bus
from shared.encryption import Keyring
from shared.envelope import new_id, rfc3339, utc_now
from shared.errors import NotFound
from shared.messages import WebhookReceived
from shared.questions.events import (
    DeliveryView,
    GetDelivery,
    PutSource,
    PutSubscription,
    RetryDelivery,
    SourceView,
    SubscriptionEntry,
)
from shared.questions.executor import FileView, GetRun, PutFile, RunView
from tests.support.inside import bus_of, eventually, running
from tests.support.places import open_folder
from tests.support.servers import Place

WORKFLOW = b"""
from millrace import workflow, log

@workflow(name="greet")
def greet(event: dict) -> dict:
    log.info("greeting", ref=event["data"]["ref"])
    return {"ref": event["data"]["ref"]}
"""


class Outside:
    """What a gateway would do, by hand."""

    def __init__(self, place: Place, bus: Bus) -> None:
        self.bus = bus
        self._keyring = Keyring(tuple(base64.b64decode(key) for key in place.credentials.keys))

    async def put_file(self, path: str, content: bytes) -> FileView:
        async def parts() -> AsyncIterator[bytes]:
            yield content

        blob = await Blobs(self.bus.client, "workspace").put(parts())
        view: FileView = await self.bus.ask(
            PutFile(id=new_id(), org="default", actor="test", path=path, sha256=blob.sha256, size=blob.size)
        )
        return view

    async def source(self, name: str = "repo") -> SourceView:
        command = new_id()
        sealed = {"secret": self._keyring.seal("s3cret", "default", command, "secret")}
        view: SourceView = await self.bus.ask(
            PutSource(id=command, org="default", actor="test", name=name, adapter="github", settings={}, sealed=sealed)
        )
        return view

    async def subscription(self, **fields: Any) -> SubscriptionEntry:
        given = {"name": "on-push", "source": "repo", "event": "push", "workflow": "greet"} | fields
        view: SubscriptionEntry = await self.bus.ask(PutSubscription(id=new_id(), org="default", actor="test", **given))
        return view

    async def webhook(self, source: SourceView, body: Any, event: str = "push") -> str:
        delivery = new_id()
        received = WebhookReceived(
            source=source.id,
            delivery=delivery,
            adapter="github",
            received_at=rfc3339(utc_now()),
            method="POST",
            query=[],
            headers=[("x-github-event", event), ("content-type", "application/json")],
            body_base64=base64.b64encode(msgspec.json.encode(body)).decode(),
        )
        await self.bus.publish(self.bus.seal(received, org="default", id=delivery))
        return delivery

    async def delivery(self, id_: str, *statuses: str, **fields: Any) -> DeliveryView:
        async def settled() -> DeliveryView | None:
            try:
                view: DeliveryView = await self.bus.ask(GetDelivery(org="default", id=id_))
            except NotFound:
                return None
            ended = all(getattr(view, name) == value for name, value in fields.items())
            return view if view.status in statuses and ended else None

        found = await eventually(settled)
        assert isinstance(found, DeliveryView)
        return found

    async def run(self, id_: str, *statuses: str) -> RunView:
        async def settled() -> RunView | None:
            view: RunView = await self.bus.ask(GetRun(org="default", id=id_))
            return view if view.status in statuses else None

        found = await eventually(settled, within=30)
        assert isinstance(found, RunView)
        return found


@asynccontextmanager
async def river(place: Place, data: Path) -> AsyncIterator[Outside]:
    """Run both services, with a gateway's rights for the test."""
    async with (
        running(place, "executor", MILLRACE_DATA=str(data), MILLRACE_SANDBOX_UID="65532"),
        running(place, "events"),
        bus_of(place, "gateway") as bus,
    ):
        yield Outside(place, bus)


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder that the sandbox's user can reach."""
    with open_folder() as folder:
        yield folder


async def test_a_webhook_becomes_a_run_with_its_result(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        view = await outside.put_file("workflows/greet.py", WORKFLOW)
        assert view.problems == []
        assert view.workflows == ["greet"]
        source = await outside.source()
        await outside.subscription()
        delivery = await outside.delivery(await outside.webhook(source, {"ref": "refs/heads/main"}), "routed")
        async for stored in aggregate.history(outside.bus.client, "run", delivery.runs[0].id):
            assert stored.envelope.correlationid == delivery.id
        run = await outside.run(delivery.runs[0].id, "succeeded")
        assert run.result == {"ref": "refs/heads/main"}
        assert run.attempt == 1


async def test_a_webhook_for_a_missing_workflow_is_unroutable_until_it_is_retried(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        source = await outside.source()
        await outside.subscription()
        id_ = await outside.webhook(source, {"ref": "refs/heads/main"})
        delivery = await outside.delivery(id_, "unroutable")
        assert delivery.reason == "there is no workflow 'greet'"
        await outside.put_file("greet.py", WORKFLOW)
        await outside.bus.ask(RetryDelivery(id=new_id(), org="default", actor="test", delivery=id_))
        delivery = await outside.delivery(id_, "routed")
        run = await outside.run(delivery.runs[0].id, "succeeded")
        assert run.delivery == id_


async def test_a_broken_file_is_refused_with_its_line_and_the_last_good_version_serves(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription()
        broken = await outside.put_file("greet.py", b"from millrace import workflow\n\ndef broken(:\n")
        assert [(problem.path, problem.line) for problem in broken.problems] == [("greet.py", 3)]
        delivery = await outside.delivery(await outside.webhook(source, {"ref": "x"}), "routed")
        assert (await outside.run(delivery.runs[0].id, "succeeded")).result == {"ref": "x"}
