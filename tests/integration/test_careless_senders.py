"""Senders whose bodies cannot be read stop nobody: not the consumer, and not another sender."""

from __future__ import annotations

import base64

import pytest

from shared.breaker import DEAD_IN_A_ROW
from shared.bus import Bus
from shared.envelope import new_id, rfc3339, utc_now
from shared.messages import WebhookReceived
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside
from tests.support.servers import Place

UNREADABLE = {
    "hmac": b"{",
    "github": b"\xfe\xff",
    "standard-webhooks": b"<xml/>",
    "no-such-adapter": b"{}",
}


async def received(bus: Bus, adapter: str, body: bytes) -> None:
    message = WebhookReceived(
        source="careless",
        delivery=new_id(),
        adapter=adapter,
        received_at=rfc3339(utc_now()),
        method="POST",
        query=[],
        headers=[("content-type", "application/json"), ("x-github-event", "push")],
        body_base64=base64.b64encode(body).decode(),
    )
    await bus.publish(bus.seal(message, org="default"))


@pytest.mark.parametrize("adapter", UNREADABLE)
async def test_unreadable_bodies_in_a_row_hold_up_no_other_source(
    place: Place, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.consumer.ABSENT_DELAYS", ())
    async with running(place, "events") as runtime, bus_of(place, "gateway") as bus:
        for _ in range(DEAD_IN_A_ROW + 5):
            await received(bus, adapter, UNREADABLE[adapter])

        async def counted() -> bool:
            told = runtime.health.document()["dead_letters"]
            return bool(told == {"unreadable": {"careless": DEAD_IN_A_ROW + 5}, "bugs": {}})

        await eventually(counted)
        outside = Outside(place, bus)
        delivery = await outside.webhook(await outside.source(), {"ref": "r"})
        assert (await outside.delivery(delivery, "filtered")).status == "filtered"
        assert runtime.health.ready, runtime.health.document()
