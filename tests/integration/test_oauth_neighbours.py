"""What one organization or one message does harms no other: places, limits of providers, the outbox."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from services.oauth import outbox, scheduling
from services.oauth.authorization_store import AuthorizationStore
from services.oauth.housekeeping import LeftoverRows
from services.oauth.lending import Lending, LentShare
from services.oauth.token_store import TokenStore
from shared.commit import Journal
from shared.db import open_engine
from shared.envelope import new_id
from shared.errors import Unavailable
from shared.messages import ConnectionRefreshed
from shared.questions.oauth import BeginAuthorization, RefreshConnection
from tests.support.connections import ALLOWED, CALLBACK, Asking, asking
from tests.support.inside import eventually, running
from tests.support.oauth_provider import Asked, answers
from tests.support.resources import got, removing
from tests.support.servers import Place


async def client_of(it: Asking, org: str, connection: str = "halo", provider: str = "local", **given: Any) -> None:
    """Have a connection by a client of the organization's own."""
    it.provider.clients[org] = f"{org}-secret"
    client = {"client_id": org, "token": f"{org}-secret"}
    await it.put("connection", connection, org=org, grant="client_credentials", provider=provider, **client | given)


async def test_a_slow_provider_of_one_organization_takes_no_places_of_anothers_of_its_name(place: Place) -> None:
    async with asking(place) as it:
        let = asyncio.Event()

        async def slow_for_acme(asked: Asked) -> None:
            if asked.client[0] == "acme":
                await let.wait()

        it.provider.always = slow_for_acme
        for org in ("acme", "other"):
            await it.put("provider", "local", org=org, token_url=f"{it.provider.url}/token")
            await client_of(it, org)
        waiting = [asyncio.create_task(it.given(org="acme")) for _ in range(40)]
        refused = 0
        while refused < 28:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            refused += len(done)
            waiting = [one for one in waiting if one not in done]
            assert all(isinstance(one.exception(), Unavailable) for one in done)
        assert (await it.given(org="other")).token in it.provider.given
        assert len(waiting) == 12
        let.set()
        assert len({one.token for one in await asyncio.gather(*waiting)}) == 1


async def test_what_one_organizations_client_is_refused_closes_nobody_elses_gate(place: Place) -> None:
    async with asking(place) as it:
        await it.put("provider", "local", org="global", token_url=f"{it.provider.url}/token")
        for org in ("acme", "other"):
            await client_of(it, org)
        await client_of(it, "acme", "second")
        it.provider.faults = [answers(429, Retry_After="120")]
        with pytest.raises(Unavailable, match="429"):
            await it.given(org="acme")
        with pytest.raises(Unavailable, match="wants no requests"):
            await it.given("second", org="acme")
        await it.given(org="other")
        # Whoever names another one's client is not that one: the secret is wrong, and so is only this connection.
        await client_of(it, "third", client_id="other")
        it.provider.faults = [answers(429, Retry_After="120")]
        with pytest.raises(Unavailable, match="429"):
            await it.given(org="third")
        await it.put(
            "connection",
            "fresh",
            org="other",
            grant="client_credentials",
            provider="local",
            client_id="other",
            token="other-secret",
        )
        await it.given("fresh", org="other")


async def test_the_time_that_a_provider_asked_for_is_kept_by_who_demands_a_token_and_who_reports_one(place: Place) -> None:
    async with asking(place) as it:
        shown = await it.authorize()
        first = await it.given()
        it.provider.faults = [answers(500, Retry_After="120")]
        for _ in range(3):
            with pytest.raises(Unavailable) as refused:
                await it.refresh()
            assert 100 < (refused.value.retry_after or 0) <= 120
        # The token lives, and the API that refused it is no reason to ask before that time either.
        assert (await it.given(rejected=first.answer.version)).token == first.token
        assert len(it.provider.asked) == 2
        connection = await asyncpg.connect(place.database_url("oauth"))
        await connection.execute("UPDATE provider_gate SET closed_until = now()")
        await connection.close()
        # A pause of our own is for the schedule and for reports: a person may know that it is over.
        it.provider.faults = [answers(500)]
        with pytest.raises(Unavailable):
            await it.refresh()
        await it.row("not_before = now() + interval '1 minute'")
        assert (await it.given(rejected=first.answer.version)).token == first.token
        assert len(it.provider.asked) == 3
        await it.refresh()
        assert (await it.shown()).id == shown.id
        assert (await it.given()).token != first.token


