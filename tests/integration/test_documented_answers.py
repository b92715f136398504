"""Requests that follow from the OpenAPI document, or break it, as each role: what is answered is declared, and nothing is a 5xx."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.integration.test_gateway import gateway
from tests.support.client import Client
from tests.support.documented import ORG, ROLES, complaints, keys
from tests.support.inside import eventually, running
from tests.support.river import sandbox_settings
from tests.support.servers import Place

# Far above what it takes.
WITHIN = 500.0


async def test_no_role_gets_a_5xx_or_an_answer_that_is_not_declared(place: Place, data: Path, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        executor = {"MILLRACE_DATA": str(data / "executor"), **sandbox_settings()}
        for service in ("oauth", "events", "executor", "logs"):
            await stack.enter_async_context(running(place, service, **(executor if service == "executor" else {})))
        served = await stack.enter_async_context(gateway(place))
        client = Client(served.session, {"url": served.url, "admin_key": place.credentials.admin_key})
        await eventually(lambda: client.available("/api/v1/logs?limit=1"))
        said = await complaints(served.url, await keys(client), tmp_path, each=1, within=WITHIN)
        if said is not None:
            pytest.fail(said[-20_000:])
        held = (await client.call("GET", f"/api/v1/keys?org={ORG}"))["items"]
        unused = {one["name"] for one in held if one["last_used_at"] is None}
        assert {role for role in ROLES if f"held-by-{role}" in unused} == {"expired"}
