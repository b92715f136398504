"""Resources that are sealed: patched, put again, tried out and removed like all others, and never shown with their secret."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import msgspec
import pytest

from deploy.prepare import prepare_database
from services.oauth import tables
from services.oauth.domain import place_of
from services.oauth.store import KeptStore
from shared.bus import Bus
from shared.commit import Journal
from shared.db import open_engine
from shared.encryption import Keyring
from shared.envelope import derived_id, new_id, seal, utc_now
from shared.errors import Invalid, NotFound, PreconditionFailed, Unavailable
from shared.messages.declaration import hashed_key
from shared.owners.rotation import StaleRow
from shared.questions.oauth import GetVariable
from shared.questions.resources import PutResource, Shown
from shared.resources import KINDS
from tests.integration.test_oauth_connections import buses, stored, token_of
from tests.integration.test_oauth_settings import value_of
from tests.support.inside import eventually, running
from tests.support.resources import got, listed, putting, removing, ring, told
from tests.support.servers import Place

Given = Callable[..., Awaitable[str]]
# Each with its secret field, the stream of its messages, and how a run is given it.
KEPT: list[tuple[str, str, str, Given]] = [
    ("connection", "token", "CONNECTIONS", token_of),
    ("secret", "value", "CATALOG", value_of),
]


def put(place: Place, noun: str, secret: str | None = None, *, name: str = "halo", **given: Any) -> PutResource:
    (field,) = KINDS[noun].secret
    return putting(noun, name, ring(place), org="acme", **({} if secret is None else {field: secret}), **given)


async def versions(bus: Bus, stream: str) -> int:
    """Return how many changes were published."""
    count: int = (await bus.client.jetstream().stream_info(stream)).state.messages
    return count


async def test_a_patch_leaves_what_it_does_not_name(place: Place) -> None:
    async with running(place, "oauth"), buses(place) as (gateway, executor, admin):
        for noun, field, stream, given in KEPT:
            with pytest.raises(NotFound, match=f"there is no {noun} 'halo'"):
                await gateway.ask(put(place, noun, patch=True))
            await gateway.ask(put(place, noun, "one", applied_as="base"))
            same: Shown = await gateway.ask(put(place, noun, patch=True))
            assert (same.change, same.version) == ("none", 1)
            named: Shown = await gateway.ask(put(place, noun, patch=True, applied_as="files"))
            assert (named.change, named.version, named.fields["applied_as"]) == ("changed", 2, "files")
            assert await given(executor, place, "halo") == "one"
            patched: Shown = await gateway.ask(put(place, noun, "two", patch=True))
            assert (patched.version, patched.fields["applied_as"]) == (3, "files")
            assert await given(executor, place, "halo") == "two"
            for wrong in ({field: None}, {field: ""}, {field: 7}):
                with pytest.raises(Invalid) as refused:
                    await gateway.ask(putting(noun, "halo", ring(place), org="acme", patch=True, **wrong))
                assert refused.value.errors[0].path == field
            assert await versions(admin, stream) == 3


async def test_a_dry_run_changes_nothing(place: Place) -> None:
    async with running(place, "oauth"), buses(place) as (gateway, executor, admin):
        for noun, field, stream, given in KEPT:
            new: Shown = await gateway.ask(put(place, noun, "one", dry_run=True))
            assert (new.change, new.version, new.fields["status"]) == ("created", 0, "active")
            with pytest.raises(NotFound):
                await got(gateway, noun, "halo", org="acme")
            with pytest.raises(Invalid) as refused:
                await gateway.ask(put(place, noun, "", dry_run=True))
            assert refused.value.errors[0].path == field
            await gateway.ask(put(place, noun, "one"))
            other: Shown = await gateway.ask(put(place, noun, "two", dry_run=True))
            same: Shown = await gateway.ask(put(place, noun, "one", dry_run=True))
            assert [(one.change, one.version) for one in (other, same)] == [("changed", 1), ("none", 1)]
            with pytest.raises(PreconditionFailed):
                await gateway.ask(put(place, noun, "two", dry_run=True, expected=7))
            assert (await given(executor, place, "halo"), await versions(admin, stream)) == ("one", 1)


async def test_a_dry_run_leaves_what_is_not_published_yet_to_the_sweep(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_args: Any, **_more: Any) -> Any:
        raise Unavailable("the broker did not confirm the message")

    async with running(place, "oauth"), buses(place) as (gateway, _, _admin):
        await gateway.ask(put(place, "connection", "one"))
        with monkeypatch.context() as broken:
            broken.setattr(Journal, "append", fails)
            with pytest.raises(Unavailable):
                await gateway.ask(removing("connection", "halo", org="acme"))
            tried: Shown = await gateway.ask(put(place, "connection", "two", dry_run=True))
            assert (tried.change, tried.version) == ("created", 0)


async def test_it_is_found_and_removed_by_name_or_id_once(place: Place) -> None:
    async with running(place, "oauth"), buses(place) as (gateway, executor, admin):
        for noun, _, stream, given in KEPT:
            one = await told(gateway, put(place, noun, "one"))
            assert {"id", "org", "name", "status", "version", "applied_as"} <= vars(one).keys()
            assert set(vars(one)) == {name for name in KINDS[noun].shown.__struct_fields__ if name != "change"}
            assert await got(gateway, noun, one.id, org="acme") == one
            with pytest.raises(NotFound):
                await got(gateway, noun, one.id, org="other")
            # A name may look like an id: a put means a name.
            twin = await told(gateway, put(place, noun, "two", name=f"a{one.id}"))
            with pytest.raises(NotFound):
                await given(executor, place, one.id)
            command = removing(noun, one.id, org="acme")
            await gateway.ask(command)
            await gateway.ask(command)
            assert [found.id for found in (await listed(gateway, noun, org="acme"))[0]] == [twin.id]
            assert await versions(admin, stream) == 3
            with pytest.raises(NotFound):
                await gateway.ask(removing(noun, one.id, org="acme"))


async def test_what_was_sealed_anew_meanwhile_is_not_replaced_by_what_was_read_before(place: Place) -> None:
    async with running(place, "oauth"), buses(place) as (gateway, _, _admin):
        await gateway.ask(put(place, "secret", "one"))
        engine = open_engine(place.database_url("oauth"), service="oauth")
        try:
            store = KeptStore(engine)
            read = await store.named("secret", "acme", "halo")
            assert read is not None
            place_of_it = place_of(read.noun, read.org, read.id, read.name)
            stale = StaleRow(read.id, read.noun, read.org, read.name, {place_of_it: read.sealed})
            assert await store.reseal(stale, {place_of_it: "v1.under.another.key"})
            assert not await store.reseal(stale, {place_of_it: "v1.under.a.third"})
            changed = msgspec.structs.replace(read, version=2, applied_as="files")
            assert not await store.replace(read, changed)
            there = await store.named("secret", "acme", "halo")
            assert there is not None
            assert await store.replace(there, msgspec.structs.replace(changed, sealed=there.sealed))
        finally:
            await engine.dispose()


async def test_a_command_is_answered_the_same_at_every_sending(place: Place) -> None:
    async with running(place, "oauth"), buses(place) as (gateway, _, _admin):
        for noun in ("variable", "connection", "secret"):
            create = put(place, noun, "one") if noun != "variable" else putting(noun, "halo", org="acme", value=1)
            created: Shown = await gateway.ask(create)
            assert (created.change, bool(created.changes)) == ("created", True)
            # What it has changed is told once.
            assert await gateway.ask(create) == msgspec.structs.replace(created, changes={})
            change = put(place, noun, "two") if noun != "variable" else putting(noun, "halo", org="acme", value=2)
            changed: Shown = await gateway.ask(change)
            assert (changed.change, bool(changed.changes)) == ("changed", True)
            assert await gateway.ask(change) == msgspec.structs.replace(changed, changes={})
            remove = removing(noun, created.fields["id"], org="acme")
            await gateway.ask(remove)
            await gateway.ask(remove)


async def test_a_variable_is_the_same_only_as_json(place: Place) -> None:
    async with running(place, "oauth"), buses(place) as (gateway, executor, _admin):
        expected = "created"
        for value in (1, True, 1.0, [1], [True], {"a": 1, "b": 2}, {"b": 2, "a": 1}, None):
            shown: Shown = await gateway.ask(putting("variable", "limit", org="acme", value=value))
            again: Shown = await gateway.ask(putting("variable", "limit", org="acme", value=value))
            assert (shown.change, again.change, again.version) == (expected, "none", shown.version)
            given = (await executor.ask(GetVariable(org="acme", name="limit"))).value
            assert msgspec.json.encode(given) == msgspec.json.encode(value)
            expected = "changed"


async def test_messages_of_variables_of_an_older_version_are_read(place: Place) -> None:
    def old(name: str, verb: str, **more: Any) -> bytes:
        data = {"key": hashed_key("acme", name), "name": name, "actor": "key:k1", **more}
        kind: Any = KINDS["variable"].changed if verb == "changed" else KINDS["variable"].removed
        fields = {"id": "x", "spec": {}, "created_at": "2026-01-02T03:04:05.000000Z"}
        made = seal(msgspec.convert(fields | data, kind), service="oauth", org="acme", now=utc_now())
        document = msgspec.json.decode(made.document) | {"data": data}
        return msgspec.json.encode(document)

    first, later = ({"value": value, "created_at": f"{year}-01-02T03:04:05.000000Z"} for value, year in ((1, 2025), (2, 2026)))
    async with buses(place) as (gateway, executor, admin):
        for name, steps in (("gone", [first, None]), ("back", [first, None, later]), ("kept", [later])):
            for step in steps:
                verb = "changed" if step else "removed"
                subject = f"variable.{hashed_key('acme', name)}.{verb}"
                await admin.client.jetstream().publish(subject, old(name, verb, **step or {}))
        async with running(place, "oauth"):

            async def names() -> bool:
                return [one.name for one in (await listed(gateway, "variable", org="acme"))[0]] == ["back", "kept"]

            await eventually(names)
            back = await got(gateway, "variable", "back", org="acme")
            assert (back.value, back.created_at) == (2, "2026-01-02T03:04:05.000000Z")
            with pytest.raises(PreconditionFailed):
                await gateway.ask(putting("variable", "gone", org="acme", value=3, expected=1))
            await gateway.ask(putting("variable", "gone", org="acme", value=3, expected=0))
            changed: Shown = await gateway.ask(putting("variable", "kept", org="acme", value=4, expected=6))
            assert changed.change == "changed"
            assert (await executor.ask(GetVariable(org="acme", name="kept"))).value == 4
            await gateway.ask(removing("variable", "back", org="acme", expected=5))
            assert [one.name for one in (await listed(gateway, "variable", org="acme"))[0]] == ["gone", "kept"]


BEFORE = """
    SET ROLE millrace_oauth;
    SET search_path = oauth;
    DROP TABLE authorization_request, lent_client, outbox, provider_gate, token, vault, resource, past_version;
    CREATE TABLE connection (
        id text PRIMARY KEY, org text NOT NULL, name text NOT NULL, grant_kind text NOT NULL, sealed text NOT NULL,
        version bigint NOT NULL, revoking boolean NOT NULL DEFAULT false, announced boolean NOT NULL DEFAULT false,
        actor text NOT NULL, first_command text NOT NULL, last_command text NOT NULL,
        created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, UNIQUE (org, name));
    CREATE TABLE secret (
        id text PRIMARY KEY, org text NOT NULL, name text NOT NULL, sealed text NOT NULL,
        version bigint NOT NULL, revoking boolean NOT NULL DEFAULT false, announced boolean NOT NULL DEFAULT false,
        actor text NOT NULL, first_command text NOT NULL, last_command text NOT NULL,
        created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, UNIQUE (org, name));
    CREATE TABLE variable (
        org text NOT NULL, name text NOT NULL, value text NOT NULL, created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL, version bigint NOT NULL, PRIMARY KEY (org, name));
    UPDATE migration SET version_num = 'oauth_0002';