async def test_a_degraded_connection_heals_by_itself_once_its_provider_is_well(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(place) as it:
        monkeypatch.setattr(scheduling, "EVERY", 0.05)
        shown = await it.authorize()
        it.provider.clients["client"] = "elsewhere"
        await it.row("refresh_at = now()")

        async def has(status: str) -> bool:
            return bool((await it.row())["status"] == status)

        await eventually(lambda: has("degraded"))
        found = await it.shown()
        assert (found.status, "settings" in found.advice) == ("degraded", True)
        row = await it.row()
        assert row["refresh_at"] >= row["not_before"]
        # Nothing here was changed: the provider was.
        it.provider.clients["client"] = "client-secret"
        await it.row("refresh_at = now(), not_before = NULL")
        await eventually(lambda: has("healthy"))

        async def types() -> list[str]:
            return [type(one).__name__ for one in await it.published(shown.id)]

        async def is_published() -> bool:
            return (await types())[-2:] == ["ConnectionRefreshFailed", "ConnectionRefreshed"]

        await eventually(is_published)
        assert (await types()).count("ConnectionRefreshFailed") == 1


async def test_a_message_that_cannot_be_published_holds_up_those_of_its_own_connection_only(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "EVERY", 0.1)
    monkeypatch.setattr(outbox, "PAUSE", 0.2)
    async with asking(place) as it:
        await it.provide()
        grant = {"grant": "client_credentials", "provider": "local"}
        bad, good = [(await it.put("connection", name, **grant)).id for name in ("bad", "good")]
        real = Journal.append
        refusing = True

        async def fails(self: Journal, sealed: Any, expected: int) -> Any:
            if refusing and sealed.envelope.type == "connection.refreshed" and sealed.envelope.subject == bad:
                raise ValueError("a message that is none")
            return await real(self, sealed, expected)

        monkeypatch.setattr(Journal, "append", fails)

        async def published(id_: str) -> list[int]:
            return [one.token_version for one in await it.published(id_) if isinstance(one, ConnectionRefreshed)]

        for _ in range(2):
            for name in ("bad", "good"):
                await it.expire()
                await it.given(name)

        async def good_is_published() -> bool:
            return await published(good) == [1, 2]

        await eventually(good_is_published)
        assert await published(bad) == []
        refusing = False

        async def bad_is_published() -> bool:
            return await published(bad) == [1, 2]

        await eventually(bad_is_published)


async def test_a_token_of_a_new_grant_that_cannot_be_kept_is_given_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_args: Any, **_more: Any) -> Any:
        raise Unavailable("the database cannot be reached")

    async with asking(place) as it:
        await it.provide()
        await it.put("connection", "halo", grant="authorization_code", provider="local")
        _, state = await it.begin()
        it.provider.codes["a-code-secret"] = {"redirect_uri": "https://millrace.example/oauth/callback"}
        with monkeypatch.context() as broken:
            broken.setattr(TokenStore, "authorize", fails)
            assert "is given back" in ((await it.finish(state)).reason or "")

        async def are_revoked() -> bool:
            return {one["token"] for one in it.provider.revoked} == set(it.provider.given) != set()

        await eventually(are_revoked)
        assert (await it.shown()).status == "pending"
        await it.again()
        assert (await it.shown()).status == "healthy"


