"""An organization is removed with everything it has, from every store, whoever is killed on the way; others are left alone."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from deploy.positions import administrator
from services.events import removing as in_events
from services.executor import removing as in_executor
from services.gateway import questions as gateway_questions
from services.gateway.removing import remover
from services.gateway.removing.remover import Remover
from services.logs import removing as in_logs
from services.oauth import removing as in_oauth
from shared.blobs import Blobs
from shared.envelope import rfc3339, seal, utc_now
from shared.errors import Unavailable
from shared.messages import LineChunk, Lines, WebhookReceived
from shared.messages.log import SERVICES
from shared.ordered_reader import OrderedReader
from shared.owners import removing
from shared.pull import api_request
from shared.streams import BUCKETS, DIGESTS, REGISTRIES, STREAMS, SUSPECTS
from tests.integration.test_gateway import Client, gateway
from tests.integration.test_keys import by, made
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside, sandbox_settings
from tests.support.servers import Place

GONE, KEPT = "org-that-goes", "org-that-stays"
PLAIN = {"Content-Type": "application/json"}
# Of the platform, about the organization: that it was listed, and that it was removed.
RECORDED = ("organization.", "removal.", "audit.", "user.")

WORKFLOW = b"""
from millrace import log, step, wait_for, workflow


@workflow(name="greet", concurrency="org")
async def greet(event: dict) -> str:
    log.info("greeting", of="%ORG%")
    print(await step("known", lambda: "%ORG%"))
    await wait_for("go", timeout=600)
    return "%ORG%"


@workflow(name="large")
def large(event: dict) -> str:
    return "%ORG%" * 40_000
