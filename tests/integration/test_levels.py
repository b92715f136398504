"""Levels of logging that are set while services run: at each replica, over a restart, with an end, and without harm by a flood."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from shared import log
from shared.bus import Bus
from shared.envelope import rfc3339, utc_now
from shared.errors import Unavailable
from shared.levels import level_at
from shared.log import WAITING, BusSink
from shared.messages import Audited
from shared.pull import api_request
from shared.resources.level import Level, LevelEntry
from tests.integration.test_gateway import Client, gateway
from tests.support.inside import bus_of, eventually, running
from tests.support.resources import listed, putting
from tests.support.servers import Place
from tests.support.stack import ROOT

NOW = datetime(2026, 11, 10, tzinfo=UTC)
EXECUTOR = "/api/v1/levels/executor?org=global"


def entry(name: str, level: Any, until: str | None = None) -> LevelEntry:
    spec = Level(level=level, until=until)
    return LevelEntry(id=name, org="global", key="", name=name, spec=spec, created_at="", updated_at="", version=1)


def test_a_level_is_that_of_its_service_until_its_end() -> None:
    entries = [entry("events", "error"), entry("oauth", "debug", rfc3339(NOW)), entry("logs", "debug", "no time")]
    assert level_at(NOW, entries, "events") == "error"
    assert level_at(NOW, entries, "executor") == "info"
    assert [level_at(NOW - ago, entries, "oauth") for ago in (timedelta(seconds=1), timedelta())] == ["debug", "info"]
    # As a hostile message may have it.
    assert level_at(NOW, entries, "logs") == "info"


class Process:
    """A replica of oauth in a process of its own, and what it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self, event: str) -> dict[str, Any]:
        """Read its records up to the next one with this event, and return that."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            while line := await self.process.stdout.readline():
                if line.startswith(b'{"') and (record := msgspec.json.decode(line)).get("event") == event:
                    return dict(record)
        raise AssertionError(f"it ended without {event}")


@asynccontextmanager
async def replica(place: Place) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services", "oauth"),
        env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path), **place.environment("oauth")},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(process)
    finally:
        process.kill()
        await process.communicate()


async def test_every_replica_logs_from_the_level_on_and_a_new_one_too_until_it_ends(place: Place) -> None:
    async with running(place, "logs"), bus_of(place, "gateway") as bus, replica(place) as first, replica(place) as second:
        await first.says("service.started")
        await second.says("service.started")
        await bus.ask(putting("level", "oauth", org="global", level="debug", until=rfc3339(utc_now() + timedelta(hours=1))))
        for one in (first, second):
            changed = await one.says("log.level_changed")
            assert (changed["before"], changed["after"]) == ("info", "debug")
        await listed(bus, "provider")
        saying = [asyncio.create_task(one.says("question.answered")) for one in (first, second)]
        (answered,), (left,) = await asyncio.wait(saying, return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        found = answered.result()
        assert (found["level"], found["service"]) == ("debug", "oauth")
        assert found["question"].startswith("ask.oauth.")
        async with replica(place) as third:
            assert (await third.says("log.level_changed"))["after"] == "debug"
            await bus.ask(putting("level", "oauth", org="global", level="debug", until=rfc3339(utc_now() + timedelta(seconds=1))))
            assert (await third.says("log.level_changed"))["after"] == "info"


MISTAKES: tuple[tuple[str, Any, str], ...] = (
    ("/api/v1/levels/nobody?org=global", {"level": "error"}, "name"),
    (EXECUTOR, {"level": "loud"}, "level"),
    (EXECUTOR, {"level": "debug"}, "until"),
    (EXECUTOR, {"level": "debug", "until": "9999-12-01T00:00:00Z"}, "until"),
    (EXECUTOR, {"level": "error", "until": "tomorrow"}, "until"),
)


async def test_a_level_is_set_by_the_platform_shown_and_audited_with_before_and_after(place: Place) -> None:
    async with running(place, "logs"), gateway(place) as client:
        for path, body, named in MISTAKES:
            got = await client("PUT", path, json=body)
            assert (got.status, [one["path"] for one in got.json["errors"]]) == (422, [named])
        assert (await client("GET", "/api/v1/levels?org=global")).json["items"] == []
        until = rfc3339(utc_now() + timedelta(minutes=15))
        got = await client("PUT", EXECUTOR, json={"level": "debug", "until": until})
        assert (got.status, got.json["level"], got.json["until"], got.json["active"]) == (200, "debug", until, True)
        assert (await client("PATCH", EXECUTOR, json={"level": "error", "until": None})).status == 200
        past = rfc3339(utc_now() - timedelta(minutes=1))
        assert (await client("PATCH", EXECUTOR, json={"until": past})).json["active"] is False
        (shown,) = (await client("GET", "/api/v1/levels?org=global")).json["items"]
        assert (shown["name"], shown["level"], shown["active"]) == ("executor", "error", False)
        assert (await client("DELETE", EXECUTOR)).status == 204
        changes = await eventually(lambda: audited(client))
        assert changes == [
            {"level": [None, "debug"], "until": [None, until]},
            {"level": ["debug", "error"], "until": [until, None]},
            {"until": [None, past]},
            {"level": ["error", None], "until": [past, None]},
        ]


async def audited(client: Client) -> Any:
    """Return what each change of the executor's level changed, once the removal is told as well."""
    path = "/api/v1/audit?org=global&order=asc&q=data.target:executor data.outcome:ok"
    found = (await client("GET", path)).json["items"]
    return [one["data"]["detail"]["changes"] for one in found] if found and found[-1]["type"] == "audit.delete" else None


