"""Keys are rotated while everything goes on: in parts, by any replica, begun anew at any time; what does not open is named."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import asyncpg
import msgspec
import pytest

from deploy.doctor.running import _quarantined
from millrace.cli import main
from services.oauth.authorization_store import AuthorizationStore
from services.oauth.sealed_tokens import Tokens
from services.oauth.spool import Spool, Unstored
from services.oauth.store import KeptStore
from services.oauth.token_store import Claimed, Renewed, TokenStore
from shared.bus import Bus
from shared.db import open_engine
from shared.encryption import Keyring
from shared.envelope import new_id, open_message
from shared.errors import Conflict, Invalid, Unavailable
from shared.messages import Audited
from shared.metrics import exposition
from shared.owners import rotation
from shared.owners.catalogued import Catalogued
from shared.questions.events import GetMapping
from shared.questions.rotation import RotateKeys, RotateSettings, RotateVault, RotationView
from tests.integration.test_integrations_api import Api
from tests.integration.test_oauth_connections import stored
from tests.integration.test_oauth_settings import secret, value_of
from tests.support.connections import ALLOWED, Asking, asking
from tests.support.inside import bus_of, eventually, running
from tests.support.resources import got, listed, putting, ring, told
from tests.support.servers import Place

NAMES = [f"secret-{number}" for number in range(5)]


class Rotated:
    """A place with secrets and a connection's token that an older key seals, and two keys."""

    def __init__(self, it: Asking, older: str, newer: str, database: asyncpg.Connection[Any]) -> None:
        self.it = it
        self.older = older
        self.newer = newer
        self.database = database

    async def sealed_by(self) -> dict[str, int]:
        """Return how many values each key seals, by its id."""
        rows = await self.database.fetch(
            "SELECT split_part(sealed, '.', 2) AS key, count(*) FROM (SELECT sealed FROM vault UNION ALL SELECT sealed FROM token)"
            " AS one WHERE sealed <> '' GROUP BY 1"
        )
        return {row["key"]: row["count"] for row in rows}


@asynccontextmanager
async def prepared(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rotated]:
    """Have them for the block; no service is running then, and none that is started rotates by itself."""

    async def idle(*_: object) -> None:
        await asyncio.Event().wait()

    for service in ("oauth", "events"):
        monkeypatch.setattr(f"services.{service}.app.renewing", idle)
    monkeypatch.setattr(rotation, "AT_ONCE", 3)
    async with asking(place) as it:
        for name in NAMES:
            await it.gateway.ask(secret(place, name))
        await it.authorize()
    older, newer = place.credentials.keys[0], base64.b64encode(os.urandom(32)).decode()
    place.credentials.keys.insert(0, newer)
    database = await asyncpg.connect(place.database_url("oauth"))
    try:
        async with bus_of(place, "gateway") as gateway, bus_of(place, "executor") as executor:
            yield Rotated(Asking(place, it.provider, gateway, executor), older, newer, database)
    finally:
        await database.close()
        place.credentials.keys.remove(newer)


def id_of(key: str) -> str:
    return Keyring((base64.b64decode(key),)).current


async def part(bus: Bus, before: RotationView | None = None, command: type[RotateKeys] = RotateVault) -> RotationView:
    key, after = (None, "") if before is None else (before.key, before.next or "")
    found: RotationView = await bus.ask(command(id=new_id(), org="global", actor="test", key=key, after=after))
    return found


async def parts(bus: Bus, command: type[RotateKeys] = RotateVault) -> list[RotationView]:
    found = [await part(bus, None, command)]
    while found[-1].next is not None:
        found.append(await part(bus, found[-1], command))
    return found


