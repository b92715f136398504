"""What one webhook may start: so many subscriptions of a source, and so many bytes of their inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.events import deliveries, outcome_rows, parsing, routing, subscriptions
from shared.envelope import open_message
from shared.errors import Invalid
from shared.messages import EventAccepted
from shared.questions import Page
from shared.questions.events import DeliveryList, DeliveryView, ListDeliveries
from shared.resources import KINDS
from shared.streams import INLINE_BYTES
from tests.integration.test_gateway import stream
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside, river
from tests.support.servers import Place

WORKFLOW = b"from millrace import workflow\n@workflow\ndef greet(event: dict) -> int: return 1\n"


async def test_a_source_and_an_organization_have_so_many_and_what_is_there_can_be_changed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "MOST_SUBSCRIPTIONS", 2)
    monkeypatch.setitem(KINDS, "source", msgspec.structs.replace(KINDS["source"], most=2))
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        for name in ("repo", "other"):
            await outside.source(name)
        with pytest.raises(Invalid, match="2 sources already") as refused:
            await outside.source("third")
        assert [problem.path for problem in refused.value.errors] == ["name"]
        for name in ("a", "b"):
            await outside.subscription(name=name)
        with pytest.raises(Invalid, match="2 subscriptions already") as refused:
            await outside.subscription(name="c")
        assert [problem.path for problem in refused.value.errors] == ["source"]
        await outside.source("repo")
        await outside.subscription(name="a", event="*")
        await outside.subscription(name="c", source="other")
        with pytest.raises(Invalid, match="2 subscriptions already"):
            await outside.subscription(name="c", source="repo")


async def test_large_inputs_of_one_event_are_bounded_together_and_the_rest_says_so(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "LARGEST_FAN_OUT", 3 * INLINE_BYTES)
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        for name in ("a", "b", "c"):
            await outside.subscription(name=name)

        async def whole(delivery: str) -> DeliveryView | None:
            view = await outside.delivery(delivery, "routed", "unroutable")
            return view if len(view.subscriptions) == 3 else None

        few, much = [await outside.webhook(source, data) for data in ({"n": 1}, {"text": "x" * (INLINE_BYTES + 1000)})]
        small: Any = await eventually(lambda: whole(few))
        assert (small.status, len(small.runs)) == ("routed", 3)
        large: Any = await eventually(lambda: whole(much))
        assert large.status == "unroutable"
        assert [one.status for one in large.subscriptions].count("unroutable") == 1
        assert "more than 0 MiB together" in (large.reason or "")
        assert len(large.runs) == 2


async def test_many_events_of_one_webhook_leave_the_prompt_lane_and_have_so_many_outcomes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing, "MOST_PROMPT", 2)
    monkeypatch.setattr(routing, "MOST_OUTCOMES", 6)
    monkeypatch.setattr(outcome_rows, "ROOM", 1)
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        source = await outside.source(adapter="line")
        for name in ("a", "b"):
            await outside.subscription(name=name, filter="false")
        few = await outside.webhook(source, {"events": [{"type": "push"}] * 2})
        many = await outside.webhook(source, {"events": [{"type": "push"}] * 5})

        async def told(delivery: str, number: int) -> DeliveryView | None:
            view = await outside.delivery(delivery, "accepted", "filtered", "unroutable")
            return view if len(view.subscriptions) == number else None

        assert isinstance(await eventually(lambda: told(few, 4)), DeliveryView)
        story = await eventually(lambda: told(many, 8))
        assert isinstance(story, DeliveryView)
        found = sorted((one.event, one.name, one.status) for one in story.subscriptions)
        assert found[:6] == [(number, name, "filtered") for number in range(3) for name in ("a", "b")]
        assert [(event, status) for event, _, status in found[6:]] == [(3, "unroutable"), (4, "unroutable")]
        assert "and 1 more subscriptions want it, and it is event 3 of one webhook: of one at most about 6" in (story.reason or "")
        made = [open_message(one, EventAccepted) for one in await stream(place, "EVENTS") if one.type == "event.accepted"]
        assert {one.lane for one in made if one.delivery == few} == {None}
        assert {one.lane for one in made if one.delivery == many} == {"bulk-1"}
        monkeypatch.setattr(deliveries, "ROOM_FOR_OUTCOMES", 1)
        story = await outside.delivery(many, "unroutable")
        assert ([one.status for one in story.subscriptions], story.left_out) == (["unroutable"], 7)
        # However large their stories, all deliveries are listed: fewer at a time.
        first: DeliveryList = await bus.ask(ListDeliveries(org="default", page=Page(limit=10)))
        rest: DeliveryList = await bus.ask(ListDeliveries(org="default", page=Page(limit=10, cursor=first.next_cursor)))
        assert ([one.id for one in first.items], [one.id for one in rest.items], rest.next_cursor) == ([many], [few], None)
