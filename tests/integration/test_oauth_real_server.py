"""The oauth service with a server that others wrote, which is certified for OpenID Connect, and a person with a browser."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import asyncpg
import msgspec
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.gateway.api.authorizing import COOKIE
from services.oauth.domain import token_place
from services.oauth.policy import NEAR
from services.oauth.sealed_tokens import Tokens
from shared.errors import Unavailable
from shared.jose import encoded
from shared.questions.oauth import GetAskedAuthorization
from tests.integration.test_integrations_api import Api
from tests.integration.test_run_capabilities import Inside
from tests.support.browser import Page, browsing
from tests.support.connections import ALLOWED, Asking, asking_processes
from tests.support.inside import eventually, running
from tests.support.peers import Peer, browser_program, oidc_peer
from tests.support.resources import ring
from tests.support.sandbox import TIERS, UID, reachable_interpreter
from tests.support.servers import Servers
from tests.support.signing_in import browser_of

ORG = "default"
SCOPES = ["openid", "offline_access", "tickets"]
# Enough to see that nothing is lost; 200 take some minutes.
ROTATIONS = int(os.environ.get("MILLRACE_TEST_ROTATIONS", "12"))


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

    async def client(self, name: str, *grants: str, provider: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
        """Have a provider of that name, known by its issuer, with a client that has registered itself there; return the client."""
        usual: dict[str, Any] = {"grant_types": list(grants)}
        if "authorization_code" in grants:
            usual |= {"response_types": ["code"], "redirect_uris": [self.callback]}
        made = await self.peer.register(**usual | metadata)
        given = {"issuer": self.peer.issuer, "client_id": made["client_id"]}
        if "client_secret" in made:
            given["client_secret"] = made["client_secret"]
        await self.put(f"/providers/{name}", **given | (provider or {}))
        return made

    async def begin(self, name: str) -> str:
        """Begin an authorization; return the address for the person."""
        status, begun = await self.call("POST", f"/connections/{name}/authorize")
        assert status == 200, begun
        return str(begun["url"])

    async def go_on(self, url: str) -> None:
        """Open the address of an authorization, and go on to the server from the page that says who asks for what."""
        await self.page.open(url)
        await self.page.press("[type=submit]")
        await self.page.until(f"location.href.startsWith('{self.peer.issuer}') && document.readyState === 'complete'")

    async def sign_in(self) -> None:
        """Sign in where the server asks for it, up to its question whether to agree."""
        prompt = "document.querySelector('[name=prompt]')?.value"
        if await self.page.until(prompt) == "login":
            await self.page.fill("[name=login]", "ada")
            await self.page.fill("[name=password]", "a password")
            await self.page.press("[type=submit]")
        await self.page.until(f"{prompt} === 'consent'")

    async def agree(self, url: str, *, by: str = "[type=submit]") -> str:
        """Sign in, press a button, and return what the page says that the person comes back to."""
        await self.go_on(url)
        await self.sign_in()
        return await self.decide(by)

    async def decide(self, by: str = "[type=submit]") -> str:
        """Press a button of the server's, and return what the page says that the person comes back to."""
        await self.page.press(by)
        await self.page.until(f"location.href.startsWith('{self.callback}') && document.readyState === 'complete'")
        return await self.page.text()

    async def brought_back(self) -> dict[str, str]:
        """Return what the server has given the browser along."""
        return {name: one[0] for name, one in parse_qs(urlsplit(await self.page.value("location.href")).query).items()}

    async def come_back(self, **query: str) -> str:
        """Come back with a query string; return what the page says."""
        await self.page.open(f"{self.callback}?{urlencode(query)}")
        await self.page.until(f"location.search.includes('{query['state']}') && document.readyState === 'complete'")
        return await self.page.text()

    async def connect(self, name: str, **more: Any) -> dict[str, Any]:
        """Have a connection that a person has authorized; return its client."""
        provider = {"authorize_parameters": {"prompt": "consent"}, "scopes": SCOPES} | more.pop("provider", {})
        client = await self.client(name, "authorization_code", "refresh_token", provider=provider, **more)
        await self.put(f"/connections/{name}", grant="authorization_code", provider=name)
        said = await self.agree(await self.begin(name))
        assert "is authorized" in said, said
        return client

    async def tokens(self, name: str) -> Tokens:
        """Return the tokens that are stored for a connection."""
        id_ = (await self.shown(name))["id"]
        sealed = await self.stored("SELECT sealed FROM token WHERE connection = $1", id_)
        return msgspec.json.decode(ring(self.it.place).open(sealed, *token_place(ORG, id_)), type=Tokens)

    async def stored(self, statement: str, *values: str) -> Any:
        """Return the one value of a statement about what the service has stored."""
        connection = await asyncpg.connect(self.it.place.database_url("oauth"))
        try:
            return await connection.fetchval(statement, *values)
        finally:
            await connection.close()

    async def refreshed(self, name: str) -> tuple[int, dict[str, Any]]:
        """Demand another token; return the status and the answer."""
        return await self.call("POST", f"/connections/{name}/refresh")

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
    client = await house.connect("code")
    url = await house.begin("code")
    # Its addresses are those that the issuer announces; nothing else was said of them.
    state = parse_qs(urlsplit(url).query)["state"][0]
    leads = (await house.it.gateway.ask(GetAskedAuthorization(org="global", state=state))).url
    assert leads.startswith(f"{house.peer.issuer}/auth?")
    assert parse_qs(urlsplit(leads).query)["code_challenge_method"] == ["S256"]
    said = await house.agree(url)
    assert "Connected" in said
    assert "'code' of 'default' is authorized" in said
    # The server names itself, as its metadata promises.
    assert (await house.brought_back())["iss"] == house.peer.issuer
    shown = await house.shown("code")
    assert (shown["status"], shown["granted_scope"]) == ("healthy", " ".join(SCOPES))
    token = await house.token("code")
    assert await house.peer.is_active(client, token)
    # The server is asked whether it is good, and is believed when it is not any more.
    assert (await house.call("POST", "/connections/code/test"))[1]["outcome"] == "works"
    await house.peer.revoke(client, token)
    assert (await house.call("POST", "/connections/code/test"))[1]["outcome"] == "broken"