async def test_an_organization_uses_up_its_own_share_of_a_client_that_is_lent_and_no_more(place: Place) -> None:
    async with asking(place) as it, running(place, "oauth", **ALLOWED):
        url = it.provider.url
        addresses = {"token_url": f"{url}/token", "authorize_url": f"{url}/authorize", "revoke_url": f"{url}/revoke"}
        lent = {"client_id": "client", "client_secret": "client-secret", "lent_a_minute": 3}
        await it.put("provider", "local", org="global", **addresses, **lent)
        for org in ("acme", "other", "global"):
            await it.put("connection", "halo", org=org, grant="authorization_code", provider="local")
            begun = await it.gateway.ask(BeginAuthorization(id=new_id(), org=org, actor="a", name="halo", redirect=CALLBACK))
            await it.open(begun.state or "")
            it.provider.codes["a-code-secret"] = {"redirect_uri": CALLBACK}
            assert (await it.finish(begun.state or "")).reason is None
        asked = len(it.provider.asked)
        # One is used up by the code. Whatever replica is asked, two are left; what fills up meanwhile is one in 20 seconds.
        refused: list[str] = []
        for _ in range(8):
            try:
                await it.gateway.ask(RefreshConnection(id=new_id(), org="acme", actor="a", name="halo"))
            except Unavailable as error:
                refused.append(error.detail)
        assert refused
        assert all("has used up the 3 requests a minute that it has of a client of another one" in one for one in refused)
        assert len(it.provider.asked) - asked == 8 - len(refused)
        shown = await got(it.gateway, "connection", "halo", org="acme")
        assert (shown.status, "3 requests a minute" in shown.reason) == ("healthy", True)
        assert (await it.given()).token in it.provider.given
        await it.gateway.ask(RefreshConnection(id=new_id(), org="other", actor="a", name="halo"))
        # The platform's own requests are not counted.
        for _ in range(5):
            await it.gateway.ask(RefreshConnection(id=new_id(), org="global", actor="a", name="halo"))
        # Giving tokens back is not refused.
        await it.gateway.ask(removing("connection", "halo", org="acme"))

        async def are_revoked() -> bool:
            return len(it.provider.revoked) == 2

        await eventually(are_revoked)


async def test_what_nobody_needs_any_more_is_forgotten_and_an_alarm_that_stands_is_not(place: Place) -> None:
    async with asking(place) as it:
        await it.provide(client_secret="wrong")
        for name in ("halo", "gone"):
            client = {"client_id": "gone", "token": "wrong"} if name == "gone" else {}
            await it.put("connection", name, grant="client_credentials", provider="local", **client)
            with pytest.raises(Unavailable, match="invalid_client"):
                await it.given(name)
        await it.put("connection", "person", grant="authorization_code", provider="local")
        await it.begin("person")
        await it.begin("person")
        engine = open_engine(place.database_url("oauth"), service="oauth")
        database = await asyncpg.connect(place.database_url("oauth"))
        try:
            tokens, lending, requests = TokenStore(engine), Lending(engine), AuthorizationStore(engine)
            for org in ("other", "third"):
                assert await lending.take(LentShare("acme/client", 5), org)
            await database.execute("UPDATE lent_client SET at = now() - interval '2 minutes' WHERE org = 'other'")
            await database.execute(
                "INSERT INTO provider_gate VALUES ('past', now() - interval '1 s'), ('shut', now() + interval '1 h')"
            )
            state = await database.fetchval("SELECT state FROM authorization_request LIMIT 1")
            await database.execute(
                "UPDATE authorization_request SET expires_at = now() - interval '11 minutes' WHERE state = $1", state
            )
            await it.gateway.ask(removing("connection", "gone", org="acme"))
            # The alarm of `gone`, the gate that is open, the share that is full, and the authorization.
            assert await LeftoverRows(tokens, lending, requests).once() == 4
            gates = await database.fetch("SELECT provider, alarm IS NOT NULL AS alarmed FROM provider_gate ORDER BY provider")
            assert [(one["provider"].partition("@")[0], one["alarmed"]) for one in gates] == [
                ("acme/client", True),
                ("shut", False),
            ]
            assert await database.fetchval("SELECT string_agg(org, ' ') FROM lent_client") == "third"
            assert await database.fetchval("SELECT count(*) FROM authorization_request") == 1
            assert await LeftoverRows(tokens, lending, requests).once() == 0
        finally:
            await database.close()
            await engine.dispose()
