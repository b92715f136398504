"""Users in browsers: each acts with its role where it has one, until its session ends, and for no page but the gateway's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest

from services.gateway.api.origins import origins_of
from services.gateway.sessions import Sessions, digest_of
from services.gateway.users import Users
from shared.db import open_engine
from shared.health import Health
from shared.questions.logs import TailLogs, TailPage
from shared.resources.user import UserEntry
from tests.integration.test_gateway import Client, answering, gateway, stream
from tests.support.inside import bus_of, eventually
from tests.support.servers import Place
from tests.support.signing_in import Browser, browser_of, user_of

ACME = {"roles": {"acme": "admin"}}


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with gateway(place) as made:
        yield made


async def signed_in(place: Place, client: Client, name: str = "ada", **fields: Any) -> Browser:
    return await browser_of(place, client, await user_of(client, name, **fields))


async def status(client: Client, browser: Browser, path: str = "/api/v1/me") -> int:
    return (await client("GET", path, headers=browser.looks)).status


async def audited(place: Place, category: str, verb: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [msgspec.json.decode(one.data) | {"org": one.org} for one in await stream(place, "AUDIT")]
    return [one for one in found if (one["category"], one["verb"]) == (category, verb)]


async def test_a_user_acts_with_its_role_in_each_organization_and_in_no_other(place: Place, client: Client) -> None:
    browser = await signed_in(place, client, roles={"acme": "admin", "globex": "viewer"})
    got = await client("GET", "/api/v1/me", headers=browser.looks)
    me = got.json
    assert (me["actor"], me["kind"], me["name"], me["roles"]) == ("user:ada", "user", "ada", {"acme": "admin", "globex": "viewer"})
    assert me["csrf"] == browser.changes["X-Millrace-CSRF"]
    assert (me["org"], me["default_org"]) == ("global", "default")
    for path, wanted in (
        ("/api/v1/keys?org=acme", 200),
        ("/api/v1/keys?org=globex", 403),
        ("/api/v1/keys?org=other", 404),
        ("/api/v1/keys?org=global", 404),
        # It has two, and names neither.
        ("/api/v1/keys", 404),
        ("/api/v1/orgs/acme/members", 200),
        ("/api/v1/orgs/other/members", 404),
        ("/api/v1/users", 403),
        ("/metrics", 403),
    ):
        assert await status(client, browser, path) == wanted, path
    made = await client("POST", "/api/v1/keys?org=acme", json={"name": "ci", "role": "viewer"}, headers=browser.changes)
    assert made.status == 201
    (said,) = await audited(place, "key", "create")
    assert (said["actor"], said["org"]) == ("user:ada", "acme")
    # The only one of a user is meant where none is named.
    only = await signed_in(place, client, "bob", **ACME)
    assert (await client("GET", "/api/v1/keys", headers=only.looks)).json["items"][0]["org"] == "acme"
    staff = await signed_in(place, client, "eve", roles={"global": "viewer", "acme": "admin"})
    for path, wanted in (
        ("/api/v1/keys?org=acme", 200),
        ("/api/v1/keys?org=other", 403),
        ("/metrics", 200),
        ("/api/v1/users", 403),
    ):
        assert await status(client, staff, path) == wanted, path
    nobody = await signed_in(place, client, "guest")
    assert (await status(client, nobody), await status(client, nobody, "/api/v1/keys")) == (200, 404)


async def test_a_change_by_a_session_takes_its_token_and_a_page_of_the_gateway(place: Place, client: Client) -> None:
    browser, other = await signed_in(place, client, **ACME), await signed_in(place, client, "bob", **ACME)
    good, name = browser.changes, "X-Millrace-CSRF"
    for headers in (
        {key: value for key, value in good.items() if key != name},
        good | {name: ""},
        good | {name: other.changes[name]},
        {key: value for key, value in good.items() if key != "Origin"},
        good | {"Origin": "https://evil.example"},
        good | {"Origin": "null"},
        good | {"Origin": client.url + "0"},
        good | {"Sec-Fetch-Site": "same-site"},
        good | {"Sec-Fetch-Site": "cross-site"},
        good | {"Sec-Fetch-Site": "none"},
    ):
        got = await client("PUT", "/api/v1/keys/ci", json={"role": "viewer"}, headers=headers)
        assert got.status == 403, headers
        assert (await client("POST", "/api/v1/nothing", headers=headers)).status == 403
    for site, wanted in (("cross-site", 403), ("same-site", 403), ("none", 200), ("same-origin", 200)):
        assert (await client("GET", "/api/v1/me", headers=browser.looks | {"Sec-Fetch-Site": site})).status == wanted

    async def recorded() -> bool:
        found = await audited(place, "access", "denied")
        return any((one["actor"], one["org"], one["detail"]["reason"]) == ("user:ada", "acme", "csrf") for one in found)

    await eventually(recorded)
    assert (await client("PUT", "/api/v1/keys/ci", json={"role": "viewer"}, headers=good)).status == 200


async def test_the_key_of_a_request_counts_and_not_its_cookie(place: Place, client: Client) -> None:
    browser = await signed_in(place, client, **ACME)
    both = client.key | {"Cookie": browser.looks["Cookie"]}
    assert (await client("GET", "/api/v1/me", headers=both)).json["actor"] == "platform-key"
    # It needs no token, which is against what browsers send by themselves.
    assert (await client("PUT", "/api/v1/keys/ci", json={"role": "viewer"}, headers=both)).status == 200
    for wrong in ("Bearer mr_nobody", "Basic YTpi"):
        assert (await client("GET", "/api/v1/me", headers=both | {"Authorization": wrong})).status == 401
    refused = await client("DELETE", "/api/v1/sessions/current")
    assert (refused.status, "not for keys" in refused.json["detail"]) == (403, True)


async def test_signing_out_counts_at_every_gateway_at_once(place: Place, client: Client) -> None:
    user = await user_of(client, "ada", **ACME)
    here, elsewhere, third = [await browser_of(place, client, user) for _ in range(3)]
    async with gateway(place) as other:
        assert [await status(other, one) for one in (here, elsewhere, third)] == [200] * 3
        got = await client("DELETE", "/api/v1/sessions/current", headers=here.changes)
        cookie = got.headers["Set-Cookie"]
        assert (got.status, "Max-Age=0" in cookie, "HttpOnly" in cookie, "SameSite=Lax" in cookie) == (204, True, True, True)
        assert [await status(other, one) for one in (here, elsewhere, third)] == [401, 200, 200]
        assert (await client("DELETE", "/api/v1/sessions", headers=third.changes)).status == 204
        assert [await status(other, one) for one in (here, elsewhere, third)] == [401] * 3
    ended = await audited(place, "session", "end")
    assert [(one["actor"], one["target"], one["detail"].get("count")) for one in ended] == [
        ("user:ada", "ada", None),
        ("user:ada", "ada", 2),
    ]


@pytest.mark.parametrize("how", ["roles", "member", "disabled", "removed"])
async def test_a_session_ends_when_its_user_changes(place: Place, client: Client, how: str) -> None:
    browser = await signed_in(place, client, roles={"acme": "admin", "globex": "viewer"})
    assert (await client("PATCH", "/api/v1/me", json={"display_name": "Ada"}, headers=browser.changes)).status == 200
    assert await status(client, browser) == 200
    if how == "roles":
        got = await client("PATCH", "/api/v1/users/ada", json={"roles": {"globex": None}})
        assert got.json["roles"] == {"acme": "admin"}
    elif how == "member":
        got = await client("PATCH", "/api/v1/orgs/acme/members/ada", json={"role": "viewer"})
        assert (got.status, got.json["role"]) == (200, "viewer")
    elif how == "disabled":
        assert (await client("PATCH", "/api/v1/users/ada", json={"enabled": False})).status == 200
    else:
        assert (await client("DELETE", "/api/v1/users/ada")).status == 204
        await user_of(client, "ada", **ACME)
    assert await status(client, browser) == 401
    if how == "disabled":
        # That it was ended by this is not undone.
        assert (await client("PATCH", "/api/v1/users/ada", json={"enabled": True})).status == 200
        assert await status(client, browser) == 401


async def test_a_user_without_a_role_is_told_so(place: Place, client: Client) -> None:
    none = await signed_in(place, client, roles={})
    refused = await client("GET", "/api/v1/keys", headers=none.looks)
    assert refused.status == 404
    assert refused.json["detail"].endswith("and you have no role in any: ask for an invitation")


async def test_a_session_ends_by_its_age_and_without_use(place: Place, client: Client) -> None:
    user = await user_of(client, "ada", **ACME)
    old, used, left = [await browser_of(place, client, user) for _ in range(3)]
    admin = await asyncpg.connect(place.database_url("admin"))
    try:
        await admin.execute("UPDATE gateway.session SET ends_at = now() WHERE digest = $1", digest_of(old.value))
        for one, hours in ((used, 7), (left, 9)):
            statement = "UPDATE gateway.session SET seen_at = now() - make_interval(hours => $2) WHERE digest = $1"
            await admin.execute(statement, digest_of(one.value), hours)
        assert [await status(client, one) for one in (old, used, left)] == [401, 200, 401]
        seen = await admin.fetchval(
            "SELECT now() - seen_at < interval '1 hour' FROM gateway.session WHERE digest = $1", digest_of(used.value)
        )
        assert seen is True
    finally:
        await admin.close()

    async def recorded() -> bool:
        found = await audited(place, "access", "denied")
        return any((one["actor"], one["detail"]["reason"]) == ("user:ada", "expired_session") for one in found)

    await eventually(recorded)


async def test_sessions_that_are_over_are_taken_away_and_recorded_once(place: Place, client: Client) -> None:
    ada, bob = await user_of(client, "ada", **ACME), await user_of(client, "bob", **ACME)
    for user, seconds in ((ada, 0), (ada, 3600), (bob, 3600)):
        await browser_of(place, client, user, seconds=seconds)
    await user_of(client, "bob", roles={"acme": "viewer"})
    ended: list[tuple[str | None, str]] = []

    async def note(user: UserEntry | None, _id: str, reason: str) -> None:
        ended.append((None if user is None else user.name, reason))

    engine = open_engine(place.database_url("gateway"), service="gateway")
    async with bus_of(place, "gateway") as bus:
        users = Users(bus.client, Health("gateway"))
        watching = asyncio.create_task(users.run())
        try:
            await users.complete()
            sweeping = Sessions(engine, users, idle=3600, longest=3600)
            await asyncio.gather(*(sweeping.sweep(note) for _ in range(3)))
        finally:
            watching.cancel()
            await engine.dispose()
    assert sorted(ended) == [("ada", "expired"), ("bob", "changed")]


async def test_an_organization_sees_and_changes_its_own_members_alone(place: Place, client: Client) -> None:
    admin = await signed_in(place, client, roles={"acme": "admin"})
    await user_of(client, "bob", display_name="Bob", email="bob@example.com", roles={"acme": "viewer", "globex": "admin"})
    await user_of(client, "eve", roles={"globex": "admin"})
    got = await client("GET", "/api/v1/orgs/acme/members?limit=1", headers=admin.looks)
    assert [(one["name"], one["role"]) for one in got.json["items"]] == [("ada", "admin")]
    got = await client("GET", f"/api/v1/orgs/acme/members?cursor={got.json['next_cursor']}", headers=admin.looks)
    (bob,) = got.json["items"]
    assert (bob["name"], bob["role"], "roles" in bob, got.json["next_cursor"]) == ("bob", "viewer", False, None)
    for name in ("eve", "nobody"):
        for method, body in (("GET", None), ("PATCH", {"role": "viewer"}), ("DELETE", None)):
            refused = await client(method, f"/api/v1/orgs/acme/members/{name}", json=body, headers=admin.changes)
            assert (refused.status, refused.json["detail"]) == (404, f"there is no member '{name}' of acme")
    assert (
        await client("PATCH", f"/api/v1/orgs/acme/members/{bob['id']}", json={"role": "developer"}, headers=admin.changes)
    ).status == 200
    assert (await client("DELETE", "/api/v1/orgs/acme/members/bob", headers=admin.changes)).status == 204
    assert (await client("GET", "/api/v1/users/bob")).json["roles"] == {"globex": "admin"}
    for said, verb in (("viewer", "patch"), ("developer", "delete")):
        (found,) = [one for one in await audited(place, "member", verb) if one["outcome"] == "ok"]
        assert (found["actor"], found["target"].startswith(("bob", bob["id"])), found["org"]) == ("user:ada", True, "acme")
        assert found["detail"]["changes"]["role"][0] == said


@asynccontextmanager
async def following(client: Client, browser: Browser) -> AsyncIterator[aiohttp.ClientResponse]:
    async with client.session.get(client.url + "/api/v1/logs/tail", headers=browser.looks) as response:
        assert response.status == 200
        yield response


async def is_cut(response: aiohttp.ClientResponse) -> None:
    async with asyncio.timeout(30):
        with contextlib.suppress(aiohttp.ClientError):
            while await response.content.readany():
                pass


@pytest.mark.parametrize("how", ["role", "signed_out", "expired"])
async def test_what_a_session_follows_is_cut_with_it(place: Place, client: Client, how: str) -> None:
    async def page(_question: Any, _deps: Any) -> TailPage:
        return TailPage(items=[], position="1", dropped=0, more=False)

    user = await user_of(client, "ada", **ACME)
    browser, goes_on = (
        await browser_of(place, client, user, seconds=3600),
        await signed_in(place, client, "bob", **ACME),
    )
    async with (
        answering(place, "logs", {TailLogs: page}),
        following(client, browser) as response,
        following(client, goes_on) as other,
    ):
        if how == "role":
            assert (await client("PATCH", "/api/v1/users/ada", json={"roles": {"acme": "developer"}})).status == 200
        elif how == "signed_out":
            # At another gateway, which can cut nothing here.
            async with gateway(place) as elsewhere:
                changes = browser.changes | {"Origin": elsewhere.url}
                assert (await elsewhere("DELETE", "/api/v1/sessions/current", headers=changes)).status == 204
        else:
            admin = await asyncpg.connect(place.database_url("admin"))
            try:
                await admin.execute("UPDATE gateway.session SET ends_at = now() WHERE digest = $1", digest_of(browser.value))
            finally:
                await admin.close()
        await is_cut(response)
        assert other.content.exception() is None
        assert not other.content.at_eof()


async def test_without_the_database_sessions_wait_and_keys_count(place: Place, client: Client) -> None:
    browser = await signed_in(place, client, **ACME)
    key = (await client("POST", "/api/v1/keys?org=acme", json={"name": "ci", "role": "viewer"})).json["key"]
    admin = await asyncpg.connect(place.database_url("admin"))
    try:
        await admin.execute("ALTER TABLE gateway.session RENAME TO away")
        await admin.execute(
            "CREATE VIEW gateway.session AS SELECT * FROM gateway.away WHERE pg_terminate_backend(pg_backend_pid())"
        )
        await admin.execute("GRANT SELECT, UPDATE, DELETE, INSERT ON gateway.session TO millrace_gateway")
        assert await status(client, browser) == 503
        assert (await client("GET", "/api/v1/me", headers={"Authorization": f"Bearer {key}"})).status == 200
        await admin.execute("DROP VIEW gateway.session; ALTER TABLE gateway.away RENAME TO session")
    finally:
        await admin.close()
    assert await status(client, browser) == 200


async def test_roles_are_told_as_the_endpoints_declare_them(place: Place, client: Client) -> None:
    browser = await signed_in(place, client, roles={"acme": "viewer"})
    items = (await client("GET", "/api/v1/roles", headers=browser.looks)).json["items"]
    assert [one["role"] for one in items] == ["viewer", "operator", "developer", "admin"]
    added = {one["role"]: {(two["method"], two["path"]) for two in one["adds"]} for one in items}
    assert ("POST", "/api/v1/runs/{id}/cancel") in added["operator"]
    assert ("GET", "/api/v1/keys") in added["admin"]
    assert all(path != "/api/v1/me" for paths in added.values() for _, path in paths)


@pytest.mark.parametrize(
    ("url", "origins"),
    [
        ("https://mill.example.com/base", {"https://mill.example.com"}),
        ("https://mill.example.com:8443", {"https://mill.example.com:8443"}),
        ("https://mill.example.com:443", {"https://mill.example.com"}),
        ("http://127.0.0.1:8420", {"http://127.0.0.1:8420", "http://localhost:8420", "http://[::1]:8420"}),
    ],
)
def test_the_origins_of_the_gateways_own_pages(url: str, origins: set[str]) -> None:
    assert origins_of(url) == origins
