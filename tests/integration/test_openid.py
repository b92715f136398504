"""People come back from an OpenID Connect provider as users of the gateway, with the roles that their groups give them."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from services.gateway import app
from services.gateway.api.openid import COOKIE, check_path
from services.gateway.rates import Rate
from services.gateway.visitors import Visitors
from shared.envelope import utc_now
from shared.errors import Invalid
from shared.jose import encoded
from shared.questions.logs import TailLogs, TailPage
from shared.registry import RegistryWriter
from shared.removals import RemovalEntry
from tests.integration.test_gateway import Client, Got, answering, gateway, stream
from tests.integration.test_sessions import following, is_cut
from tests.support.inside import bus_of, eventually
from tests.support.issuer import CODE, LocalIssuer, issuing
from tests.support.oauth_provider import Asked
from tests.support.servers import Place, Servers
from tests.support.signing_in import Browser, browser_of, user_of

GROUPS = {"dev": {"acme": "developer"}, "ops": {"acme": "operator", "beta": "viewer"}}


class House:
    """A gateway and an issuer that says of people what it is told."""

    def __init__(self, client: Client, it: LocalIssuer) -> None:
        self.client = client
        self.it = it

    async def provide(self, name: str, **spec: Any) -> None:
        """Have an identity provider of that name."""
        await self.it.provide(name, **{"groups": GROUPS, "just_in_time": True} | spec)

    async def get(self, path: str, **headers: str) -> Got:
        """Ask as a browser does, which follows no redirect."""
        return await self.client("GET", path, headers=headers, allow_redirects=False)

    async def begin(self, name: str, query: str = "", **headers: str) -> tuple[dict[str, str], str]:
        """Be led to a provider; return the parameters of its address, and the cookie that was given."""
        got = await self.get(f"/auth/{name}{query}", **headers)
        assert got.status == 303, got.body
        return dict(parse_qsl(urlsplit(got.headers["Location"]).query)), cookie(got, COOKIE)

    async def back(self, name: str, asked: dict[str, str], given: str, claims: Mapping[str, Any] | None = None) -> Got:
        """Come back with an answer of the provider, which says this of the person."""
        token = self.it.signed(name, self.it.claims(name, asked, **claims or {}))
        self.it.provider.codes[CODE] = {"redirect_uri": f"{self.client.url}/auth/callback"}
        self.it.provider.more = {"id_token": token}
        return await self.get(f"/auth/callback?state={asked['state']}&code={CODE}", Cookie=given)

    async def sign_in(self, name: str, subject: str, /, **claims: Any) -> Got:
        """Sign in as somebody."""
        asked, given = await self.begin(name)
        return await self.back(name, asked, given, {"sub": subject} | claims)

    async def signed_in(self, name: str, subject: str, /, **claims: Any) -> Browser:
        """Sign in as somebody who can; return the browser."""
        got = await self.sign_in(name, subject, **claims)
        assert got.status == 200, got.body
        return Browser(self.client.url, cookie(got, "millrace-session").partition("=")[2])

    async def me(self, browser: Browser) -> Any:
        """Return what a browser is told of who is signed in; None where nobody is."""
        got = await self.client("GET", "/api/v1/me", headers=browser.looks)
        return got.json if got.status == 200 else None

    async def denials(self) -> list[tuple[str, str]]:
        """Return whose attempts were denied, and why, as it is on record."""
        found = [msgspec.json.decode(one.data) for one in await stream(self.it.place, "AUDIT")]
        return [(one["actor"], one["detail"]["reason"]) for one in found if (one["category"], one["verb"]) == ("access", "denied")]


def cookie(got: Got, name: str) -> str:
    """Return the cookie of a name that an answer sets, as it is sent back."""
    (found,) = [one for one in got.headers.getall("Set-Cookie") if one.startswith(f"{name}=")]
    assert {"HttpOnly", "SameSite=Lax"} <= set(re.split(r"; ?", found))
    return found.partition(";")[0]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(servers: Servers) -> AsyncIterator[House]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "Visitors", lambda: Visitors(Rate(per_second=1000.0, burst=1000)))
        async with servers.place() as place, issuing(place) as it, gateway(place) as client:
            yield House(client, it)


async def test_whoever_signs_in_for_the_first_time_becomes_a_user_and_is_the_same_one_ever_after(house: House) -> None:
    await house.provide("first", display_name="The company")
    person = {"preferred_username": "Ada@Acme.example", "name": "Ada Lovelace", "email": "a@acme.example", "email_verified": True}
    me = await house.me(await house.signed_in("first", "s-1", groups=["dev", "ops"], **person))
    assert (me["name"], me["display_name"], me["email"], me["method"]) == (
        "ada@acme.example",
        "Ada Lovelace",
        "a@acme.example",
        "openid",
    )
    assert me["roles"] == {"acme": "developer", "beta": "viewer"}
    # By another name, and with other groups, it is the same user, with what these give now.
    me = await house.me(await house.signed_in("first", "s-1", groups=["ops"], preferred_username="countess"))
    assert (me["name"], me["roles"]) == ("ada@acme.example", {"acme": "operator", "beta": "viewer"})
    # Another subject is another user, whatever name and address it has.
    other = await house.me(await house.signed_in("first", "s-2", groups=["dev"], **person))
    assert re.fullmatch(r"ada@acme\.example-[0-9a-f]{8}", other["name"])
    # Nor does anybody become a user who was there before.
    await user_of(house.client, "root", roles={"global": "admin"}, email="root@acme.example")
    claims = {"preferred_username": "root", "email": "root@acme.example", "email_verified": True, "groups": ["dev"]}
    impostor = await house.me(await house.signed_in("first", "s-3", **claims))
    assert (impostor["name"] != "root", impostor["roles"]) == (True, {"acme": "developer"})
    # Of names that are none something is left.
    nameless = await house.me(await house.signed_in("first", "s-4", preferred_username="Ünï çødé", groups=["dev"]))
    assert nameless["name"] == "nd"
    offered = (await house.get("/api/v1/sign-in-providers")).json["items"]
    assert {"name": "first", "display_name": "The company", "url": f"{house.client.url}/auth/first"} in offered


async def test_roles_that_change_end_sessions_with_their_streams_and_without_any_nobody_signs_in(house: House) -> None:
    await house.provide("roles")
    first = await house.signed_in("roles", "s-1", preferred_username="eve", groups=["dev"])
    again = await house.signed_in("roles", "s-1", groups=["dev"])
    assert (await house.me(first), await house.me(again)) != (None, None)

    async def page(_question: Any, _deps: Any) -> TailPage:
        return TailPage(items=[], position="1", dropped=0, more=False)

    async with answering(house.it.place, "logs", {TailLogs: page}), following(house.client, first) as response:
        last = await house.signed_in("roles", "s-1", groups=["ops"])
        await is_cut(response)
    assert [await house.me(one) for one in (first, again)] == [None, None]
    assert (await house.me(last))["roles"] == {"acme": "operator", "beta": "viewer"}
    got = await house.sign_in("roles", "s-1", groups=["others"])
    assert (got.status, "none of your groups at the provider gives you a role here" in got.body.decode()) == (403, True)
    assert "Set-Cookie" not in got.headers
    assert await house.me(last) is None
    assert (await house.client("GET", "/api/v1/users/eve")).json["roles"] == {}
    # Who never was a user does not become one by that.
    assert (await house.sign_in("roles", "s-2", preferred_username="mallory", groups=[])).status == 403
    assert (await house.client("GET", "/api/v1/users/mallory")).status == 404
    # Who has a group again signs in again, unless the user is disabled.
    await house.signed_in("roles", "s-1", groups=["dev"])
    await house.client("PATCH", "/api/v1/users/eve", json={"enabled": False})
    got = await house.sign_in("roles", "s-1", groups=["dev"])
    assert (got.status, "your user is disabled" in got.body.decode()) == (403, True)

    async def recorded() -> bool:
        return [one for one in await house.denials() if one[0] == "user:eve"] == [("user:eve", "no_role")] * 2

    await eventually(recorded)


async def test_nobody_gets_a_role_in_an_organization_that_is_being_removed(house: House) -> None:
    await house.provide("removed", groups={"dev": {"leaving": "developer", "beta": "viewer"}})
    link = (await house.client("POST", "/api/v1/orgs/leaving/invitations", json={"role": "admin"})).json["url"]
    begun = (await house.client("POST", "/api/v1/logins", json={"host": "build-7"}, headers={"X-Millrace-Org": "leaving"})).json
    entry = RemovalEntry(organization="leaving", id="r", actor="t", began_at=utc_now())
    async with bus_of(house.it.place, "gateway") as bus:
        await RegistryWriter(bus.client, "removals", RemovalEntry).put("leaving", 1, entry)

    async def is_known() -> bool:
        return (await house.client("GET", "/api/v1/keys?org=leaving")).status == 409

    await eventually(is_known)
    user = await house.signed_in("removed", "s-1", groups=["dev"])
    me = await house.me(user)
    assert me["roles"] == {"beta": "viewer"}
    token = link.partition("#")[2]
    accepting = {"token": token, "name": "late", "password": "correct horse battery staple"}
    for method, path, body, headers in (
        ("PATCH", f"/users/{me['name']}", {"roles": {"leaving": "admin"}}, house.client.key),
        ("POST", "/invitations/accept", accepting, {}),
        ("POST", "/me/invitations", {"token": token}, user.changes),
        ("POST", f"/logins/{begun['user_code']}/approve", {}, house.client.key),
    ):
        got = await house.client(method, f"/api/v1{path}", json=body, headers=headers)
        assert (got.status, "is being removed" in got.json["detail"]) == (409, True), (path, got.body)
    assert (await house.client("GET", "/api/v1/users/late")).status == 404


async def test_a_sign_in_is_of_the_browser_that_has_begun_it_and_counts_once(house: House) -> None:
    await house.provide("bound")
    claims = {"sub": "s-1", "preferred_username": "bo", "groups": ["dev"]}
    asked, given = await house.begin("bound")
    # A link that somebody else has sent, to a browser without a cookie and to one with its own.
    _, own = await house.begin("bound")
    for other in ("", own, f"{COOKIE}=x"):
        got = await house.back("bound", asked, other, claims)
        assert (got.status, "in another browser" in got.body.decode()) == (403, True)
        assert "Set-Cookie" not in got.headers
    answers = await asyncio.gather(*(house.back("bound", asked, given, claims) for _ in range(4)))
    assert sorted(one.status for one in answers) == [200, 403, 403, 403]
    for path in (f"/auth/callback?state={asked['state']}&code={CODE}", "/auth/callback"):
        assert (await house.get(path, Cookie=given)).status == 403
    # What the provider says is shown as text.
    asked, given = await house.begin("bound")
    got = await house.get(f"/auth/callback?state={asked['state']}&error=%3Cscript%3E", Cookie=given)
    assert (got.status, b"the provider refused it" in got.body, b"<script" in got.body) == (403, True, False)
    # Two in one browser at a time are two.
    first, given = await house.begin("bound")
    second, same = await house.begin("bound", Cookie=given)
    assert same == given
    assert [(await house.back("bound", one, given, claims)).status for one in (first, second)] == [200, 200]

    async def recorded() -> bool:
        return [one for one in await house.denials() if one[1] in {"browser", "provider_refused"}][-1:] == [
            ("anonymous", "provider_refused")
        ]

    await eventually(recorded)
    got = await house.get("/auth/nobody")
    assert (got.status, "nobody can sign in by" in got.body.decode()) == (404, True)


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/\tevil",
        "\\\\evil.example",
        "evil.example",
        "/\n/evil.example",
        "javascript:alert(1)",
    ],
)
def test_nobody_is_led_away_from_the_gateway(path: str) -> None:
    with pytest.raises(Invalid, match="next must be a path at this gateway"):
        check_path(path)


async def test_who_has_signed_in_is_led_on_by_a_page_of_the_gateway_and_the_session_before_has_ended(house: House) -> None:
    await house.provide("led")
    claims = {"sub": "s-1", "preferred_username": "leda", "groups": ["dev"]}
    before = await house.signed_in("led", "s-1", **{name: one for name, one in claims.items() if name != "sub"})
    assert (await house.get("/auth/led?next=//evil.example")).status == 422
    asked, given = await house.begin("led", "?next=/docs%3Fa=b%26c=%22d")
    got = await house.back("led", asked, f"{given}; millrace-session={before.value}", claims)
    assert '<meta http-equiv="refresh" content="0;url=/docs?a=b&amp;c=&quot;d">' in got.body.decode()
    assert await house.me(before) is None


async def test_a_user_is_connected_to_a_provider_by_itself_and_to_an_account_that_is_nobody_elses(house: House) -> None:
    await house.provide("own", just_in_time=False, groups={})
    got = await house.sign_in("own", "s-1")
    assert (got.status, "no user is known by this account" in got.body.decode()) == (403, True)
    user = await user_of(house.client, "grace", roles={"acme": "admin"})
    browser = await browser_of(house.it.place, house.client, user)

    async def connect(subject: str, looks: dict[str, str]) -> Got:
        begun = await house.client("POST", "/api/v1/me/identity", json={"provider": "own"}, headers=browser.changes)
        assert begun.status == 200, begun.body
        asked = dict(parse_qsl(urlsplit(begun.json["url"]).query))
        return await house.back(
            "own", asked, "; ".join(filter(None, [cookie(begun, COOKIE), looks.get("Cookie")])), {"sub": subject}
        )

    # Not in a browser in which the user is not signed in, or another one is.
    other = await browser_of(house.it.place, house.client, await user_of(house.client, "heidi", roles={"acme": "admin"}))
    for looks in ({}, other.looks):
        got = await connect("s-1", looks)
        assert (got.status, "not signed in any more as the user" in got.body.decode()) == (403, True)
    got = await connect("s-1", browser.looks)
    assert (got.status, "can sign in by" in got.body.decode()) == (200, True), got.body
    me = await house.me(await house.signed_in("own", "s-1"))
    # The provider gives nobody a role: those that the user has are left.
    assert (me["name"], me["roles"]) == ("grace", {"acme": "admin"})
    browser = other
    got = await connect("s-1", other.looks)
    assert (got.status, "is the user" in got.body.decode()) == (403, True)
    # No page of another site begins that, and nobody who is not signed in.
    assert (await house.client("POST", "/api/v1/me/identity", json={"provider": "own"}, headers=other.looks)).status == 403
    assert (await house.client("POST", "/api/v1/me/identity", json={"provider": "own"})).status == 403
    # Roles that others take away are gone here as well.
    await house.client("PATCH", "/api/v1/users/grace", json={"roles": {"acme": None}})
    got = await house.sign_in("own", "s-1")
    assert (got.status, "you have no role here" in got.body.decode()) == (403, True)


async def test_who_signs_out_is_told_where_the_provider_does_so_too(house: House) -> None:
    await house.provide("out")
    browser = await house.signed_in("out", "s-1", preferred_username="oscar", groups=["dev"])
    got = await house.client("POST", "/api/v1/sessions/current/leave", headers=browser.looks)
    assert got.status == 403
    got = await house.client("POST", "/api/v1/sessions/current/leave", headers=browser.changes)
    assert got.status == 200, got.body
    wanted = {"a": "b", "client_id": "client", "post_logout_redirect_uri": f"{house.client.url}/auth/signed-out"}
    assert dict(parse_qsl(urlsplit(got.json["url"]).query)) == wanted
    assert "Max-Age=0" in got.headers["Set-Cookie"]
    assert await house.me(browser) is None
    assert "You are signed out" in (await house.get("/auth/signed-out")).body.decode()


@asynccontextmanager
async def behind(place: Place, public: str) -> AsyncIterator[Client]:
    """Run a gateway that people reach by another address."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with gateway(place, MILLRACE_PUBLIC_URL=public, MILLRACE_LISTEN_FD=str(listening.detach())) as client:
        client.url = url
        yield client


