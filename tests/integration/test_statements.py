"""What requests cost the database: an endpoint no more statements than it is given, a list as many for many items as for one."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from services.gateway.api.application import ENDPOINTS
from services.gateway.api.document import USUAL, methods_of, path_of
from services.gateway.api.endpoint import Endpoint
from shared import tasks
from shared.envelope import rfc3339, utc_now
from shared.messages.log import SERVICES
from shared.resources import KINDS
from tests.e2e.test_openapi import Stack, by_change
from tests.integration.test_gateway import gateway
from tests.support.inside import eventually, running
from tests.support.most_statements import MOST, PROBES
from tests.support.remotes import Remote, served
from tests.support.river import sandbox_settings
from tests.support.servers import Place
from tests.support.statements import Requests, requests

# More than one by so much that a statement for each shows.
MANY = 20
# Fewer than a pool has connections: nobody is refused.
AT_ONCE = 6
# Of users alone; of held events; of a repository, which there is one of at most, and here none; of a tree, by its roots; of a file,
# of a run with artifacts; and of removals of organizations that had something.
NOT_HERE = {
    "list_history",
    "list_removals",
    "list_artifacts",
    "list_credentials",
    "list_held",
    "list_git_conflicts",
    "list_repositories",
    "get_why",
}
# Of what takes long to make, or is of a service, there are two.
FEW = {"list_commits", "list_levels", "get_attempts", "list_dead_letters", "list_replays"}
CODE = b"""
import asyncio

from millrace import ask, data_provider, step, workflow


@workflow(name="many")
async def many() -> None:
    for n in range(%d):
        await step("one", abs, n)
        print(n)
    print("one more: whether a page is the last is asked for where that is not known")


for n in range(%d):
    @workflow(name=f"w{n:03}")
    def quick() -> None:
        pass

    @data_provider(name=f"d{n:03}")
    def options() -> list:
        return []


@workflow(name="fails", retries=2, retry_delay=0.01)
def fails() -> None:
    raise ValueError


@workflow(name="asks")
async def asks() -> None:
    await asyncio.gather(*(ask("Go on?") for _ in range(%d)))
