"""Variables and secrets: the organization's own before the platform's, and a secret's value nowhere but where it belongs."""

from __future__ import annotations

import base64
import os
from typing import Any

import asyncpg
import msgspec
import pytest

from shared.bus import Bus
from shared.commit import Journal
from shared.encryption import CannotOpen, Keyring
from shared.envelope import new_id, open_message
from shared.errors import Invalid, NotFound, PreconditionFailed, Unavailable
from shared.messages import Audited, SecretChanged, SecretRemoved
from shared.questions.oauth import GetSecret, GetVariable, SecretGiven, VariableView
from shared.questions.resources import PutResource, RemoveResource, Shown
from tests.integration.test_oauth_connections import buses, stored
from tests.support import resources
from tests.support.inside import eventually, running
from tests.support.resources import listed, ring, told
from tests.support.servers import Place

SECRET = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END KEY-----"


def secret(place: Place, name: str = "api.key", *, org: str = "acme", value: str = SECRET, **more: Any) -> PutResource:
    return resources.putting("secret", name, ring(place), org=org, value=value, actor="key:k1", **more)


def variable(name: str = "region", value: Any = "eu", *, org: str = "acme", **more: Any) -> PutResource:
    return resources.putting("variable", name, org=org, value=value, actor="key:k1", **more)


def removing(name: str = "api.key", *, org: str = "acme", noun: str = "secret") -> RemoveResource:
    return resources.removing(noun, name, org=org, actor="key:k1")


def viewed(shown: Shown) -> VariableView:
    return msgspec.convert(shown.fields, VariableView)


async def value_of(bus: Bus, place: Place, name: str = "api.key", *, org: str = "acme") -> str:
    nonce = new_id()
    given: SecretGiven = await bus.ask(GetSecret(org=org, name=name, run="r1", nonce=nonce))
    return ring(place).open(given.sealed, org, nonce, "secret")


async def test_a_secret_is_put_given_replaced_and_removed_and_every_state_is_said_without_it(place: Place) -> None:
    async with running(place, "oauth"), buses(place) as (gateway, executor, admin):
        view = await told(gateway, secret(place))
        assert (view.org, view.name, view.status, view.version) == ("acme", "api.key", "active", 1)
        assert await value_of(executor, place) == SECRET
        assert (await gateway.ask(secret(place, value="another one"))).version == 2
        assert await value_of(executor, place) == "another one"
        await gateway.ask(removing())
        with pytest.raises(NotFound, match=r"there is no secret 'api\.key' in this organization or in global"):
            await value_of(executor, place)
        again = await told(gateway, secret(place))
        assert (again.version, again.id == view.id) == (3, False)
        said = await stored(admin, "CATALOG", 4)
        assert [one.type for one in said] == ["secret.changed", "secret.changed", "secret.removed", "secret.changed"]
        assert [open_message(one, SecretChanged).version for one in said[:2]] == [1, 2]
        assert open_message(said[2], SecretRemoved).secret == view.id


async def test_an_organizations_own_comes_before_the_platforms_and_a_foreign_one_never(place: Place) -> None:
    async with running(place, "oauth"), buses(place) as (gateway, executor, _admin):
        await gateway.ask(secret(place, org="other", value="theirs"))
        await gateway.ask(variable(org="other", value="theirs"))
        with pytest.raises(NotFound):
            await value_of(executor, place)
        with pytest.raises(NotFound, match="there is no variable 'region' in this organization or in global"):
            await executor.ask(GetVariable(org="acme", name="region"))
        await gateway.ask(secret(place, org="global", value="platform"))
        await gateway.ask(variable(org="global", value="platform"))
        assert await value_of(executor, place) == "platform"
        assert (await executor.ask(GetVariable(org="acme", name="region"))).value == "platform"
        await gateway.ask(secret(place, value="own value"))
        await gateway.ask(variable(value="own value"))
        assert await value_of(executor, place) == "own value"
        assert (await executor.ask(GetVariable(org="acme", name="region"))).value == "own value"
        with pytest.raises(NotFound):
            await gateway.ask(removing(org="third"))
        with pytest.raises(NotFound):
            await gateway.ask(removing("region", org="third", noun="variable"))


