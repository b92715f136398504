"""A canary: an organization of its own, whose good webhooks have to start good runs in good time, whatever goes on beside it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import msgspec

from tests.fuzz.doors.hooks import signature
from tests.fuzz.place import SECRET, WITHIN, Place
from tests.fuzz.wire import Client, Unanswered

ORG = "canary"
EVERY = 0.5
# Seconds from a webhook to the end of its run.
LATE = 2.0
WORKFLOW = b"""
from millrace import workflow


@workflow
def sing(event: dict) -> int:
    return event["data"]["n"]
"""


class Canary:
    """Sends a webhook every so often and waits for its run. `seconds` has how long each took; `silent` what never came."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._path = b""
        self.seconds: list[float] = []
        self.silent: list[str] = []

    async def prepare(self) -> None:
        """Make what it needs."""
        view = await self._place.call("PUT", "/workspace/files/sing.py", raw=WORKFLOW, org=ORG)
        assert not view["problems"], view
        body = {"adapter": "github", "settings": {"secret": SECRET}}
        source = await self._place.call("PUT", "/sources/sender", body, org=ORG)
        await self._place.call("PUT", "/subscriptions/sing", {"source": "sender", "event": "push", "workflow": "sing"}, org=ORG)
        self._path = urlsplit(source["url"]).path.encode()

    @contextlib.asynccontextmanager
    async def singing(self) -> AsyncIterator[None]:
        """Sing for the block."""
        task = asyncio.create_task(self._sing())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _sing(self) -> None:
        number = 0
        client = self._place.client()
        try:
            while True:
                await asyncio.sleep(EVERY)
                number += 1
                began = asyncio.get_running_loop().time()
                try:
                    async with asyncio.timeout(WITHIN):
                        await self._once(client, number)
                    self.seconds.append(asyncio.get_running_loop().time() - began)
                except (TimeoutError, Unanswered, AssertionError) as error:
                    self.silent.append(f"webhook {number}: {type(error).__name__} {error}")
        finally:
            client.close()

    async def _once(self, client: Client, number: int) -> None:
        body = msgspec.json.encode({"n": number})
        headers = [*signature("github", body).items(), ("Content-Type", "application/json")]
        headers += [("X-GitHub-Event", "push"), ("X-GitHub-Delivery", str(uuid.uuid4()))]
        answer = await client.request("POST", self._path, headers, body)
        assert answer.status == 202, answer
        delivery = msgspec.json.decode(answer.body)["id"]
        while True:
            answer = await client.request("GET", f"/api/v1/deliveries/{delivery}".encode(), self._place.authorized(ORG))
            if answer.status == 200:
                view = msgspec.json.decode(answer.body)
                assert view["status"] in {"accepted", "routed"}, view
                if view["runs"] and view["runs"][0]["status"] not in {"queued", "running"}:
                    assert view["runs"][0]["status"] == "succeeded", view
                    return
            await asyncio.sleep(0.02)  # its rows come in their own time
