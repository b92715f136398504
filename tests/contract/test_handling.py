"""Handlers on a real broker: what each outcome does to the message, and what redelivery leaves behind."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from shared import aggregate, breaker, consumer
from shared.bus import CONCURRENCY, Bus
from shared.commit import Refused
from shared.envelope import new_id, open_envelope, open_message
from shared.errors import Invalid, NotFound, PermissionDenied, Unavailable
from shared.messages import DeadLettered, EventAccepted, EventFiltered, Message, WebhookReceived
from shared.metrics import exposition
from shared.streams import WORK
from tests.support.inside import bus_of, eventually
from tests.support.servers import Place

# More than are under way when a consumer stops.
MANY = 2 * CONCURRENCY

Yields = AsyncIterator[tuple[Message, str]]


@pytest.fixture(autouse=True)
def unrendered() -> Iterator[None]:
    """Hundreds of tracebacks take longer to be drawn than all the rest."""
    with capture_logs():
        yield


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "BUG_DELAYS", (0.01, 0.01))
    monkeypatch.setattr(consumer, "ABSENT_DELAYS", (0.01, 0.01))
    monkeypatch.setattr(consumer, "UNAVAILABLE_DELAY", 0.05)


def received(source: str = "s") -> WebhookReceived:
    return WebhookReceived(
        source=source, delivery=new_id(), adapter="hmac", received_at="", method="POST", query=[], headers=[], body_base64=""
    )  # fmt: skip


def filtered(message: WebhookReceived, reason: str) -> EventFiltered:
    return EventFiltered(source=message.source, event=message.delivery, delivery=message.delivery, reason=reason)


async def nothing(_message: EventAccepted, _deps: Any) -> Yields:
    return
    yield


@asynccontextmanager
async def handling(place: Place, handler: Callable[[Any, Any], Yields]) -> AsyncIterator[tuple[Bus, Bus]]:
    """Handle webhooks as the events service does; gives its bus and the gateway's."""
    others = {work.messages[0]: nothing for work in WORK if work.service == "events"}
    async with bus_of(place, "events") as events, bus_of(place, "gateway") as gateway:
        events.handle(others | {WebhookReceived: handler}, None)
        await events.start()
        yield events, gateway


async def events_of(bus: Bus, source: str = "s") -> list[str]:
    return [open_message(stored.envelope, EventFiltered).reason async for stored in aggregate.history(bus.client, "event", source)]


async def measured_by_error(bus: Bus) -> Counter[str]:
    """Return how many webhooks were handled, by the kind of error that they met."""
    families = text_string_to_metric_families(exposition(bus._health).decode())
    found = next(family for family in families if family.name == "messaging_process_duration_seconds")
    labels = {"messaging_consumer_group_name": "events-parse", "messaging_destination_name": "WEBHOOKS"}
    return Counter(
        {
            one.labels["error_type"]: int(one.value)
            for one in found.samples
            if one.name.endswith("_count") and labels.items() <= one.labels.items()
        }
    )


async def dead_letters(place: Place) -> list[DeadLettered]:
    client = await nats.connect(place.nats_url("admin"))
    try:
        js = client.jetstream()
        info = await js.stream_info("DEAD")
        return [
            open_message(open_envelope((await js.get_msg("DEAD", sequence)).data or b""), DeadLettered)
            for sequence in range(max(1, info.state.first_seq), info.state.last_seq + 1)
        ]
    finally:
        await client.close()


async def test_a_handler_that_dies_after_its_first_yield_leaves_each_message_once(place: Place) -> None:
    tries: Counter[str] = Counter()

    async def handler(message: WebhookReceived, _deps: Any) -> Yields:
        tries[message.delivery] += 1
        yield filtered(message, "one"), "one"
        if tries[message.delivery] == 1:
            raise RuntimeError("killed here")
        yield filtered(message, "two"), "two"

    async with handling(place, handler) as (events, gateway):
        await gateway.publish(gateway.seal(received(), org="default"))

        async def both() -> bool:
            return len(await events_of(events)) == 2

        await eventually(both)
        assert sorted(await events_of(events)) == ["one", "two"]


