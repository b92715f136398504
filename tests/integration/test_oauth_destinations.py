"""A secret and a token go where they were given for. To lead them elsewhere is to give the secret, or to authorize, again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import asyncpg
import pytest

from services.oauth import scheduling
from shared.errors import Conflict, Invalid, Unavailable
from shared.messages import ConnectionNeedsReauthorization, ConnectionRefreshFailed
from tests.support.connections import CALLBACK, Asking, asking
from tests.support.inside import eventually
from tests.support.oauth_provider import LocalProvider, local_provider
from tests.support.servers import Place

CLIENT = {"client_id": "client", "token": "client-secret"}
KEPT = {"client_id": "client"}


def at(provider: LocalProvider) -> dict[str, Any]:
    return {"token_url": f"{provider.url}/token", "revoke_url": f"{provider.url}/revoke", "authorize_url": f"{provider.url}/a"}


async def refused(it: Asking, noun: str, name: str, path: str, **given: Any) -> None:
    """Put a resource that is refused, whole and as a patch."""
    for patch in (False, True):
        with pytest.raises(Invalid, match="has to be given again") as found:
            await it.put(noun, name, **given | ({"patch": True} if patch else {}))
        assert [one.path for one in found.value.errors] == [path]
        assert "client-secret" not in found.value.detail


async def test_a_kept_client_secret_is_not_led_elsewhere_by_a_change_of_its_provider(place: Place) -> None:
    async with asking(place) as it, local_provider() as thief:
        await it.put("provider", "local", client_id="client", client_secret="client-secret", **at(it.provider))
        await it.put("connection", "halo", grant="client_credentials", provider="local")
        first = await it.given()
        for change in (
            {"token_url": f"{thief.url}/token"},
            {"refresh_url": f"{thief.url}/token"},
            {"revoke_url": f"{thief.url}/revoke"},
            {"client_id": "another"},
        ):
            await refused(it, "provider", "local", "client_secret", **{"client_id": "client", **at(it.provider)} | change)
        # What is sent nowhere may change, and so may all of it by who has the secret.
        await it.put("provider", "local", client_id="client", **at(it.provider), scopes=["read"], base_url=thief.url)
        assert (await it.given()).token != first.token
        thief.clients["client"] = "client-secret"
        await it.put("provider", "local", client_id="client", client_secret="client-secret", **at(thief))
        assert (await it.given()).token in thief.given
        assert len(thief.asked) == 1


async def test_a_kept_secret_of_a_connections_client_stays_with_the_provider_that_it_was_given_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(place) as it, local_provider() as thief:
        await it.put("provider", "local", **at(it.provider))
        await it.put("provider", "evil", **at(thief))
        await it.put("provider", "free", token_url="https://{site}.example.com/token", hosts=["*.example.com"])
        await it.put("connection", "halo", grant="client_credentials", provider="local", **CLIENT)
        await it.put("connection", "plain", token="a-plain-secret")
        await it.given()
        await refused(it, "connection", "halo", "token", grant="client_credentials", provider="evil", **KEPT)
        await refused(it, "connection", "halo", "token", grant="client_credentials", provider="local", client_id="other")
        # As a token it would go to runs.
        with pytest.raises(Invalid, match="has to be given again"):
            await it.put("connection", "halo", grant="token")
        await refused(it, "connection", "plain", "token", grant="client_credentials", provider="evil", **KEPT)
        await it.put("connection", "site", grant="client_credentials", provider="free", parameters={"site": "a"}, **CLIENT)
        more = {"grant": "client_credentials", "provider": "free", **KEPT}
        await refused(it, "connection", "site", "token", parameters={"site": "b"}, **more)
        # A provider of the name in front of it, or another address in it: the secret stays away, and who looks sees why.
        monkeypatch.setattr(scheduling, "EVERY", 0.05)
        await it.put("provider", "local", **at(thief))
        with pytest.raises(Invalid, match="was given for other addresses") as found:
            await it.given()
        assert found.value.errors[0].path == "token"
        connection = await asyncpg.connect(place.database_url("oauth"))
        await connection.execute("UPDATE token SET refresh_at = now()")
        await connection.close()

        async def is_seen() -> bool:
            return bool((await it.shown()).status == "degraded")

        await eventually(is_seen)
        shown = await it.shown()
        assert ("give it again" in shown.reason, "settings" in shown.advice) == (True, True)

        async def failures() -> list[str]:
            # Each is published after its row is written.
            return [one.failure for one in await it.published(shown.id) if isinstance(one, ConnectionRefreshFailed)]

        await eventually(failures)
        assert await failures() == ["misconfigured"]
        assert thief.asked == []
        thief.clients["client"] = "client-secret"
        await it.put("connection", "halo", grant="client_credentials", provider="local", **CLIENT)
        assert (await it.given()).token in thief.given
        assert (await it.shown()).status == "healthy"


async def test_a_token_of_one_provider_is_never_sent_to_another(place: Place) -> None:
    async with asking(place) as it, local_provider() as thief:
        await it.authorize()
        await it.put("provider", "evil", client_id="client", client_secret="x", **at(thief))
        old = set(it.provider.given)
        await it.put("connection", "halo", grant="authorization_code", provider="evil")
        shown = await it.shown()
        assert (shown.status, "authorize" in shown.advice) == ("pending", True)
        with pytest.raises(Unavailable, match="not been authorized yet"):
            await it.given()
        with pytest.raises(Conflict, match="not been authorized yet"):
            await it.refresh()

        async def are_revoked() -> bool:
            return {one["token"] for one in it.provider.revoked} == old

        # Where they came from they are given back.
        await eventually(are_revoked)
        assert (thief.asked, thief.revoked) == ([], [])


async def test_a_grant_ends_where_its_provider_is_led_elsewhere_and_is_published_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(place) as it, local_provider() as thief:
        monkeypatch.setattr(scheduling, "EVERY", 0.05)
        shown = await it.authorize()
        _, state = await it.begin()
        thief.clients["client"] = "client-secret"
        thief.codes["a-code-secret"] = {"redirect_uri": CALLBACK}
        await it.put("provider", "local", client_id="client", client_secret="client-secret", **at(thief))
        with pytest.raises(Unavailable, match="given by another provider"):
            await it.given()
        assert "another provider" in ((await it.finish(state)).reason or "")
        await it.row("refresh_at = now()")

        async def is_seen() -> bool:
            return bool((await it.shown()).status == "needs_reauthorization")

        await eventually(is_seen)

        async def ended() -> list[str]:
            return [one.reason for one in await it.published(shown.id) if isinstance(one, ConnectionNeedsReauthorization)]

        await eventually(ended)
        assert ["another provider" in one for one in await ended()] == [True]
        assert (thief.asked, thief.revoked) == ([], [])
        _, state = await it.begin()
        assert (await it.finish(state)).reason is None
        assert (await it.given()).token in thief.given


async def test_a_connection_that_is_no_grant_any_more_keeps_no_token_and_is_not_refreshed(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scheduling, "EVERY", 0.05)
    async with asking(place) as it:
        await it.authorize()
        old = set(it.provider.given)
        await it.put("connection", "halo", grant="api_key", token="k1")

        async def are_revoked() -> bool:
            return {one["token"] for one in it.provider.revoked} == old

        await eventually(are_revoked)
        row = await it.row()
        assert (row["sealed"], row["refresh_at"], row["status"]) == (None, None, "pending")
        assert (await it.given()).token == "k1"
        # One that was left behind goes as well.
        await it.row("refresh_at = now(), sealed = 'left', expires_at = NULL")

        async def is_gone() -> bool:
            return (await it.row())["sealed"] is None

        await eventually(is_gone)
        assert "not_refreshed" not in capsys.readouterr().out


async def test_an_attempt_that_was_under_way_when_its_connection_moved_stores_nothing(place: Place) -> None:
    async with asking(place) as it:
        await it.authorize()
        await it.put("provider", "next", client_id="client", client_secret="client-secret", **at(it.provider))
        await it.expire()
        came, let = it.provider.hold_next()
        late = asyncio.create_task(it.given())
        await came.wait()
        await it.put("connection", "halo", grant="client_credentials", provider="local")
        own = (await it.given()).token
        let.set()
        with contextlib.suppress(Unavailable):
            await late
        assert (await it.given()).token == own

        async def is_revoked() -> bool:
            return it.provider.given[-1] in {one["token"] for one in it.provider.revoked}

        await eventually(is_revoked)


async def test_where_a_secret_that_was_kept_before_may_go_is_where_it_goes_at_its_next_use(place: Place) -> None:
    async with asking(place) as it, local_provider() as thief:
        await it.put("provider", "local", **at(it.provider))
        await it.put("connection", "halo", grant="client_credentials", provider="local", **CLIENT)
        connection = await asyncpg.connect(place.database_url("oauth"))
        await connection.execute("UPDATE vault SET destination = NULL")
        await connection.close()
        # It is the same as before, whatever is known of it.
        same = await it.put("connection", "halo", grant="client_credentials", provider="local", **CLIENT)
        assert same.version == 1
        await it.given()
        await it.put("provider", "local", **at(thief))
        with pytest.raises(Invalid, match="was given for other addresses"):
            await it.given()
        assert thief.asked == []
