"""The events and executor services in this process, with a gateway's rights for the test."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from shared import aggregate
from shared.blobs import Blobs
from shared.bus import Bus
from shared.envelope import new_id, rfc3339, utc_now
from shared.errors import NotFound
from shared.messages import RunRequested, RunWaiting, WebhookReceived
from shared.questions.events import (
    DeliveryView,
    GetDelivery,
)
from shared.questions.files import FileView, PutFile
from shared.questions.runs import GetRun, ListRuns, RunView, SignalRun
from shared.questions.workflows import FindWorkflow, WorkflowFound
from tests.support.inside import bus_of, eventually, running
from tests.support.places import open_folder
from tests.support.resources import putting, ring, told
from tests.support.servers import Place, Servers

# The beginning of workflows that leave a mark for each time that they come by.
COUNT = b"""
import os


def count(folder: str, name: str) -> int:
    with open(f"{folder}/{name}", "a") as file:
        file.write("x")
    return os.path.getsize(f"{folder}/{name}")
"""


class Outside:
    """What a gateway would do, by hand."""

    def __init__(self, place: Place, bus: Bus) -> None:
        self.bus = bus
        self._keyring = ring(place)

    async def put_file(self, path: str, content: bytes, org: str = "default") -> FileView:
        async def parts() -> AsyncIterator[bytes]:
            yield content

        blob = await Blobs(self.bus.client, "workspace").put(parts())
        view: FileView = await self.bus.ask(
            PutFile(id=new_id(), org=org, actor="test", path=path, sha256=blob.sha256, size=blob.size)
        )
        return view

    async def source(
        self, name: str = "repo", integration: str | None = None, adapter: str = "github", settings: dict[str, Any] | None = None
    ) -> Any:
        given = {"settings": {"secret": "s3cret"} | (settings or {}), "adapter": adapter, "integration": integration}
        return await told(self.bus, putting("source", name, self._keyring, **given))

    async def subscription(self, **fields: Any) -> Any:
        given = {"name": "on-push", "source": "repo", "event": "push", "workflow": "greet"} | fields
        return await told(self.bus, putting("subscription", **given))

    async def webhook(
        self,
        source: Any,
        body: Any,
        event: str = "push",
        *,
        delivery: str | None = None,
        said: str | None = None,
        org: str = "default",
    ) -> str:
        """Say that a webhook was received; `delivery` is the sender's id for it, `said` the id of the message."""
        id_, delivery = delivery, delivery or new_id()
        received = WebhookReceived(
            source=source.id,
            delivery=delivery,
            sender_delivery=id_,
            adapter=source.adapter,
            received_at=rfc3339(utc_now()),
            method="POST",
            query=[],
            headers=[("x-github-event", event), ("content-type", "application/json")],
            body_base64=base64.b64encode(msgspec.json.encode(body)).decode(),
        )
        await self.bus.publish(self.bus.seal(received, org=org, id=said or delivery))
        return delivery

    async def delivery(self, id_: str, *statuses: str, org: str = "default", **fields: Any) -> DeliveryView:
        async def settled() -> DeliveryView | None:
            try:
                view: DeliveryView = await self.bus.ask(GetDelivery(org=org, id=id_))
            except NotFound:
                return None
            ended = all(getattr(view, name) == value for name, value in fields.items())
            # Its runs are told by another stream, and their rows come in their own time.
            complete = (view.status != "routed" or view.runs) and (
                {one.run for one in view.subscriptions if one.run is not None} <= {one.id for one in view.runs}
            )
            return view if view.status in statuses and ended and complete else None

        found = await eventually(settled)
        assert isinstance(found, DeliveryView)
        return found

    async def version(self, workflow: str) -> str:
        """Return the version of a workflow that serves now."""
        found: WorkflowFound = await self.bus.ask(FindWorkflow(org="default", name=workflow))
        assert found.entry is not None
        return found.entry.version

    async def request(self, workflow: str, *, version: str | None = None, **fields: Any) -> str:
        """Ask for a run, as the API would."""
        run = new_id()
        message = RunRequested(
            **{
                "run": run,
                "workflow": workflow,
                "version": version or await self.version(workflow),
                "input": {},
                "requested_by": "test",
                "timeout": 60.0,
                **fields,
            }
        )
        await self.bus.publish(self.bus.seal(message, org="default"))
        return run

    async def signal(self, run: str, name: str, data: Any = None) -> None:
        """Answer a wait of a run, as the API would."""
        await self.bus.ask(SignalRun(id=new_id(), org="default", actor="test", run=run, name=name, data=data))

    async def types(self, run: str) -> list[str]:
        """Return the types of a run's messages, in order."""
        return [stored.envelope.type async for stored in aggregate.history(self.bus.client, "run", run)]

    async def run(self, id_: str, *statuses: str, org: str = "default") -> RunView:
        async def settled() -> RunView | None:
            view: RunView = await self.bus.ask(GetRun(org=org, id=id_))
            return view if view.status in statuses else None

        found = await eventually(settled)
        assert isinstance(found, RunView)
        return found

    async def waited(self, id_: str) -> str:
        """Wait until a run has waited, be that over by now or not; return what it waited for at first."""

        async def told() -> str | None:
            history = [stored.message() async for stored in aggregate.history(self.bus.client, "run", id_)]
            return next((one.blocked_on for one in history if isinstance(one, RunWaiting)), None)

        return str(await eventually(told))

    async def recorded(self, id_: str, status: str = "succeeded") -> None:
        """Wait for the row of a run to have this status: its end is answered a moment before it is written."""

        async def written() -> bool:
            return bool((await self.bus.ask(ListRuns(org="default", id=id_, status=status))).items)

        await eventually(written)


def sandbox_settings() -> dict[str, str]:
    """Return the settings of a sandbox whose runs can be spoken to by files: under a user of its own where that is possible."""
    bare = {"MILLRACE_SANDBOX_TIER": "none", "MILLRACE_UNSAFE": "1"}
    return bare | ({"MILLRACE_SANDBOX_UID": "65532"} if os.geteuid() == 0 else {})


@asynccontextmanager
async def river(place: Place, data: Path, **environment: str) -> AsyncIterator[Outside]:
    """Run both services in this environment, with a gateway's rights for the test."""
    async with (
        running(place, "executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings(), **environment),
        running(place, "events", **environment),
        bus_of(place, "gateway") as bus,
    ):
        yield Outside(place, bus)


@asynccontextmanager
async def standing(servers: Servers) -> AsyncIterator[Outside]:
    """Run both services in a place and a folder of their own, for more tests than one."""
    with open_folder() as folder:
        async with servers.place() as place, river(place, folder) as outside:
            yield outside


async def uncompiled(_tree: Path, _paths: list[str]) -> dict[str, bytes | None]:
    """Compile nothing, for those who keep trees and run nothing of them."""
    return {}