async def test_redelivery_publishes_nothing_new(place: Place) -> None:
    seen: Counter[str] = Counter()

    async def handler(message: WebhookReceived, _deps: Any) -> Yields:
        yield filtered(message, "same"), "same"
        seen[message.delivery] += 1
        if seen[message.delivery] < 3:
            raise Unavailable("the database is away", retry_after=0.01)

    async with handling(place, handler) as (events, gateway):
        message = received()
        await gateway.publish(gateway.seal(message, org="default"))

        async def thrice() -> bool:
            return seen[message.delivery] >= 3 and bool(await events_of(events))

        await eventually(thrice)
        assert await events_of(events) == ["same"]
        assert await dead_letters(place) == []


async def test_what_can_never_work_is_a_dead_letter_with_the_original_document(place: Place) -> None:
    async def handler(message: WebhookReceived, _deps: Any) -> Yields:
        raise Invalid("no such thing as this")
        yield message, "never"

    async with handling(place, handler) as (_, gateway):
        sealed = gateway.seal(received(), org="acme")
        await gateway.publish(sealed)

        async def buried() -> list[DeadLettered]:
            return await dead_letters(place)

        letters = await eventually(buried)
        assert isinstance(letters, list)
        (letter,) = letters
        assert base64.b64decode(letter.document_base64) == sealed.document
        assert (letter.verb, letter.consumer, letter.tries) == ("webhook.received", "events-parse", 1)
        assert "no such thing as this" in letter.error


@pytest.mark.parametrize("error", [RuntimeError("a bug"), NotFound("not there yet")])
async def test_what_goes_on_failing_is_a_dead_letter_after_its_tries(place: Place, error: Exception) -> None:
    tries = 0

    async def handler(message: WebhookReceived, _deps: Any) -> Yields:
        nonlocal tries
        tries += 1
        raise error
        yield message, "never"

    async with handling(place, handler) as (_, gateway):
        await gateway.publish(gateway.seal(received(), org="default"))

        async def buried() -> list[DeadLettered]:
            return await dead_letters(place)

        letters = await eventually(buried)
        assert isinstance(letters, list)
        assert [letter.tries for letter in letters] == [3]
        assert tries == 3


async def test_bugs_in_a_row_stop_the_consumer_and_keep_the_rest(place: Place) -> None:
    async def handler(message: WebhookReceived, _deps: Any) -> Yields:
        raise RuntimeError("everything is wrong since the last deploy")
        yield message, "never"

    async with handling(place, handler) as (events, gateway):
        await asyncio.gather(*(gateway.publish(gateway.seal(received(), org="default")) for _ in range(200)))

        async def stopped() -> str | None:
            part = events.health_document()["parts"]["consumer events-parse"]
            return None if part["ready"] else part["detail"]

        told = str(await eventually(stopped))
        assert "stopped since 20" in told
        assert "RuntimeError: everything is wrong since the last deploy" in told

        async def counted() -> int:
            letters = len(await dead_letters(place))
            return letters if events.health_document()["dead_letters"]["bugs"]["events-parse"] == letters else 0

        # Those that were under way when it stopped end too; the others stay in the stream, unharmed.
        assert breaker.DEAD_IN_A_ROW <= int(str(await eventually(counted))) < 200


async def test_a_stopped_consumer_tries_one_message_and_goes_on_when_it_succeeds(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "PAUSE", 0.2)
    broken = True
    at_once, most = 0, 0

    async def handler(message: WebhookReceived, _deps: Any) -> Yields:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        if broken:
            raise RuntimeError("since the last deploy")
        yield filtered(message, message.delivery), "one"

    async with handling(place, handler) as (events, gateway):
        await asyncio.gather(*(gateway.publish(gateway.seal(received(), org="default")) for _ in range(MANY)))

        async def is_stopped() -> bool:
            return not events.health_document()["parts"]["consumer events-parse"]["ready"] and not at_once

        await eventually(is_stopped)
        most = 0
        # Messages that are put off come again within a fraction of this, more often than they have tries.
        await asyncio.sleep(5 * breaker.PAUSE)
        assert most <= 1
        assert len(await dead_letters(place)) < MANY
        broken = False

        async def goes_on() -> bool:
            return bool(events.health_document()["parts"]["consumer events-parse"]["ready"])

        await eventually(goes_on)

        async def all_settled() -> bool:
            return len(await events_of(events)) + len(await dead_letters(place)) == MANY

        await eventually(all_settled)
        assert {letter.tries for letter in await dead_letters(place)} == {3}


