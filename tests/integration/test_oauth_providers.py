"""Connections of every kind, with a real provider: what is given to runs, what is asked of the provider, what is refused."""

from __future__ import annotations

import base64
from typing import Any

import asyncpg
import pytest

from shared.errors import Conflict, Invalid, NotFound, Unavailable
from tests.support import resources
from tests.support.connections import Asking, asking
from tests.support.inside import bus_of, running
from tests.support.oauth_provider import answers, local_provider
from tests.support.resources import got, listed
from tests.support.servers import Place


async def test_a_connection_by_client_credentials_gets_a_token_once_and_keeps_it(place: Place) -> None:
    async with asking(place) as it:
        await it.provide(scopes=["read", "write"], token_parameters={"audience": "api"}, base_url="https://api.example/v1")
        pending = await it.put("connection", "halo", grant="client_credentials", provider="local")
        assert (pending.status, pending.reason) == ("pending", None)
        first, second = await it.given(), await it.given()
        assert first.token == second.token == "access-token-1-secret"
        assert first.headers == {"Authorization": f"Bearer {first.token}"}
        assert first.answer.base_url == "https://api.example/v1"
        (asked,) = it.provider.asked
        assert asked.parameters == {
            "grant_type": "client_credentials", "scope": "read write", "audience": "api", "client_id": "client",
            "client_secret": "client-secret",
        }  # fmt: skip
        shown = await it.shown()
        assert (shown.status, shown.reason, shown.advice) == ("healthy", None, None)
        assert shown.expires_at == first.answer.expires_at is not None
        assert "-secret" not in repr(shown)


async def test_a_client_is_authenticated_as_its_provider_wants(place: Place) -> None:
    async with asking(place) as it:
        secret = "s:+ %é"[:5]
        it.provider.clients["a:b"] = secret
        await it.provide(client_id="a:b", client_secret=secret, client_authentication="basic", token_format="json")
        await it.put("connection", "halo", grant="client_credentials", provider="local")
        await it.given()
        (asked,) = it.provider.asked
        assert asked.client == ("a:b", secret)
        assert asked.parameters == {"grant_type": "client_credentials"}
        assert asked.headers["Content-Type"] == "application/json"


async def test_a_connections_values_stand_in_the_further_parameters_of_its_provider(place: Place) -> None:
    async with asking(place) as it:
        await it.provide(token_parameters={"account_id": "{account}", "claims": '{"a": {}}'}, token_headers={"X-Version": "7"})
        with pytest.raises(Invalid, match=r"parameters\.account is missing"):
            await it.put("connection", "halo", grant="client_credentials", provider="local")
        await it.put("connection", "halo", grant="client_credentials", provider="local", parameters={"account": "a&b={c}"})
        await it.given()
        (asked,) = it.provider.asked
        assert (asked.parameters["account_id"], asked.parameters["claims"]) == ("a&b={c}", '{"a": {}}')
        assert asked.headers["X-Version"] == "7"
        with pytest.raises(Invalid, match=r"token_headers\.Authorization"):
            await it.provide(token_headers={"Authorization": "Basic eA=="})


async def test_a_key_goes_where_its_provider_says(place: Place) -> None:
    async with asking(place) as it:
        await it.put("connection", "glue", grant="api_key", provider="it-glue-eu", token="the key")
        given = await it.given("glue")
        assert (given.headers, given.answer.base_url) == ({"x-api-key": "the key"}, "https://api.eu.itglue.com")
        # An organization's own provider of that name goes before the known one, and keeps what it does not say itself.
        await it.put("provider", "it-glue-eu", known="it-glue-eu", base_url="https://{site}.example.com/api", prefix="Key ")
        with pytest.raises(Invalid, match=r"parameters\.site"):
            await it.put("connection", "glue", grant="api_key", provider="it-glue-eu", token="the key")
        await it.put("connection", "glue", grant="api_key", provider="it-glue-eu", token="the key", parameters={"site": "acme"})
        given = await it.given("glue")
        assert (given.headers, given.answer.base_url) == ({"x-api-key": "Key the key"}, "https://acme.example.com/api")
        with pytest.raises(Invalid, match="no provider 'nobody'"):
            await it.put("connection", "none", grant="token", provider="nobody", token="the key")
        with pytest.raises(Invalid, match="has no token_url"):
            await it.put("connection", "none", grant="client_credentials", provider="it-glue", client_id="a", token="b")


