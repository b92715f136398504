"""The latest events of a source: the same as a new reading of the bus finds, whatever is kept of them."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from services.events.awaiting.plan import Occurred
from services.events.awaiting.recent import RecentEvents
from services.events.domain import event_document
from shared.aggregate import Stored
from shared.bus import Bus
from shared.envelope import new_id, rfc3339, utc_now
from shared.messages import EventAccepted, EventFiltered
from tests.support.inside import bus_of
from tests.support.servers import Place


async def publish(bus: Bus, numbers: range) -> None:
    """Have events of a source accepted, and filtered."""
    for number in numbers:
        id_, at = new_id(), rfc3339(utc_now())
        event = EventAccepted(
            source="s",
            source_name="s",
            event=id_,
            delivery=id_,
            type="t",
            headers={},
            received_at=at,
            data={"n": number, "pad": "x" * 900},
        )
        await bus.publish(bus.seal(event, org="default"))
        await bus.publish(bus.seal(EventFiltered(source="s", event=id_, delivery=id_, reason="nobody"), org="default"))


async def occurred(stored: Stored) -> Occurred | None:
    event = stored.message()
    if not isinstance(event, EventAccepted):
        return None
    return Occurred(sequence=stored.sequence, at=stored.envelope.time, event=event, document=event_document(event, event.data))


@pytest.mark.parametrize("most", [1 << 20, 5000, 500])
async def test_what_is_kept_is_what_a_new_reading_finds(place: Place, most: int) -> None:
    async with bus_of(place, "events") as bus:
        recent = RecentEvents(bus.client, occurred, most)

        async def numbers(since: datetime, of: RecentEvents = recent) -> list[int]:
            async with asyncio.timeout(30):
                return [one.document["data"]["n"] async for one in of.since("s", since)]

        began = utc_now()
        assert await numbers(began) == []
        await publish(bus, range(5))
        assert await numbers(began) == [0, 1, 2, 3, 4]
        middle = utc_now()
        await publish(bus, range(5, 25))
        assert await numbers(middle) == list(range(5, 25))
        assert await numbers(began) == list(range(25))
        await publish(bus, range(25, 27))
        assert await numbers(middle) == list(range(5, 27))
        assert await numbers(utc_now()) == []
        assert await numbers(began) == await numbers(began, RecentEvents(bus.client, occurred)) == list(range(27))
        assert recent.size <= most
