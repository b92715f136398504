"""A list that is too large for one answer comes in pages, and what is too large all the same is told at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.errors import TooLarge
from shared.questions import PAGE_BYTES, Page
from shared.questions.events import AdapterView, ListAdapters
from shared.questions.resources import ListResources, of
from shared.questions.runs import ListRuns
from tests.integration.test_gateway import answering
from tests.support.inside import bus_of, eventually, running
from tests.support.resources import putting
from tests.support.river import river
from tests.support.servers import Place

LARGE = "x" * 200_000
WORKFLOW = b"""
from millrace import workflow

@workflow
def take(text: str) -> None: ...
"""


async def every(bus: Any, list_: Callable[..., msgspec.Struct]) -> list[Any]:
    """Return all items of a list, page by page, none of which is larger than an answer is to be."""
    items: list[Any] = []
    cursor: str | None = None
    while True:
        page = await bus.ask(list_(org="default", page=Page(limit=1000, cursor=cursor)))
        assert len(page.items) == 1 or len(msgspec.json.encode(page.items)) < PAGE_BYTES + 1000
        items += page.items
        cursor = page.next_cursor
        if cursor is None:
            return items


async def test_variables_of_several_mebibytes_are_listed(place: Place) -> None:
    async with running(place, "oauth"), bus_of(place, "gateway") as bus:
        names = [f"v{number:02}" for number in range(40)]
        for name in names:
            await bus.ask(putting("variable", name, value=LARGE[:60_000]))
        assert [one["name"] for one in await every(bus, partial(of, ListResources, "variable"))] == names


async def test_runs_of_several_mebibytes_are_listed(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("work.py", WORKFLOW)
        asked = {await outside.request("take", input={"text": LARGE}) for _ in range(12)}

        async def all_there() -> bool:
            return {one.id for one in await every(outside.bus, ListRuns)} == asked

        assert await eventually(all_there)


async def test_an_answer_that_the_broker_does_not_carry_is_told_at_once(place: Place) -> None:
    async def large(_question: ListAdapters, _deps: Any) -> list[AdapterView]:
        return [AdapterView("a", LARGE, {}, [])] * 12

    async with answering(place, "events", {ListAdapters: large}), bus_of(place, "gateway") as bus:
        with pytest.raises(TooLarge):
            await bus.ask(ListAdapters(org="default"))