async def test_a_persons_token_is_asked_for_and_refreshed_as_slack_has_it(place: Place) -> None:
    async with asking(place) as it:
        paths = {"token_path": "authed_user.access_token", "refreshed_path": "access_token"}
        await it.provide(scope_parameter="user_scope", scope_separator=",", **paths)
        await it.put("connection", "halo", grant="authorization_code", provider="local", scopes=["chat:write", "im:read"])
        asked, state = await it.begin()
        assert (asked["user_scope"], "scope" in asked) == ("chat:write,im:read", False)
        person = {"access_token": "user-1", "refresh_token": "again-1", "expires_in": 43_200, "token_type": "user"}
        refreshed = {"ok": True, "access_token": "user-2", "refresh_token": "again-2", "expires_in": 43_200, "token_type": "user"}
        bots = {"ok": True, "access_token": "bot-1", "token_type": "bot"}
        it.provider.faults = [answers(200, bots | {"authed_user": person}), answers(200, refreshed)]
        assert (await it.finish(state)).reason is None
        assert (await it.given()).headers == {"Authorization": "Bearer user-1"}
        await it.refresh()
        assert (await it.given()).token == "user-2"
        assert it.provider.asked[-1].parameters["refresh_token"] == "again-1"


async def test_a_connection_may_bring_a_client_of_its_own(place: Place) -> None:
    async with asking(place) as it:
        it.provider.clients["mine"] = "my-secret"
        await it.provide()
        await it.put("connection", "halo", grant="client_credentials", provider="local", client_id="mine", token="my-secret")
        await it.given()
        assert it.provider.asked[0].client == ("mine", "my-secret")


async def test_a_platforms_provider_serves_every_organization_until_it_has_one_of_the_name(place: Place) -> None:
    async with asking(place) as it:
        url = it.provider.url
        for org, client in (("global", "client"), ("other", "theirs")):
            it.provider.clients[client] = "client-secret"
            given = {"token_url": f"{url}/token", "client_id": client, "client_secret": "client-secret"}
            await it.put("provider", "local", org=org, **given)
        # The platform's own client would be its account, or another tenant's that has let it in.
        with pytest.raises(Invalid, match="client of 'global' gives others tokens only where a person authorizes") as refused:
            await it.put("connection", "halo", org="acme", grant="client_credentials", provider="local")
        assert refused.value.errors[0].path == "client_id"
        it.provider.clients["acmes"] = "acme-secret"
        await it.put(
            "connection", "halo", org="acme", grant="client_credentials", provider="local", client_id="acmes", token="acme-secret"
        )
        await it.put("connection", "halo", org="other", grant="client_credentials", provider="local")
        for org in ("acme", "other"):
            await it.given(org=org)
        assert [one.client[0] for one in it.provider.asked] == ["acmes", "theirs"]
        items, _ = await listed(it.gateway, "provider", org="acme")
        assert [(one.name, one.org) for one in items] == [("local", "global")]
        assert (await got(it.gateway, "provider", "local", org="other")).org == "other"


async def test_credentials_that_are_no_tokens_say_how_they_are_sent(place: Place) -> None:
    async with asking(place) as it:
        await it.put("connection", "halo", token="tok")
        await it.put("connection", "key", grant="api_key", token="k1", header="X-API-Key")
        await it.put("connection", "query", grant="api_key", token="k2", query="api_key", base_url="https://api.example")
        await it.put("connection", "user", grant="basic", username="me", token="päss")
        pair = base64.b64encode("me:päss".encode()).decode()
        assert (await it.given()).headers == {"Authorization": "Bearer tok"}
        assert (await it.given("key")).headers == {"X-API-Key": "k1"}
        query = await it.given("query")
        assert (query.headers, query.query, query.answer.base_url) == ({}, {"api_key": "k2"}, "https://api.example")
        assert (await it.given("user")).headers == {"Authorization": f"Basic {pair}"}
        assert {one.status for one in (await listed(it.gateway, "connection", org="acme"))[0]} == {"active"}


NO_CONNECTIONS: list[tuple[dict[str, Any], str]] = [
    ({"token": None}, "token"),
    ({"grant": "basic", "token": "x"}, "username"),
    ({"grant": "basic", "token": "x", "username": "me:x"}, "username"),
    ({"grant": "api_key", "token": "x", "query": "k", "header": "X"}, "query"),
    ({"token": "x", "header": "X Y"}, "header"),
    ({"token": "x", "prefix": "a\nb"}, "prefix"),
    ({"token": "x", "base_url": "https://user@host"}, "base_url"),
    ({"token": "x", "provider": "nobody"}, "provider"),
    ({"token": "x", "provider": "github", "client_id": "c"}, "client_id"),
    ({"token": "x", "parameters": {"tenant": "c"}}, "parameters"),
    ({"grant": "client_credentials"}, "provider"),
    ({"grant": "client_credentials", "provider": "nobody", "client_id": "c"}, "provider"),
    ({"grant": "client_credentials", "provider": "github"}, "client_id"),
    ({"grant": "client_credentials", "provider": "github", "token": "x"}, "client_id"),
    ({"grant": "client_credentials", "provider": "zendesk", "client_id": "c"}, "parameters.subdomain"),
    ({"grant": "authorization_code", "provider": "paypal", "client_id": "c"}, "provider"),
]
NO_PROVIDERS: list[tuple[dict[str, Any], str]] = [
    ({}, "token_url"),
    ({"known": "nobody"}, "known"),
    ({"token_url": "ftp://x/token"}, "token_url"),
    ({"token_url": "https://u:p@x.example/token"}, "token_url"),
    ({"token_url": "https://x.example/token#f"}, "token_url"),
    ({"token_url": "https://{host}/token"}, "token_url"),
    ({"token_url": "https://{host}.com/token"}, "token_url"),
    ({"token_url": "https://x{host}/token"}, "token_url"),
    ({"known": "github", "revoke_url": "https://x.example/{a}?b={c}"}, "revoke_url"),
    ({"known": "github", "client_secret": "s"}, "client_id"),
    ({"known": "github", "client_id": "c", "client_secret": "a\nb"}, "client_secret"),
]


