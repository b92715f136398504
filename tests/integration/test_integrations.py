"""Integrations and mappings at their owner: what an organization sees, what fits, and what is missing."""

from __future__ import annotations

from typing import Any

import asyncpg
import msgspec
import pytest

from services.events.entities import Claims
from services.events.resources import Mappings
from shared.bus import Bus
from shared.db import open_engine
from shared.errors import Invalid, NotFound, PreconditionFailed, Problem
from shared.owners.rows import ResourceRows
from shared.questions.events import GetMapping, MappingView
from shared.questions.resources import PutResource
from tests.support.inside import bus_of, running
from tests.support.resources import got, listed, putting, removing, told
from tests.support.servers import Place
from tests.support.statements import counting

SCHEMA = {
    "type": "object",
    "properties": {"subdomain": {"type": "string"}, "pages": {"type": "integer", "minimum": 1}},
    "required": ["subdomain"],
    "additionalProperties": False,
}


def defining(org: str = "global", name: str = "halopsa", **fields: Any) -> PutResource:
    return putting("integration", name, org=org, **{"config_schema": SCHEMA} | fields)


def mapping(org: str = "default", integration: str = "halopsa", **fields: Any) -> PutResource:
    return putting("mapping", integration, org=org, **{"config": {"subdomain": "acme"}} | fields)


async def asked(bus: Bus, org: str = "default", integration: str = "halopsa") -> MappingView:
    if bus.service == "executor":
        view: MappingView = await bus.ask(GetMapping(org=org, integration=integration))
        return view
    return msgspec.convert(vars(await got(bus, "mapping", integration, org=org)), MappingView)


