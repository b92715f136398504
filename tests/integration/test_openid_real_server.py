"""A person signs in at a server that others wrote, certified for OpenID Connect, in a real browser, and signs out again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest_asyncio

from services.gateway.api.openid import COOKIE
from shared.questions.logs import TailLogs, TailPage
from tests.integration.test_gateway import Client, answering, gateway
from tests.integration.test_sessions import following, is_cut
from tests.support.browser import Page, browsing
from tests.support.connections import ALLOWED
from tests.support.inside import running
from tests.support.peers import Peer, browser_program, oidc_peer
from tests.support.servers import Place, Servers
from tests.support.signing_in import Browser

PROMPT = "document.querySelector('[name=prompt]')?.value"


class House:
    """A gateway, a server of others by which people sign in, and a person's browser."""

    def __init__(self, place: Place, client: Client, peer: Peer, page: Page) -> None:
        self.place = place
        self.client = client
        self.peer = peer
        self.page = page

    async def provide(self, name: str, **spec: Any) -> None:
        """Have an identity provider of that name, with a client that has registered itself."""
        url = self.client.url
        made = await self.peer.register(
            grant_types=["authorization_code"],
            response_types=["code"],
            redirect_uris=[f"{url}/auth/callback"],
            post_logout_redirect_uris=[f"{url}/auth/signed-out"],
            **spec.pop("registered", {}),
        )
        secret = {"client_secret": made["client_secret"]} if "client_secret" in made else {}
        given = {"issuer": self.peer.issuer, "client_id": made["client_id"], "scopes": ["profile", "email", "groups"]}
        body = given | {"groups": {"dev": {"acme": "developer"}}, "just_in_time": True} | secret | spec
        got = await self.client("PUT", f"/api/v1/identity-providers/{name}", json=body)
        assert got.status == 200, got.body
        assert (got.json["redirect_url"], got.json["warnings"]) == (f"{url}/auth/callback", [])

    async def sign_in(self, login: str) -> None:
        """Sign in at the server, up to its question whether to agree."""
        await self.page.fill("[name=login]", login)
        await self.page.fill("[name=password]", "a password")
        await self.page.press("[type=submit]")
        await self.page.until(f"{PROMPT} === 'consent'")

    async def comes_to(self, path: str) -> str:
        """Wait until the browser is at a path of the gateway; return what the person reads."""
        await self.page.until(f"location.href.startsWith('{self.client.url}{path}') && document.readyState === 'complete'")
        return await self.page.text()

    async def me(self) -> Any:
        """Return what the browser is told of who is signed in."""
        await self.page.open(f"{self.client.url}/api/v1/me")
        return json.loads(await self.comes_to("/api/v1/me"))

    async def session(self) -> Browser:
        """Return the session that the browser has."""
        found = await self.page.command("Network.getCookies", urls=[self.client.url])
        (value,) = [one["value"] for one in found["result"]["cookies"] if one["name"] == "millrace-session"]
        return Browser(self.client.url, value)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(servers: Servers) -> AsyncIterator[House]:
    program = browser_program()
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(oidc_peer())
        page = await stack.enter_async_context(browsing(program))
        place = await stack.enter_async_context(servers.place())
        await stack.enter_async_context(running(place, "oauth", **ALLOWED))
        client = await stack.enter_async_context(gateway(place))
        yield House(place, client, peer, page)


async def test_a_person_signs_in_loses_the_role_with_its_stream_has_it_again_and_signs_out_at_both(house: House) -> None:
    async def page(_question: Any, _deps: Any) -> TailPage:
        return TailPage(items=[], position="1", dropped=0, more=False)

    await house.provide("company")
    await house.peer.group("ada", "dev", "others")
    await house.page.open(f"{house.client.url}/sign-in?next=/api/v1/me")
    await house.page.press("#providers a[href*='/auth/company']")
    await house.page.until(f"{PROMPT} === 'login'")
    await house.sign_in("ada")
    await house.page.press("[type=submit]")
    # Not by the server, of another site, which could lead a browser to nothing that takes a session.
    me = json.loads(await house.comes_to("/api/v1/me"))
    assert (me["name"], me["email"], me["roles"], me["method"]) == ("ada", "ada@acme.example", {"acme": "developer"}, "openid")
    session = await house.session()
    async with answering(house.place, "logs", {TailLogs: page}), following(house.client, session) as response:
        await house.peer.group("ada", "others")
        await house.page.open(f"{house.client.url}/auth/company")
        assert "none of your groups at the provider gives you a role here" in await house.comes_to("/auth/callback")
        await is_cut(response)
    assert (await house.me())["status"] == 401
    await house.peer.group("ada", "dev")
    await house.page.open(f"{house.client.url}/auth/company")
    assert "You are signed in as 'ada'" in await house.comes_to("/auth/callback")
    assert (await house.me())["roles"] == {"acme": "developer"}
    await house.page.open(f"{house.client.url}/sign-in")
    await house.page.until("document.querySelector('#signed-in')?.hidden === false")
    await house.page.press("#out")
    await house.page.press("[name=logout]")
    assert "You are signed out" in await house.comes_to("/auth/signed-out")
    assert (await house.me())["status"] == 401
    # The server knows nobody either.
    await house.page.open(f"{house.client.url}/auth/company")
    assert await house.page.until(PROMPT) == "login"


async def test_a_browser_that_did_not_begin_is_signed_in_by_nobodys_link(house: House) -> None:
    # A public client, which has PKCE alone.
    await house.provide("public", registered={"token_endpoint_auth_method": "none"})
    await house.peer.group("bob", "dev")
    await house.page.open(f"{house.client.url}/auth/public")
    await house.sign_in("bob")
    await house.page.command("Network.deleteCookies", name=COOKIE, url=f"{house.client.url}/auth/callback")
    before = await house.peer.seen()
    await house.page.press("[type=submit]")
    assert "begun in another browser" in await house.comes_to("/auth/callback")
    assert await house.peer.seen() == before
    assert (await house.me())["status"] == 401
    # The next one is its own.
    await house.page.open(f"{house.client.url}/auth/public")
    assert "You are signed in as 'bob'" in await house.comes_to("/auth/callback")