async def test_what_one_gateway_has_begun_another_one_ends_and_cookies_are_for_https_where_that_is(house: House) -> None:
    await house.provide("replicas")
    public, place = "https://millrace.example", house.it.place
    async with behind(place, public) as first:
        begun = await first("GET", "/auth/replicas", headers={}, allow_redirects=False)
    asked = dict(parse_qsl(urlsplit(begun.headers["Location"]).query))
    assert asked["redirect_uri"] == f"{public}/auth/callback"
    given = cookie(begun, f"__Host-{COOKIE}")
    claims = {"sub": "s-1", "preferred_username": "rep", "groups": ["dev"]}
    house.it.provider.codes[CODE] = {"redirect_uri": f"{public}/auth/callback"}
    house.it.provider.more = {"id_token": house.it.signed("replicas", house.it.claims("replicas", asked, **claims))}
    async with behind(place, public) as second:
        path = f"/auth/callback?state={asked['state']}&code={CODE}"
        # Without the name that no other host can set it is nobody's.
        assert (await second("GET", path, headers={"Cookie": given.removeprefix("__Host-")})).status == 403
        got = await second("GET", path, headers={"Cookie": given})
    assert got.status == 200, got.body
    assert cookie(got, "__Host-millrace-session")
    for one in (begun, got):
        assert all("Secure" in header and "Path=/;" in f"{header};" for header in one.headers.getall("Set-Cookie"))