"""


class Whole:
    """All five services, and what a test looks at behind them."""

    def __init__(self, client: Client, outside: Outside, sql: Any, admin: Any, services: Restarts) -> None:
        self.client = client
        self.outside = outside
        self.sql = sql
        self.admin = admin
        self.services = services
        self.hooks: dict[str, str] = {}
        self.keys: dict[str, str] = {}

    async def call(self, method: str, path: str, org: str | None, *statuses: int, **options: Any) -> Any:
        of = "" if org is None else f"{'&' if '?' in path else '?'}org={org}"
        got = await self.client(method, f"/api/v1{path}{of}", **options)
        assert got.status in (statuses or (200, 201)), (path, got.status, got.body)
        return got.json if got.body else None

    async def fill(self, org: str) -> None:
        """Give an organization one of everything."""
        call = self.call
        await call("PUT", f"/orgs/{org}", None, json={"display_name": org})
        self.keys[org] = (await made(self.client, org=org, role="admin"))["key"]
        assert (await by(self.client, self.keys[org], "GET", "/api/v1/keys")).status == 200
        await call("PUT", f"/users/member-{len(org)}", None, json={"roles": {org: "admin", "other": "viewer"}})
        await call("PUT", "/integrations/crm", org, json={"config_schema": {"type": "object"}})
        await call("PUT", f"/integrations/crm/mappings/{org}", None, json={"entity_id": org, "config": {"of": org}})
        await call("PUT", "/sources/hook", org, json={"adapter": "github", "settings": {"secret": org}})
        await call("PUT", "/sources/orders", org, json={"adapter": "topic"})
        await call("PUT", "/subscriptions/greets", org, json={"source": "orders", "event": "order", "workflow": "greet"})
        held = {"source": "orders", "event": "held", "workflow": "greet", "debounce": 3600}
        await call("PUT", "/subscriptions/holds", org, json=held)
        late = {"source": "orders", "event": "late", "workflow": "nobodys", "retry": "long"}
        await call("PUT", "/subscriptions/late", org, json=late)
        await call("PUT", "/schedules/daily", org, json={"cron": "0 3 * * *", "workflow": "greet"})
        await call("PUT", "/variables/where", org, json={"value": org})
        await call("PUT", "/secrets/token", org, json={"value": org})
        provider = {"token_url": "https://127.0.0.1:9/token", "client_id": org, "client_secret": org}
        await call("PUT", "/providers/idp", org, json=provider)
        connection = {"grant": "client_credentials", "provider": "idp"}
        await call("PUT", "/connections/granted", org, json=connection)
        await call("PUT", "/connections/given", org, json={"grant": "token", "token": org})
        await call("PUT", "/searches/mine", org, json={"q": org})
        await call("PUT", "/retentions/logs", org, json={"stream": "LOGS", "days": 60})
        assert (await self.outside.put_file("flows.py", WORKFLOW.replace(b"%ORG%", org.encode()), org=org)).problems == []
        await self.outside.put_file(f"data/{org}.txt", org.encode() * 10, org=org)
        run = (await call("POST", "/workflows/greet/runs", org, 202, json={"input": {"event": {"of": org}}}))["id"]
        await self.outside.run(run, "waiting", org=org)
        # Another organization of the name may use the same key.
        once = {"headers": {**self.client.key, "Idempotency-Key": "once"}}
        ended = (await call("POST", "/workflows/large/runs", org, 202, json={"input": {"event": {"of": org}}}, **once))["id"]
        await self.outside.run(ended, "succeeded", org=org)
        for type_, data in (("order", {"of": org}), ("held", {"of": org}), ("late", {"of": org}), ("other", {})):
            await call("POST", "/sources/orders/events", org, 202, json={"type": type_, "data": data})
        self.hooks[org] = (await call("GET", "/sources/hook", org))["url"].rpartition("/")[2]
        assert await self.send(org, msgspec.json.encode({"of": org * 30_000})) == 202

        async def is_quiet() -> bool:
            deliveries = (await call("GET", "/deliveries", org))["items"]
            runs = (await call("GET", "/runs", org))["items"]
            statuses = sorted(one["status"] for one in deliveries)
            return statuses == ["filtered", "filtered", "held", "routed", "unroutable"] and sorted(
                one["status"] for one in runs
            ) == ["succeeded", "waiting", "waiting"]

        await eventually(is_quiet)

    async def send(self, org: str, body: bytes) -> int:
        """Send a signed webhook; return the status of its answer."""
        signature = hmac.new(org.encode(), body, hashlib.sha256).hexdigest()
        headers = PLAIN | {"X-GitHub-Event": "push", "X-Hub-Signature-256": f"sha256={signature}"}
        return (await self.client("POST", f"/hooks/{self.hooks[org]}", data=body, headers=headers)).status

    async def ask_for_keys(self, org: str, until: asyncio.Event) -> None:
        """Ask for a key of an organization, as `millrace login` does, again and again."""
        while not until.is_set():
            await self.client("POST", "/api/v1/logins", json={"host": "anybody"}, headers={"X-Millrace-Org": org})

    async def settle(self) -> None:
        """Wait until what was said is in every row that is made of it."""
        async with bus_of_projections(self.admin) as newest:

            async def is_level() -> bool:
                for stream, last in newest.items():
                    found = await self.sql.fetchval(
                        "SELECT last_seq FROM logs.checkpoint WHERE projection = $1", f"archive-{stream.lower()}"
                    )
                    if (found or 0) < last:
                        return False
                return True

            await eventually(is_level)

    async def rows(self, org: str) -> dict[str, int]:
        """Return how many rows there are of an organization, by table, where there are any: of every table of every schema."""
        found = await self.sql.fetch(
            "SELECT table_schema, table_name, column_name FROM information_schema.columns JOIN information_schema.tables"
            " USING (table_schema, table_name) WHERE table_type = 'BASE TABLE' AND column_name IN ('org', 'run_org')"
            " AND table_schema = ANY($1)",
            list(SERVICES),
        )
        counts = {}
        for schema, table, column in found:
            kept = " AND stream <> 'AUDIT'" if schema == "logs" and column == "org" and table.startswith("message") else ""
            number = await self.sql.fetchval(f'SELECT count(*) FROM {schema}."{table}" WHERE {column} = $1{kept}', org)
            if number:
                counts[f"{schema}.{table}"] = int(number)
        return counts

    async def ids(self, org: str) -> set[str]:
        """Return the ids of the messages that the archive has of an organization."""
        return {row["id"] for row in await self.sql.fetch("SELECT id FROM logs.message WHERE org = $1", org)}

    async def said(self, org: str) -> list[str]:
        """Return the places of any store that have an organization's name anywhere, but for what is about it."""
        found = []
        tables = "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY($1)"
        for schema, table in await self.sql.fetch(tables, list(SERVICES)):
            if f"{schema}.{table}" in {"gateway.removal", "gateway.removal_part"}:
                continue
            like = f"t::text LIKE '%{org}%' OR t::text LIKE '%{org.encode().hex()}%'"
            for row in await self.sql.fetch(f'SELECT t.* FROM {schema}."{table}" t WHERE {like}'):
                about = str(dict(row).get("type") or dict(row).get("noun") or "")
                if not f"{about}.".startswith(RECORDED) and table != "alert":
                    found.append(f"{schema}.{table}: {about}")
        kv = (*(one.bucket for one in REGISTRIES), SUSPECTS, DIGESTS)
        streams = (*(f"KV_{name}" for name in kv), *(f"OBJ_{one.name}" for one in BUCKETS), *(one.name for one in STREAMS))
        for stream in streams:
            async for subject, data in messages(self.admin, stream):
                if org in subject or org.encode() in data:
                    if subject.startswith(RECORDED) or stream in {"KV_removals", "AUDIT"}:
                        continue
                    found.append(f"{stream}: {subject}")
        return found

    async def objects(self) -> set[str]:
        """Return the names of all objects."""
        found = set()
        for one in BUCKETS:
            async for subject, data in messages(self.admin, f"OBJ_{one.name}"):
                if f"$O.{one.name}.M." in subject and b'"deleted": true' not in data:
                    found.add(base64.urlsafe_b64decode(subject.rpartition(".")[2]).decode())
        return found

    async def removed(self, org: str) -> dict[str, Any]:
        async def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = (await self.client("GET", f"/api/v1/removals/{org}")).json
            return found if found["ended_at"] is not None else None

        found = await eventually(ended, within=90, every=0.2)
        assert isinstance(found, dict)
        return found


