"""A client of a connection inside a real child: through the run's proxy, across the end of a token and a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from services.executor.sandbox.egress.network import Network, Record
from services.oauth.policy import NEAR
from shared.egress.policy import EgressRules, rules
from shared.envelope import open_message
from shared.messages import Audited
from tests.integration.test_oauth_connections import stored
from tests.integration.test_run_capabilities import Inside
from tests.support.connections import ALLOWED, asking
from tests.support.egress import LOOPBACK, Names, way_out
from tests.support.inside import bus_of, running
from tests.support.sandbox import TIERS, UID, Recorded, reachable_interpreter, started_bench, value
from tests.support.servers import Place
from tests.support.web import served

pytestmark = pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user")


class Api:
    """An API on the loopback that takes one token at a time; `seen` are the credentials of each request, by its path."""

    def __init__(self) -> None:
        self.url = ""
        self.token = ""
        self.seen: list[tuple[str, str | None]] = []
        self.busy = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request as its path says."""
        given = request.headers.get("Authorization")
        self.seen.append((request.path, given))
        if request.path == "/api/elsewhere":
            # The same server by another name is another host.
            raise web.HTTPFound(self.url.replace("127.0.0.1", "other.example") + "/open")
        if request.path == "/open":
            return web.json_response({"open": given, "own": request.headers.get("X-Own")})
        if given != f"Bearer {self.token}":
            return web.json_response({"error": f"no access with {given}"}, status=401)
        if request.path == "/api/busy" and self.busy:
            self.busy -= 1
            return web.Response(status=429, headers={"Retry-After": "0"})
        if request.path == "/api/slow":
            await asyncio.sleep(30)
        if request.path == "/api/torn":
            torn = web.StreamResponse(headers={"Content-Length": "10"})
            await torn.prepare(request)
            await torn.write(b"torn")
            assert request.transport is not None
            request.transport.close()
            return torn
        return web.json_response({"path": request.path_qs, "body": await request.text(), "echo": given})


