"""Authorizations on another device: asked for until a person has decided, by whatever replica, and ended with a reason."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import pytest

from services.oauth import authorization_store, device
from services.oauth.authorization_store import MOST_OPEN, OVERTAKEN
from shared.envelope import new_id
from shared.errors import Invalid, NotFound, TooMany, Unavailable
from shared.questions.oauth import AuthorizationBegun, AuthorizationView, BeginAuthorization, GetAuthorization
from tests.support.connections import Asking, asking
from tests.support.oauth_provider import DEVICE_CODE, answers
from tests.support.servers import Place


async def begun(it: Asking, name: str = "halo", **more: Any) -> AuthorizationBegun:
    """Begin an authorization of a device connection."""
    await it.provide(**{"device_url": f"{it.provider.url}/device"} | more)
    await it.put("connection", name, grant="device_code", provider="local", scopes=["read", "write"])
    made: AuthorizationBegun = await it.gateway.ask(
        BeginAuthorization(id=new_id(), org="acme", actor="key:k1", name=name, redirect="")
    )
    return made


async def view(it: Asking, one: AuthorizationBegun, name: str = "halo", org: str = "acme") -> AuthorizationView:
    found: AuthorizationView = await it.gateway.ask(GetAuthorization(org=org, name=name, authorization=one.id))
    return found


async def ended(it: Asking, one: AuthorizationBegun) -> AuthorizationView:
    """Wait until an authorization is over."""
    async with asyncio.timeout(60):
        while (found := await view(it, one)).status == "open":
            await asyncio.sleep(0.01)
    return found


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"EVERY": 0.02, "LEAST": 0.02, "SLOWER": 0.2}.items():
        monkeypatch.setattr(device, name, seconds)


async def test_43_a_device_is_asked_for_until_it_is_allowed_slower_where_the_provider_says_so(place: Place) -> None:
    async with asking(place, replicas=2) as it:
        it.provider.polls = ["authorization_pending", "slow_down", "authorization_pending", None]
        began = time.monotonic()
        one = await begun(it)
        address = f"{it.provider.url}/device"
        assert (one.url, one.user_code, one.url_with_code) == (address, "WDJB-MJHT", f"{address}?user_code=WDJB-MJHT")
        first, *_ = it.provider.asked
        assert first.parameters == {"scope": "read write", "client_id": "client", "client_secret": "client-secret"}
        assert (await ended(it, one)).status == "authorized"
        # Twice by the slower pace.
        assert time.monotonic() - began >= 0.4
        polls = [asked.parameters for asked in it.provider.asked[1:]]
        assert len(polls) == 4
        assert all(poll["grant_type"] == DEVICE_CODE and poll["device_code"] == "device-code-secret" for poll in polls)
        shown = await it.shown()
        assert shown.status == "healthy"
        assert (await it.given()).token == it.provider.given[-1]
        assert [message.grant for message in await it.published(shown.id) if hasattr(message, "grant")][-1] == "device_code"
        # It refreshes as any other.
        await it.refresh()
        assert it.provider.asked[-1].grant == "refresh_token"
        connection = await asyncpg.connect(place.database_url("oauth"))
        assert await connection.fetchval("SELECT count(*) FROM authorization_request WHERE sealed IS NOT NULL") == 0
        await connection.close()


async def test_43_a_device_that_is_denied_expired_or_refused_ends_with_a_reason(place: Place) -> None:
    async with asking(place) as it:
        for error, words in (
            ("access_denied", "not allowed"),
            ("expired_token", "in time"),
            ("invalid_client", "invalid_client"),
        ):
            it.provider.polls = ["authorization_pending", error]
            one = await begun(it)
            found = await ended(it, one)
            assert (found.status, words in (found.reason or "")) == ("failed", True)
            asked = len(it.provider.asked)
            await asyncio.sleep(0.1)
            assert len(it.provider.asked) == asked
        assert (await it.shown()).status == "pending"
        # What has ended here is asked for no more, whatever the provider says.
        it.provider.device = {"interval": 0.02, "expires_in": 1}
        one = await begun(it)
        connection = await asyncpg.connect(place.database_url("oauth"))
        await connection.execute("UPDATE authorization_request SET expires_at = now() WHERE status = 'open'")
        await connection.close()
        assert "in time" in ((await view(it, one)).reason or "")
        # An answer that is none is asked for again.
        it.provider.device, it.provider.polls = {"interval": 0.02}, [None]
        it.provider.faults = [answers(500), answers(200, b"<html>")]
        one = await begun(it)
        assert (await ended(it, one)).status == "authorized"
        for name, org in (("halo", "other"), ("nobody", "acme")):
            with pytest.raises(NotFound):
                await view(it, one, name, org)


async def test_a_device_that_gets_no_code_says_why(place: Place) -> None:
    async with asking(place) as it:
        for device_answer, words in (
            ({"verification_uri": "javascript:alert(1)", "verification_uri_complete": ""}, "no code"),
            ({"user_code": "\x1b[2J"}, "no code"),
            ({"user_code": 7}, "no code"),
        ):
            it.provider.device = device_answer
            with pytest.raises(Unavailable, match="could not begin") as refused:
                await begun(it)
            assert words in refused.value.detail or "without a token" in refused.value.detail
        it.provider.device = {}
        with pytest.raises(Unavailable, match="invalid_client"):
            await begun(it, client_secret="another")
        with pytest.raises(Invalid, match="has no device_url"):
            await begun(it, device_url=None)
        # Google names the address differently.
        it.provider.device = {"verification_uri": None, "verification_url": "https://www.google.com/device"}
        assert (await begun(it)).url == "https://www.google.com/device"


async def test_of_one_connection_a_few_are_open_and_the_oldest_ends(place: Place) -> None:
    async with asking(place) as it:
        it.provider.device = {"interval": 60, "expires_in": 600}
        first = [await begun(it) for _ in range(MOST_OPEN)]
        assert {(await view(it, one)).status for one in first} == {"open"}
        last = await begun(it)
        found = [(await view(it, one)) for one in (*first, last)]
        assert sorted(one.status for one in found) == ["failed"] + ["open"] * MOST_OPEN
        assert (found[0].status, found[0].reason) == ("failed", OVERTAKEN)
        # Nothing is kept of it to ask with.
        connection = await asyncpg.connect(place.database_url("oauth"))
        try:
            asking_with = "SELECT count(*) FROM authorization_request WHERE sealed IS NOT NULL AND poll_at IS NOT NULL"
            assert await connection.fetchval(asking_with) == MOST_OPEN
        finally:
            await connection.close()


async def test_what_is_too_long_for_a_person_is_no_code(place: Place) -> None:
    async with asking(place) as it:
        usual = it.provider.device
        for more in ({"user_code": "A" * 101}, {"verification_uri": "https://example.com/" + "a" * 2000}):
            it.provider.device = usual | more
            with pytest.raises(Unavailable, match="could not begin"):
                await begun(it)


async def test_of_one_organization_so_many_devices_are_asked_for_and_others_have_theirs(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorization_store, "MOST_POLLED", 2)
    async with asking(place) as it:
        it.provider.device = {"interval": 60, "expires_in": 600}
        for name in ("one", "two"):
            await begun(it, name)
        with pytest.raises(TooMany, match="acme has 2 authorizations of devices open"):
            await begun(it, "three")
        # One of a connection that has one replaces none, and is one more; another organization has its own.
        with pytest.raises(TooMany):
            await begun(it, "one")
        url = it.provider.url
        client = {
            "token_url": f"{url}/token",
            "device_url": f"{url}/device",
            "client_id": "client",
            "client_secret": "client-secret",
        }
        await it.put("provider", "local", org="other", **client)
        await it.put("connection", "halo", org="other", grant="device_code", provider="local")
        command = BeginAuthorization(id=new_id(), org="other", actor="key:k1", name="halo", redirect="")
        assert (await it.gateway.ask(command)).user_code