async def test_a_connection_is_authorized_from_its_page_of_the_console(house: House) -> None:
    await house.client("shown", "authorization_code")
    await house.put("/connections/shown", grant="authorization_code", provider="shown", scopes=SCOPES)
    status, user = await house.call("PUT", "/users/ada", {"roles": {ORG: "developer"}})
    assert status == 200, user
    session = await browser_of(house.it.place, house.call, user)
    status_of = "document.querySelector('main .status')?.innerText"
    async with browsing(browser_program()) as page:
        await page.command("Network.enable")
        await page.command("Network.setCookie", name="millrace-session", value=session.value, url=house.call.url)
        await page.open(f"{house.call.url}/console/connections/shown")
        await page.until(f"{status_of} === 'pending'")
        # Where the window would go another browser goes: its person is another one.
        await page.value("window.open = () => ({location: {replace: to => { window.leads = to }}, close: () => undefined})")
        press = "[...document.querySelectorAll('button')].find(one => one.innerText === 'Authorize')"
        await page.until(f"(one => one && (one.click(), true))({press})")
        assert "Connected" in await house.agree(str(await page.until("window.leads")))
        await page.until(f"{status_of} === 'healthy'")


async def test_a_person_who_does_not_agree_reads_that_it_is_not_connected(house: House) -> None:
    await house.client("refused", "authorization_code")
    await house.put("/connections/refused", grant="authorization_code", provider="refused", scopes=["openid"])
    said = await house.agree(await house.begin("refused"), by="a[href$=abort]")
    assert "Not connected" in said
    assert "the provider says that it was not allowed" in said
    assert (await house.shown("refused"))["status"] == "pending"