async def test_a_secret_for_services_is_given_to_no_run_and_stays_so(place: Place) -> None:
    async def own(bus: Bus, org: str) -> str:
        nonce = new_id()
        given: SecretGiven = await bus.ask(GetSecret(org=org, name="api.key", nonce=nonce))
        return ring(place).open(given.sealed, org, nonce, "secret")

    async with running(place, "oauth"), buses(place) as (gateway, executor, admin):
        view = await told(gateway, secret(place, org="global", value="of a service", readers="services"))
        assert view.readers == "services"
        for org in ("acme", "global"):
            with pytest.raises(NotFound, match=r"there is no secret 'api\.key' in this organization or in global"):
                await value_of(executor, place, org=org)
        assert await own(executor, "global") == "of a service"
        with pytest.raises(Invalid) as refused:
            await gateway.ask(secret(place, org="global", value="another"))
        assert refused.value.errors[0].path == "readers"
        patch = resources.putting("secret", "api.key", ring(place), org="global", actor="key:k1", patch=True, value="renewed")
        await gateway.ask(patch)
        assert await own(executor, "global") == "renewed"
        await gateway.ask(secret(place, org="global", name="shared", value="for runs"))
        await gateway.ask(secret(place, org="acme", name="shared", value="for services", readers="services"))
        assert await value_of(executor, place, "shared") == "for runs"
        records = [open_message(one, Audited) for one in await stored(admin, "AUDIT", 5)]
        assert [(one.actor, one.outcome) for one in records if one.verb == "given"] == [
            ("run:r1", "not_found"),
            ("run:r1", "not_found"),
            ("executor", "ok"),
            ("executor", "ok"),
            ("run:r1", "ok"),
        ]


async def test_a_variable_is_put_replaced_listed_and_removed_once(place: Place) -> None:
    async with running(place, "oauth"), buses(place) as (gateway, executor, admin):
        value = {"batch": 50, "names": ["a", "é", None], "ratio": 1.5, "": True}
        command = variable("limits", value, expected=0)
        shown: Shown = await gateway.ask(command)
        view = viewed(shown)
        assert view.value == value
        assert await gateway.ask(command) == msgspec.structs.replace(shown, changes={})
        with pytest.raises(PreconditionFailed):
            await gateway.ask(variable("limits", 1, expected=0))
        changed = viewed(await gateway.ask(variable("limits", None, expected=view.version)))
        assert (changed.value, changed.created_at) == (None, view.created_at)
        assert (await executor.ask(GetVariable(org="acme", name="limits"))) == changed
        for name in ("Beta", "_a", "alpha"):
            await gateway.ask(variable(name, name))
        first, cursor = await listed(gateway, "variable", org="acme", limit=3)
        assert [one.name for one in first] == ["Beta", "_a", "alpha"]
        rest, cursor = await listed(gateway, "variable", org="acme", limit=3, cursor=cursor)
        assert ([one.name for one in rest], cursor) == (["limits"], None)
        remove = removing("limits", noun="variable")
        await gateway.ask(remove)
        await gateway.ask(remove)
        with pytest.raises(NotFound):
            await executor.ask(GetVariable(org="acme", name="limits"))
        said = await stored(admin, "CATALOG", 6)
        changes: Any = open_message(said[0])
        assert changes.spec["value"] == value
        assert said[-1].type == "variable.removed"


async def test_rows_of_variables_are_what_their_messages_say(place: Place) -> None:
    async with buses(place) as (gateway, executor, _admin):
        async with running(place, "oauth"):
            await gateway.ask(variable(value=[1, 2]))
            await gateway.ask(secret(place))
        connection = await asyncpg.connect(place.database_url("oauth"))
        await connection.execute("TRUNCATE resource, checkpoint")
        await connection.close()
        async with running(place, "oauth"):

            async def is_back() -> bool:
                return bool((await listed(gateway, "variable", org="acme"))[0])

            await eventually(is_back)
            assert (await executor.ask(GetVariable(org="acme", name="region"))).value == [1, 2]
            assert await value_of(executor, place) == SECRET


async def test_what_does_not_fit_is_invalid_and_leaves_nothing(place: Place) -> None:
    async with running(place, "oauth"), buses(place) as (gateway, _, _admin):
        stolen = secret(place, "other")
        wrong = [
            *(secret(place, name) for name in ("", "a/b", "1a", "-a", "a b", "a" * 101, "é", "a\n")),
            *(variable(name) for name in ("", "a/b", "1a", ".a", "a" * 101)),
            secret(place, value=""),
            secret(place, value="a\0b"),
            secret(place, value="x" * 65537),
            msgspec.structs.replace(secret(place), sealed=stolen.sealed),
            variable(value="x" * 65535),
        ]
        for one in wrong:
            with pytest.raises(Invalid) as refused:
                await gateway.ask(one)
            assert SECRET not in repr(refused.value)
        assert (await listed(gateway, "secret", org="acme"))[0] == []
        assert (await listed(gateway, "variable", org="acme"))[0] == []
        await gateway.ask(variable("a" * 100, "x" * 65534))
        await gateway.ask(secret(place, "_" + "a" * 99, value="x" * 65536))