"""


async def test_rows_of_an_older_version_move_as_they_are(place: Place) -> None:
    keys: Keyring = ring(place)
    connection = await asyncpg.connect(place.database_url("admin"))
    try:
        await connection.execute(BEFORE)
        made, changed = new_id(), new_id()
        first, second = derived_id(made, "connection"), derived_id(made, "secret")
        token, value = keys.seal("tok", "acme", first, "token"), keys.seal("sec", "acme", "api.key", "secret")
        rest = "4, false, {}, 'key:k1', $4, $5, '2026-01-02T03:04:05Z', '2026-02-03T04:05:06Z'"
        await connection.execute(
            f"INSERT INTO connection VALUES ($1, 'acme', $2, 'token', $3, {rest.format('true')})",
            first,
            "halo",
            token,
            made,
            changed,
        )
        await connection.execute(
            f"INSERT INTO secret VALUES ($1, 'acme', $2, $3, {rest.format('false')})", second, "api.key", value, made, changed
        )
        await connection.execute("RESET ROLE")
        await prepare_database(place.database_url("admin"), place.credentials)
        names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'oauth' ORDER BY 1")
        assert {name for (name,) in names} == {"migration", *tables.metadata.tables}
        async with running(place, "oauth"), buses(place) as (gateway, executor, admin):
            assert (await token_of(executor, place), await value_of(executor, place)) == ("tok", "sec")
            halo = await got(gateway, "connection", "halo", org="acme")
            assert (halo.id, halo.grant, halo.version, halo.status) == (first, "token", 4, "active")
            assert (halo.created_at, halo.updated_at) == ("2026-01-02T03:04:05.000000Z", "2026-02-03T04:05:06.000000Z")
            # The one that was not announced is, by the sweep; the other is not announced again.
            (said,) = [one for one in await eventually_stored(admin, "CATALOG", 1) if one.type.startswith("secret")]
            assert (said.id, said.subject) == (derived_id(second, "changed", "4"), second)
            assert await versions(admin, "CONNECTIONS") == 0
            # A command that was carried out before is not carried out again.
            again: Shown = await gateway.ask(put(place, "connection", "other", id=changed))
            assert (again.change, again.version) == ("changed", 4)
            assert (await gateway.ask(put(place, "connection", "tok"))).change == "none"
    finally:
        await connection.close()


async def eventually_stored(bus: Bus, stream: str, count: int) -> list[Any]:
    async def there() -> bool:
        return await versions(bus, stream) == count

    await eventually(there)
    return await stored(bus, stream, count)
