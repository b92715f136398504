"""Keys are rotated while everything goes on: in parts, by any replica, begun anew at any time; what does not open is named."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import pytest

from deploy.doctor.running import _quarantined
from millrace.cli import main
from services.oauth import rotation
from services.oauth.store import KeptStore
from services.oauth.token_store import TokenStore
from services.oauth.vault import Vault
from shared.bus import Bus
from shared.db import open_engine
from shared.encryption import Keyring
from shared.envelope import new_id, open_message
from shared.errors import Conflict, Invalid, Unavailable
from shared.messages import Audited
from shared.questions.oauth import RotateKeys, RotationView
from tests.integration.test_integrations_api import Api
from tests.integration.test_oauth_connections import stored
from tests.integration.test_oauth_settings import secret, value_of
from tests.support.connections import ALLOWED, Asking, asking
from tests.support.inside import bus_of, running
from tests.support.resources import listed
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

    monkeypatch.setattr("services.oauth.app.renewing", idle)
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


async def part(bus: Bus, before: RotationView | None = None) -> RotationView:
    key, after = (None, "") if before is None else (before.key, before.next or "")
    found: RotationView = await bus.ask(RotateKeys(id=new_id(), org="global", actor="test", key=key, after=after))
    return found


async def parts(bus: Bus) -> list[RotationView]:
    found = [await part(bus)]
    while found[-1].next is not None:
        found.append(await part(bus, found[-1]))
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
            assert "5 done, 2 left\n" in beside
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
            assert (status, again["resealed"], again["left"]) == (200, 0, 2)
            count = (await admin.client.jetstream().stream_info("AUDIT")).state.messages
            rotated = [open_message(one, Audited) for one in await stored(admin, "AUDIT", count) if one.type == "audit.rotate"]
            assert {(one.category, one.target, one.outcome, one.actor) for one in rotated} == {
                ("vault", id_of(at.newer), "ok", "platform-key")
            }
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
            with pytest.raises(Conflict, match=f"{id_of(at.older)}, and another one with {id_of(at.newer)}"):
                await part(bus, first)
            with pytest.raises(Invalid):
                await bus.ask(RotateKeys(id=new_id(), org="global", actor="test", after="nowhere"))
        assert (await at.sealed_by())[id_of(at.newer)] == 3


async def test_a_missing_key_is_told_of_each_value_and_logged_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with prepared(place, monkeypatch) as at:
        engine = open_engine(place.database_url("oauth"), service="oauth")
        try:
            vault = Vault(Keyring((base64.b64decode(at.newer),)))
            rotating, reported = rotation.Rotation(KeptStore(engine), TokenStore(engine), vault), set[tuple[str, str, str]]()
            capsys.readouterr()
            assert rotating.quarantined is None
            assert [await rotation.renew(rotating, reported) for _ in range(2)] == [0, 0]
            assert rotating.quarantined == 7
            found = _quarantined({"rows": rotating.quarantined})
            assert (found.verdict, found.said[:2], "keys rotate" in (found.do or "")) == ("wrong", "7 ", True)
        finally:
            await engine.dispose()
        lines = [line for line in capsys.readouterr().out.splitlines() if "vault.quarantined" in line]
        assert len(lines) == len(reported) == 7
        assert {name for noun, _, name in reported if noun == "secret"} == set(NAMES)
        assert all("is not among the keys" in line and id_of(at.older) in line for line in lines)
