"""Dead letters: listed with their messages, replayed once, discarded, and rebuilt from their stream."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from datetime import timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from services.events import opening, repairs, retries, routing
from shared.aggregate import history
from shared.envelope import new_id
from shared.errors import Conflict, Invalid, NotFound, Unavailable
from shared.letters import GivenUp, bury
from shared.questions import Page
from shared.questions.events import DeliveryView, EventEdit, RetryDelivery
from shared.questions.letters import (
    DeadLetterPage,
    DeadLetterView,
    DiscardDeadLetter,
    GetDeadLetter,
    ListDeadLetters,
    ReplayDeadLetter,
)
from shared.questions.replays import ReplayDeliveries
from tests.integration.test_gateway import gateway
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside
from tests.support.servers import Place


def broken(*_: Any) -> Any:
    raise Invalid("broken")


async def letters(outside: Outside, number: int = 1, **narrowed: Any) -> list[DeadLetterView]:
    async def there() -> DeadLetterPage | None:
        page: DeadLetterPage = await outside.bus.ask(ListDeadLetters(org="default", **narrowed))
        return page if len(page.items) == number else None

    found = await eventually(there)
    assert isinstance(found, DeadLetterPage)
    return found.items


async def replayed(outside: Outside, letter: str, **given: Any) -> DeadLetterView:
    view: DeadLetterView = await outside.bus.ask(
        ReplayDeadLetter(**{"id": new_id(), "org": "default", "actor": "test", "letter": letter} | given)
    )
    return view


async def unreadable(outside: Outside, **body: Any) -> tuple[Any, str]:
    """Have a delivery given up whose body names no type; return its source and its id."""
    source = await outside.source(adapter="hmac", settings={"event_path": "kind"})
    id_ = await outside.webhook(source, body)
    await outside.delivery(id_, "dead")
    return source, id_


async def test_a_dead_letter_shows_its_message_as_it_was_and_its_delivery(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        source, id_ = await unreadable(outside, ref="main")
        [listed] = await letters(outside)
        assert (listed.delivery, listed.type, listed.status, listed.document) == (id_, "webhook.received", "open", None)
        assert (listed.service, listed.consumer, listed.stream, listed.key) == ("events", "events-parse", "WEBHOOKS", source.id)
        assert "kind" in listed.error
        shown: DeadLetterView = await bus.ask(GetDeadLetter(org="default", id=listed.id))
        assert base64.b64decode(shown.document["data"]["body_base64"]) == b'{"ref":"main"}'
        assert shown.message == shown.document["id"]
        with pytest.raises(NotFound):
            await bus.ask(GetDeadLetter(org="other", id=listed.id))


async def test_a_letter_is_replayed_by_what_is_in_it_once_however_often_and_by_whomever_it_is_asked_for(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus, bus_of(place, "admin") as admin:
        outside = Outside(place, bus)
        _, id_ = await unreadable(outside, ref="main")
        [letter] = await letters(outside)
        with pytest.raises(Invalid, match="kind"):  # as little as before
            await replayed(outside, letter.id)
        assert [one.status for one in await letters(outside)] == ["open"]
        # Whatever the bus has forgotten, the letter holds the message.
        await admin.client.jetstream().purge_stream("WEBHOOKS")
        await outside.source(adapter="hmac")
        command = new_id()
        answers = await asyncio.gather(
            *(replayed(outside, letter.id, id=id_) for id_ in (command, command, new_id(), new_id())), return_exceptions=True
        )
        done = [one for one in answers if isinstance(one, DeadLetterView)]
        assert done
        assert {(one.status, one.changed_by) for one in done} == {("replayed", "test")}
        assert all(isinstance(one, DeadLetterView | Conflict) for one in answers), answers
        assert "wants" in ((await outside.delivery(id_, "filtered")).reason or "")
        with pytest.raises(Conflict, match="replayed already"):
            await replayed(outside, letter.id)
        with pytest.raises(Conflict, match="replayed already"):
            await bus.ask(DiscardDeadLetter(id=new_id(), org="default", actor="test", letter=letter.id))
        recorded = [one.envelope.type async for one in history(admin.client, "letter", letter.id)]
        assert recorded == ["letter.replayed"]
        accepted = (await admin.client.jetstream().stream_info("EVENTS", subjects_filter="event.*.accepted")).state.subjects or {}
        assert sum(accepted.values()) == 1


async def test_a_retry_that_makes_the_events_of_a_delivery_ends_its_letters(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        source, first = await unreadable(outside, ref="main")
        second = await outside.webhook(source, {"ref": "main"})
        await outside.delivery(second, "dead")
        await letters(outside, 2)
        retry: dict[str, Any] = {"org": "default", "actor": "ann", "delivery": first}
        with pytest.raises(Invalid, match=r"needs a `type` beside its `data`: .*kind"):
            await bus.ask(RetryDelivery(id=new_id(), edit=EventEdit(data=1), **retry))
        await letters(outside, 2, status="open")
        view: DeliveryView = await bus.ask(RetryDelivery(id=new_id(), edit=EventEdit(data=1, type="push"), **retry))
        assert view.source_name == source.name
        [left] = await letters(outside, status="open")
        [ended] = await letters(outside, status="replayed")
        assert (left.delivery, ended.delivery, ended.changed_by) == (second, first, "ann")
        with pytest.raises(Conflict, match=f"was replayed already: `millrace deliveries retry {first}`"):
            await replayed(outside, ended.id)
        # And one of many.
        await outside.source(adapter="hmac")
        since = "2026-01-01T00:00:00Z"
        await bus.ask(ReplayDeliveries(id=new_id(), org="default", actor="bob", since=since, status="dead", rate=500.0))
        assert {one.changed_by for one in await letters(outside, 2, status="replayed")} == {"ann", "bob"}
        await outside.delivery(second, "filtered")


async def test_a_retry_that_is_cut_off_before_it_ends_the_letters_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cut_off(*_: Any, **__: Any) -> None:
        raise Unavailable("cut off")

    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        _, first = await unreadable(outside, ref="main")
        _, edited = await unreadable(outside, ref="main")
        _, left = await unreadable(outside, ref="main")
        listed = {one.delivery: one for one in await letters(outside, 3, status="open")}
        monkeypatch.setattr(retries, "end_repaired", cut_off)
        retry: dict[str, Any] = {"org": "default", "actor": "ann"}
        with pytest.raises(Unavailable):
            await bus.ask(RetryDelivery(id=new_id(), edit=EventEdit(data=1, type="push"), delivery=edited, **retry))
        await outside.source(adapter="hmac")
        again = RetryDelivery(id=new_id(), delivery=first, **retry)
        for _ in range(2):  # Once more, it has made its events already.
            with contextlib.suppress(Unavailable):
                await bus.ask(again)
        for id_ in (first, edited):
            await outside.delivery(id_, "filtered")
        await letters(outside, 3, status="open")
        monkeypatch.undo()
        monkeypatch.setattr(repairs, "GRACE", timedelta(0))
    # At the next start, or look.
    async with running(place, "events"), bus_of(place, "gateway") as bus, bus_of(place, "admin") as admin:
        outside = Outside(place, bus)
        ended = await letters(outside, 2, status="replayed")
        assert {one.delivery for one in ended} == {first, edited}
        assert {one.changed_by for one in ended} == {"events"}
        assert [one.delivery for one in await letters(outside, status="open")] == [left]
        # The retry that is asked for once more by the letter is another one.
        with pytest.raises(Conflict, match="replayed already"):
            await replayed(outside, listed[first].id)
        # Each delivery has one event, whatever was done twice.
        accepted = (await admin.client.jetstream().stream_info("EVENTS", subjects_filter="event.*.accepted")).state.subjects or {}
        assert sum(accepted.values()) == 2


async def test_the_events_that_a_retry_did_not_come_to_are_made_before_its_letter_ends(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    publishing, made = retries.publish_again, 0

    async def cut_off(events: list[Any], first: Any, deps: Any) -> None:
        nonlocal made
        await publishing(events[:1], first, deps)
        made = len(events)
        raise Unavailable("cut off")

    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        reading = opening.checked_event
        monkeypatch.setattr(opening, "checked_event", broken)
        id_ = await outside.webhook(await outside.source(adapter="line"), {"events": [{"type": "push"}] * 3})
        await outside.delivery(id_, "dead")
        [letter] = await letters(outside)
        monkeypatch.setattr(opening, "checked_event", reading)
        monkeypatch.setattr(retries, "publish_again", cut_off)
        with pytest.raises(Unavailable):
            await bus.ask(RetryDelivery(id=new_id(), org="default", actor="ann", delivery=id_))
        assert made == 3
        await outside.delivery(id_, "filtered")
        monkeypatch.undo()
        monkeypatch.setattr(repairs, "GRACE", timedelta(0))
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        assert [one.id for one in await letters(outside, status="replayed")] == [letter.id]

        async def whole() -> bool:
            story = await outside.delivery(id_, "filtered")
            return len(story.events) == 3

        await eventually(whole)


async def test_a_discarded_letter_stays_listed_and_is_not_replayed(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        await unreadable(outside, ref="main")
        [letter] = await letters(outside)
        view: DeadLetterView = await bus.ask(DiscardDeadLetter(id=new_id(), org="default", actor="test", letter=letter.id))
        assert view.status == "discarded"
        assert [one.status for one in await letters(outside, status="discarded")] == ["discarded"]
        assert await letters(outside, number=0, status="open") == []
        with pytest.raises(Conflict, match="discarded already"):
            await replayed(outside, letter.id)


async def test_an_event_that_dies_again_is_open_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        source = await outside.source()
        monkeypatch.setattr(routing.domain, "matching", broken)
        id_ = await outside.webhook(source, {"ref": "main"})
        [letter] = await letters(outside)
        assert (letter.type, letter.delivery) == ("event.accepted", id_)
        monkeypatch.undo()
        assert (await replayed(outside, letter.id)).status == "replayed"
        await outside.delivery(id_, "filtered")


async def test_letters_of_no_delivery_are_not_replayed_and_say_what_to_do(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus, bus_of(place, "executor") as executor:
        outside = Outside(place, bus)
        given_up = GivenUp(
            service="executor", consumer="executor-runs-normal", stream="RUNS", sequence=7, subject="run.r-1.requested.normal",
            document=b"\xff no json", error="Invalid: x", reason="can never work", tries=3,
        )  # fmt: skip
        await bury(executor.journal, given_up)

        async def there() -> Any:
            return (await bus.ask(ListDeadLetters(org="global", service="executor"))).items

        [letter] = await eventually(there)  # type: ignore[misc]
        assert (letter.message, letter.delivery, letter.tries) == (None, None, 3)
        shown: DeadLetterView = await bus.ask(GetDeadLetter(org="global", id=letter.id))
        assert base64.b64decode(shown.document_base64 or "") == given_up.document
        with pytest.raises(Conflict, match="runs rerun r-1"):
            await replayed(outside, letter.id, org="global")
        every: DeadLetterPage = await bus.ask(ListDeadLetters(org="*"))
        assert [one.id for one in every.items] == [letter.id]


async def test_letters_are_paged_and_made_anew_from_their_stream(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        source, _ = await unreadable(outside, ref="0")
        for n in range(4):
            await outside.webhook(source, {"ref": str(n + 1)})
        every = await letters(outside, number=5)
        await bus.ask(DiscardDeadLetter(id=new_id(), org="default", actor="test", letter=every[0].id))
        [_] = await letters(outside, status="discarded")
        paged: list[str] = []
        cursor = None
        while True:
            page: DeadLetterPage = await bus.ask(ListDeadLetters(org="default", page=Page(limit=2, cursor=cursor)))
            paged += [one.id for one in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert paged == [one.id for one in every]
        before = await letters(outside, number=5)
    connection = await asyncpg.connect(place.database_url("events"))
    await connection.execute("DELETE FROM dead_letter; DELETE FROM checkpoint WHERE projection = 'dead'")
    await connection.close()
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        [_] = await letters(Outside(place, bus), status="discarded")
        assert msgspec.json.encode(await letters(Outside(place, bus), number=5)) == msgspec.json.encode(before)


async def test_dead_letters_over_http(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus, gateway(place) as client:
        outside = Outside(place, bus)
        await unreadable(outside, ref="main")
        await letters(outside)
        [letter] = (await client("GET", "/api/v1/dead-letters?status=open&service=events")).json["items"]
        assert (await client("GET", f"/api/v1/dead-letters?id={letter['id'][:8]}")).json["items"] == [letter]
        got = await client("GET", f"/api/v1/dead-letters/{letter['id']}")
        assert got.json["document"]["type"] == "webhook.received"
        assert (await client("GET", f"/api/v1/dead-letters/{letter['id']}?org=other")).status == 404
        assert (await client("POST", f"/api/v1/dead-letters/{letter['id']}/replay")).status == 422
        await outside.source(adapter="hmac")
        again = await client("POST", f"/api/v1/dead-letters/{letter['id']}/replay")
        assert (again.status, again.json["status"], again.json["changed_by"]) == (202, "replayed", "platform-key")
        assert (await client("POST", f"/api/v1/dead-letters/{letter['id']}/discard")).status == 409
        assert (await client("POST", "/api/v1/dead-letters/nothing/discard")).status == 404