async def test_a_rotation_goes_on_where_one_that_was_killed_stopped_and_several_at_once_do_no_harm(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with prepared(place, monkeypatch) as at:
        both = {"MILLRACE_KEYS": f"{at.newer},{at.older}"} | ALLOWED
        bus = at.it.gateway
        async with running(place, "oauth", **both):
            first = await part(bus)
            assert (first.key, first.resealed, first.quarantined) == (id_of(at.newer), 3, [])
            assert first.next is not None
            sealed = await at.sealed_by()
            assert (sealed[id_of(at.newer)], sealed[id_of(at.older)]) == (3, first.left)
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(running(place, "oauth", **both))
            # Each begins anew: nobody remembers how far the first one came.
            several = await asyncio.gather(*(parts(bus) for _ in range(4)))
            assert sum(one.resealed for found in several for one in found) == first.left
            assert {found[-1].left for found in several} == {0}
            assert await at.sealed_by() == {id_of(at.newer): 3 + first.left}
        async with running(place, "oauth", MILLRACE_KEYS=at.newer, **ALLOWED):
            assert [await value_of(at.it.executor, place, name) for name in NAMES]
            assert (await at.it.given()).token in at.it.provider.given


async def test_what_does_not_open_is_named_and_quarantined_and_the_rest_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with prepared(place, monkeypatch) as at:
        await at.database.execute("UPDATE vault SET sealed = left(sealed, -4) || 'AAAA' WHERE name = 'secret-1'")
        await at.database.execute("UPDATE token SET sealed = left(sealed, -4) || 'AAAA'")
        async with (
            running(place, "oauth", MILLRACE_KEYS=f"{at.newer},{at.older}", **ALLOWED),
            running(place, "events"),
            running(place, "gateway", MILLRACE_PORT="0") as runtime,
            aiohttp.ClientSession() as session,
            bus_of(place, "admin") as admin,
        ):
            url = runtime.health.document()["url"]
            monkeypatch.setenv("MILLRACE_URL", url)
            monkeypatch.setenv("MILLRACE_KEY", place.credentials.admin_key)
            capsys.readouterr()
            code = await asyncio.to_thread(main, ["keys", "rotate"])
            said, beside = capsys.readouterr()
            assert code == 1, (said, beside)
            assert f"the key {id_of(at.newer)} seals all but 2\n" in said
            assert "oauth: 5 done, 2 left\n" in beside
            altered = "this sealed value was altered, or belongs elsewhere"
            for named in ("secret secret-1 of acme", "token halo of acme"):
                assert f"{named} is quarantined: {altered}\n" in beside
            secrets, _ = await listed(at.it.gateway, "secret", org="acme")
            assert [one.status for one in secrets] == ["active", "quarantined", "active", "active", "active"]
            shown = await at.it.shown()
            assert (shown.status, shown.reason) == (
                "quarantined",
                "its token does not open: the key that sealed it is missing, or it was altered",
            )
            with pytest.raises(Unavailable, match="altered"):
                await value_of(at.it.executor, place, "secret-1")
            assert await value_of(at.it.executor, place, "secret-2")
            call = Api(session, url, place.credentials.admin_key)
            status, again = await call("POST", "/vault/rotate", {})
            assert (status, again["service"], again["resealed"], again["left"]) == (200, "oauth", 0, 2)
            count = (await admin.client.jetstream().stream_info("AUDIT")).state.messages
            rotated = [open_message(one, Audited) for one in await stored(admin, "AUDIT", count) if one.type == "audit.rotate"]
            assert {(one.category, one.target, one.outcome, one.actor) for one in rotated} == {
                ("vault", id_of(at.newer), "ok", "platform-key")
            }
            assert (await call("POST", "/vault/rotate", {"after": "nowhere/"}))[0] == 422
            await at.database.execute("DELETE FROM token")
            await at.database.execute("DELETE FROM vault WHERE name = 'secret-1'")
            capsys.readouterr()
            assert await asyncio.to_thread(main, ["keys", "rotate"]) == 0
            said, beside = capsys.readouterr()
            assert (said, beside) == (f"nothing to do: the first key, {id_of(at.newer)}, seals everything\n", "")


async def test_replicas_with_different_first_keys_do_not_undo_each_others_work(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with prepared(place, monkeypatch) as at:
        bus = at.it.gateway
        async with running(place, "oauth", MILLRACE_KEYS=f"{at.newer},{at.older}"):
            first = await part(bus)
        async with running(place, "oauth", MILLRACE_KEYS=f"{at.older},{at.newer}"):
            with pytest.raises(Conflict, match=f"{id_of(at.older)}, and others with {id_of(at.newer)}"):
                await part(bus, first)
            with pytest.raises(Invalid):
                await bus.ask(RotateVault(id=new_id(), org="global", actor="test", after="nowhere"))
        assert (await at.sealed_by())[id_of(at.newer)] == 3


async def test_a_missing_key_is_told_of_each_value_and_logged_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with prepared(place, monkeypatch) as at:
        engine = open_engine(place.database_url("oauth"), service="oauth")
        try:
            kinds = {"vault": KeptStore(engine), "token": TokenStore(engine)}
            rotating = rotation.Rotation("oauth", Keyring((base64.b64decode(at.newer),)), kinds)
            reported = set[tuple[str, str, str]]()
            capsys.readouterr()
            assert rotating.quarantined is None
            assert [await rotation.renew(rotating, reported) for _ in range(2)] == [0, 0]
            assert rotating.quarantined == 7
            found = _quarantined("oauth", {"rows": rotating.quarantined})
            assert (found.verdict, found.said[:2], "keys rotate" in (found.do or "")) == ("wrong", "7 ", True)
        finally:
            await engine.dispose()
        lines = [line for line in capsys.readouterr().out.splitlines() if "sealed.quarantined" in line]
        assert len(lines) == len(reported) == 7
        assert {name for noun, _, name in reported if noun == "secret"} == set(NAMES)
        assert all("is not among the keys" in line and id_of(at.older) in line for line in lines)


async def test_open_authorizations_and_tokens_that_are_not_stored_yet_are_sealed_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with prepared(place, monkeypatch) as at:
        it, older = at.it, Keyring((base64.b64decode(at.older),))
        row = await it.row()
        async with running(place, "oauth", MILLRACE_KEYS=at.older, **ALLOWED):
            url = await it.begun("halo")
            asked = {one: values[0] for one, values in parse_qs(urlsplit(url).query).items()}
        place_of_it = ("acme", row["connection"], "tokens")
        token = Tokens("an-unstored-secret", "an-unstored-refresh-secret")
        renewed = Renewed(
            sealed=older.seal(msgspec.json.encode(token).decode(), *place_of_it),
            scope=None,
            expires_at=None,
            refresh_expires_at=None,
            refresh_at=None,
            origin=row["origin"],
        )
        engine = open_engine(place.database_url("oauth"), service="oauth")
        (state,) = (await TokenStore(engine).of([row["connection"]])).values()
        spool = Spool(tmp_path / "unstored", Keyring((base64.b64decode(at.newer), base64.b64decode(at.older))))
        spool.keep(Unstored("halo", Claimed(state, state.fence), renewed))
        try:
            requests = AuthorizationStore(engine)
            kinds = {"authorization": requests, "unstored": spool}
            rotating = rotation.Rotation("oauth", Keyring((base64.b64decode(at.newer), base64.b64decode(at.older))), kinds)
            first = await rotating.part("")
            assert (first.resealed, first.left, first.next) == (1, 1, "unstored:")
            last = await rotating.part(first.next)
            assert (last.resealed, last.left, last.quarantined, last.next) == (1, 0, [], None)
        finally:
            await engine.dispose()
        async with running(place, "oauth", MILLRACE_KEYS=f"{at.newer},{at.older}", **ALLOWED):
            assert (await parts(at.it.gateway))[-1].left == 0
        # The older key is gone.
        async with running(place, "oauth", MILLRACE_KEYS=at.newer, MILLRACE_DATA=str(tmp_path), **ALLOWED):

            async def is_stored() -> bool:
                return not list((tmp_path / "unstored").glob("*.json"))

            await eventually(is_stored)
            assert (await it.given()).token == "an-unstored-secret"
            # It was opened, and the provider of this place, which is gone, was asked.
            assert "ClientConnectorError" in ((await it.finish(asked["state"])).reason or "")


async def hooked(session: aiohttp.ClientSession, source: str, secret: bytes) -> int:
    """Send a webhook that is signed with a secret; return the status of the answer."""
    digest = hmac.new(secret, b"{}", hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Event": "push", "Content-Type": "application/json"}
    async with session.post(f"/hooks/{source}", data=b"{}", headers=headers) as response:
        return response.status


async def test_settings_of_sources_and_mappings_are_sealed_anew_where_a_rotation_that_was_killed_stopped(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = {"type": "object", "properties": {"key": {"type": "string", "writeOnly": True}}}
    async with prepared(place, monkeypatch) as at:
        gateway, executor, older = at.it.gateway, at.it.executor, Keyring((base64.b64decode(at.older),))
        async with running(place, "events", MILLRACE_KEYS=at.older):
            for number in range(3):
                given = {"adapter": "github", "settings": {"secret": f"secret-of-{number}"}}
                await gateway.ask(putting("source", f"repo-{number}", older, **given))
            await gateway.ask(putting("integration", "crm", config_schema=schema))
            await gateway.ask(putting("mapping", "crm", older, config={"key": "of-the-mapping"}))
            before = await got(gateway, "source", "repo-0")
        both = {"MILLRACE_KEYS": f"{at.newer},{at.older}"}
        async with running(place, "events", **both):
            first = await part(gateway, None, RotateSettings)
            assert (first.service, first.resealed, first.left, first.quarantined) == ("events", 3, 1, [])
        async with (
            running(place, "oauth", **both),
            running(place, "events", **both),
            running(place, "gateway", MILLRACE_PORT="0") as runtime,
        ):
            monkeypatch.setenv("MILLRACE_URL", runtime.health.document()["url"])
            monkeypatch.setenv("MILLRACE_KEY", place.credentials.admin_key)
            capsys.readouterr()
            assert await asyncio.to_thread(main, ["keys", "rotate"]) == 0
            said, beside = capsys.readouterr()
            assert "events: 1 done, 0 left\n" in beside
            assert said == f"the key {id_of(at.newer)} seals all\n"
        # The older key is gone.
        async with (
            running(place, "events", MILLRACE_KEYS=at.newer),
            running(place, "gateway", MILLRACE_PORT="0", MILLRACE_KEYS=at.newer) as runtime,
            aiohttp.ClientSession(runtime.health.document()["url"]) as session,
        ):
            nonce = new_id()
            mapping = await executor.ask(GetMapping(org="default", integration="crm", run="r1", nonce=nonce))
            opened = Keyring((base64.b64decode(at.newer),)).open(mapping.sealed or "", "default", nonce, "integration")
            assert msgspec.json.decode(opened) == {"key": "of-the-mapping"}
            after = await got(gateway, "source", "repo-0")
            assert (after.id, after.settings, after.created_at) == (before.id, before.settings, before.created_at)
            assert await hooked(session, after.id, b"secret-of-0") == 202


async def test_a_setting_that_changes_while_it_is_sealed_anew_keeps_its_new_value(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with prepared(place, monkeypatch) as at:
        gateway, both = at.it.gateway, Keyring((base64.b64decode(at.newer), base64.b64decode(at.older)))
        given = {"adapter": "github", "settings": {"secret": "the-first"}}
        async with running(place, "events", MILLRACE_KEYS=at.older):
            source = await told(gateway, putting("source", "repo", Keyring((base64.b64decode(at.older),)), **given))
        reseal = Catalogued.reseal

        async def late(*given: Any) -> bool:
            await gateway.ask(putting("source", "repo", both, adapter="github", settings={"secret": "the-second"}))
            return await reseal(*given)

        monkeypatch.setattr(Catalogued, "reseal", late)
        async with running(place, "events", MILLRACE_KEYS=f"{at.newer},{at.older}"):
            found = await part(gateway, None, RotateSettings)
            assert (found.resealed, found.left) == (0, 0)
        database = await asyncpg.connect(place.database_url("events"))
        try:
            sealed = await database.fetchval("SELECT sealed ->> 'secret' FROM resource WHERE id = $1", source.id)
        finally:
            await database.close()
        assert both.open(sealed, "default", source.id, "secret") == "the-second"


async def test_settings_that_do_not_open_are_counted_and_every_other_source_goes_on(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = place.credentials.keys[0], base64.b64encode(os.urandom(32)).decode()
    async with bus_of(place, "gateway") as bus:
        async with running(place, "events"):
            for org in ("acme", "other"):
                await bus.ask(putting("source", "repo", ring(place), org=org, adapter="github", settings={"secret": "s3cret"}))
        place.credentials.keys[0] = newer
        try:
            capsys.readouterr()
            async with (
                running(place, "oauth"),
                running(place, "events") as events,
                running(place, "gateway", MILLRACE_PORT="0") as runtime,
                aiohttp.ClientSession(runtime.health.document()["url"]) as session,
            ):
                await bus.ask(putting("source", "repo", ring(place), org="other", adapter="github", settings={"secret": "another"}))

                async def counted() -> bool:
                    return events.health.document()["quarantined"]["rows"] is not None

                await eventually(counted)
                async with session.get("/readyz") as response:
                    ready = await response.json()
                assert "quarantined" in ready["degraded"]
                assert ready["quarantined"]["events"] in {1, 2}
                assert b'millrace_quarantined_rows{service="events"}' in exposition(events.health)
                found = _quarantined("events", events.health.document()["quarantined"])
                assert (found.about, found.verdict, "logs/events.log" in (found.do or "")) == ("keys of events", "wrong", True)
                statuses = {}
                for org in ("acme", "other"):
                    source = await got(bus, "source", "repo", org=org)
                    statuses[org] = await hooked(session, source.id, b"another")
                assert statuses == {"acme": 503, "other": 202}
        finally:
            place.credentials.keys[0] = older
    assert "sealed.quarantined" in capsys.readouterr().out