async def test_a_person_who_comes_back_twice_at_once_for_the_first_time_is_one_user(house: House) -> None:
    await house.provide("twice")
    begun = [await house.begin("twice") for _ in range(4)]
    claims = {"sub": "s-1", "preferred_username": "tess", "groups": ["dev"]}
    nonces = {asked["code_challenge"]: house.it.claims("twice", asked, **claims) for asked, _ in begun}
    house.it.provider.codes[CODE] = {"redirect_uri": f"{house.client.url}/auth/callback"}

    async def by_verifier(asked: Asked) -> web.StreamResponse:
        challenge = encoded(hashlib.sha256(asked.parameters["code_verifier"].encode()).digest())
        token = house.it.signed("twice", nonces[challenge])
        return web.json_response({"access_token": "a", "token_type": "Bearer", "id_token": token})

    house.it.provider.faults = [by_verifier] * 4
    answers = await asyncio.gather(
        *(house.get(f"/auth/callback?state={asked['state']}&code={CODE}", Cookie=given) for asked, given in begun)
    )
    assert [one.status for one in answers] == [200] * 4, [one.body for one in answers]
    users = [one["name"] for one in (await house.client("GET", "/api/v1/users?limit=1000")).json["items"]]
    assert [one for one in users if one.startswith("tess")] == ["tess"]
