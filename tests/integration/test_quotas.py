"""Quotas of organizations: held against what is counted, named where they are used up, and nothing that came is lost by one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.health import Health
from shared.messages.declaration import hashed_key
from shared.quotas import Limits, OverQuota, Quotas, RunsUsed
from shared.registry import Entry, RegistryView
from shared.resources.organization import Organization, OrganizationEntry
from tests.integration.test_gateway import gateway
from tests.integration.test_keys import by, made
from tests.support.inside import bus_of, eventually, running
from tests.support.river import river
from tests.support.servers import Place

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
WORKFLOW = b"""
from millrace import wait_for, workflow


@workflow(name="waits")
async def waits(event: dict) -> str:
    await wait_for("go", timeout=600)
"""


def organization(name: str, **quotas: int) -> Entry[OrganizationEntry]:
    made = OrganizationEntry(
        id=name, org="global", key="", name=name, spec=Organization(**quotas), created_at="", updated_at="", version=1
    )
    return Entry(1, made)


async def test_runs_are_counted_on_top_of_what_is_known_and_a_day_ends_at_midnight(place: Place) -> None:
    async with bus_of(place, "gateway") as bus:
        quotas = Quotas(bus.client, Health("gateway"), Limits(runs_a_day=2))
        for _ in range(2):
            quotas.admit_run("other", NOON)
        with pytest.raises(OverQuota, match="the organization other has 2 runs today, which is its quota runs_a_day") as refused:
            quotas.admit_run("other", NOON)
        midnight = datetime(2026, 12, 1, tzinfo=UTC)
        assert midnight <= refused.value.again_at <= midnight + timedelta(hours=1)
        # An organization's own come first, each by itself.
        quotas.organizations.learn("acme", organization("acme", runs_in_flight=3))
        assert quotas.of("acme") == Limits(runs_in_flight=3, runs_a_day=2)
        quotas.organizations.learn("acme", Entry(2, organization("acme", runs_in_flight=3, runs_a_day=10).value))
        key = hashed_key("acme")
        quotas.used.learn(key, Entry(1, RunsUsed(in_flight=2, on_day=9, day=NOON.toordinal())))
        quotas.admit_run("acme", NOON)
        with pytest.raises(OverQuota, match="has 10 runs today"):
            quotas.admit_run("acme", NOON)
        quotas.used.learn(key, Entry(2, RunsUsed(in_flight=3, on_day=9, day=NOON.toordinal())))
        with pytest.raises(OverQuota, match="has 3 runs in flight, which is its quota runs_in_flight") as refused:
            quotas.admit_run("acme", NOON)
        assert NOON < refused.value.again_at <= NOON + timedelta(minutes=2)
        # Another day, and one that was counted on the day before.
        quotas.used.learn(key, Entry(3, RunsUsed(in_flight=2, on_day=10, day=NOON.toordinal())))
        quotas.admit_run("acme", NOON + timedelta(days=1))


async def test_of_many_sources_at_once_no_more_are_made_than_the_quota(place: Place) -> None:
    quota = {"MILLRACE_QUOTA_SOURCES": "2"}
    async with running(place, "events", **quota), running(place, "events", **quota), gateway(place) as client:

        async def put(name: str) -> int:
            return (await client("PUT", f"/api/v1/sources/{name}?org=acme", json={"adapter": "topic"})).status

        assert await put("orders") == 200
        assert sorted(await asyncio.gather(*map(put, "abcdef"), put("orders"))) == [200, 200, *[422] * 5]


async def test_what_is_over_a_quota_is_refused_by_its_name_and_webhooks_are_held_up(place: Place, data: Path) -> None:
    async with running(place, "oauth"), river(place, data) as outside, gateway(place) as client:

        async def call(method: str, path: str, *statuses: int, **options: Any) -> Any:
            got = await client(method, f"/api/v1{path}{'&' if '?' in path else '?'}org=acme", **options)
            assert got.status in (statuses or (200, 201, 202)), (path, got.status, got.body)
            return got.json if got.body else None

        viewer = (await made(client, "looks"))["key"]
        await outside.put_file("flows.py", WORKFLOW, org="acme")
        limits = {"runs_in_flight": 1, "stored_bytes": len(WORKFLOW) + 10, "sources": 1}
        await call("PUT", "/orgs/acme", json=limits)
        await call("PUT", "/sources/orders", json={"adapter": "topic"})
        await call("PUT", "/subscriptions/waits", json={"source": "orders", "event": "order", "workflow": "waits"})

        async def are_known() -> bool:
            shown = (await by(client, viewer, "GET", "/api/v1/orgs/acme/quotas")).json
            return bool(shown["runs_in_flight"]["limit"] == 1 and shown["sources"]["used"] == 1)

        await eventually(are_known)
        # One source, and so many bytes of files; what is there may be changed.
        refused = await call("PUT", "/sources/more", 422, json={"adapter": "topic"})
        assert refused["errors"][0]["path"] == "sources"
        assert "1 source, which is its quota sources" in refused["detail"]
        await call("PUT", "/sources/orders", json={"adapter": "topic", "enabled": True})
        refused = await call("PUT", "/workspace/files/data/large.txt", 422, data=b"x" * 11)
        assert "quota stored_bytes" in refused["detail"]
        await call("PUT", "/workspace/files/data/small.txt", data=b"x" * 10)
        # A run, and no other one as long as it goes on.
        await call("POST", "/workflows/waits/runs", json={"input": {"event": {}}})
        got = await client("POST", "/api/v1/workflows/waits/runs?org=acme", json={"input": {"event": {}}})
        assert (got.status, "quota runs_in_flight" in got.json["detail"], "Retry-After" in got.headers) == (429, True, True)
        counted = RegistryView(outside.bus.client, "usage", RunsUsed, Health("gateway"))
        watching = asyncio.create_task(counted.run())

        async def is_counted() -> bool:
            found = counted.get(hashed_key("acme"))
            return found is not None and found.value is not None and found.value.in_flight >= 1

        await eventually(is_counted)
        watching.cancel()
        # An event is held up: its story says why, and it is tried again by itself.
        # What is counted is a second old: one more may have its run.
        for _ in range(3):
            emitted = (await call("POST", "/sources/orders/events", json={"type": "order"}))["id"]
            view = await outside.delivery(emitted, "unroutable", "routed", org="acme")
            if view.status == "unroutable":
                break
            await eventually(is_counted)
        assert "quota runs_in_flight" in (view.subscriptions[0].reason or "")
        assert view.subscriptions[0].retry_at is not None
        shown = (await by(client, viewer, "GET", "/api/v1/orgs/acme/quotas")).json
        runs = shown.pop("runs_in_flight"), shown.pop("runs_a_day")
        assert (runs[0]["limit"], runs[1]["limit"], 1 <= runs[0]["used"] == runs[1]["used"] <= 3) == (1, None, True)
        assert shown == {
            "org": "acme",
            "stored_bytes": {"limit": len(WORKFLOW) + 10, "used": len(WORKFLOW) + 10},
            "sources": {"limit": 1, "used": 1},
        }
        assert (await by(client, viewer, "GET", "/api/v1/orgs/other/quotas")).status == 404
        # Another organization has none.
        await outside.put_file("flows.py", WORKFLOW, org="other")
        for _ in range(2):
            got = await client("POST", "/api/v1/workflows/waits/runs?org=other", json={"input": {"event": {}}})
            assert got.status == 202
        # With the run's end there is room again.
        for one in (await call("GET", "/runs"))["items"]:
            await call("POST", f"/runs/{one['id']}/cancel")

        async def has_room() -> bool:
            answer = await client("POST", "/api/v1/workflows/waits/runs?org=acme", json={"input": {"event": {}}})
            return answer.status == 202

        await eventually(has_room)
