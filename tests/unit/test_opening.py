"""Webhooks whose content is encrypted take their time, and keep waiting only those that come after them in their organization."""

from __future__ import annotations

import asyncio
import threading

from services.events.adapters import ParsedEvent, Webhook
from services.events.opening import read
from shared.values import LARGE

SEALED = Webhook({}, {}, b"{}", {}, {"certificate": "a key"})
LARGER = Webhook({}, {}, b" " * (LARGE + 1), {}, {})


async def test_an_organization_has_one_in_line_and_large_webhooks_of_others_pass_by() -> None:
    go, begun, order = threading.Event(), threading.Event(), []

    def parser(org: str, number: int) -> list[ParsedEvent]:
        begun.set()
        assert go.wait(30)
        order.append((org, number))
        return [ParsedEvent("read", None)]

    async def one(org: str, number: int) -> None:
        await read(lambda _: parser(org, number), SEALED, org)

    much = [asyncio.create_task(one("much", number)) for number in range(5)]
    assert await asyncio.to_thread(begun.wait, 30)
    few = asyncio.create_task(one("few", 0))
    assert [event.type for event in await read(lambda _: [ParsedEvent("passed", None)], LARGER, "few")] == ["passed"]
    assert order == []
    go.set()
    await asyncio.gather(*much, few)
    assert order[:2] == [("much", 0), ("few", 0)]
    assert order[2:] == [("much", number) for number in range(1, 5)]
