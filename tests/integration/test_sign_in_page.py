"""The pages /sign-in and /invitation in a real browser: what a person does there, with a passkey of the browser's own."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from tests.integration.test_gateway import Client, gateway
from tests.integration.test_invitations import invited
from tests.integration.test_signing_in import PASSWORD
from tests.support.browser import Page, browsing
from tests.support.peers import browser_program
from tests.support.servers import Place


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with gateway(place) as made:
        yield made


async def test_the_pages_load_nothing_from_elsewhere_and_hold_no_code(client: Client) -> None:
    for path in ("/", "/sign-in", "/invitation", "/sign-in.js", "/sign-in.css"):
        got = await client("GET", path, headers={})
        policy = got.headers["Content-Security-Policy"]
        assert (got.status, "default-src 'none'; script-src 'self'" in policy, "unsafe" in policy) == (200, True, False), path
        assert "frame-ancestors 'none'" in policy
        for code in (b"innerHTML", b"eval(", b"http://", b"https://", b" style=", b" onclick=", b"<style"):
            assert code not in got.body, path
        if path in {"/sign-in", "/invitation"}:
            assert got.body.count(b"<script") == got.body.count(b'<script src="/sign-in.js" defer></script>') == 1
        for leads_to in re.findall(rb'(?:href|src)="([^"]*)"', got.body) if path == "/" else ():
            assert (await client("GET", leads_to.decode(), headers={})).status == 200, leads_to


async def said(page: Page, words: str) -> None:
    await page.until(f"document.getElementById('said')?.textContent.includes({words!r})")


async def test_a_person_accepts_signs_in_and_out_with_a_passkey_and_with_a_password(client: Client) -> None:
    url = client.url.replace("127.0.0.1", "localhost")
    token = await invited(client, display_name="Ada")
    async with browsing(browser_program()) as page:
        await page.command("WebAuthn.enable")
        device = {
            "protocol": "ctap2",
            "transport": "internal",
            "hasResidentKey": True,
            "hasUserVerification": True,
            "isUserVerified": True,
            "automaticPresenceSimulation": True,
        }
        await page.command("WebAuthn.addVirtualAuthenticator", options=device)
        await page.open(f"{url}/invitation#{token}")
        await said(page, "To acme, as operator.")
        await page.fill("#accept [name=name]", "ada")
        await page.fill("#accept [name=password]", PASSWORD)
        await page.press("#accept button")
        await said(page, "You are signed in as Ada.")
        # The link is of no more use, and is not in the history of the browser.
        assert await page.value("location.pathname + location.hash") == "/sign-in"
        await page.press("#add")
        await said(page, "Your passkey is there")
        await page.press("#out")
        await page.until("!document.getElementById('passkey').hidden")
        await page.press("#passkey")
        await said(page, "You are signed in as Ada.")
        await page.press("#out")
        await page.until("!document.getElementById('sign-in').hidden")
        await page.fill("#sign-in [name=name]", "ada")
        await page.fill("#sign-in [name=password]", "a wrong password")
        await page.press("#sign-in button")
        await said(page, "the login, the password or the code is wrong")
        await page.open(f"{url}/sign-in?next=//evil.example/x")
        await page.until("!document.getElementById('sign-in').hidden")
        await page.fill("#sign-in [name=name]", "ada")
        await page.fill("#sign-in [name=password]", PASSWORD)
        await page.press("#sign-in button")
        # To no other host: to where everybody goes.
        await page.until("location.pathname === '/'")
        assert await page.value("location.origin") == url
