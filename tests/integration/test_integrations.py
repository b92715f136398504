"""Integrations and mappings at their owner: what an organization sees, what fits, and what is missing."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from services.events.store import EventsStore
from shared.bus import Bus
from shared.db import counting, open_engine
from shared.envelope import new_id
from shared.errors import Invalid, NotFound, PreconditionFailed, Problem
from shared.questions import Page
from shared.questions.events import GetMapping, MappingView
from shared.questions.integrations import (
    IntegrationList,
    IntegrationView,
    ListIntegrations,
    ListMappings,
    MappingList,
    PutIntegration,
    PutMapping,
    RemoveIntegration,
    RemoveMapping,
)
from tests.support.inside import bus_of, running
from tests.support.servers import Place

SCHEMA = {
    "type": "object",
    "properties": {"subdomain": {"type": "string"}, "pages": {"type": "integer", "minimum": 1}},
    "required": ["subdomain"],
    "additionalProperties": False,
}


def defining(org: str = "global", name: str = "halopsa", **fields: object) -> PutIntegration:
    given = {"config_schema": SCHEMA} | fields
    return PutIntegration(id=new_id(), org=org, actor="test", name=name, **given)  # type: ignore[arg-type]


def mapping(org: str = "default", integration: str = "halopsa", **fields: object) -> PutMapping:
    given = {"config": {"subdomain": "acme"}} | fields
    return PutMapping(id=new_id(), org=org, actor="test", integration=integration, **given)  # type: ignore[arg-type]


async def asked(bus: Bus, org: str = "default", integration: str = "halopsa") -> MappingView:
    view: MappingView = await bus.ask(GetMapping(org=org, integration=integration))
    return view


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
        seen: IntegrationList = await bus.ask(ListIntegrations(org="acme"))
        assert [(one.name, one.org) for one in seen.items] == [("halopsa", "acme"), ("private", "acme")]
        seen = await bus.ask(ListIntegrations(org="default"))
        assert [(one.name, one.org) for one in seen.items] == [("halopsa", "global")]
        assert (await bus.ask(ListIntegrations(org="default", own=True))).items == []
        # Without its own one the organization means the platform's, which its mapping does not fit: it is told.
        await bus.ask(RemoveIntegration(id=new_id(), org="acme", actor="test", name="halopsa"))
        assert {problem.path for problem in (await asked(bus, "acme")).problems} == {"config"}


async def test_a_config_that_does_not_fit_names_every_place(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        await bus.ask(defining())
        with pytest.raises(Invalid) as refused:
            await bus.ask(mapping(config={"subdomain": 5, "pages": 0}))
        assert {problem.path for problem in refused.value.errors} == {"config.subdomain", "config.pages"}
        with pytest.raises(Invalid) as refused:
            await bus.ask(mapping(config={"subdomain": "a\0b"}))
        assert refused.value.errors == (Problem("config.subdomain", "holds a NUL character"),)
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
        first: IntegrationView = await bus.ask(defining())
        await bus.ask(mapping())
        changed: IntegrationView = await bus.ask(defining(config_schema={"type": "object", "required": ["region"]}))
        assert (changed.id, changed.created_at) == (first.id, first.created_at)
        view = await asked(bus)
        assert view.config == {"subdomain": "acme"}
        assert view.problems == [Problem("config", '"region" is a required property')]


async def test_what_was_told_twice_is_done_once_and_versions_are_demanded(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        for first, second in ((defining(), defining()), (mapping(expected=0), mapping(expected=0))):
            one = await bus.ask(first)
            assert await bus.ask(first) == one
            if second.expected == 0:
                with pytest.raises(PreconditionFailed):
                    await bus.ask(second)
        for cls, field in ((RemoveMapping, "integration"), (RemoveIntegration, "name")):
            fields: dict[str, Any] = {"org": "default" if cls is RemoveMapping else "global", "actor": "test", field: "halopsa"}
            with pytest.raises(PreconditionFailed):
                await bus.ask(cls(id=new_id(), expected=7, **fields))
            command = cls(id=new_id(), **fields)
            assert await bus.ask(command) == await bus.ask(command)
            with pytest.raises(NotFound):
                await bus.ask(cls(id=new_id(), **fields))


async def test_mappings_are_listed_by_organization_and_page(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        await bus.ask(defining())
        await bus.ask(defining("own", config_schema={"type": "object"}))
        for org in ("a", "b", "c", "own"):
            await bus.ask(mapping(org))

        async def listed(org: str, **page: object) -> tuple[list[str], str | None]:
            found: MappingList = await bus.ask(ListMappings(org=org, integration="halopsa", page=Page(**page)))  # type: ignore[arg-type]
            return [one.org for one in found.items], found.next_cursor

        assert await listed("*") == (["a", "b", "c"], None)
        assert await listed("*", limit=2) == (["a", "b"], "b")
        assert await listed("*", limit=2, cursor="b") == (["c"], None)
        assert await listed("a") == (["a"], None)
        assert await listed("own") == (["own"], None)
        assert await listed("nobody") == ([], None)


async def test_replaying_the_catalog_gives_equal_rows(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        for name in ("halopsa", "removed"):
            await bus.ask(defining(name=name))
            await bus.ask(mapping(integration=name))
        await bus.ask(RemoveMapping(id=new_id(), org="default", actor="test", integration="removed"))
        await bus.ask(RemoveIntegration(id=new_id(), org="global", actor="test", name="removed"))
    connection = await asyncpg.connect(place.database_url("events"))
    try:
        before = {table: await connection.fetch(f"SELECT * FROM {table} ORDER BY id") for table in ("integration", "mapping")}
        assert {table: len(rows) for table, rows in before.items()} == {"integration": 1, "mapping": 1}
        await connection.execute("TRUNCATE integration, mapping")
        await connection.execute("UPDATE checkpoint SET last_seq = 0 WHERE projection = 'catalog'")
        async with running(place, "events"), bus_of(place, "gateway") as bus:
            await bus.ask(defining(name="one-more"))
            await bus.ask(RemoveIntegration(id=new_id(), org="global", actor="test", name="one-more"))
        for table, rows in before.items():
            assert await connection.fetch(f"SELECT * FROM {table} ORDER BY id") == rows
    finally:
        await connection.close()


async def test_a_page_takes_one_statement_however_much_is_on_it(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        for number in range(20):
            await bus.ask(defining(name=f"halo-{number:02}"))
            await bus.ask(mapping(f"org-{number:02}", "halo-00"))
    engine = open_engine(place.database_url("events"), service="events")
    try:
        store = EventsStore(engine)
        with counting(engine) as statements:
            assert len(await store.integrations("default", None, "", 20, own=False)) == 20
            assert len(await store.mappings(None, "halo-00", "", 20)) == 20
            row = await store.mapping("org-07", "halo-00")
            assert row is not None
            assert row["org"] == "org-07"
        assert len(statements) == 3
    finally:
        await engine.dispose()