""" % (MANY, MANY, MANY)
BODIES: dict[str, dict[str, Any]] = {
    "subscription": {"source": "topic", "event": "never", "workflow": "orders"},
    "user": {"roles": {"acme": "viewer"}},
}


@asynccontextmanager
async def counting(place: Place, data: Path) -> AsyncIterator[tuple[Stack, Requests]]:
    """All services in this process, with what the examples speak of."""
    async with contextlib.AsyncExitStack() as stack:
        counted = await stack.enter_async_context(requests())
        executor = {"MILLRACE_DATA": str(data / "executor"), "MILLRACE_EGRESS_ALLOW": "127.0.0.1", **sandbox_settings()}
        for service in ("oauth", "events", "executor", "logs"):
            await stack.enter_async_context(running(place, service, **(executor if service == "executor" else {})))
        client = await stack.enter_async_context(gateway(place))
        remote = Remote(data / "remote" / "flows.git")
        stack.enter_context(served(remote, token=None))
        examples = Stack({"url": client.url, "admin_key": place.credentials.admin_key}, client.session, remote)
        await eventually(lambda: examples.client.available("/api/v1/logs?limit=1"))
        await examples.prepare()
        yield examples, counted


async def test_every_example_takes_no_more_statements_than_its_endpoint_may(place: Place, data: Path) -> None:
    async with counting(place, data) as (examples, counted):
        more = {}
        for endpoint in by_change():
            path = path_of(endpoint).format(**await examples.known(endpoint))
            for method in methods_of(endpoint) if endpoint.name not in PROBES else ():
                _, headers, _ = await examples.send(endpoint, method, path)
                run = await counted.of(headers["traceresponse"])
                if len(run) > MOST[endpoint.name]:
                    more[endpoint.name] = len(run), run
        assert more == {}


async def test_a_list_of_many_takes_as_many_statements_as_one_of_one(place: Place, data: Path) -> None:
    async with counting(place, data) as (examples, counted):

        async def cost(path: str) -> tuple[int, int]:
            """Return how many items an answer has, and statements."""
            headers = {"Authorization": f"Bearer {examples.key}"}
            async with examples.session.get(examples.url + path, headers=headers) as response:
                answer = await response.json()
                assert response.status == 200, (path, answer)
                return len(answer["items"]), len(await counted.of(response.headers["traceresponse"]))

        lists = [one for one in ENDPOINTS if one.method == "GET" and _is_list(one) and one.name not in NOT_HERE]
        paged = [one for one in lists if one.query is not None and "limit" in one.query.__struct_fields__]
        whole = {one.name: path_of(one).format(**USUAL) for one in lists if one not in paged}
        before = {name: await cost(path) for name, path in whole.items()}
        runs = await filled(examples)
        after = {name: await cost(path) for name, path in whole.items()}
        assert {name: run for name, (_, run) in after.items()} == {name: run for name, (_, run) in before.items()}
        wrong = []
        for one in paged:
            path = path_of(one).format(**USUAL | {"id": runs.get(one.name, "")})
            # Those of an integration are of many organizations.
            every = "&org=*" if one.name == "list_mappings" else ""
            of_one, least = await cost(f"{path}?limit=1{every}")
            of_many, most = await cost(f"{path}?limit={MANY}{every}")
            are_many = of_many == MANY or (one.name in FEW and of_many > 1)
            if least != most or of_one != 1 or not are_many:
                wrong.append((one.name, (of_one, least), (of_many, most)))
        assert wrong == []


async def filled(examples: Stack) -> dict[str, str]:
    """Make many of what is listed; returns the run whose parts an endpoint lists, by its name."""
    call = examples.client.call
    files = {f"many/f{number:03}.txt": b"" for number in range(MANY)} | {"many.py": CODE}
    commit = {path: base64.b64encode(content).decode() for path, content in files.items()}
    committed = await call("POST", "/api/v1/workspace/commits", body={"files": commit})
    assert committed["problems"] == []
    later = rfc3339(utc_now() + timedelta(days=30))

    async def make(number: int) -> None:
        name = f"n{number:03}"
        for kind in KINDS.values():
            if kind.noun not in {"level", "mapping", "repository"}:
                body = BODIES.get(kind.noun, kind.example)
                await call("PUT", f"/api/v1/{kind.plural}/{name}{'?org=global' if kind.of_platform else ''}", body=body)
        await call("PUT", f"/api/v1/integrations/orders/mappings/{name}?org=global", body={"entity_id": name})
        await call("PUT", f"/api/v1/state/{name}", body={"value": 1})
        await call("POST", "/api/v1/orgs/acme/invitations", body={"role": "viewer"})
        await call("POST", "/api/v1/workflows/orders/runs", body={"run_at": later})
        await call("POST", "/api/v1/sources/topic/events", body={"type": "a.b", "data": {"key": name}})

    await tasks.each(AT_ONCE, range(MANY), make)
    for service in SERVICES[:2]:
        await call("PUT", f"/api/v1/levels/{service}", body=KINDS["level"].example)
    for _ in range(2):
        await call("POST", "/api/v1/deliveries/replay", body={"since": "2026-01-01T00:00:00Z", "rate": 0.01, "all": True})
        await examples.dead_letter()
    long, short = await examples.run("many", "succeeded"), await examples.run("fails", "failed")
    await examples.run("asks", "waiting")
    await eventually(lambda: told(examples, f"approvals?limit={MANY}"))
    await eventually(lambda: told(examples, f"runs/{long}/logs?limit={MANY}"))
    await eventually(lambda: told(examples, f"deliveries?limit={MANY}"))
    return {"get_steps": long, "get_lines": long, "get_attempts": short}


async def told(examples: Stack, path: str) -> bool:
    """Return whether many items are there by now."""
    found = await examples.client.available(f"/api/v1/{path}")
    return found is not None and len(found["items"]) == MANY


def _is_list(endpoint: Endpoint) -> bool:
    answers = [reply.body for reply in endpoint.replies().values()]
    return any("items" in getattr(one, "__struct_fields__", ()) for one in answers)
