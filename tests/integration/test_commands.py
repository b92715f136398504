"""Commands and registries: sent twice they happen once; an entry never goes back."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from shared.envelope import new_id
from shared.errors import Invalid, NotFound, PreconditionFailed
from shared.health import Health
from shared.questions.resources import FindResource, Found, PutResource, of
from shared.registry import RegistryView
from shared.resources.source import SourceEntry
from tests.support.inside import bus_of, running
from tests.support.resources import putting, removing, ring, told
from tests.support.servers import Place


def command(place: Place, id_: str, secret: str = "s3cret", **fields: Any) -> PutResource:
    given = {"name": "repo", "adapter": "github", "settings": {}} | fields
    settings = {"secret": secret} | given.pop("settings")
    return putting("source", keyring=ring(place), id=id_, settings=settings, **given)


async def test_a_command_sent_again_does_it_once_and_answers_the_same(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        first = command(place, new_id())
        one = await told(bus, first)
        assert await told(bus, first) == one
        changed = await told(bus, command(place, new_id(), enabled=False))
        assert (changed.id, changed.enabled) == (one.id, False)
        assert changed.version > one.version


async def test_a_version_that_was_passed_is_refused(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        one = await told(bus, command(place, new_id(), expected=0))
        with pytest.raises(PreconditionFailed):
            await bus.ask(command(place, new_id(), expected=0))
        two = await told(bus, command(place, new_id(), expected=one.version, enabled=False))
        assert two.version > one.version


async def test_the_registry_shows_a_source_before_the_command_is_answered(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        view = await told(bus, command(place, new_id()))
        kv = await bus.client.jetstream().key_value("sources")
        assert (await kv.get(view.id)).value
        await bus.ask(removing("source", "repo"))
        found: Found = await bus.ask(of(FindResource, "source", org="default", id=view.id))
        assert found.value is None
        with pytest.raises(NotFound):
            await bus.ask(of(FindResource, "source", org="default", id="nobody"))


async def test_a_registry_whose_writer_died_is_repaired_by_the_projection(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        view = await told(bus, command(place, new_id()))
    async with bus_of(place, "admin") as admin:
        kv = await admin.client.jetstream().key_value("sources")
        await kv.purge(view.id)
    # The checkpoint stands after the message; one more of the catalog makes the projection write again only what is new, so a
    # replay of the whole catalog is what repairs: the checkpoint is set back, as after a crash before it moved.
    connection = await asyncpg.connect(place.database_url("events"))
    await connection.execute("UPDATE checkpoint SET last_seq = 0 WHERE projection = 'catalog'")
    await connection.close()
    health = Health("gateway")
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        found: Found = await bus.ask(of(FindResource, "source", org="default", id=view.id))
        assert found.value is not None
        registry = RegistryView(bus.client, "sources", SourceEntry, health)
        task = asyncio.create_task(registry.run())
        async with asyncio.timeout(60):
            while registry.get(view.id) is None:
                await asyncio.sleep(0.01)
        task.cancel()


async def test_settings_that_do_not_fit_name_their_place_and_show_no_secret(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        with pytest.raises(Invalid) as refused:
            await bus.ask(command(place, new_id(), secret="very-secret", adapter="hmac", settings={"algorithm": "md5"}))
        assert refused.value.errors[0].path == "settings.algorithm"
        assert "very-secret" not in str(refused.value)
        with pytest.raises(Invalid):
            await bus.ask(command(place, new_id(), secret=""))
        with pytest.raises(Invalid):
            await bus.ask(command(place, new_id(), name="../etc"))


async def test_text_that_no_row_can_keep_is_refused_before_it_stops_the_projection(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        await bus.ask(command(place, new_id()))
        fields = {"org": "default", "actor": "test", "name": "s", "source": "repo", "event": "push", "workflow": "w"}
        for given, path in (
            ({"input": {"a": ["\0"]}}, "fields.input.a.0"),
            ({"workflow": "\0"}, "fields.workflow"),
            ({"filter": "'\0' == ''"}, "fields.filter"),
        ):
            with pytest.raises(Invalid) as refused:
                await bus.ask(putting("subscription", **fields | given))
            assert refused.value.errors[0].path == path
        assert (await told(bus, putting("subscription", **fields))).name == "s"


async def test_two_replicas_project_with_one_writer_and_one_takes_over(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        async with running(place, "events"):
            one = await told(bus, command(place, new_id()))
        # One replica is gone, with its locks; the other writes on, and every command is in the rows when it is answered.
        two = await told(bus, command(place, new_id(), name="other"))
        for view in (one, two):
            found: Found = await bus.ask(of(FindResource, "source", org="default", id=view.id))
            assert found.value is not None