async def stored(admin: Bus, stream: str) -> int:
    found = await api_request(admin.client, f"$JS.API.STREAM.INFO.{stream}", {})
    return int(found["state"]["messages"])


async def test_a_flood_at_debug_is_bounded_counted_and_costs_neither_the_audit_nor_the_rest_of_the_log(place: Place) -> None:
    flood, kept = 50_000, 200
    async with bus_of(place, "oauth") as bus, bus_of(place, "admin") as admin:
        sink = BusSink("oauth", clock=lambda: 0.0)
        # Nothing is awaited: whatever is logged holds up nobody.
        for number in range(flood):
            sink(None, "debug", {"event": "loop", "number": number})
            if number % (flood // kept) == 0:
                sink(None, "info", {"event": "rest"})
        assert len(sink._waiting) <= WAITING
        async with sink.sending(bus.publish_log):
            said = [Audited(category="c", verb="v", actor="a", target=f"t{number}", outcome="ok") for number in range(kept)]
            await asyncio.gather(*(bus.publish(bus.seal(one, org="acme")) for one in said))
            sink(None, "warning", {"event": "after"})

            async def sent() -> bool:
                return not sink._waiting

            await eventually(sent)
        assert await stored(admin, "AUDIT") == kept
        # All the rest, what there was room for of the flood, and one that says how much there was no room for.
        taken = await stored(admin, "LOGS")
        assert taken + sink.dropped == flood + kept + 2
        assert taken <= WAITING + 2
        found = await admin.client.jetstream().get_last_msg("LOGS", "log.oauth.warning")
        assert b'"after"' in found.data


async def test_a_flood_while_the_broker_is_away_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MOST_A_SECOND", 10.0**9)
    tried = asyncio.Event()

    async def away(_logged: Any, _correlation: str | None) -> None:
        tried.set()
        raise Unavailable("not connected")

    sink = BusSink("oauth")
    async with sink.sending(away):
        sink(None, "warning", {"event": "first"})
        await tried.wait()
        for _ in range(3 * WAITING):
            sink(None, "debug", {"event": "loop"})
        assert (len(sink._waiting), sink.dropped) == (WAITING, 2 * WAITING + 1)
        sink._waiting.clear()