async def test_a_run_is_told_the_mapping_of_its_organization_or_what_is_missing(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as gateway, bus_of(place, "executor") as executor:
        with pytest.raises(NotFound, match="there is no integration 'halopsa'"):
            await asked(executor)
        await gateway.ask(defining(provider="halo"))
        with pytest.raises(NotFound, match="no mapping of integration 'halopsa' for organization 'default'"):
            await asked(executor)
        await gateway.ask(mapping(entity_id="42", connection="halo-main"))
        await gateway.ask(mapping("other", config={"subdomain": "o"}))
        view = await asked(executor)
        assert (view.org, view.config, view.entity_id, view.connection) == ("default", {"subdomain": "acme"}, "42", "halo-main")
        assert (view.provider, view.problems) == ("halo", [])
        assert (await asked(executor, "other")).config == {"subdomain": "o"}


async def test_an_organizations_own_integration_comes_first_and_is_seen_by_nobody_else(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        await bus.ask(defining())
        await bus.ask(defining("acme", config_schema={"type": "object"}, provider="own"))
        await bus.ask(defining("acme", "private"))
        await bus.ask(mapping("acme", config={"anything": 1}))
        assert (await asked(bus, "acme")).provider == "own"
        with pytest.raises(Invalid):
            await bus.ask(mapping("default", config={"anything": 1}))
        with pytest.raises(NotFound):
            await bus.ask(mapping("default", "private"))
        seen, _ = await listed(bus, "integration", org="acme")
        assert [(one.name, one.org) for one in seen] == [("halopsa", "acme"), ("private", "acme")]
        seen, _ = await listed(bus, "integration", org="default")
        assert [(one.name, one.org) for one in seen] == [("halopsa", "global")]
        # Without its own one the organization means the platform's, which its mapping does not fit: it is told.
        await bus.ask(removing("integration", "halopsa", org="acme"))
        assert {problem.path for problem in (await asked(bus, "acme")).problems} == {"config", "config.anything"}


async def test_a_config_that_does_not_fit_names_every_place(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        await bus.ask(defining())
        with pytest.raises(Invalid) as refused:
            await bus.ask(mapping(config={"subdomain": 5, "pages": 0}))
        assert {problem.path for problem in refused.value.errors} == {"config.subdomain", "config.pages"}
        with pytest.raises(Invalid) as refused:
            await bus.ask(mapping(config={"subdomain": "a\0b"}))
        assert refused.value.errors == (Problem("fields.config.subdomain", "holds a NUL character"),)
        for fields in (
            {"connection": "../etc"},
            {"entity_id": "x" * 501},
            {"entity_id": "a\0"},
            {"config": {"subdomain": "x" * 70_000}},
        ):
            with pytest.raises(Invalid):
                await bus.ask(mapping(**fields))
        with pytest.raises(NotFound):
            await asked(bus)


async def test_a_changed_schema_leaves_mappings_and_tells_their_problems(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        first = await told(bus, defining())
        await bus.ask(mapping())
        changed = await told(bus, defining(config_schema={"type": "object", "required": ["region"]}))
        assert (changed.id, changed.created_at) == (first.id, first.created_at)
        view = await asked(bus)
        assert view.config == {"subdomain": "acme"}
        assert view.problems == [Problem("config", '"region" is a required property')]


async def test_what_was_told_twice_is_done_once_and_versions_are_demanded(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        for first, second in ((defining(), defining()), (mapping(expected=0), mapping(expected=0))):
            one = await told(bus, first)
            assert await told(bus, first) == one
            if second.expected == 0:
                with pytest.raises(PreconditionFailed):
                    await bus.ask(second)
        for noun, org in (("mapping", "default"), ("integration", "global")):
            with pytest.raises(PreconditionFailed):
                await bus.ask(removing(noun, "halopsa", org=org, expected=7))
            command = removing(noun, "halopsa", org=org)
            first, again = [await bus.ask(command) for _ in range(2)]
            assert (bool(first.changes), again.changes) == (True, {})
            with pytest.raises(NotFound):
                await bus.ask(removing(noun, "halopsa", org=org))


async def test_mappings_are_listed_by_organization_and_page(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        await bus.ask(defining())
        await bus.ask(defining("own", config_schema={"type": "object"}))
        for org in ("a", "b", "c", "own"):
            await bus.ask(mapping(org))

        async def orgs(org: str, **page: Any) -> tuple[list[str], str | None]:
            found, cursor = await listed(bus, "mapping", org=org, name="halopsa", **page)
            return [one.org for one in found], cursor

        assert await orgs("*") == (["a", "b", "c"], None)
        assert await orgs("*", limit=2) == (["a", "b"], "mappings|b")
        assert await orgs("*", limit=2, cursor="mappings|b") == (["c"], None)
        assert await orgs("a") == (["a"], None)
        assert await orgs("own") == (["own"], None)
        assert await orgs("nobody") == ([], None)


async def test_replaying_the_catalog_gives_equal_rows(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        for name in ("halopsa", "removed"):
            await bus.ask(defining(name=name))
            await bus.ask(mapping(integration=name))
        await bus.ask(removing("mapping", "removed"))
        await bus.ask(removing("integration", "removed", org="global"))
    connection = await asyncpg.connect(place.database_url("events"))
    try:
        everything = "SELECT * FROM resource WHERE name <> 'one-more' ORDER BY id"
        before = await connection.fetch(everything)
        assert sorted(row["noun"] for row in before if not row["removed"]) == ["integration", "mapping"]
        await connection.execute("TRUNCATE resource")
        await connection.execute("UPDATE checkpoint SET last_seq = 0 WHERE projection = 'catalog'")
        async with running(place, "events"), bus_of(place, "gateway") as bus:
            await bus.ask(defining(name="one-more"))
            await bus.ask(removing("integration", "one-more", org="global"))
        assert await connection.fetch(everything) == before
    finally:
        await connection.close()


async def test_a_page_takes_few_statements_however_much_is_on_it(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        for number in range(20):
            await bus.ask(defining(name=f"halo-{number:02}"))
            await bus.ask(mapping(f"org-{number:02}", "halo-00"))
    engine = open_engine(place.database_url("events"), service="events")
    try:
        rows = ResourceRows(engine)
        async with counting(engine) as statements:
            assert len(await rows.page("integration", "default", "", 20, inherited=True)) == 20
        assert len(statements) == 1
        mappings = Mappings(rows, Claims(rows, engine, bus, None))  # type: ignore[arg-type] # nothing is claimed
        async with counting(engine) as statements:
            found = await rows.across("mapping", "halo-00", None, "", 20)
            shown = await mappings.shown(await mappings.across(None, "halo-00", found))
            assert len(shown) == 20
        assert len(statements) == 5
    finally:
        await engine.dispose()
