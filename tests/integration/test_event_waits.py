"""`wait_for_event`, from the topic to the workflow that goes on: its own event, once, in time, also one that came before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from shared.envelope import new_id
from shared.questions.events import DeliveryView, EmitEvent, GetDelivery
from shared.questions.runs import RunView
from tests.support.inside import eventually
from tests.support.resources import putting, told
from tests.support.river import Outside, river
from tests.support.servers import Place

WORKFLOWS = b"""
import asyncio

from millrace import EventTimeout, Refused, wait_for_event, workflow


@workflow
async def sell(invoice: str, timeout: float | None = None) -> dict | str:
    try:
        paid = await wait_for_event("invoice.paid", source="shop", where="event.data.id == invoice", timeout=timeout)
    except EventTimeout as late:
        return str(late)
    return {"event": paid["id"], "type": paid["type"], "source": paid["source"], "data": paid["data"]}


@workflow
def plain(least: int) -> list:
    first = wait_for_event.sync("order.*", source="shop", where="event.data.n >= least", values={"least": least})
    second = wait_for_event.sync("order.*", source="shop", where="event.data.n >= least")
    return [first["data"]["n"], second["data"]["n"]]


@workflow
async def both(kind: str) -> list:
    waits = [wait_for_event("both", source="shop", where="event.data.kind == kind") for _ in range(2)]
    return [one["data"]["n"] for one in await asyncio.gather(*waits)]


@workflow
async def wrong(source: str, where: str) -> str:
    try:
        await wait_for_event("push", source=source, where=where)
    except Refused as refused:
        return f"{refused.kind}: {refused}"
    return "waited"
"""


async def emit(outside: Outside, type_: str, data: Any) -> str:
    """Emit an event; returns its delivery."""
    command = EmitEvent(id=new_id(), org="default", actor="test", source="shop", type=type_, data=data)
    return str((await outside.bus.ask(command)).delivery)


@pytest_asyncio.fixture
async def outside(place: Place, data: Path) -> AsyncIterator[Outside]:
    async with river(place, data) as found:
        await told(found.bus, putting("source", "shop", found._keyring, adapter="topic"))
        await found.put_file("waits.py", WORKFLOWS)
        yield found


async def ended(outside: Outside, run: str) -> Any:
    """Return the result of a run."""
    view = await outside.run(run, "succeeded", "failed", "timed_out", "crashed")
    assert view.status == "succeeded", view.error
    return view.result


async def test_each_run_goes_on_with_its_own_event_or_is_told_why_not(outside: Outside) -> None:
    late = await outside.request("sell", input={"invoice": "in_9", "timeout": 3})
    mine, others = [await outside.request("sell", input={"invoice": one}) for one in ("in_1", "in_2")]
    view: RunView = await outside.run(mine, "waiting")
    assert view.blocked_on == "event"
    assert [(one.kind, one.name, one.where) for one in view.waits] == [
        ("event", "invoice.paid from shop", "event.data.id == invoice")
    ]
    await emit(outside, "invoice.sent", {"id": "in_1"})
    await emit(outside, "invoice.paid", {"id": "in_3"})
    delivery = await emit(outside, "invoice.paid", {"id": "in_1", "sum": 7})
    assert (await ended(outside, mine))["data"] == {"id": "in_1", "sum": 7}
    assert (await outside.types(mine)).count("run.event_matched") == 1

    async def shown() -> DeliveryView | None:
        found: DeliveryView = await outside.bus.ask(GetDelivery(org="default", id=delivery))
        return found if found.woken else None

    story = await eventually(shown)
    assert isinstance(story, DeliveryView)
    assert [(one.run, one.wait) for one in story.woken] == [(mine, "invoice.paid from shop")]
    assert (await outside.run(others, "waiting")).blocked_on == "event"
    said = [
        await ended(outside, await outside.request("wrong", input={"source": source, "where": where}))
        for source, where in (
            ("nowhere", "true"),
            ("shop", "event.data.id == = 3"),
            ("shop", "event.data.id == invoice"),
            ("shop", "event.data.id == source.size()['x']"),
        )
    ]
    assert said[0] == "NotFound: there is no source 'nowhere'"
    assert said[1].startswith("Invalid: where: this is no expression: line 1, column 18: ")
    assert said[2].startswith("Invalid: where: column 18: `invoice` is neither `event`, nor ")
    assert said[3].startswith("Invalid: where: `source.size()['x']` has no value: ")
    assert await ended(outside, late) == "no event invoice.paid from shop came in time"


async def test_an_event_from_shortly_before_answers_each_run_and_one_wait_of_it(outside: Outside) -> None:
    for n in (1, 5, 7):
        await emit(outside, "order.made", {"n": n})
    assert await ended(outside, await outside.request("plain", input={"least": 5})) == [5, 7]
    run = await outside.request("plain", input={"least": 6})
    assert (await outside.run(run, "waiting")).blocked_on == "event"
    await eventually(lambda: _has(outside, run, "run.event_matched"))
    await emit(outside, "order.changed", {"n": 6.5})
    assert await ended(outside, run) == [7, 6.5]
    runs = [await outside.request("both", input={"kind": "a"}) for _ in range(2)]
    for run in runs:
        await outside.run(run, "waiting")
    await emit(outside, "both", {"kind": "a", "n": 1})
    await emit(outside, "both", {"kind": "b", "n": 2})
    await emit(outside, "both", {"kind": "a", "n": 3})
    assert [await ended(outside, run) for run in runs] == [[1, 3], [1, 3]]


async def _has(outside: Outside, run: str, type_: str) -> bool:
    return type_ in await outside.types(run)
