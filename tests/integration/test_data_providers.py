"""Options of data providers over the API of two gateways: made by one run for each input, kept with their age, and made anew."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_gateway import Client, Got, gateway
from tests.support.inside import eventually
from tests.support.river import Outside, river
from tests.support.servers import Place

PROVIDERS = """
import time

from millrace import data_provider, workflow


@data_provider(ttl={ttl}, stale={stale})
def boards(folder: str, project: str = "a", size: int = 2) -> list:
    '''The boards of a project.'''
    with open(f"{{folder}}/made", "a") as file:
        file.write(f"{{project}}\\n")
    time.sleep(0.5)
    return [{{"value": number, "label": f"{{project}} {{number}}", "of": {version}}} for number in range(size)]


@data_provider
def plain() -> list:
    return ["a", 1, True, {{"value": None}}]


@data_provider
def fails(folder: str) -> list:
    with open(f"{{folder}}/made", "a") as file:
        file.write("fails\\n")
    raise LookupError("no such project")


@data_provider
def wrong(which: str) -> object:
    return {{"none": 5, "label": [{{"value": 1, "label": 2}}], "odd": ["a", []], "large": ["x" * 300_000]}}[which]


@workflow
def no_provider() -> int:
    return 1
"""


@pytest.fixture
async def outside(place: Place, data: Path) -> AsyncIterator[Outside]:
    async with river(place, data) as outside:
        await deploy(outside)
        yield outside


@pytest.fixture
async def clients(place: Place, outside: Outside) -> AsyncIterator[list[Client]]:
    async with gateway(place) as one, gateway(place) as other:
        yield [one, other]


async def deploy(outside: Outside, *, ttl: float = 300, stale: float = 300, version: int = 1) -> None:
    text = PROVIDERS.format(ttl=ttl, stale=stale, version=version)
    assert (await outside.put_file("forms.py", text.encode())).problems == []


async def ask(client: Client, name: str, query: str = "", **given: Any) -> Got:
    return await client("GET", f"/api/v1/data-providers/{name}", params={"input": json.dumps(given)} | dict(_pairs(query)))


def _pairs(query: str) -> list[list[str]]:
    return [one.split("=") for one in query.split("&") if one]


def made(folder: Path) -> list[str]:
    return (folder / "made").read_text().split()


async def test_many_who_ask_two_gateways_for_options_have_those_of_one_run_for_each_input(
    clients: list[Client], shared_folder: Path
) -> None:
    asked = [ask(client, "boards", folder=str(shared_folder), project=one) for _ in range(30) for client in clients for one in "ab"]
    told = await asyncio.gather(*asked)
    assert {one.status for one in told} == {200}, told[0].json
    assert sorted(made(shared_folder)) == ["a", "b"]
    assert len({one.json["run"] for one in told}) == 2
    first = told[0].json
    assert first["options"] == [{"value": number, "label": f"a {number}", "of": 1} for number in range(2)]
    assert (first["name"], first["stale"], first["error"]) == ("boards", False, None)
    assert 0 <= first["age"] < 60
    run = (await clients[0]("GET", f"/api/v1/runs/{first['run']}")).json
    assert (run["workflow"], run["status"], run["input"]["project"]) == ("boards", "succeeded", "a")
    # Options that are wanted anew are those of another run.
    again = (await ask(clients[1], "boards", "refresh=true", folder=str(shared_folder))).json
    assert again["run"] not in {one.json["run"] for one in told}


async def test_new_code_has_new_options_and_stale_ones_are_made_anew(
    outside: Outside, clients: list[Client], shared_folder: Path
) -> None:
    given = {"folder": str(shared_folder)}
    before = (await ask(clients[0], "boards", **given)).json
    await deploy(outside, ttl=0.01, version=2)

    async def is_served() -> bool:
        shown = await asyncio.gather(*(client("GET", "/api/v1/workflows/boards") for client in clients))
        return all(one.json["version"] != before["version"] for one in shown)

    await eventually(is_served)
    after = (await ask(clients[0], "boards", **given)).json
    assert [one["of"] for one in after["options"]] == [2, 2]

    async def is_anew() -> bool:
        found = (await ask(clients[1], "boards", **given)).json
        assert [one["of"] for one in found["options"]] == [2, 2]
        return bool(found["run"] != after["run"])

    await eventually(is_anew)


async def test_what_cannot_be_answered_is_told_by_name(clients: list[Client], shared_folder: Path) -> None:
    client, folder = clients[0], str(shared_folder)
    assert [one["value"] for one in (await ask(client, "plain")).json["options"]] == ["a", 1, True, None]
    assert [one["label"] for one in (await ask(client, "plain")).json["options"]] == ["a", "1", "true", "null"]
    failed = [await ask(one, "fails", folder=folder) for one in (client, client, clients[1])]
    assert [one.status for one in failed] == [502] * 3
    assert "ended as failed: LookupError: no such project" in failed[0].json["detail"]
    assert made(shared_folder) == ["fails"]
    for which, told in {
        "none": "no list of options, but a number",
        "label": "number 0 has a label that is no text",
        "odd": "number 1 is a list",
        "large": "at most 262144 are kept",
    }.items():
        got = await ask(client, "wrong", which=which)
        assert (got.status, told in got.json["detail"]) == (502, True), got.json
    unfit = await ask(client, "boards", folder=folder, size="many")
    assert (unfit.status, unfit.json["errors"][0]["path"]) == (422, "input.size")
    assert (await ask(client, "boards", "input=[", folder=folder)).status == 400
    assert (await ask(client, "boards", "input=5", folder=folder)).status == 422
    assert [(await ask(client, name)).status for name in ("nothing", "no_provider")] == [404, 404]
    late = await ask(client, "boards", "wait=0", folder=folder)
    assert (late.status, "Retry-After" in late.headers) == (503, True)


async def test_providers_are_listed_and_other_organizations_have_none(clients: list[Client]) -> None:
    listed = (await clients[0]("GET", "/api/v1/data-providers")).json["items"]
    assert [one["name"] for one in listed] == ["boards", "fails", "plain", "wrong"]
    assert (listed[0]["doc"], listed[0]["policy"]["options"]) == ("The boards of a project.", {"ttl": 300.0, "stale": 300.0})
    assert (await clients[0]("GET", "/api/v1/data-providers?org=other")).json["items"] == []
    assert (await ask(clients[0], "plain", "org=other")).status == 404


async def test_a_workflow_of_ones_own_hides_the_platforms_provider_of_its_name(clients: list[Client], outside: Outside) -> None:
    shared = b"from millrace import data_provider\n\n@data_provider\ndef no_provider() -> list:\n    return [1]\n\n"
    shared += b"@data_provider\ndef common() -> list:\n    return [2]\n"
    assert (await outside.put_file("shared.py", shared, org="global")).problems == []
    listed = (await clients[0]("GET", "/api/v1/data-providers")).json["items"]
    assert [one["name"] for one in listed] == ["boards", "common", "fails", "plain", "wrong"]
    assert [(await ask(clients[0], name)).status for name in ("no_provider", "common")] == [404, 200]
    other = (await clients[0]("GET", "/api/v1/data-providers?org=other")).json["items"]
    assert [one["name"] for one in other] == ["common", "no_provider"]
