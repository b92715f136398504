"""The oauth service with a server made of Authlib's: another reading of the same documents."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from shared.errors import Unavailable
from tests.support import resources
from tests.support.authlib_server import second_server
from tests.support.connections import CALLBACK, Asking, asking
from tests.support.inside import eventually
from tests.support.servers import Place

# What a header has to escape, and what a form has to.
SECRET = "a secret: 100% of+it/&="


async def agreed(it: Asking, name: str) -> dict[str, str]:
    """Have a person agree; return what they bring back."""
    asked = await it.begun(name)
    async with aiohttp.ClientSession() as session, session.get(asked, allow_redirects=False) as response:
        assert response.status == 302, await response.text()
        location = response.headers["Location"]
    assert location.startswith(f"{CALLBACK}?")
    return {name: one[0] for name, one in parse_qs(urlsplit(location).query).items()}


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_a_grant_is_got_rotated_and_revoked(place: Place, method: str) -> None:
    async with second_server(CALLBACK, secret=SECRET, method=method) as server, asking(place) as it:
        await it.put("provider", "second", issuer=server.url, client_id="a client", client_secret=SECRET)
        await it.put("connection", "halo", grant="authorization_code", provider="second", scopes=["read", "write"])
        brought = await agreed(it, "halo")
        assert brought["iss"] == server.url
        ended = await it.finish(brought["state"], brought["code"], iss=brought["iss"])
        assert ended.reason is None, server.refused
        # It grants less than was asked for.
        assert (await it.shown()).granted_scope == "read"
        first = (await it.given()).token
        assert server.of(first)
        for _ in range(3):
            await it.refresh()
        tokens: list[Any] = [one.document["access_token"] for one in server.issued]
        assert (len(tokens), len(set(tokens)), tokens[0], tokens[-1]) == (4, 4, first, (await it.given()).token)
        assert [bool(one.live) for one in server.issued] == [False] * 3 + [True]
        # A code of before, with a verifier of now.
        again = await agreed(it, "halo")
        refused = await it.finish(again["state"], brought["code"], iss=brought["iss"])
        assert "invalid_grant" in (refused.reason or "")
        await it.gateway.ask(resources.removing("connection", "halo", org="acme"))

        async def revoked() -> bool:
            return not server.issued[-1].live

        await eventually(revoked)
        assert server.refused == ["invalid_grant"]


async def test_a_client_gets_tokens_of_its_own(place: Place) -> None:
    async with second_server(CALLBACK, secret=SECRET, method="client_secret_basic") as server, asking(place) as it:
        await it.put("provider", "second", issuer=server.url, client_id="a client", client_secret=SECRET)
        await it.put("connection", "own", grant="client_credentials", provider="second", scopes=["read"])
        found = await asyncio.gather(*(it.given("own") for _ in range(5)))
        assert {one.token for one in found} == {server.issued[0].document["access_token"]}


async def test_what_a_key_has_signed_is_taken_for_a_token_in_the_name_that_it_says(place: Place) -> None:
    key = rsa.generate_private_key(65537, 2048)
    pem, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    public = key.public_key().public_bytes(pem, form).decode()
    async with second_server(CALLBACK, secret=public, method="private_key_jwt") as server, asking(place) as it:
        await it.put("provider", "second", issuer=server.url, client_id="a client", client_secret=private)
        await it.put("connection", "ada", grant="jwt_bearer", provider="second", scopes=["read"], subject="ada")
        assert server.of((await it.given("ada")).token)
        await it.put("connection", "eve", grant="jwt_bearer", provider="second", scopes=["read"], subject="eve")
        with pytest.raises(Unavailable, match="invalid_grant"):
            await it.given("eve")
        assert (await it.shown("eve")).status == "degraded"
