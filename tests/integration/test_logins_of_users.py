"""Keys that a user's sign-in of the command has made: no more than the user may, at every moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.questions.logs import TailLogs, TailPage
from tests.integration.test_gateway import Client, answering, gateway
from tests.integration.test_keys import by, made
from tests.integration.test_logins import begun, polled
from tests.integration.test_sessions import is_cut
from tests.support.inside import eventually
from tests.support.servers import Place
from tests.support.signing_in import Browser, browser_of, user_of


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with gateway(place) as one:
        yield one


async def browser(place: Place, client: Client, name: str = "ada", **roles: str) -> Browser:
    return await browser_of(place, client, await user_of(client, name, roles=roles))


async def allowed(client: Client, headers: dict[str, str], org: str = "acme", **asked: Any) -> dict[str, Any]:
    """Return the key of a device that was allowed one, as it was told."""
    one = await begun(client, org=org, **asked)
    got = await client("POST", f"/api/v1/logins/{one['user_code']}/approve?org={org}", json={}, headers=headers)
    assert got.status == 200, got.body
    given: dict[str, Any] = (await polled(client, one)).json
    return given


async def role(client: Client, key: str) -> str | int:
    """Return what a key may do in its organization, or the status of the refusal."""
    got = await by(client, key, "GET", "/api/v1/me")
    return got.json["roles"][got.json["org"]] if got.status == 200 else got.status


async def test_a_key_has_no_more_than_its_user_and_follows_what_becomes_of_that(place: Place, client: Client) -> None:
    ada = await browser(place, client, acme="admin", globex="viewer")
    key = (await allowed(client, ada.changes))["key"]
    lesser = (await allowed(client, ada.changes, role="operator"))["key"]
    (shown, _) = (await client("GET", "/api/v1/keys?org=acme")).json["items"]
    assert (shown["user"], shown["login"]) == ("ada", "build-7 at 127.0.0.1")
    assert [await role(client, one) for one in (key, lesser)] == ["admin", "operator"]
    # It is of its own organization alone.
    assert (await by(client, key, "GET", "/api/v1/keys?org=globex")).status == 404
    async with gateway(place) as other:

        async def at_both(wanted: list[str | int]) -> None:
            async def so() -> bool:
                return [await role(at, one) for at in (client, other) for one in (key, lesser)] == wanted * 2

            await eventually(so)

        for change, wanted in (
            ({"roles": {"acme": "developer"}}, ["developer", "operator"]),
            ({"roles": {"acme": "viewer"}}, ["viewer", "viewer"]),
            ({"roles": {"acme": None}}, [401, 401]),
            # A role in `global` is one everywhere.
            ({"roles": {"global": "operator"}}, ["operator", "operator"]),
            ({"enabled": False}, [401, 401]),
            ({"enabled": True}, ["operator", "operator"]),
        ):
            assert (await client("PATCH", "/api/v1/users/ada", json=change)).status == 200
            await at_both(wanted)
        assert (await client("DELETE", "/api/v1/users/ada")).status == 204
        await at_both([401, 401])
        await user_of(client, "ada", roles={"acme": "admin"})
        await at_both([401, 401])


async def test_what_goes_on_is_cut_when_the_user_changes(place: Place, client: Client) -> None:
    ada = await browser(place, client, acme="admin")
    key = (await allowed(client, ada.changes))["key"]
    machine = (await made(client, "ci", role="admin"))["key"]

    async def page(_question: Any, _deps: Any) -> TailPage:
        return TailPage(items=[], position="1", dropped=0, more=False)

    async with answering(place, "logs", {TailLogs: page}):
        path = f"{client.url}/api/v1/logs/tail"
        async with (
            client.session.get(path, headers={"Authorization": f"Bearer {key}"}) as cut,
            client.session.get(path, headers={"Authorization": f"Bearer {machine}"}) as stays,
        ):
            assert (cut.status, stays.status) == (200, 200)
            await client("PATCH", "/api/v1/users/ada", json={"roles": {"acme": "developer"}})
            await is_cut(cut)
            assert not stays.content.at_eof()
            await client("DELETE", "/api/v1/keys/ci?org=acme")
            await is_cut(stays)


async def test_a_key_that_a_users_key_allowed_is_that_users(place: Place, client: Client) -> None:
    ada = await browser(place, client, acme="admin")
    first = (await allowed(client, ada.changes))["key"]
    second = (await allowed(client, {"Authorization": f"Bearer {first}"}))["key"]
    assert await role(client, second) == "admin"
    await client("PATCH", "/api/v1/users/ada", json={"enabled": False})
    assert [await role(client, one) for one in (first, second)] == [401, 401]


async def test_a_key_is_put_and_rotated_and_stays_its_users(place: Place, client: Client) -> None:
    ada = await browser(place, client, acme="developer")
    given = await begun(client, org="acme")
    for verb in ("approve", "deny"):
        got = await client("POST", f"/api/v1/logins/{given['user_code']}/{verb}?org=acme", json={}, headers=ada.changes)
        assert got.status == 403
    await client("PATCH", "/api/v1/users/ada", json={"roles": {"acme": "admin"}})
    ada = await browser_of(place, client, (await client("GET", "/api/v1/users/ada")).json)
    given = await allowed(client, ada.changes)
    path = f"/api/v1/keys/{given['name']}?org=acme"
    assert (await client("PUT", path, json={"role": "admin"})).json["user"] == "ada"
    rotated = (await client("POST", f"/api/v1/keys/{given['name']}/rotate?org=acme", json={})).json
    assert (rotated["user"], await role(client, rotated["key"]), await role(client, given["key"])) == ("ada", "admin", 401)
    await client("PATCH", "/api/v1/users/ada", json={"roles": {"acme": "viewer"}})
    assert await role(client, rotated["key"]) == "viewer"


async def test_two_users_decide_and_the_key_is_of_the_one_who_won(place: Place, client: Client) -> None:
    people = [await browser(place, client, name, acme="admin") for name in ("ada", "bob")]
    one = await begun(client, org="acme")
    path = f"/api/v1/logins/{one['user_code']}/approve?org=acme"
    got = await asyncio.gather(*(client("POST", path, json={}, headers=of.changes) for of in people))
    assert sorted(of.status for of in got) == [200, 409]
    given = (await polled(client, one)).json
    winner = ("ada", "bob")[[of.status for of in got].index(200)]
    assert (await client("GET", f"/api/v1/keys/{given['name']}?org=acme")).json["user"] == winner
