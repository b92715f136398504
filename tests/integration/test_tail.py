"""Tails: each message that matches once, of the own organization, however slow the client is and whatever restarts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from services.gateway import watching
from services.gateway.api import sse
from services.gateway.api import tail as tails
from services.gateway.config import MAX_CONNECTIONS
from services.logs import feed, places, tailing
from services.logs.places import At, TailPlace
from shared.bus import Bus
from shared.envelope import new_id
from shared.errors import Malformed, Unavailable
from shared.messages import LineChunk, Lines, RunRequested
from shared.questions.logs import TailLogs
from tests.integration.test_gateway import Client, gateway
from tests.integration.test_run_streams import Event
from tests.support import servers
from tests.support.inside import bus_of, eventually, running


class House:
    """The gateway, the archive, and a bus on which runs are asked for."""

    def __init__(self, client: Client, bus: Bus) -> None:
        self.client = client
        self.bus = bus

    async def say(self, *workflows: str, org: str = "default") -> None:
        for workflow in workflows:
            asked = RunRequested(run=new_id(), workflow=workflow, version="v", requested_by="t", timeout=60.0)
            await self.bus.publish(self.bus.seal(asked, org=org))

    async def lines(self, *texts: str) -> None:
        said = [Lines(time="t", level="info", message=text) for text in texts]
        await self.bus.publish(self.bus.seal(LineChunk(run=new_id(), workflow="w", attempt=1, chunk=1, lines=said), org="default"))

    async def archived(self, workflow: str) -> bool:
        return bool((await self.client("GET", f"/api/v1/logs?q=workflow:{workflow}")).json["items"])

    async def tail(self, q: str = "workflow:*", *, last: str | None = None, org: str = "default") -> AsyncGenerator[Event, None]:
        headers = self.client.key | ({} if last is None else {"Last-Event-ID": last})
        path = f"{self.client.url}/api/v1/logs/tail"
        async with self.client.session.get(path, params={"q": q, "org": org}, headers=headers) as response:
            assert (response.status, response.content_type) == (200, "text/event-stream"), await response.text()
            fields: dict[str, str] = {}
            while line := (await response.content.readline()).decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                elif fields:
                    yield Event(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
                    fields = {}


@asynccontextmanager
async def house(place: servers.Place) -> AsyncIterator[House]:
    async with running(place, "logs"), gateway(place) as client, bus_of(place, "executor") as bus:
        yield House(client, bus)


async def place_of(stream: AsyncGenerator[Event, None]) -> str:
    first = await anext(stream)
    assert first.kind == "place"
    return first.id


async def rows(stream: AsyncGenerator[Event, None], number: int) -> list[Event]:
    """Return the next rows; other events between them are passed over."""
    found: list[Event] = []
    async with asyncio.timeout(60):
        while len(found) < number:
            event = await anext(stream)
            found += [event] if event.kind == "row" else []
    return found


def names(found: list[Event]) -> list[Any]:
    return [event.data["workflow"] if event.data["line"] is None else event.data["message"] for event in found]


async def test_a_tail_gives_what_matches_from_now_on_to_its_organization(place: servers.Place) -> None:
    async with house(place) as home:
        await home.say("before")
        await eventually(lambda: home.archived("before"))
        all_ = home.tail(org="*", q="type:run.requested")
        async with (
            aclosing(home.tail(q="type:run.* -workflow:not")) as mine,
            aclosing(home.tail(org="other")) as theirs,
            aclosing(all_),
        ):
            for one in (mine, theirs, all_):
                await place_of(one)
            await home.say("a", "not", "b")
            await home.say("c", org="other")
            assert names(await rows(mine, 2)) == ["a", "b"]
            [event] = await rows(theirs, 1)
            assert (event.data["workflow"], event.data["org"]) == ("c", "other")
            assert sorted(names(await rows(all_, 4))) == ["a", "b", "c", "not"]
        for q, path in (("a (", "q"), ("level:loud", "q")):
            answer = await home.client("GET", f"/api/v1/logs/tail?q={q}")
            assert (answer.status, answer.json["errors"][0]["path"]) == (422, path)
        for last in ("nonsense", "x.1-2-3", "a" * 3000, "1..2"):
            headers = home.client.key | {"Last-Event-ID": last}
            assert (await home.client("GET", "/api/v1/logs/tail", headers=headers)).status in {400, 422}, last
        assert (await home.client("GET", "/api/v1/logs/tail", headers={})).status == 401


async def test_a_client_that_comes_back_goes_on_where_it_was_line_by_line_also_after_a_restart(place: servers.Place) -> None:
    async with house(place) as home:
        async with aclosing(home.tail()) as stream:
            await place_of(stream)
            await home.say("a", "b", "c")
            await home.lines("one", "two", "three")
            found = await rows(stream, 6)
        assert sorted(names(found)) == ["a", "b", "c", "one", "three", "two"]
        # Whatever event was the last one: what was behind it then comes, nothing twice.
        for number, event in enumerate(found):
            async with aclosing(home.tail(last=event.id)) as stream:
                await home.say(f"later{number}")
                rest: list[Any] = []
                while f"later{number}" not in rest:
                    rest += names(await rows(stream, 1))
            assert sorted(rest) == sorted([*names(found)[number + 1 :], *(f"later{n}" for n in range(number + 1))])
        last = found[3].id
    # Another process has nothing of it in memory: the archive gives it.
    async with house(place) as home, aclosing(home.tail(last=last)) as stream:
        await home.say("end")
        rest = []
        while "end" not in rest:
            rest += names(await rows(stream, 1))
        assert sorted(rest) == sorted([*names(found)[4:], *(f"later{n}" for n in range(6)), "end"])


async def test_two_replicas_answer_one_tail_and_one_of_them_may_go(place: servers.Place) -> None:
    async with house(place) as home, aclosing(home.tail()) as stream:
        async with running(place, "logs"):
            await place_of(stream)
            seen: list[Any] = []
            for number in range(8):
                await home.say(f"w{number}")
                seen += names(await rows(stream, 1))
        await home.say("after")
        seen += names(await rows(stream, 1))
        assert seen == [*(f"w{number}" for number in range(8)), "after"]


async def test_who_is_too_far_behind_is_told_how_much_was_passed_over(
    place: servers.Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MESSAGES", 10)
    monkeypatch.setattr(tailing, "BEHIND", 20)
    async with house(place) as home:
        async with aclosing(home.tail("type:run.requested")) as stream:
            last = await place_of(stream)
            await home.say(*(f"w{n}" for n in range(15)))
            # Out of memory already, and near enough to be read again.
            assert names(await rows(stream, 15)) == [f"w{n}" for n in range(15)]
            await home.say(*(f"x{n}" for n in range(50)))
            assert names(await rows(stream, 1))[0].startswith("x")
        async with aclosing(home.tail("type:run.requested", last=last)) as stream:
            await home.say("newest")
            dropped, seen = 0, list[Any]()
            async with asyncio.timeout(60):
                while "newest" not in seen:
                    event = await anext(stream)
                    dropped += event.data["count"] if event.kind == "dropped" else 0
                    seen += names([event]) if event.kind == "row" else []
            assert dropped > 20
            assert dropped + len(seen) == 66


async def test_nothing_is_kept_for_clients_that_take_nothing(place: servers.Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "SLOW", 0.5)
    monkeypatch.setattr(tails, "LOOKS", 0.05)
    monkeypatch.setattr(watching, "OF_CONNECTIONS", MAX_CONNECTIONS // 6)
    async with house(place) as home:
        url = f"{home.client.url}/api/v1/logs/tail?q=line"
        stalled = [await home.client.session.get(url, headers=home.client.key) for _ in range(3)]
        assert (await home.client("GET", "/api/v1/logs/tail")).status == 503
        text = "line " + "y" * 200_000

        async def cut() -> bool:
            await home.lines(text, text, text)
            async with home.client.session.get(url, headers=home.client.key) as response:
                return response.status == 200

        # Those that take nothing are cut off, and make room.
        assert await eventually(cut, within=60)
        for response in stalled:
            response.close()


async def test_a_silent_tail_has_heartbeats_and_learns_its_place(place: servers.Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT", 0.1)
    monkeypatch.setattr(sse, "THERE", 0.05)
    monkeypatch.setattr(tails, "PLACES", 0.1)
    async with house(place) as home, aclosing(home.tail("nothing")) as stream:
        first = await place_of(stream)
        await home.say("a")
        moved = await anext(stream)
        assert (moved.kind, moved.id != first) == ("place", True)
        async with home.client.session.get(f"{home.client.url}/api/v1/logs/tail?q=nothing", headers=home.client.key) as response:
            while await response.content.readline() != b": \n":
                pass


async def test_an_answer_that_takes_long_lets_others_go_on_and_is_given_in_parts(
    place: servers.Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailing, "LOOKS_FOR", 0.0)
    monkeypatch.setattr(tailing, "SLICE", 0.0)
    said = [f"w{number}" for number in range(5)]
    async with house(place) as home, bus_of(place, "gateway") as asking:
        position = (await asking.ask(TailLogs(org="default", q="workflow:*"))).position
        await home.say(*said)
        given: list[str | None] = []

        async def all_given() -> bool:
            nonlocal position
            page = await asking.ask(TailLogs(org="default", q="workflow:*", position=position))
            assert len(page.items) <= 1
            given.extend(one.item.workflow for one in page.items)
            position = page.position
            return len(given) == len(said)

        await eventually(all_given)
        assert given == said


async def test_tails_take_turns_at_looking_by_organization(place: servers.Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tailing, "PLACES", 0)
    monkeypatch.setattr(tailing, "SECONDS", 0.0)
    async with running(place, "logs"), bus_of(place, "gateway") as asking:
        position = (await asking.ask(TailLogs(org="acme"))).position
        with pytest.raises(Unavailable, match="the organization acme has too many tails"):
            await asking.ask(TailLogs(org="acme", position=position))


def test_a_place_is_text_that_only_the_same_streams_understand() -> None:
    incarnations = {"B": "2", "A": "1"}
    there = TailPlace(incarnations, {"A": At(0), "B": At(36**5, 7)})
    written = places.written(there)
    assert places.read(written, incarnations) == there
    assert places.read(written, incarnations | {"A": "3"}) is None
    assert places.read(written, incarnations | {"C": "3"}) is None
    for wrong in ("", "x", f"{written}-1-2", f"{written}.", "a.-1", "a.é", "a.zzzzzzzzzzzzzzzzzz"):
        with pytest.raises(Malformed):
            places.read(wrong, incarnations)
