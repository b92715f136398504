"""Authorizing and refreshing connections over the API, as a person and their browser see it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import aiohttp
import pytest
from yarl import URL

from services.oauth import device
from shared.envelope import new_id
from shared.questions.oauth import BeginAuthorization
from tests.integration.test_integrations_api import Api
from tests.support.command import Command, until_said
from tests.support.connections import ALLOWED
from tests.support.inside import bus_of, eventually, running
from tests.support.oauth_provider import LocalProvider, local_provider
from tests.support.resources import putting, ring, told
from tests.support.servers import Place

CONNECTION = {"grant": "authorization_code", "provider": "local", "scopes": ["read", "write"]}


class Browser:
    """The gateway as a person's browser sees it, and its API."""

    def __init__(self, call: Api, provider: LocalProvider, session: aiohttp.ClientSession) -> None:
        self.call = call
        self.provider = provider
        self._session = session

    async def come_back(self, **query: str) -> tuple[int, str, Any]:
        """Come back from the provider with a query string; return the status, the page and its headers."""
        asked = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        async with self._session.get(f"{self.call.url}/oauth/callback?{asked}") as response:
            return response.status, await response.text(), response.headers.copy()

    def get(self, path: str) -> Any:
        """Open a path of the gateway, as it is written."""
        return self._session.get(URL(self.call.url + path, encoded=True))

    async def asked(self) -> str:
        """Begin an authorization; return the address for a person."""
        status, begun = await self.call("POST", "/connections/halo/authorize")
        assert status == 200, begun
        return str(begun["url"])

    async def show(self, url: str) -> tuple[str, SimpleCookie]:
        """Open an address; return the page and its cookies."""
        async with self._session.get(url) as response:
            assert response.status == 200
            return await response.text(), response.cookies

    async def go_on(self, url: str, **headers: str) -> tuple[int, str]:
        """Press the page's button; return the status, and where it leads or what it says."""
        async with self._session.post(url, allow_redirects=False, headers=headers) as response:
            return response.status, response.headers.get("Location") or await response.text()

    async def begin(self, url: str | None = None) -> tuple[str, dict[str, str]]:
        """Begin an authorization, or open this one's, and go on; return the provider's address and its query string, apart."""
        url = url or await self.asked()
        await self.show(url)
        status, address = await self.go_on(url)
        assert status == 303, address
        parts = urlsplit(address)
        return parts._replace(query="").geturl(), {name: one[0] for name, one in parse_qs(parts.query).items()}

    @asynccontextmanager
    async def another(self) -> AsyncIterator[Browser]:
        """Return another person's browser."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            yield Browser(self.call, self.provider, session)


@asynccontextmanager
async def browser(place: Place) -> AsyncIterator[Browser]:
    async with (
        local_provider() as provider,
        running(place, "oauth", **ALLOWED),
        running(place, "gateway", MILLRACE_PORT="0") as runtime,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session,
    ):
        made = Browser(Api(session, runtime.health.document()["url"], place.credentials.admin_key), provider, session)
        body = {"token_url": f"{provider.url}/token", "authorize_url": f"{provider.url}/authorize?a=b", "client_id": "client"}
        await made.call("PUT", "/providers/local", body | {"client_secret": "client-secret"})
        status, shown = await made.call("PUT", "/connections/halo", CONNECTION)
        assert (status, shown["status"]) == (200, "pending")
        yield made


async def test_a_person_authorizes_a_connection_and_sees_it(place: Place) -> None:
    async with browser(place) as it:
        address, query = await it.begin()
        assert address == f"{it.provider.url}/authorize"
        assert (query["a"], query["scope"], query["client_id"]) == ("b", "read write", "client")
        assert query["redirect_uri"] == f"{it.call.url}/oauth/callback"
        it.provider.codes["c0de"] = {"redirect_uri": query["redirect_uri"]}
        status, page, headers = await it.come_back(state=query["state"], code="c0de")
        assert (status, "Connected" in page, "halo" in page) == (200, True, True)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")
        assert (await it.call("GET", "/connections/halo"))[1]["status"] == "healthy"
        # The same address again is an old one: a page in the history does nothing.
        _, again, _ = await it.come_back(state=query["state"], code="c0de")
        assert "used already" in again
        status, refreshed = await it.call("POST", "/connections/halo/refresh")
        assert (status, refreshed["status"]) == (200, "healthy")
        assert [one.grant for one in it.provider.asked] == ["authorization_code", "refresh_token"]


def looks_the_same(page: str, headers: Any) -> None:
    """Check that a page is one of ours, says what to do, and can load and run nothing."""
    assert page.startswith("<!doctype html>")
    assert '<p class="do">' in page
    assert headers["Content-Type"].startswith("text/html")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["Cache-Control"] == "no-store"


async def test_what_cannot_be_done_now_is_a_page_as_well(place: Place) -> None:
    async with (
        running(place, "gateway", MILLRACE_PORT="0") as runtime,
        aiohttp.ClientSession(runtime.health.document()["url"]) as session,
        # The oauth service is away.
        session.get("/oauth/authorize?state=a-state") as answer,
    ):
        page = await answer.text()
        assert (answer.status, int(answer.headers["Retry-After"]) > 0, "Try again in" in page) == (503, True, True)
        looks_the_same(page, answer.headers)


async def test_each_client_behind_trusted_proxies_has_a_limit_of_its_own(place: Place) -> None:
    async def statuses(url: str, client: str, times: int, path: str = "/oauth/callback?state=x") -> list[int]:
        cookie = {"Cookie": "millrace-authorization=" + "b" * 43, "X-Forwarded-For": f"10.9.9.9, {client}"}
        async with aiohttp.ClientSession(url, headers=cookie) as session:
            found = []
            for _ in range(times):
                async with session.get(path) as answer:
                    found.append(answer.status)
                    if answer.status == 429:
                        page = await answer.text()
                        looks_the_same(page, answer.headers)
                        assert ("asks too often" in page, int(answer.headers["Retry-After"]) >= 1) == (True, True)
            return found

    async with running(place, "oauth"):
        trusted = {"MILLRACE_PORT": "0", "MILLRACE_TRUSTED_PROXIES": "127.0.0.0/8"}
        async with running(place, "gateway", **trusted) as runtime:
            url = runtime.health.document()["url"]
            found = await statuses(url, "203.0.113.7", 60)
            assert found[:20] == [200] * 20
            assert 429 in found[20:]
            assert await statuses(url, "203.0.113.8", 5, "/oauth/authorize?state=x") == [200] * 5
            # What a client writes into the header itself makes it no other one; an IPv6 network of /64 is one client.
            assert 429 in await statuses(url, "198.51.100.1, 203.0.113.7", 40)
            assert 429 in [one for end in range(8) for one in await statuses(url, f"2001:db8::{end}", 5)]
        # Where no proxy is trusted, the header means nothing: all come from the loopback, which is nobody's address.
        async with running(place, "gateway", MILLRACE_PORT="0") as runtime:
            assert await statuses(runtime.health.document()["url"], "203.0.113.7", 30) == [200] * 30


async def test_what_fails_is_a_page_that_says_why_and_runs_nothing(place: Place) -> None:
    async with browser(place) as it:
        for query in ({}, {"state": "<script>x</script>", "code": "c"}, {"state": "x" * 3000}):
            status, page, headers = await it.come_back(**query)
            assert (status, "<script>" in page) in {(200, False), (422, False)}
            looks_the_same(page, headers)
        # An address that was cut, or given twice what counts once, says what to do as well.
        async with it.get("/oauth/callback?state=a&state=b&code=a-c0de&x=%3Cscript%3E") as answer:
            page = await answer.text()
            assert (answer.status, "state is given more than once" in page, "<script>" in page) == (422, True, False)
            looks_the_same(page, answer.headers)
            assert "a-c0de" not in page
        _, asked = await it.begin()
        _, page, _ = await it.come_back(state=asked["state"], error="access_denied", error_description="<script>")
        assert "not allowed" in page
        assert "<script>" not in page
        assert (await it.call("GET", "/connections/halo"))[1]["status"] == "pending"


async def test_46_what_was_begun_in_one_browser_is_finished_in_no_other(place: Place) -> None:
    async with browser(place) as it, it.another() as other:
        _, asked = await it.begin()
        it.provider.codes["c0de"] = {"redirect_uri": asked["redirect_uri"]}
        # One without a cookie, and one that has opened another authorization.
        _, page, _ = await other.come_back(state=asked["state"], code="c0de")
        assert "another browser" in page
        await other.begin()
        _, page, _ = await other.come_back(state=asked["state"], code="c0de")
        assert "that of another browser" in page
        assert it.provider.asked == []
        async with bus_of(place, "admin") as admin:

            async def are_on_record() -> bool:
                audits = (await admin.client.jetstream().stream_info("AUDIT", subjects_filter="audit.access.denied")).state.subjects
                return bool(audits)

            await eventually(are_on_record)
        # It has used nothing up.
        _, page, _ = await it.come_back(state=asked["state"], code="c0de")
        assert "Connected" in page
        assert (await it.call("GET", "/connections/halo"))[1]["status"] == "healthy"


async def test_46_an_address_leads_one_browser_to_the_provider_once_it_has_shown_who_asks_for_what(place: Place) -> None:
    async with browser(place) as it, it.another() as other:
        url = await it.asked()
        # What only looks, as a scanner of mail does, begins nothing; neither does another site's form, which brings no cookie.
        for _ in range(2):
            page, cookies = await other.show(url)
        assert all(one in page for one in ("platform-key", "127.0.0.1", "&#x27;halo&#x27;", "&#x27;default&#x27;"))
        cookie = cookies["millrace-authorization"]
        assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["max-age"]) == (True, "Lax", "/oauth", "600")
        status, page = await it.go_on(url)
        assert (status, "keeps no cookies" in page) == (200, True)
        await it.show(url)
        status, address = await it.go_on(url)
        assert (status, address.startswith(it.provider.url)) == (303, True)
        # Back and on again is the same browser; whom the address was sent to as well is not.
        assert (await it.go_on(url))[0] == 303
        status, page = await other.go_on(url)
        assert (status, "that of another browser" in page) == (200, True)
        page, _ = await other.show(f"{it.call.url}/oauth/authorize?state=guessed")
        assert "Not connected" in page


async def test_a_form_of_another_site_or_of_a_neighbouring_host_begins_nothing(place: Place) -> None:
    async with browser(place) as it:
        url = await it.asked()
        await it.show(url)
        for site in ("cross-site", "same-site"):
            status, page = await it.go_on(url, **{"Sec-Fetch-Site": site})
            assert (status, "begun in another browser" in page) == (200, True)
        assert (await it.go_on(url, **{"Sec-Fetch-Site": "same-origin"}))[0] == 303


async def test_behind_https_the_cookie_is_one_that_no_other_host_can_set(place: Place) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    url, descriptor = f"http://127.0.0.1:{listening.getsockname()[1]}", str(listening.detach())
    async with (
        running(place, "oauth"),
        running(place, "gateway", MILLRACE_LISTEN_FD=descriptor, MILLRACE_PUBLIC_URL="https://millrace.example"),
        aiohttp.ClientSession(url, cookie_jar=aiohttp.DummyCookieJar()) as session,
        bus_of(place, "gateway") as bus,
    ):
        await told(
            bus, putting("provider", "local", ring(place), token_url="https://x.example/t", authorize_url="https://x.example/a")
        )
        given = {"grant": "authorization_code", "provider": "local", "client_id": "c"}
        await told(bus, putting("connection", "halo", ring(place), **given))
        begun = await bus.ask(BeginAuthorization(id=new_id(), org="default", actor="a", name="halo", redirect="https://r.example"))
        async with session.get(f"/oauth/authorize?state={begun.state}") as answer:
            (cookie,) = answer.cookies.values()
            assert cookie.key == "__Host-millrace-authorization"
            assert (cookie["secure"], cookie["httponly"], cookie["path"], cookie["domain"]) == (True, True, "/", "")
        for name, status in (("millrace-authorization", 200), (cookie.key, 303)):
            sent = {"Cookie": f"{name}={cookie.value}"}
            async with session.post(f"/oauth/authorize?state={begun.state}", headers=sent, allow_redirects=False) as answer:
                assert answer.status == status


async def test_what_cannot_be_authorized_or_refreshed_says_why(place: Place) -> None:
    async with browser(place) as it:
        await it.call("PUT", "/connections/plain", {"token": "tok"})
        for verb in ("authorize", "refresh"):
            assert (await it.call("POST", f"/connections/nobody/{verb}"))[0] == 404
            assert (await it.call("POST", f"/connections/halo/{verb}?org=other"))[0] == 404
            status, problem = await it.call("POST", f"/connections/plain/{verb}")
            assert (status, problem["errors"][0]["path"]) == (422, "name")
        status, problem = await it.call("POST", "/connections/halo/refresh")
        assert (status, "not been authorized yet" in problem["detail"]) == (409, True)


async def test_a_connection_is_tested_and_what_became_of_an_authorization_is_known(place: Place) -> None:
    async with browser(place) as it:
        status, found = await it.call("POST", "/connections/halo/test")
        assert (status, found["outcome"], found["by"]) == (200, "broken", "token")
        assert "not been authorized yet" in found["detail"]
        _, begun = await it.call("POST", "/connections/halo/authorize")
        path = f"/connections/halo/authorizations/{begun['id']}"
        assert (await it.call("GET", path))[1]["status"] == "open"
        _, asked = await it.begin(begun["url"])
        await it.come_back(state=asked["state"], error="access_denied")
        _, ended = await it.call("GET", path)
        assert (ended["status"], "not allowed" in ended["reason"]) == ("failed", True)
        _, asked = await it.begin()
        it.provider.codes["c0de"] = {"redirect_uri": asked["redirect_uri"]}
        _, page, _ = await it.come_back(state=asked["state"], code="c0de")
        assert "Connected" in page
        # Whoever may see the first address cannot come back for anybody: the id is not the state.
        assert asked["state"] not in path
        for other in ("/connections/halo/authorizations/unknown", f"{path}?org=other", "/connections/nobody/test"):
            assert (await it.call("POST" if other.endswith("test") else "GET", other))[0] == 404


async def test_a_person_at_a_terminal_sees_what_becomes_of_their_authorization(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVERY", "LEAST"):
        monkeypatch.setattr(device, name, 0.02)
    async with browser(place) as it:
        command = Command(tmp_path)
        known = {"MILLRACE_URL": it.call.url, "MILLRACE_KEY": place.credentials.admin_key}
        # By another device: the address and the code are shown, and what a person decides there.
        body = {"token_url": f"{it.provider.url}/token", "device_url": f"{it.provider.url}/device", "client_id": "client"}
        await it.call("PUT", "/providers/device", body | {"client_secret": "client-secret"})
        await it.call("PUT", "/connections/tv", {"grant": "device_code", "provider": "device"})
        it.provider.polls = ["authorization_pending", "access_denied"]
        out, aside = await command.both("connections", "authorize", "tv", code=1, **known)
        assert (out, "WDJB-MJHT" in aside, "not authorized: it was not allowed" in aside) == ("", True, True)
        it.provider.polls = [None]
        out, _ = await command.both("connections", "authorize", "tv", **known)
        assert "healthy" in out
        # In a browser, from which they come back to the gateway.
        async with command.started("connections", "authorize", "halo", **known) as process:
            _, asked = await it.begin((await until_said(process.stderr, "/authorize?")).strip())
            it.provider.codes["c0de"] = {"redirect_uri": asked["redirect_uri"]}
            await it.come_back(state=asked["state"], code="c0de")
            out = (await process.communicate())[0].decode()
            assert (process.returncode, "healthy" in out) == (0, True)
        assert "unknown" in await command("connections", "test", "halo", **known)
        await it.call("PUT", "/connections/xbox", CONNECTION)
        listed = (await command("connections", "list", **known)).splitlines()
        # One that nobody has authorized comes before those that live, though its name does not follow theirs.
        assert listed[1].split()[0] == "xbox"


async def test_known_providers_are_listed_with_their_documents(place: Place) -> None:
    async with browser(place) as it:
        status, page = await it.call("GET", "/known-providers")
        found = {one["name"]: one for one in page["items"]}
        assert status == 200
        assert found["microsoft-graph"]["parameters"] == ["tenant"]
        assert found["microsoft-graph"]["grants"] == ["authorization_code", "device_code", "client_credentials"]
        assert found["zoom-server"]["parameters"] == ["account_id"]
        assert "`offline`" in found["typeform"]["note"]
        assert found["github"]["documents"].startswith("https://docs.github.com/")
