"""Connections that are tested: by what their provider has for that, and never by a guess."""

from __future__ import annotations

from typing import Any

import pytest

from shared.envelope import new_id
from shared.errors import NotFound
from shared.questions.oauth import ConnectionTested, TryConnection
from tests.support.connections import Asking, asking
from tests.support.oauth_provider import answers
from tests.support.servers import Place


async def outcome_of(it: Asking, name: str, org: str = "acme") -> tuple[str, str | None, str]:
    """Have a connection tested; return the outcome, the address that it is by, and the words."""
    found: ConnectionTested = await it.gateway.ask(TryConnection(id=new_id(), org=org, actor="key:k1", name=name))
    return found.outcome, found.by, found.detail


async def by(it: Asking, name: str, **more: Any) -> None:
    """Have a connection of that name by a provider of that name."""
    usual = {"token_url": f"{it.provider.url}/token", "client_id": "client", "client_secret": "client-secret"}
    await it.put("provider", name, **usual | more)
    await it.put("connection", name, grant="client_credentials", provider=name)


async def test_a_connection_is_tested_by_what_its_provider_has_for_that(place: Place) -> None:
    async with asking(place) as it:
        provider, url = it.provider, it.provider.url
        await by(it, "api", test_url=f"{url}/api", introspect_url=f"{url}/introspect")
        assert await outcome_of(it, "api") == ("works", "test_url", f"{url.removeprefix('http://')} answered 200")
        for status, outcome in ((401, "broken"), (403, "unknown"), (302, "unknown"), (500, "unknown")):
            provider.api_status = status
            found, _, words = await outcome_of(it, "api")
            assert (found, str(status) in words, "secret" in words) == (outcome, True, False)
            assert ("millrace connections refresh api" in words) == (outcome == "broken")
        provider.api_status = 0
        # A key of an API is one as well, wherever it is sent.
        await it.put("provider", "keys", token_url=f"{url}/token", test_url=f"{url}/api?a=b")
        for token, outcome in (("k1", "works"), ("k2", "broken")):
            await it.put("connection", "key", grant="api_key", token=token, query="key", provider="keys")
            assert (await outcome_of(it, "key"))[0] == outcome
        assert provider.called[-2:] == ["k1", "k2"]
        # What an issuer announces is enough.
        issuer = provider.announce(introspection_endpoint=f"{url}/introspect", userinfo_endpoint=f"{url}/api")
        await by(it, "issuer", token_url=None, issuer=issuer)
        assert (await outcome_of(it, "issuer"))[:2] == ("works", "introspect_url")
        provider.given.clear()
        assert (await outcome_of(it, "issuer"))[:2] == ("broken", "introspect_url")
        await by(it, "person", userinfo_url=f"{url}/api", scopes=["openid", "email"])
        assert (await outcome_of(it, "person"))[:2] == ("works", "userinfo_url")
        # Without such an address nobody knows, and nothing is sent.
        called = len(provider.called)
        await by(it, "other", userinfo_url=f"{url}/api")
        await it.put("connection", "plain", token="tok")
        for name in ("other", "plain"):
            assert (await outcome_of(it, name))[0] == "unknown"
        assert len(provider.called) == called
        # Without a live token it is broken, with the reason; what cannot be reached says nothing about it.
        provider.faults = [answers(500)]
        await by(it, "down", test_url=f"{url}/api")
        found, way, words = await outcome_of(it, "down")
        assert (found, way, "answered 500" in words) == ("broken", "token", True)
        await by(it, "away", test_url="http://127.0.0.1:9/api")
        assert (await outcome_of(it, "away"))[0] == "unknown"
        for name, org in (("api", "other"), ("nobody", "acme")):
            with pytest.raises(NotFound):
                await outcome_of(it, name, org)