async def test_a_browser_that_has_not_opened_the_address_brings_nothing_back(house: House) -> None:
    await house.client("strange", "authorization_code")
    await house.put("/connections/strange", grant="authorization_code", provider="strange", scopes=["openid"])
    await house.go_on(await house.begin("strange"))
    await house.sign_in()
    # As another one would be: without the cookie of that page.
    await house.page.command("Network.deleteCookies", name=COOKIE, url=house.callback)
    before = await house.peer.seen()
    assert "begun in another browser" in await house.decide()
    assert await house.peer.seen() == before
    assert (await house.shown("strange"))["status"] == "pending"


async def test_an_answer_without_the_issuer_or_with_another_one_is_refused(house: House) -> None:
    await house.client("mixed", "authorization_code")
    await house.put("/connections/mixed", grant="authorization_code", provider="mixed", scopes=["openid"])
    before = await house.peer.seen()
    for more in ({}, {"iss": "https://evil.example"}):
        await house.go_on(url := await house.begin("mixed"))
        state = parse_qs(urlsplit(url).query)["state"][0]
        said = await house.come_back(state=state, code="a code", **more)
        assert ("another issuer" if more else "does not say which issuer's") in said
    assert await house.peer.seen() == before


async def test_a_grant_that_cannot_be_refreshed_says_so_once_it_is_tried_and_gives_its_token_until_that_ends(house: House) -> None:
    client = await house.connect("once", provider={"scopes": ["openid"]})
    assert (await house.shown("once"))["granted_scope"] == "openid"
    served = await house.token("once")
    before = await house.peer.seen()
    status, said = await house.refreshed("once")
    assert (status, "authorize it again" in said["detail"]) == (409, True)
    assert (await house.shown("once"))["status"] == "healthy"
    assert await house.token("once") == served
    assert await house.peer.seen() == before
    assert await house.peer.is_active(client, served)


async def test_a_code_that_was_used_is_refused_by_the_service_and_by_the_server(house: House) -> None:
    client = await house.connect("replayed")
    used, token = await house.brought_back(), await house.token("replayed")
    exchanged = (await house.peer.seen())["grants"]["authorization_code"]
    assert "used already" in await house.come_back(**used)
    # Sent with a `state` of today it meets another verifier than the one that it was given for.
    await house.go_on(url := await house.begin("replayed"))
    state = parse_qs(urlsplit(url).query)["state"][0]
    assert "invalid_grant" in await house.come_back(**used | {"state": state})
    seen = await house.peer.seen()
    assert seen["refusals"][-1] == ["authorization_code", "invalid_grant", "code_verifier does not match code_challenge"]
    assert seen["grants"]["authorization_code"] == exchanged
    # Nobody loses what was authorized before.
    assert await house.token("replayed") == token
    assert await house.peer.is_active(client, token)