@asynccontextmanager
async def bus_of_projections(admin: Any) -> AsyncIterator[dict[str, int]]:
    newest = {}
    for stream in STREAMS:
        if stream.name not in {"LOGS", "AUDIT"}:
            info = await api_request(admin, f"$JS.API.STREAM.INFO.{stream.name}", None)
            newest[stream.name] = int(info["state"]["last_seq"]) if info["state"]["messages"] else 0
    yield newest


async def messages(admin: Any, stream: str) -> AsyncIterator[tuple[str, bytes]]:
    """Yield subject and data of all messages of a stream."""
    info = await api_request(admin, f"$JS.API.STREAM.INFO.{stream}", None)
    if not info["state"]["messages"]:
        return
    batches = OrderedReader(admin, stream).batches()
    async for batch in batches:
        for one in batch:
            yield one.subject, one.data
        if batch[-1].pending == 0:
            break
    await batches.aclose()


class Restarts:
    """Services that can be ended and begun again."""

    def __init__(self, place: Place, stack: AsyncExitStack) -> None:
        self._place = place
        self._outer = stack
        self._stacks: dict[str, AsyncExitStack] = {}
        self._given: dict[str, dict[str, str]] = {}

    async def start(self, service: str, **environment: str) -> None:
        self._given[service] = environment
        self._stacks[service] = await self._outer.enter_async_context(AsyncExitStack())
        await self._stacks[service].enter_async_context(running(self._place, service, **environment))

    async def again(self, service: str) -> None:
        await self._stacks[service].aclose()
        await self.start(service, **self._given[service])