@pytest.mark.parametrize(("noun", "name", "every"), [("connection", "halo", NO_CONNECTIONS), ("provider", "local", NO_PROVIDERS)])
async def test_what_makes_no_connection_or_provider_is_refused_naming_the_field(
    place: Place, noun: str, name: str, every: list[tuple[dict[str, Any], str]]
) -> None:
    async with asking(place) as it:
        for wrong, path in every:
            with pytest.raises(Invalid) as refused:
                await it.put(noun, name, **wrong)
            assert path in [one.path for one in refused.value.errors], wrong


async def test_a_value_cannot_lead_a_templated_host_elsewhere(place: Place) -> None:
    async with asking(place) as it:
        it_is = {"grant": "client_credentials", "client_id": "c", "token": "s"}
        await it.put("provider", "free", token_url="https://{domain}/token", hosts=["*.example.com"])

        async def refused(provider: str, **parameters: str) -> None:
            with pytest.raises(Invalid):
                await it.put("connection", "halo", provider=provider, **it_is, parameters=parameters)

        for value in ("evil.com/", "evil.com#", "a@evil.com", "evil.com:80", "..", "A", "", "a b", "%2e", "evil.com\\"):
            await refused("zendesk", subdomain=value)
            await refused("free", domain=value)
        for domain in ("evil.com", "example.com", "example.com.evil.com", "notexample.com"):
            await refused("free", domain=domain)
        await it.put("connection", "halo", provider="free", **it_is, parameters={"domain": "a.example.com"})


async def test_a_provider_within_the_house_is_never_asked(place: Place) -> None:
    """Not by its address, not by a name, and not where a redirect leads: nothing reaches it."""
    async with local_provider() as provider, bus_of(place, "gateway") as gateway, bus_of(place, "executor") as executor:
        async with running(place, "oauth"):
            it = Asking(place, provider, gateway, executor)
            for name, host in (("number", "127.0.0.1"), ("name", "localhost")):
                url = f"{provider.url.replace('127.0.0.1', host)}/token"
                await it.put("provider", name, token_url=url, client_id="client", client_secret="client-secret")
                await it.put("connection", name, grant="client_credentials", provider=name)
                with pytest.raises(Unavailable, match="may not be fetched from") as refused:
                    await it.given(name)
                assert "client-secret" not in refused.value.detail
                shown = await it.shown(name)
                assert (shown.status, shown.reason.startswith("refused by the egress policy: ")) == ("degraded", True)
                assert "MILLRACE_EGRESS_ALLOW" in shown.advice
        assert provider.asked == []


async def test_a_provider_stays_as_long_as_connections_refer_to_it(place: Place) -> None:
    async with asking(place) as it:
        own = {"grant": "client_credentials", "client_id": "c", "token": "s"}
        for org, mine in (("global", "one"), ("acme", "two"), ("other", "three")):
            await it.put("provider", "local", org=org, token_url=f"{it.provider.url}/token")
            await it.put("connection", mine, org=org, provider="local", **own)
        await it.gateway.ask(resources.removing("connection", "three", org="other"))
        await it.gateway.ask(resources.removing("provider", "local", org="other"))
        await it.put("connection", "four", org="other", provider="local", **own)
        # The platform's is that of whoever has none of that name.
        for org, named in (("acme", "two"), ("global", "four of other, one")):
            with pytest.raises(Conflict, match=f"connections refer to provider 'local', remove them first: {named}$"):
                await it.gateway.ask(resources.removing("provider", "local", org=org))
        # One that has gone all the same is named.
        connection = await asyncpg.connect(place.database_url("oauth"))
        await connection.execute("DELETE FROM vault WHERE noun = 'provider'")
        await connection.close()
        with pytest.raises(Invalid, match="there is no provider 'local'"):
            await it.given("two")


async def test_a_removed_connection_takes_its_token_along(place: Place) -> None:
    async with asking(place) as it:
        await it.provide()
        await it.put("connection", "halo", grant="client_credentials", provider="local")
        await it.given()
        await it.gateway.ask(resources.removing("connection", "halo", org="acme"))
        with pytest.raises(NotFound):
            await it.given()
        await it.put("connection", "halo", grant="client_credentials", provider="local")
        assert (await it.given()).token == "access-token-2-secret"
