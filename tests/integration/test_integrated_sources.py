"""Sources that name an integration: routed with their organization's mapping, and visibly not routed without one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.events.entities import organization_of
from shared.db import open_engine
from shared.envelope import new_id, open_message
from shared.errors import Conflict, Invalid, NotFound
from shared.messages import Audited
from shared.owners.rows import ResourceRows
from shared.questions.events import RetryDelivery
from shared.questions.runs import GetRun
from tests.integration.test_run_capabilities import stored
from tests.support.inside import bus_of, running
from tests.support.resources import putting, removing, ring, told
from tests.support.river import Outside, river
from tests.support.servers import Place

ECHO = b"""
from millrace import workflow


@workflow
def echo(event: dict) -> dict:
    return event


@workflow
def told(subdomain: str, entity: str, connection: str | None = None, literal: str = "") -> dict:
    return {"subdomain": subdomain, "entity": entity, "connection": connection, "literal": literal}
"""


async def define(outside: Outside, name: str = "halopsa") -> None:
    command = putting("integration", name, org="global", config_schema={"type": "object"})
    await outside.bus.ask(command)


async def map_to(outside: Outside, config: dict[str, object], org: str = "default", **fields: str) -> None:
    await outside.bus.ask(putting("mapping", "halopsa", org=org, config=config, by_platform=True, **fields))


async def test_an_event_without_a_mapping_is_unroutable_until_there_is_one(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        with pytest.raises(Invalid, match="no integration 'halopsa'"):
            await outside.source(integration="halopsa")
        await define(outside)
        await outside.put_file("echo.py", ECHO)
        source = await outside.source(integration="halopsa")
        assert source.integration == "halopsa"
        await outside.subscription(workflow="echo")
        # Somebody else's mapping is nobody's.
        await map_to(outside, {"subdomain": "theirs"}, org="other", entity_id="7")
        delivery = await outside.webhook(source, {"ref": "main"})
        view = await outside.delivery(delivery, "unroutable")
        assert view.reason == (
            "there is no mapping of integration 'halopsa' for organization 'default': put it with "
            "PUT /api/v1/integrations/halopsa/mappings/default, or millrace integrations map halopsa --org default"
        )
        assert view.runs == []
        await map_to(outside, {"subdomain": "ours"}, entity_id="42")
        await outside.bus.ask(RetryDelivery(id=new_id(), org="default", actor="test", delivery=delivery))
        [run] = (await outside.delivery(delivery, "routed")).runs
        result = (await outside.run(run.id, "succeeded")).result
        assert result["integration"] == {"name": "halopsa", "entity_id": "42"}
        assert result["data"] == {"ref": "main"}


async def test_an_integration_that_was_removed_is_what_the_delivery_says(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await define(outside)
        await map_to(outside, {})
        source = await outside.source(integration="halopsa")
        await outside.subscription(workflow="echo")
        await outside.bus.ask(removing("integration", "halopsa", org="global"))
        delivery = await outside.webhook(source, {})
        reason = "there is no integration 'halopsa' of 'default' or 'global': put it first, or correct the name"
        assert (await outside.delivery(delivery, "unroutable")).reason == reason


async def test_filters_and_input_mappings_see_config_entity_id_and_connection(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await define(outside)
        await map_to(outside, {"subdomain": "acme", "refs": ["main"]}, entity_id="42", connection="halo-main")
        await outside.put_file("echo.py", ECHO)
        source = await outside.source(integration="halopsa")
        await outside.subscription(
            workflow="told",
            filter="event.data.ref in integration.config.refs && integration.entity_id == '42'",
            input={
                "subdomain": "integration.config.subdomain",
                "entity": "integration.entity_id",
                "connection": "integration.connection",
                "literal": "integration",
            },
        )
        assert (await outside.delivery(await outside.webhook(source, {"ref": "other"}), "filtered")).runs == []
        [run] = (await outside.delivery(await outside.webhook(source, {"ref": "main"}), "routed")).runs
        assert (await outside.run(run.id, "succeeded")).result == {
            "subdomain": "acme",
            "entity": "42",
            "connection": "halo-main",
            "literal": "integration",
        }


async def test_a_source_without_an_integration_has_none_to_offer(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("echo.py", ECHO)
        source = await outside.source()
        await outside.subscription(workflow="told", input={"subdomain": "integration.config.x", "entity": "e"})
        view = await outside.delivery(await outside.webhook(source, {}), "unroutable")
        assert view.reason == "input subdomain: the source of this event names no integration"
        await outside.subscription(workflow="echo", filter="integration == null")
        [run] = (await outside.delivery(await outside.webhook(source, {}), "routed")).runs
        assert "integration" not in (await outside.run(run.id, "succeeded")).result


SECRET = "kk-5ad1e2c7-not-to-be-seen"
CONFIGURED = b"""
from millrace import integrations, workflow