async def test_every_secret_given_or_denied_is_on_record_without_its_value(place: Place) -> None:
    async with running(place, "oauth"), buses(place) as (gateway, executor, admin):
        await gateway.ask(secret(place))
        await executor.ask(GetSecret(org="acme", name="api.key", run="r7", nonce="n", correlation_id="chain"))
        with pytest.raises(NotFound):
            await executor.ask(GetSecret(org="acme", name="absent", run="r7", nonce="n"))
        records = await stored(admin, "AUDIT", 2)
        messages = [open_message(one, Audited) for one in records]
        assert [(one.category, one.verb, one.actor, one.target, one.outcome) for one in messages] == [
            ("secret", "given", "run:r7", "api.key", "ok"),
            ("secret", "given", "run:r7", "absent", "not_found"),
        ]
        assert (records[0].correlationid, records[0].org) == ("chain", "acme")
        await admin.client.jetstream().delete_stream("AUDIT")
        with pytest.raises(Unavailable):
            await value_of(executor, place)


async def test_a_secret_opens_in_no_other_row_organization_or_table(place: Place) -> None:
    async with running(place, "oauth"), buses(place) as (gateway, executor, _admin):
        await gateway.ask(secret(place))
        await gateway.ask(secret(place, "b", value="another"))
        await gateway.ask(secret(place, org="other", value="theirs"))
        connection = await asyncpg.connect(place.database_url("oauth"))
        try:
            for where in ("org = 'other'", "org = 'acme' AND name = 'b'"):
                await connection.execute(
                    f"UPDATE vault SET sealed = (SELECT sealed FROM vault WHERE {where}) WHERE org = 'acme' AND name = 'api.key'"
                )
                with pytest.raises(Unavailable, match="altered, or belongs elsewhere"):
                    await value_of(executor, place)
        finally:
            await connection.close()
        given: SecretGiven = await executor.ask(GetSecret(org="acme", name="b", run="r1", nonce="n1"))
        for place_of in (("acme", "n2", "secret"), ("acme", "n1", "token"), ("other", "n1", "secret")):
            with pytest.raises(CannotOpen):
                ring(place).open(given.sealed, *place_of)


async def test_keys_rotate_and_a_missing_one_quarantines_one_secret(place: Place) -> None:
    async with buses(place) as (gateway, executor, _admin):
        async with running(place, "oauth"):
            await gateway.ask(secret(place, "old"))
        newer = base64.b64encode(os.urandom(32)).decode()
        kept = place.credentials.keys[0]
        place.credentials.keys.insert(0, newer)
        connection = await asyncpg.connect(place.database_url("oauth"))
        try:
            async with running(place, "oauth", MILLRACE_KEYS=newer):
                await gateway.ask(secret(place, "new"))
                with pytest.raises(Unavailable, match=r"the key [0-9a-f]{16} that sealed this value"):
                    await value_of(executor, place, "old")
                items, _ = await listed(gateway, "secret", org="acme")
                assert [(one.name, one.status) for one in items] == [("new", "active"), ("old", "quarantined")]
            async with running(place, "oauth", MILLRACE_KEYS=f"{newer},{kept}"):

                async def is_renewed() -> bool:
                    sealed = await connection.fetchval("SELECT sealed FROM vault WHERE name = 'old'")
                    return Keyring((base64.b64decode(newer),)).knows(sealed)

                await eventually(is_renewed)
            async with running(place, "oauth", MILLRACE_KEYS=newer):
                assert await value_of(executor, place, "old") == SECRET
        finally:
            await connection.close()
            place.credentials.keys.remove(newer)


async def test_what_could_not_be_said_of_a_secret_is_said_by_the_sweep_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_args: Any, **_more: Any) -> Any:
        raise Unavailable("the broker did not confirm the message")

    async with running(place, "oauth"), buses(place) as (gateway, executor, admin):
        command = secret(place)
        with monkeypatch.context() as broken:
            broken.setattr(Journal, "append", fails)
            with pytest.raises(Unavailable):
                await gateway.ask(command)
        assert await value_of(executor, place) == SECRET

        async def is_said() -> bool:
            return bool((await admin.client.jetstream().stream_info("CATALOG")).state.messages)

        await eventually(is_said)
        assert (await gateway.ask(command)).version == 1
        await stored(admin, "CATALOG", 1)