@asynccontextmanager
async def whole(place: Place, data: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Whole]:
    """Run all services, whose removals go on quickly."""
    defaults = Remover.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "pause", 0.2)
    async with (
        AsyncExitStack() as stack,
        bus_of(place, "gateway") as bus,
        administrator(place.nats_url("admin")) as admin,
    ):
        services = Restarts(place, stack)
        await services.start("logs")
        await services.start("oauth")
        await services.start("executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings())
        await services.start("events")
        client = await stack.enter_async_context(gateway(place))
        sql = await asyncpg.connect(place.database_url("admin"))
        try:
            yield Whole(client, Outside(place, bus), sql, admin, services)
        finally:
            await sql.close()


async def test_nothing_is_left_of_an_organization_and_another_one_is_untouched(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(place, data, monkeypatch) as all_:
        # The bundle of no files is everybody's.
        await all_.outside.put_file("flows.py", WORKFLOW)
        await all_.call("DELETE", "/workspace/files/flows.py", "default", 200, 204)
        await all_.fill(KEPT)
        await all_.settle()
        objects, rows, ids = await all_.objects(), await all_.rows(KEPT), await all_.ids(KEPT)
        await all_.fill(GONE)
        await all_.settle()
        had = await all_.rows(GONE)
        runs = [one["id"] for one in (await all_.call("GET", "/runs", GONE))["items"]]
        assert had.keys() == rows.keys()
        # Without a word it is not done: what there is, is told.
        refused = await all_.call("DELETE", f"/orgs/{GONE}", None, 409)
        for kind in (
            "key: 1",
            "source: 2",
            "schedule: 1",
            "connection: 2",
            "secret: 1",
            "run: ",
            "file: 2",
            "delivery: ",
            "message: ",
        ):
            assert kind in refused["detail"], refused
        assert (await by(all_.client, all_.keys[GONE], "GET", "/api/v1/keys")).status == 200
        begun = await all_.call("DELETE", f"/orgs/{GONE}?erase=true", None, 202)
        assert (begun["organization"], begun["ended_at"], "audit trail" in begun["kept"]) == (GONE, None, True)
        # From now on nobody acts in it, by any key, and senders are told not to come again.
        assert (await all_.call("GET", "/sources", GONE, 409))["detail"].startswith(f"the organization '{GONE}' is being removed")
        assert (await by(all_.client, all_.keys[GONE], "GET", "/api/v1/sources")).status in {401, 409}
        assert await all_.send(GONE, b"{}") == 410
        assert (await all_.call("PUT", f"/orgs/{GONE}", None, 409, json={}))["detail"].endswith("once that has ended")
        # Once more is the same one.
        assert (await all_.call("DELETE", f"/orgs/{GONE}?erase=true", None, 202))["id"] == begun["id"]
        # A stranger who goes on asking for its keys does not keep it from its end.
        is_removed = asyncio.Event()
        stranger = asyncio.create_task(all_.ask_for_keys(GONE, is_removed))
        ended = await all_.removed(GONE)
        is_removed.set()
        await stranger
        await all_.sql.execute("DELETE FROM gateway.login")
        assert {one["owner"] for one in ended["owners"]} == set(SERVICES)
        assert all((one["found"], one["error"], one["step"]) == ({}, None, "erase") for one in ended["owners"])
        assert await all_.rows(GONE) == {}
        assert await all_.said(GONE) == []
        # People are the platform's, and go on elsewhere.
        assert (await all_.call("GET", f"/users/member-{len(GONE)}", None))["roles"] == {"other": "viewer"}
        assert await all_.objects() == objects
        # What goes on there is told there.
        now = await all_.rows(KEPT)
        assert now == rows | {table: number for table, number in now.items() if table.startswith("logs.message")}
        assert ids <= await all_.ids(KEPT)
        assert (await by(all_.client, all_.keys[KEPT], "GET", "/api/v1/keys")).status == 200
        assert await all_.send(GONE, b"{}") == 410
        assert (await all_.call("GET", "/removals", None))["items"] == [ended]
        # Its name is another one's now, which sees nothing of it, whatever comes late.
        late = WebhookReceived(
            source="old", delivery="late-1", sender_delivery=None, adapter="github", received_at="", method="POST", query=[],
            headers=[], body_base64="e30=",
        )  # fmt: skip
        before = utc_now() - timedelta(minutes=5)
        for run in runs:
            await all_.call("GET", f"/runs/{run}", GONE, 404)
        async with bus_of(place, "executor") as executor:
            line = LineChunk(
                run="old-run", workflow="old", attempt=1, chunk=1, lines=[Lines(time=rfc3339(before), level="info", message="late")]
            )
            await executor.publish(seal(line, service="executor", org=GONE, now=before))
        await all_.outside.bus.publish(seal(late, service="gateway", org=GONE, now=before))
        await all_.fill(GONE)
        await all_.settle()
        assert {one["id"] for one in (await all_.call("GET", "/deliveries", GONE))["items"]}.isdisjoint({"late-1"})
        found = (await all_.call("GET", "/logs?q=&limit=1000&from=now-1h", GONE))["items"]
        assert found
        assert all(one["fields"].get("delivery") != "late-1" and one["message"] != "late" for one in found)
        assert all(one["time"] > ended["ended_at"] for one in found)
        assert await all_.sql.fetchval("SELECT count(*) FROM executor.line WHERE run = 'old-run'") == 0
        # Kept for the platform: what was done in it, and its late words.
        kept = (await all_.call("GET", "/logs?q=type:audit.put&limit=1000&from=now-1h", "*"))["items"]
        assert any(one["org"] == GONE and one["time"] < ended["began_at"] for one in kept)
        assert len(await all_.rows(GONE)) == len(had)


# What is done on the way, by where it is found: whoever does it is killed behind it, as often as it is met first.
POINTS: list[tuple[Any, str]] = [
    (remover, "remove_resources"),
    (remover.RemovalRows, "note"),
    (in_events, "remove_resources"),
    (in_events, "erase_of_organization"),
    (in_executor, "erase_of_organization"),
    (in_executor.commits, "commit_files"),
    (in_executor.aggregate, "advance"),
    (in_oauth, "remove_resources"),
    (in_oauth, "erase_of_organization"),
    (in_logs, "erase_messages"),
    (in_logs.removals, "remove"),
    (in_logs.OrganizationRemoval, "_remove_blobs"),
    (removing, "erase_messages"),
    (removing.Rows, "_deleted"),
    (Blobs, "remove"),
    (gateway_questions, "erase_of_organization"),
]


async def test_whoever_is_killed_on_the_way_the_removal_goes_on(place: Place, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: set[str] = set()

    def dying(step: Any, name: str) -> Any:
        async def dies(*given: Any, **also: Any) -> Any:
            done = await step(*given, **also)
            if name not in killed:
                killed.add(name)
                raise Unavailable(f"killed behind {name}")
            return done

        return dies

    async with whole(place, data, monkeypatch) as all_:
        await all_.fill(GONE)
        await all_.settle()
        for module, name in POINTS:
            called = f"{getattr(module, '__name__', module)}.{name}"
            monkeypatch.setattr(module, name, dying(getattr(module, name), called))
        # The record is on disk, and who asked has no answer: they ask again.
        await all_.call("DELETE", f"/orgs/{GONE}?erase=true", None, 503)
        await all_.call("DELETE", f"/orgs/{GONE}?erase=true", None, 202)
        # And each owner is away for a while.
        for service in ("executor", "events", "oauth", "logs"):
            await all_.services.again(service)
        await all_.removed(GONE)
        assert len(killed) >= len(POINTS) - 2, killed
        assert await all_.rows(GONE) == {}
        assert await all_.said(GONE) == []