async def test_a_persons_token_is_exchanged_for_one_of_another_client_for_as_long_as_it_counts(house: House) -> None:
    grant = "urn:ietf:params:oauth:grant-type:token-exchange"
    person = await house.connect("person")
    provider = {"token_parameters": {"audience": "https://tickets.example"}, "scopes": ["tickets"]}
    client = await house.client("exchanging", grant, provider=provider)
    await house.put("/connections/exchanged", grant="token_exchange", provider="exchanging", exchanges="person")
    # Asked for by many at once it is exchanged once.
    tokens = set(await asyncio.gather(*(house.token("exchanged") for _ in range(10))))
    token = tokens.pop()
    assert (tokens, (await house.peer.seen())["grants"][grant]) == (set(), 1)
    whose = {"client": client["client_id"], "account": "ada", "scope": "tickets", "audience": "https://tickets.example"}
    assert await house.peer.tickets(token) == whose
    assert (await house.shown("exchanged"))["granted_scope"] == "tickets"
    # Another one is got by exchanging the subject's token of then.
    assert (await house.refreshed("person"))[0] == 200
    assert (await house.refreshed("exchanged"))[0] == 200
    assert await house.token("exchanged") != token
    # A scope that the subject's token has not is refused, which is a mistake in the settings and ends no grant.
    await house.put(
        "/connections/wide", grant="token_exchange", provider="exchanging", exchanges="person", scopes=["tickets", "more"]
    )
    with pytest.raises(Unavailable, match="invalid_scope"):
        await house.token("wide")
    assert (await house.shown("wide"))["status"] == "degraded"
    # So is a token that does not count any more, until the person's connection has another one.
    await house.peer.revoke(person, await house.token("person"))
    assert (await house.refreshed("exchanged"))[0] == 503
    refusals = (await house.peer.seen())["refusals"]
    assert [refusal[:2] for refusal in refusals[-2:]] == [[grant, "invalid_scope"], [grant, "invalid_grant"]]
    shown = await house.shown("exchanged")
    assert ("invalid_grant" in shown["reason"], (await house.shown("person"))["status"]) == (True, "healthy")


async def test_two_processes_and_50_who_ask_at_once_rotate_a_token_many_times_and_its_family_lives(house: House) -> None:
    client = await house.connect("rotated")
    granted = (await house.peer.seen())["grants"].get("refresh_token", 0)
    first, tokens = await house.tokens("rotated"), set()
    for _ in range(ROTATIONS):
        await house.it.expire()
        found = await asyncio.gather(*(house.it.patient("rotated", org=ORG) for _ in range(50)))
        assert len(set(found)) == 1
        tokens |= set(found)
    seen = await house.peer.seen()
    assert len(tokens) == ROTATIONS == seen["grants"]["refresh_token"] - granted
    last = await house.tokens("rotated")
    assert await house.peer.is_active(client, last.access_token)
    assert await house.peer.is_active(client, last.refresh_token or "")
    # The same server ends a family where an old token comes again: what was rotated above was never sent twice.
    status, answer = await house.peer.post("/token", client, grant_type="refresh_token", refresh_token=first.refresh_token or "")
    assert (status, answer["error"]) == (400, "invalid_grant")
    assert not await house.peer.is_active(client, last.access_token)
    assert (await house.refreshed("rotated"))[0] == 409
    assert (await house.shown("rotated"))["status"] == "needs_reauthorization"