@asynccontextmanager
async def serving(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Answer every request to a server on the loopback; yields its address."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with served(application) as url:
        yield url


@asynccontextmanager
async def api() -> AsyncIterator[Api]:
    made = Api()
    async with serving(made.answer) as made.url:
        yield made


class Provided(Recorded):
    """Gives a token that the API takes from its second version on."""

    def __init__(self, network: Network, base_url: str) -> None:
        super().__init__(network)
        self.base_url = base_url
        self.version = 1
        self.unreplaced: str | None = None
        self.rejected: list[int | None] = []

    async def connection(self, name: str, *, rejected: int | None = None) -> dict[str, Any]:
        self.rejected.append(rejected)
        if rejected == self.version and self.unreplaced is None:
            self.version += 1
        token = f"token-{self.version}-secret"
        ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        return {
            "name": name, "token": token, "expires_at": ends, "headers": {"Authorization": f"Bearer {token}"},
            "base_url": self.base_url, "version": self.version, "unreplaced": self.unreplaced,
        }  # fmt: skip


CODE = """
    import asyncio
    http, hasty = connections.client("halo"), connections.client("halo", timeout=2)
    def failed(client, path):
        try: return client.get(path).raise_for_status().status
        except (RequestFailed, StatusError) as error: return f"{type(error).__name__}: {error}"
    @workflow
    async def main():
        async def read():
            return (await http.aget("/a", params={"page": 1})).raise_for_status().json()
        found = [await step("read", read)]
        found.append((await http.apost("/b", json={"x": 1}, headers={"X-Own": "1"})).json()["body"])
        found.append([one.json()["path"] for one in await asyncio.gather(*(http.aget(f"/{n}") for n in range(5)))])
        found.append((await http.aget("/elsewhere", headers={"X-Own": "1"})).json())
        found.append((await http.aget("/busy")).status)
        found += [await asyncio.to_thread(failed, *of) for of in ((hasty, "/slow"), (http, "/torn"))]
        return found
"""


async def test_a_client_replaces_a_token_that_is_refused_and_says_why_there_is_no_answer() -> None:
    told: list[Record] = []
    async with api() as there, started_bench() as bench:
        policy = EgressRules(tuple(rules(LOOPBACK, allows=True))).of("acme")
        said = Provided(Network(policy, Names(other_example="127.0.0.1"), told.append), f"{there.url}/api")
        there.token, there.busy = "token-2-secret", 1
        found: Any = value(await bench.run(CODE, said))
        assert found[0] == {"path": "/api/a?page=1", "body": "", "echo": "Bearer ***"}
        assert found[1:5] == ['{"x":1}', [f"/api/{n}" for n in range(5)], {"open": None, "own": None}, 200]
        assert found[5].startswith("RequestFailed: GET http://127.0.0.1:")
        assert found[5].endswith("/api/slow: no whole answer came in 2 s")
        assert found[6].endswith("the answer ended 6 bytes too early")
    # Asked for once by each client, and reported once.
    assert said.rejected == [None, 1, None]
    assert bytes(said.steps["read", 0]) == b'{"path":"/api/a?page=1","body":"","echo":"Bearer ***"}'
    assert {record.outcome for record in told} == {"connected"}
    assert len(told) == len(there.seen)
    assert [event for _, event, fields in said.logs if "seconds" in fields] == ["connection.waits"]


async def test_a_token_that_is_reported_and_not_replaced_is_a_line_of_the_run() -> None:
    text = """
        http = connections.client("halo")
        @workflow
        def main(): return [http.get("/a").status for _ in range(2)]
    """
    async with api() as there, started_bench() as bench:
        said = Provided(way_out(lambda _record: None), f"{there.url}/api")
        there.token, said.unreplaced = "token-2-secret", "of this"
        assert value(await bench.run(text, said)) == [401, 401]
    assert said.rejected == [None, 1, 1]
    reason = "the token was reported; no newer one was got, because of this"
    told = [fields["reason"] for _, event, fields in said.logs if event == "connection.not_renewed"]
    assert told == [reason]


async def test_a_process_that_serves_another_run_has_it_ask_for_its_own_credentials() -> None:
    text = """
        http = connections.client("halo")
        @workflow(isolation="workflow")
        def main(): return http.get("/a").status
    """
    async with api() as there, started_bench() as bench:
        there.token = "token-1-secret"
        job = msgspec.structs.replace(bench.job(text), isolation="workflow")
        for _ in range(3):
            said = Provided(way_out(lambda _record: None), f"{there.url}/api")
            assert value(await bench.children.run(job, said)) == 200
            assert said.rejected == [None]


WORKFLOW = b"""
import asyncio, os
from millrace import *

http = connections.client("halo")


@workflow(name="tickets")
async def tickets() -> dict:
    async def read():
        return (await http.aget("/tickets")).raise_for_status().json()["whole"]

    found = [await step("first", read)]
    await http.apost("/ends")
    await asyncio.sleep(1)
    found.append(await step("after its end", read))
    await http.apost("/refuse")
    found.append(await step("after a refusal", read))
    print("headers", (await connections.aget("halo")).headers, found)
    return {"found": found, "lives": connections.get("halo").expires_at is not None, "proxy": "http_proxy" in os.environ}
"""


async def test_a_workflow_calls_an_api_across_the_end_of_a_token_and_a_refusal_and_notices_neither(
    place: Place, data: Path
) -> None:
    dead: set[str] = set()
    taken: list[str | int] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        refused = token in dead or token not in it.provider.given
        taken.append(401 if refused else request.path)
        if request.path in {"/ends", "/refuse"}:
            dead.add(token)
            it.provider.life = 3600
        return web.json_response({"whole": token}, status=401 if refused else 200)

    tier = {"MILLRACE_SANDBOX_TIER": TIERS[0]} | ({} if UID is None else {"MILLRACE_SANDBOX_UID": str(UID)})
    async with (
        serving(answer) as url,
        asking(place) as it,
        running(place, "executor", MILLRACE_DATA=str(data / "executor"), **ALLOWED, **tier),
        bus_of(place, "admin") as admin,
    ):
        it.provider.life = NEAR.total_seconds() + 1
        await it.authorize(base_url=url)
        inside = Inside(place, it.gateway)
        await inside.put("flows.py", WORKFLOW, "acme")
        assert await inside.result("tickets", "acme") == {"found": ["***"] * 3, "lives": True, "proxy": True}
        assert taken == ["/tickets", "/ends", "/tickets", "/refuse", 401, "/tickets"]
        said: list[Any] = []
        for stream in ("RUNS", "LINES", "CATALOG", "CONNECTIONS", "AUDIT"):
            said += await stored(admin, stream, (await admin.client.jetstream().stream_info(stream)).state.messages)
        assert not [one.type for one in said for token in it.provider.given if token in repr(one) + bytes(one.data).decode()]
        steps = [bytes(one.data).decode() for one in said if one.type == "run.step_completed"]
        assert len(steps) == 3
        assert all("***" in one for one in steps)
        # One for each time that a token was given: the first, after its end, after its refusal, and two that were asked for.
        given = [open_message(one, Audited) for one in said if one.type == "audit.given"]
        assert {(one.category, one.outcome, one.actor[:4]) for one in given} == {("token", "ok", "run:")}
        assert len(given) in (5, 6, 7), "a slow machine may meet an end more, or two"
