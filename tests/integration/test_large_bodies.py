"""Large bodies are few in memory at once, however many arrive together, and hold up no small one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.events.parts import LARGE_AT_ONCE
from shared.blobs import Blobs
from shared.bus import Bus
from shared.envelope import new_id, rfc3339, utc_now
from shared.messages import WebhookReceived
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside
from tests.support.servers import Place

MANY = 3 * LARGE_AT_ONCE


async def received(bus: Bus, source: str, reference: str) -> None:
    message = WebhookReceived(
        source=source,
        delivery=new_id(),
        adapter="github",
        received_at=rfc3339(utc_now()),
        method="POST",
        query=[],
        headers=[("content-type", "application/json"), ("x-github-event", "push")],
        body_ref=reference,
    )
    await bus.publish(bus.seal(message, org="default"))


async def test_few_large_bodies_are_read_at_once_and_small_ones_go_by(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    over = asyncio.Event()
    at_once = most = done = 0
    read = Blobs.read

    async def counted(self: Blobs, digest: str) -> bytes:
        nonlocal at_once, most, done
        at_once += 1
        most = max(most, at_once)
        await over.wait()
        at_once -= 1
        done += 1
        return await read(self, digest)

    async def body() -> AsyncIterator[bytes]:
        yield b'{"text":"' + b"x" * 300_000 + b'"}'

    monkeypatch.setattr(Blobs, "read", counted)
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        source: Any = await outside.source()
        reference = (await Blobs(bus.client, "bodies").put(body())).sha256
        for _ in range(MANY):
            await received(bus, source.id, reference)
        small = await outside.webhook(source, {"ref": "r"})
        assert (await outside.delivery(small, "filtered")).status == "filtered"

        async def as_many_as_may() -> bool:
            return at_once >= LARGE_AT_ONCE

        await eventually(as_many_as_may)
        assert done == 0
        over.set()

        async def all_read() -> bool:
            return done >= MANY

        await eventually(all_read)
        assert most == LARGE_AT_ONCE