async def test_a_person_who_authorizes_anew_while_the_token_is_refreshed_keeps_what_they_have_authorized(house: House) -> None:
    client = await house.connect("anew")
    await house.it.expire()
    await house.peer.hold_next()
    late = asyncio.create_task(house.it.given("anew", org=ORG))

    async def held() -> bool:
        return bool((await house.peer.seen())["held"])

    await eventually(held)
    assert "is authorized" in await house.agree(await house.begin("anew"))
    newer = await house.tokens("anew")
    await house.peer.release()
    # To this server both are one grant: had what came too late been revoked, all of it would have ended.
    assert (await late).token == newer.access_token
    assert (await house.refreshed("anew"))[0] == 200
    assert await house.peer.is_active(client, await house.token("anew"))


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt"])
async def test_a_client_gets_a_token_of_its_own_however_it_shows_who_it_is(house: House, method: str) -> None:
    name = method.replace("_", "-")
    provider: dict[str, Any] = {"client_authentication": name.removeprefix("client-secret-")}
    metadata: dict[str, Any] = {"token_endpoint_auth_method": method}
    if method == "client_secret_jwt":
        provider = {"client_authentication": method}
    if method == "private_key_jwt":
        # Nothing has to be said of a key.
        key = ec.generate_private_key(ec.SECP256R1())
        numbers = key.public_key().public_numbers()
        x, y = (encoded(one.to_bytes(32, "big")) for one in (numbers.x, numbers.y))
        metadata["jwks"] = {"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "x": x, "y": y}]}
        form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        provider = {"client_secret": key.private_bytes(serialization.Encoding.PEM, form, plain).decode(), "key_id": "k1"}
    client = await house.client(name, "client_credentials", provider=provider, **metadata)
    await house.put(f"/connections/{name}", grant="client_credentials", provider=name, scopes=["tickets"])
    first = await house.token(name)
    assert await house.peer.tickets(first) == {"client": client["client_id"], "account": None, "scope": "tickets"}
    # Each of its assertions is another one: the server takes none twice.
    assert (await house.refreshed(name))[0] == 200
    assert await house.token(name) != first


async def test_a_connection_that_is_removed_is_revoked_at_the_server(house: House) -> None:
    client = await house.connect("gone")
    tokens = await house.tokens("gone")
    both = (tokens.access_token, tokens.refresh_token or "")
    assert all([await house.peer.is_active(client, one) for one in both])
    assert (await house.call("DELETE", "/connections/gone"))[0] == 204

    async def revoked() -> bool:
        return not any([await house.peer.is_active(client, one) for one in both])

    await eventually(revoked)


async def test_a_person_authorizes_a_device(house: House) -> None:
    grant = "urn:ietf:params:oauth:grant-type:device_code"
    client = await house.client("device", grant, "refresh_token")
    await house.put("/connections/device", grant="device_code", provider="device", scopes=SCOPES)
    status, begun = await house.call("POST", "/connections/device/authorize")
    assert status == 200, begun
    assert begun["url"] == f"{house.peer.issuer}/device"
    await house.page.open(begun["url"])
    await house.page.fill("[name=user_code]", begun["user_code"])
    await house.page.press("[type=submit]")
    await house.page.until(f"document.body?.innerText.includes('{begun['user_code']}')")
    await house.page.press("[type=submit][autofocus]")
    await house.sign_in()
    await house.page.press("[type=submit]")
    await house.page.until("document.body?.innerText.includes('Sign-in Success')")
    # It is asked every five seconds.
    await house.stored("UPDATE authorization_request SET poll_at = now() WHERE poll_at IS NOT NULL")

    async def authorized() -> bool:
        return (await house.shown("device"))["status"] == "healthy"

    await eventually(authorized)
    assert await house.peer.is_active(client, await house.token("device"))
    assert (await house.refreshed("device"))[0] == 200


WORKFLOW = b"""
import time
from millrace import *

http = connections.client("tickets")


@workflow(name="tickets")
def tickets(clock: str, pause: float) -> list:
    found = []
    for ahead in (None, 40, None):
        if ahead is not None:
            time.sleep(pause)
            http.get(clock + str(ahead)).raise_for_status()
        reply = http.get("/api/tickets").raise_for_status()
        found.append(reply.json()["account"])
    return found
"""


@pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user")
async def test_a_workflow_calls_an_api_of_the_server_across_the_end_of_its_token_without_noticing(house: House, data: Path) -> None:
    tier = {"MILLRACE_SANDBOX_TIER": TIERS[0]} | ({} if UID is None else {"MILLRACE_SANDBOX_UID": str(UID)})
    life = int(NEAR.total_seconds()) + 1
    client = await house.connect("tickets", provider={"base_url": house.peer.issuer}, token_life=life)
    first = await house.token("tickets")
    async with running(house.it.place, "executor", MILLRACE_DATA=str(data / "executor"), **ALLOWED, **tier):
        inside = Inside(house.it.place, house.it.gateway)
        await inside.put("flows.py", WORKFLOW)
        try:
            assert await inside.result("tickets", clock=f"{house.peer.issuer}/clock/", pause=1.0) == ["ada"] * 3
            assert not await house.peer.is_active(client, first)
        finally:
            await house.peer.ahead(0)
