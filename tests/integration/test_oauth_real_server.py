"""The oauth service with a server that others wrote, which is certified for OpenID Connect, and a person with a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest_asyncio

from tests.integration.test_integrations_api import Api
from tests.support.browser import Page, browsing
from tests.support.connections import Asking, asking_processes
from tests.support.inside import running
from tests.support.peers import Peer, browser_program, oidc_peer
from tests.support.servers import Servers

ORG = "default"


class House:
    """The API, two processes of the service, the server of others, and a person's browser."""

    def __init__(self, call: Api, it: Asking, peer: Peer, page: Page) -> None:
        self.call = call
        self.it = it
        self.peer = peer
        self.page = page
        self.callback = f"{call.url}/oauth/callback"

    async def put(self, path: str, **fields: Any) -> None:
        """Put a resource over the API."""
        status, document = await self.call("PUT", path, fields)
        assert status == 200, document

    async def client(self, name: str, *grants: str, **metadata: Any) -> dict[str, Any]:
        """Have a provider of that name, known by its issuer, with a client that has registered itself there; return the client."""
        usual: dict[str, Any] = {"grant_types": list(grants)}
        if "authorization_code" in grants:
            usual |= {"response_types": ["code"], "redirect_uris": [self.callback]}
        made = await self.peer.register(**usual | metadata)
        secret = {"client_secret": made["client_secret"]} if "client_secret" in made else {}
        more = {"authorize_parameters": {"prompt": "consent"}, "scopes": ["openid", "offline_access", "tickets"]}
        await self.put(
            f"/providers/{name}",
            issuer=self.peer.issuer,
            client_id=made["client_id"],
            **secret | (more if "refresh_token" in grants else {}),
        )
        return made

    async def begin(self, name: str) -> str:
        """Begin an authorization; return the address for the person."""
        status, begun = await self.call("POST", f"/connections/{name}/authorize")
        assert status == 200, begun
        return str(begun["url"])

    async def agree(self, url: str) -> str:
        """Sign in where the server asks for it, and agree; return what the page says in the end."""
        await self.page.open(url)
        prompt = "document.querySelector('[name=prompt]')?.value"
        if await self.page.until(prompt) == "login":
            await self.page.fill("[name=login]", "ada")
            await self.page.fill("[name=password]", "a password")
            await self.page.press("[type=submit]")
        await self.page.until(f"{prompt} === 'consent'")
        await self.page.press("[type=submit]")
        await self.page.until(f"location.href.startsWith('{self.callback}') && document.readyState === 'complete'")
        return await self.page.text()

    async def connect(self, name: str, **metadata: Any) -> dict[str, Any]:
        """Have a connection that a person has authorized; return its client."""
        client = await self.client(name, "authorization_code", "refresh_token", **metadata)
        await self.put(f"/connections/{name}", grant="authorization_code", provider=name)
        said = await self.agree(await self.begin(name))
        assert "is authorized" in said, said
        return client

    async def token(self, name: str) -> str:
        """Ask for a token as a run does."""
        return (await self.it.given(name, org=ORG)).token

    async def shown(self, name: str) -> dict[str, Any]:
        """Return a connection as it is shown."""
        _, shown = await self.call("GET", f"/connections/{name}")
        return dict(shown)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(servers: Servers) -> AsyncIterator[House]:
    program = browser_program()
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(oidc_peer())
        page = await stack.enter_async_context(browsing(program))
        place = await stack.enter_async_context(servers.place())
        it, _ = await stack.enter_async_context(asking_processes(place, 2))
        gateway = await stack.enter_async_context(running(place, "gateway", MILLRACE_PORT="0"))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        call = Api(session, gateway.health.document()["url"], place.credentials.admin_key)
        yield House(call, it, peer, page)


async def test_a_person_signs_in_agrees_and_sees_that_it_is_connected(house: House) -> None:
    client = await house.client("code", "authorization_code", "refresh_token")
    await house.put("/connections/code", grant="authorization_code", provider="code")
    url = await house.begin("code")
    # Its addresses are those that the issuer announces; nothing else was said of them.
    assert url.startswith(f"{house.peer.issuer}/auth?")
    assert parse_qs(urlsplit(url).query)["code_challenge_method"] == ["S256"]
    said = await house.agree(url)
    assert "Connected" in said
    assert "'code' of 'default' is authorized" in said
    # The server names itself, as its metadata promises; an answer without that would have been refused.
    query = {name: one[0] for name, one in parse_qs(urlsplit(await house.page.value("location.href")).query).items()}
    assert query["iss"] == house.peer.issuer
    shown = await house.shown("code")
    assert (shown["status"], shown["granted_scope"]) == ("healthy", "openid offline_access tickets")
    assert await house.peer.is_active(client, await house.token("code"))
