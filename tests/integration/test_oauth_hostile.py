"""Providers and organizations that mean harm: others go on, and nothing secret is repeated."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import msgspec
import pytest

from services.oauth import (
    attempts,
    authorization,
    device,
    refresh,
    resources,
    scheduling,
    sealed_tokens,
    token_endpoint,
    token_store,
)
from services.oauth.authorization_store import hashed
from services.oauth.spool import Spool, Unstored
from services.oauth.token_store import Claimed, Renewed, TokenStore
from shared.db import open_engine
from shared.envelope import new_id
from shared.errors import Invalid, Unavailable
from shared.questions.oauth import BeginAuthorization, GetAuthorization, TryConnection
from tests.support.connections import CALLBACK, Asking, asking
from tests.support.inside import bus_of, eventually, running
from tests.support.oauth_provider import Asked, answers, hangs
from tests.support.resources import putting, ring
from tests.support.servers import Place


async def client_of(it: Asking, org: str, name: str = "halo", **given: object) -> None:
    """Have a connection by a client of the organization's own."""
    it.provider.clients[org] = f"{org}-secret"
    client = {"client_id": org, "token": f"{org}-secret"}
    await it.put("connection", name, org=org, provider="local", **{"grant": "client_credentials"} | client | given)


async def test_tests_and_authorizations_of_one_organization_leave_room_for_anothers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None of the slow requests is given up before the end.
    monkeypatch.setattr(token_endpoint, "REQUEST", 600.0)
    async with asking(place) as it:
        let = asyncio.Event()

        async def slow(asked: Asked) -> None:
            if asked.client[0] == "acme":
                await let.wait()

        it.provider.always = slow
        for org in ("acme", "other"):
            fields = ("token_url", "introspect_url", "device_url", "authorize_url")
            await it.put("provider", "local", org=org, **dict.fromkeys(fields, f"{it.provider.url}/token"))
            await client_of(it, org)
            await client_of(it, org, "device", grant="device_code")

        await client_of(it, "acme", "person", grant="authorization_code")
        _, state = await it.begin("person")
        it.provider.codes["a-code-secret"] = {"redirect_uri": CALLBACK}

        def begun(org: str) -> BeginAuthorization:
            return BeginAuthorization(id=new_id(), org=org, actor="key:k1", name="device", redirect="")

        def tried(org: str) -> TryConnection:
            return TryConnection(id=new_id(), org=org, actor="key:k1", name="halo")

        waiting = [asyncio.create_task(it.gateway.ask(one)) for _ in range(40) for one in (begun("acme"), tried("acme"))]
        refused = 0
        while refused < 72:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            refused += len(done)
            waiting = [one for one in waiting if one not in done]
            assert all(isinstance(one.exception(), Unavailable) for one in done)
        await it.put("secret", "s", org="other", value="v1")
        assert (await it.gateway.ask(tried("other"))).outcome == "unknown"
        with pytest.raises(Unavailable, match="could not begin"):
            await it.gateway.ask(begun("other"))
        # Who comes back too early has used nothing up.
        with pytest.raises(Unavailable, match="too many"):
            await it.finish(state)
        let.set()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert (await it.finish(state)).reason is None


async def test_many_slow_connections_of_one_organization_delay_no_refresh_of_anothers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"EVERY": 0.05, "MOST": 8}.items():
        monkeypatch.setattr(scheduling, name, value)
    monkeypatch.setattr(token_endpoint, "REQUEST", 600.0)
    async with asking(place) as it:
        for org in ("acme", "other"):
            await it.put("provider", "local", org=org, token_url=f"{it.provider.url}/token")
        await client_of(it, "other")
        await it.given(org="other")
        for number in range(12):
            # Each is another client, whose requests no gate counts together.
            it.provider.clients[f"c{number}"] = "s"
            await client_of(it, "acme", f"slow{number}", client_id=f"c{number}", token="s")
            await it.given(f"slow{number}", org="acme")

        async def slow(asked: Asked) -> None:
            if asked.client[0] != "other":
                await hangs(asked)

        it.provider.always = slow
        before = len(it.provider.asked)
        await it.row("refresh_at = now() - CASE org WHEN 'acme' THEN interval '1 hour' ELSE interval '0' END")

        async def is_refreshed() -> bool:
            return any(asked.client[0] == "other" for asked in it.provider.asked[before:])

        # None of the slow requests is given up before this is.
        await eventually(is_refreshed)


async def test_devices_of_one_organization_that_are_never_answered_leave_room_for_anothers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"EVERY": 0.02, "LEAST": 0.02, "MOST": 8}.items():
        monkeypatch.setattr(device, name, value)
    monkeypatch.setattr(token_endpoint, "REQUEST", 600.0)
    async with asking(place) as it:

        async def slow(asked: Asked) -> None:
            if asked.client[0] == "acme":
                await hangs(asked)

        it.provider.always = slow
        for org in ("acme", "other"):
            more = {"device_url": f"{it.provider.url}/device"}
            await it.put("provider", "local", org=org, token_url=f"{it.provider.url}/token", **more)
            await client_of(it, org, grant="device_code")
        ask = BeginAuthorization(id=new_id(), org="acme", actor="key:k1", name="halo", redirect="")
        for _ in range(12):
            await it.gateway.ask(ask)
        it.provider.polls = [None]
        await it.gateway.ask(msgspec.structs.replace(ask, id=new_id(), org="other"))

        async def is_authorized() -> bool:
            return bool((await it.shown(org="other")).status == "healthy")

        await eventually(is_authorized)