@workflow
def configured() -> dict:
    halo = integrations.get("halopsa")
    print("with", halo.config.get("key"))
    return {"config": halo.config, "entity": halo.entity_id, "length": len(halo.config.get("key", ""))}
"""
SCHEMA = {
    "type": "object",
    "required": ["key", "subdomain"],
    "properties": {
        "key": {"type": "string", "minLength": 10, "writeOnly": True},
        "subdomain": {"type": "string"},
        "pages": {"type": "integer", "default": 50},
    },
}


async def test_config_comes_from_the_organization_then_the_platform_then_the_schema(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.bus.ask(putting("integration", "halopsa", org="global", config_schema=SCHEMA))
        await outside.put_file("echo.py", ECHO)
        source = await outside.source(integration="halopsa")
        paths = {"subdomain": "integration.config.subdomain", "entity": "integration.entity_id"}
        await outside.subscription(
            workflow="told", input=paths | {"literal": {"$cel": "string(integration.config.pages)"}}, filter="integration != null"
        )
        keyring = ring(place)
        with pytest.raises(Invalid, match=r'config: "key" is a required property'):
            await outside.bus.ask(putting("mapping", "halopsa", keyring, config={"subdomain": "own"}))
        # The platform's is a part, to which each organization adds its own.
        await told(outside.bus, putting("mapping", "halopsa", keyring, org="global", config={"key": SECRET, "pages": 7}))
        [run] = (await outside.delivery(await outside.webhook(source, {}), "unroutable")).runs or [None]
        assert run is None
        shown = await told(outside.bus, putting("mapping", "halopsa", keyring, config={"subdomain": "own"}, entity_id="42"))
        assert (shown.config, shown.effective, shown.problems) == ({"subdomain": "own"}, {"pages": 7, "subdomain": "own"}, [])
        [run] = (await outside.delivery(await outside.webhook(source, {}), "routed")).runs
        result = (await outside.run(run.id, "succeeded")).result
        assert result == {"subdomain": "own", "entity": "42", "connection": None, "literal": "7"}


async def test_a_secret_of_a_mapping_is_given_to_runs_only_and_masked(place: Place, data: Path) -> None:
    async with river(place, data) as outside, bus_of(place, "admin") as admin:
        keyring = ring(place)
        await outside.bus.ask(putting("integration", "halopsa", org="global", config_schema=SCHEMA))
        await outside.put_file("configured.py", CONFIGURED)
        given = {"subdomain": "own", "key": SECRET}
        with pytest.raises(Invalid) as refused:
            await outside.bus.ask(putting("mapping", "halopsa", keyring, config=given | {"key": ""}))
        assert refused.value.errors[0].path == "config.key"
        shown = await told(outside.bus, putting("mapping", "halopsa", keyring, config=given))
        assert (shown.config, shown.secrets) == ({"subdomain": "own"}, ["key"])
        # Not given, it stays; a patch changes the rest.
        shown = await told(outside.bus, putting("mapping", "halopsa", keyring, config={"pages": 3}, patch=True))
        assert (shown.config, shown.secrets) == ({"subdomain": "own", "pages": 3}, ["key"])
        run = await outside.run(await outside.request("configured"), "succeeded")
        assert run.result == {"config": {"subdomain": "own", "pages": 3, "key": "***"}, "entity": None, "length": len(SECRET)}
        said = []
        for stream in ("CATALOG", "RUNS", "LINES", "AUDIT"):
            count = (await admin.client.jetstream().stream_info(stream)).state.messages
            said += await stored(admin, stream, count)
        assert not [one for one in said if SECRET in repr(one) + bytes(one.data).decode()]
        [audited] = [open_message(one, Audited) for one in said if one.type == "audit.given"]
        assert (audited.category, audited.target, audited.outcome, audited.actor) == (
            "integration",
            "halopsa",
            "ok",
            f"run:{run.id}",
        )
        assert audited.detail["members"] == ["key"]
        # Another mapping of it that is put anew without the secret keeps it; null forgets it, which the schema does not allow here.
        with pytest.raises(Invalid, match="required"):
            await outside.bus.ask(putting("mapping", "halopsa", keyring, config={"subdomain": "own", "key": None}))


async def test_one_source_serves_many_organizations_by_the_entity_of_each_event(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await define(outside)
        keyring = ring(place)
        source = {"adapter": "github", "settings": {"secret": "s3cret"}, "integration": "halopsa", "by_entity": True}
        for wrong, org, field in (
            ({"integration": None}, "global", "integration"),
            ({}, "default", "by_entity"),
            ({"entity": "data.x"}, "global", "entity"),
        ):
            with pytest.raises(Invalid) as refused:
                await outside.bus.ask(putting("source", "shared", keyring, org=org, **(source | wrong)))
            assert refused.value.errors[0].path == field
        # Before anything is routed by it, several may have one.
        for org in ("gamma", "delta"):
            await map_to(outside, {"subdomain": org}, org=org, entity_id="43")
        shared = await told(outside.bus, putting("source", "shared", keyring, org="global", **source))
        await outside.bus.ask(putting("subscription", "all", org="global", source="shared", event="push", workflow="echo"))
        await outside.put_file("echo.py", ECHO, org="global")
        for org, entity in (("acme", "41"), ("beta", "42")):
            await map_to(outside, {"subdomain": org}, org=org, entity_id=entity)
        for org, entity in (("acme", 41), ("beta", 42)):
            id_ = await outside.webhook(shared, {"installation": {"id": entity}}, org="global")
            [run] = (await outside.delivery(id_, "routed", org="global")).runs
            view = await outside.run(run.id, "succeeded", org=org)
            assert (view.org, view.result["integration"]) == (org, {"name": "halopsa", "entity_id": str(entity)})
            with pytest.raises(NotFound):
                await outside.bus.ask(GetRun(org="global", id=run.id))
        for body, said in (
            (
                {"installation": {"id": 44}},
                "no organization's mapping of integration 'halopsa' has the entity_id '44': put it into one",
            ),
            ({"installation": {"id": 43}}, "2 organizations have the entity_id '43' in integration 'halopsa': delta, gamma"),
            ({}, "this event has no event.data.installation.id, which is to say whose it is"),
        ):
            view = await outside.delivery(await outside.webhook(shared, body, org="global"), "unroutable", org="global")
            assert view.reason is not None
            assert view.reason.startswith(said)
        # An organization's own integration of the name is another one.
        await outside.bus.ask(putting("integration", "halopsa", org="delta", config_schema={"type": "object"}))
        id_ = await outside.webhook(shared, {"installation": {"id": 43}}, org="global")
        [run] = (await outside.delivery(id_, "routed", org="global")).runs
        assert (await outside.run(run.id, "succeeded", org="gamma")).result["integration"]["entity_id"] == "43"


async def test_an_entity_is_of_the_organization_that_claimed_it_first(place: Place) -> None:
    async with running(place, "events"), running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        engine = open_engine(place.database_url("events"), service="events")
        rows = ResourceRows(engine)
        await define(outside)
        source = {"adapter": "github", "settings": {"secret": "s3cret"}, "integration": "halopsa", "by_entity": True}
        await told(bus, putting("source", "shared", ring(place), org="global", **source))

        said: list[Conflict] = []

        async def claim(org: str, entity: str = "41") -> str:
            try:
                await bus.ask(putting("mapping", "halopsa", org=org, config={}, entity_id=entity, by_platform=True))
            except Conflict as refused:
                said.append(refused)
                return "refused"
            return org

        # At once, at two replicas: one of them is the first.
        orgs = [f"org-{n}" for n in range(8)]
        claims = await asyncio.gather(*map(claim, orgs))
        assert claims.count("refused") == len(orgs) - 1
        [owner] = set(claims) - {"refused"}
        assert await organization_of(rows, "halopsa", "41") == owner
        # Its own organization changes the rest of it, another one has another entity.
        await bus.ask(putting("mapping", "halopsa", org=owner, config={"a": 1}, entity_id="41"))
        assert await claim("acme", "42") == "acme"
        with pytest.raises(Conflict):
            await bus.ask(putting("mapping", "halopsa", org="acme", patch=True, entity_id="41", by_platform=True))
        # In an integration of one's own it says nothing, and does not come back by removing that; nor do many of them hide it.
        many = [f"a{n:02}" for n in range(12)] + ["beta"]
        await asyncio.gather(
            *(bus.ask(putting("integration", "halopsa", org=org, config_schema={"type": "object"})) for org in many)
        )
        assert await asyncio.gather(*map(claim, many)) == many
        assert await organization_of(rows, "halopsa", "41") == owner
        # Not even once nobody has it: that would be a claim.
        with pytest.raises(Conflict, match="take it out first"):
            await bus.ask(removing("integration", "halopsa", org="beta"))
        await bus.ask(removing("mapping", "halopsa", org=owner))
        with pytest.raises(Conflict, match="take it out first"):
            await bus.ask(removing("integration", "halopsa", org="beta"))
        # Given up, it is another one's.
        await bus.ask(putting("mapping", "halopsa", org="beta", patch=True, entity_id=None))
        await bus.ask(removing("integration", "halopsa", org="beta"))
        assert await claim("beta") == "beta"
        assert await organization_of(rows, "halopsa", "41") == "beta"
        assert await claim(owner) == "refused"
        assert {one.errors[0].path for one in said} == {"entity_id"}
        assert not [one for one in said if "org-" in one.detail or "beta" in one.detail]
        await engine.dispose()