async def test_a_stopped_consumer_tries_first_what_comes_of_another_source(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "PAUSE", 1.0)

    tried: list[str] = []

    async def handler(message: WebhookReceived, _deps: Any) -> Yields:
        tried.append(message.source)
        if message.source == "s":
            raise RuntimeError("what this source sends meets a bug")
        yield filtered(message, "handled"), "one"

    async with handling(place, handler) as (events, gateway):
        await asyncio.gather(*(gateway.publish(gateway.seal(received(), org="default")) for _ in range(80)))

        async def is_stopped() -> bool:
            return not events.health_document()["parts"]["consumer events-parse"]["ready"]

        await eventually(is_stopped)
        await gateway.publish(gateway.seal(received("other"), org="default"))
        before = len(tried)

        async def handled() -> bool:
            return await events_of(events, "other") == ["handled"]

        await eventually(handled)
        # One at a time is tried, and many of the other source wait.
        assert tried.index("other") - before <= 3


@pytest.mark.parametrize(
    "error", [Invalid("no JSON"), PermissionDenied("not yours"), NotFound("no such adapter"), Refused("too large")]
)
async def test_what_a_sender_gets_wrong_stops_nobody(place: Place, error: Exception) -> None:
    async def handler(message: WebhookReceived, _deps: Any) -> Yields:
        if message.source == "careless":
            raise error
        yield filtered(message, "handled"), "one"

    async with handling(place, handler) as (events, gateway):
        careless = 2 * breaker.DEAD_IN_A_ROW
        await asyncio.gather(*(gateway.publish(gateway.seal(received("careless"), org="default")) for _ in range(careless)))

        async def buried() -> bool:
            return len(await dead_letters(place)) == careless

        await eventually(buried)
        await gateway.publish(gateway.seal(received("other"), org="default"))

        async def handled() -> bool:
            return await events_of(events, "other") == ["handled"]

        await eventually(handled)
        told = events.health_document()
        assert told["parts"]["consumer events-parse"]["ready"]
        assert told["dead_letters"] == {"unreadable": {"careless": careless}, "bugs": {}}

        async def measured() -> bool:
            counts = await measured_by_error(events)
            return counts[""] == 1 and counts["absent"] + counts["unreadable"] >= careless

        await eventually(measured)


async def test_a_letter_that_does_not_fit_names_the_place_of_the_message(place: Place) -> None:
    async def handler(message: WebhookReceived, _deps: Any) -> Yields:
        raise Invalid("no")
        yield message, "never"

    async with handling(place, handler):
        client = await nats.connect(place.nats_url("admin"))
        ack = await client.jetstream().publish("webhook.s.received", b"\xff" * 1_900_000)
        await client.close()

        async def buried() -> list[DeadLettered]:
            return await dead_letters(place)

        letters = await eventually(buried)
        assert isinstance(letters, list)
        (letter,) = letters
        assert (letter.stream, letter.sequence, letter.document_base64) == ("WEBHOOKS", ack.seq, "")
        assert "1900000 bytes" in letter.reason


async def test_a_document_that_is_no_envelope_is_a_dead_letter(place: Place) -> None:
    async def handler(message: WebhookReceived, _deps: Any) -> Yields:
        yield filtered(message, "handled"), "x"

    async with handling(place, handler):
        client = await nats.connect(place.nats_url("admin"))
        await client.jetstream().publish("webhook.s.received", b"\xff not json")
        await client.close()

        async def buried() -> list[DeadLettered]:
            return await dead_letters(place)

        letters = await eventually(buried)
        assert isinstance(letters, list)
        assert base64.b64decode(letters[0].document_base64) == b"\xff not json"