async def test_a_device_is_asked_for_a_while_however_long_its_provider_grants(place: Place) -> None:
    async with asking(place) as it:
        await it.provide(device_url=f"{it.provider.url}/device")
        await it.put("connection", "halo", grant="device_code", provider="local")
        for answer in ({"expires_in": 1e308, "interval": 1e308}, {"expires_in": "nan", "interval": "nan"}, {"expires_in": -1e308}):
            it.provider.device = answer
            begun = await it.gateway.ask(BeginAuthorization(id=new_id(), org="acme", actor="key:k1", name="halo", redirect=""))
            assert begun.user_code


async def test_a_token_that_ends_before_a_run_could_use_it_is_not_got_for_each_question(place: Place) -> None:
    async with asking(place) as it:
        await it.provide()
        await it.put("connection", "halo", grant="client_credentials", provider="local")
        it.provider.life = 10
        for _ in range(5):
            with pytest.raises(Unavailable, match="end within 30 s, too soon"):
                await it.given()
        assert len(it.provider.asked) == 1
        # A person may know that this has been repaired.
        it.provider.life = 3600
        await it.refresh()
        assert (await it.given()).token == it.provider.given[-1]


async def test_no_answer_has_a_token_shown_or_published(place: Place) -> None:
    async with asking(place) as it:
        shown = await it.authorize()
        # A token may look like a code of an error, and may be named as a scope.
        token = "rt_0123456789abcdef0123456789abcdef"
        it.provider.families[token] = "family"
        it.provider.more = {"refresh_token": token, "scope": f"read {token} \x1b[31m"}
        await it.refresh()
        it.provider.more = {}
        assert (await it.shown()).granted_scope is None
        it.provider.faults = [answers(400, {"error": token, "error_description": token})]
        with pytest.raises(Unavailable) as refused:
            await it.refresh()
        told = [refused.value.detail, str(await it.shown()), str(await it.published(shown.id))]
        assert not any(token in one for one in told)


async def test_a_spooled_token_of_a_connection_that_cannot_be_used_any_more_stops_nothing(place: Place, tmp_path: Path) -> None:
    async with asking(place) as it:
        await it.authorize()
        engine = open_engine(place.database_url("oauth"), service="oauth")
        (state,) = (await TokenStore(engine).of([(await it.shown()).id])).values()
        await engine.dispose()
        left = Renewed(sealed="k9:unknown", scope=None, expires_at=None, refresh_expires_at=None, refresh_at=None)
        # Another one was stored since.
        Spool(tmp_path / "unstored", ring(place)).keep(
            Unstored("halo", Claimed(msgspec.structs.replace(state, version=0), 0), left)
        )
        async with running(place, "oauth", MILLRACE_EGRESS_ALLOW="127.0.0.1", MILLRACE_DATA=str(tmp_path)):

            async def is_forgotten() -> bool:
                return not list((tmp_path / "unstored").glob("*.json"))

            await eventually(is_forgotten)
            await it.given()


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_29_the_clock_of_a_replica_does_not_matter(place: Place, monkeypatch: pytest.MonkeyPatch, minutes: int) -> None:
    off = timedelta(minutes=minutes)
    for module in (attempts, authorization, device, refresh, resources, sealed_tokens, token_store):
        monkeypatch.setattr(module, "utc_now", lambda: datetime.now(UTC) + off, raising=False)
    async with asking(place) as it:
        # Another replica, whose clock is right, reads these by the database's time.
        await it.authorize()
        left = (await it.row())["expires_at"] - datetime.now(UTC)
        assert timedelta(minutes=59) < left < timedelta(minutes=61)
        assert (await it.given()).token == it.provider.given[-1]
        it.provider.faults = [answers(429, Retry_After="20")]
        with pytest.raises(Unavailable) as refused:
            await it.refresh()
        assert 15 < (refused.value.retry_after or 0) < 25
        await it.row("expires_at = now() + interval '5 minutes'")
        assert (await it.given()).token == it.provider.given[-1]
        await it.row("expires_at = now() - interval '5 minutes'")
        with pytest.raises(Unavailable):
            await it.given()


async def test_an_authorization_whose_end_nobody_recorded_is_not_open_for_ever(place: Place) -> None:
    async with asking(place) as it:
        await it.provide()
        await it.put("connection", "halo", grant="authorization_code", provider="local")
        _, state = await it.begin()
        connection = await asyncpg.connect(place.database_url("oauth"))
        past = "UPDATE authorization_request SET status = 'taken', expires_at = now() - interval '2 minutes'"
        await connection.execute(past)
        await connection.close()
        asked = GetAuthorization(org="acme", name="halo", authorization=hashed(state))
        found = await it.gateway.ask(asked)
        assert (found.status, found.reason) == ("failed", "it has not ended in time: begin again")


async def test_lists_that_every_message_and_address_would_have_are_bounded(place: Place) -> None:
    many = {f"p{number}": "x" for number in range(101)}
    async with running(place, "oauth"), bus_of(place, "gateway") as gateway:
        for noun, usual, given in (
            ("connection", {"grant": "authorization_code", "provider": "github", "client_id": "c"}, {"scopes": ["one"] * 201}),
            ("connection", {"grant": "authorization_code", "provider": "github", "client_id": "c"}, {"parameters": many}),
            ("provider", {"known": "github"}, {"scopes": ["one"] * 201}),
            ("provider", {"known": "github"}, {"hosts": ["a.example"] * 101}),
            ("provider", {"known": "github"}, {"token_parameters": many}),
        ):
            with pytest.raises(Invalid, match=f"{next(iter(given))} does not fit"):
                await gateway.ask(putting(noun, "large", ring(place), **usual, **given))
