"""Sources that name an integration: routed with their organization's mapping, and visibly not routed without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.envelope import new_id
from shared.errors import Invalid
from shared.questions.events import RetryDelivery
from tests.support.resources import putting, removing
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
    await outside.bus.ask(putting("mapping", "halopsa", org=org, config=config, **fields))


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
        assert view.reason == "there is no mapping of integration 'halopsa' for organization 'default'"
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
